"""Commands about intake: try a mapping, check it, run it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from services.cli.options import Bootstrap, ConfigFile, DataDir, Json, Namespace, load_settings
from services.cli.processes import PROCESSES

intake_app = typer.Typer(
    help=f"Run the process `intake` ({PROCESSES['intake'][1]}), or try and check its mapping files (docs/intake.md)."
)


@intake_app.command("try")
def intake_try(
    mapping: Annotated[Path, typer.Argument(help="The mapping file.")],
    topic: Annotated[str | None, typer.Option(help="Read this topic instead of the mapping's source.")] = None,
    file: Annotated[Path | None, typer.Option(help="Read this file instead: a document a line.")] = None,
    last: Annotated[int, typer.Option(min=1, help="At most so many, the latest.")] = 100,
    config: ConfigFile = None,
    namespace: Namespace = None,
    bootstrap: Bootstrap = None,
    data_dir: DataDir = None,
    json: Json = False,
) -> None:
    """Show line by line what would come out; send nothing. Exits with 1 when a line is refused."""
    settings, _ = load_settings(config, namespace, bootstrap, data_dir, asks=file is None)
    from services.intake.attempt import attempt
    from services.intake.load import load

    loaded = load(mapping, max_event_bytes=settings.join.max_event_bytes)
    raise typer.Exit(attempt(settings, loaded, topic=topic, file=file, last=last, as_json=json))


@intake_app.command("check")
def intake_check(
    mappings: Annotated[list[Path], typer.Argument(help="The mapping files.")],
    offline: Annotated[
        bool, typer.Option("--offline", help="Only the files: ask neither Kafka nor a database.")
    ] = False,
    config: ConfigFile = None,
    namespace: Namespace = None,
    bootstrap: Bootstrap = None,
    data_dir: DataDir = None,
    json: Json = False,
) -> None:
    """Validate mapping files and their sources; say what is doubtful."""
    settings, _ = load_settings(config, namespace, bootstrap, data_dir, asks=not offline)
    from services.intake.check import check_all

    check_all(settings, mappings, offline=offline, as_json=json)


@intake_app.command("run")
def intake_run(
    mappings: Annotated[
        list[Path] | None, typer.Argument(help="The mapping files (default: those of settings).")
    ] = None,
    config: ConfigFile = None,
    namespace: Namespace = None,
    bootstrap: Bootstrap = None,
    data_dir: DataDir = None,
) -> None:
    """Run mappings until Ctrl-C: exactly once from Kafka, with a cursor from a database."""
    settings, flags = load_settings(config, namespace, bootstrap, data_dir, asks=False)
    from services.cli.processes import run_here

    if mappings:
        settings = settings.model_copy(update={"intake": settings.intake.model_copy(update={"mappings": mappings})})
    run_here("intake", settings, flags)
