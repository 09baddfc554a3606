"""Commands about the judge: what it could find, what it would have found, and what it compares with."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from services.cli.options import Bootstrap, ConfigFile, DataDir, Json, Namespace, load_settings
from services.cli.processes import PROCESSES

reference_app = typer.Typer(help="Learn what a version is compared with, and list it.", no_args_is_help=True)
judge_app = typer.Typer(help=f"Run the process `judge` ({PROCESSES['judge'][1]}), or ask what it can find.")


@judge_app.command("plan")
def judge_plan(
    model: Annotated[str | None, typer.Option(help="Only this model.")] = None,
    rows_a_day: Annotated[
        float | None, typer.Option(help="Suppose so many labelled predictions; read nothing.")
    ] = None,
    subjects: Annotated[int, typer.Option(min=1, help="With --rows-a-day: distinct subjects in a pane.")] = 64,
    error_rate: Annotated[float, typer.Option(help="With --rows-a-day: the reference's error rate.")] = 0.1,
    reference_rows: Annotated[int, typer.Option(help="With --rows-a-day: labelled rows of the reference.")] = 5_000,
    models: Annotated[int, typer.Option(min=1, help="With --rows-a-day: how many models share the budget.")] = 1,
    config: ConfigFile = None,
    namespace: Namespace = None,
    data_dir: DataDir = None,
    json: Json = False,
) -> None:
    """Say the smallest drift that can be found in 1, 7 and 30 days at a model's traffic."""
    settings, _ = load_settings(config, namespace, None, data_dir)
    from services.judge.plan import judge_plan as run

    raise typer.Exit(
        run(
            settings,
            model=model,
            rows_a_day=rows_a_day,
            subjects=subjects,
            error_rate=error_rate,
            reference_rows=reference_rows,
            models=models,
            as_json=json,
        )
    )


@judge_app.command("replay")
def judge_replay(
    budget: Annotated[float | None, typer.Option(help="Expected false alarms in 30 days.")] = None,
    epsilon_error: Annotated[float | None, typer.Option(help="How much worse the error rate may be.")] = None,
    epsilon_share: Annotated[float | None, typer.Option(help="How different a share may be.")] = None,
    model: Annotated[str | None, typer.Option(help="Only this model.")] = None,
    config: ConfigFile = None,
    namespace: Namespace = None,
    data_dir: DataDir = None,
    json: Json = False,
) -> None:
    """List which past alarms would remain under another budget or tolerance."""
    settings, _ = load_settings(config, namespace, None, data_dir)
    from services.judge.again import judge_replay as run

    raise typer.Exit(
        run(
            settings,
            budget=budget,
            epsilon_error=epsilon_error,
            epsilon_share=epsilon_share,
            model=model,
            as_json=json,
        )
    )


@reference_app.command("learn")
def reference_learn(
    model: Annotated[str, typer.Argument(help="The model.")],
    version: Annotated[str | None, typer.Option(help="Its version (default: the newest that predicts).")] = None,
    file: Annotated[Path | None, typer.Option(help="Learn from this Parquet or CSV file, not from traffic.")] = None,
    score: Annotated[str | None, typer.Option(help="With --file: the column of scores.")] = None,
    label: Annotated[str | None, typer.Option(help="With --file: the column of labels.")] = None,
    prediction: Annotated[str | None, typer.Option(help="With --file: the column of predicted classes.")] = None,
    without: Annotated[list[str] | None, typer.Option("--without", help="With --file: no feature (repeat).")] = None,
    threshold: Annotated[float, typer.Option(help="With --file: from this score on class 1 is chosen.")] = 0.5,
    embedding: Annotated[
        str | None,
        typer.Option(help="With --file: the column of embeddings (default: `embedding`, if it has lists)."),
    ] = None,
    days: Annotated[float | None, typer.Option(help="Only the last so many days of traffic.")] = None,
    rows: Annotated[int, typer.Option(min=1, help="At most so many rows of traffic.")] = 200_000,
    confirm: Annotated[bool, typer.Option("--confirm", help="Take traffic that spans no whole week.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show it; send nothing.")] = False,
    config: ConfigFile = None,
    namespace: Namespace = None,
    bootstrap: Bootstrap = None,
    data_dir: DataDir = None,
    json: Json = False,
) -> None:
    """Freeze what a version is compared with, from its own traffic or from a file. Nothing alarms without one."""
    settings, _ = load_settings(config, namespace, bootstrap, data_dir)
    from services.reference.run import File
    from services.reference.run import reference_learn as run

    given = None if file is None else File(file, score, label, prediction, tuple(without or ()), threshold, embedding)
    raise typer.Exit(
        run(
            settings,
            model,
            version=version,
            file=given,
            days=days,
            most=rows,
            confirm=confirm,
            dry_run=dry_run,
            as_json=json,
        )
    )


@reference_app.command("parity")
def reference_parity(
    model: Annotated[str, typer.Argument(help="The model.")],
    version: Annotated[str, typer.Option(help="Its version.")],
    file: Annotated[Path, typer.Option(help="Rows as they were at training: a Parquet or CSV file.")],
    key: Annotated[
        list[str],
        typer.Option("--key", metavar="COLUMN", help="What tells rows apart: request_id, subject, features (repeat)."),
    ],
    score: Annotated[str | None, typer.Option(help="The column of the scores that the model gave.")] = None,
    without: Annotated[list[str] | None, typer.Option("--without", help="No feature (repeat).")] = None,
    rows: Annotated[int, typer.Option(help="Freeze so many rows, spread over the file (at most 1,000).")] = 200,
    tolerance: Annotated[float, typer.Option(help="Numbers this near, relatively, agree.")] = 1e-6,
    absolute: Annotated[float, typer.Option(help="Numbers this near agree.")] = 0.0,
    limit: Annotated[float, typer.Option(help="At most this share of the compared rows may differ.")] = 0.001,
    days: Annotated[float | None, typer.Option(help="Compare for so many days only.")] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show it; send nothing.")] = False,
    config: ConfigFile = None,
    namespace: Namespace = None,
    bootstrap: Bootstrap = None,
    data_dir: DataDir = None,
    json: Json = False,
) -> None:
    """Freeze rows of training that live predictions with the same key must agree with, feature by feature."""
    settings, _ = load_settings(config, namespace, bootstrap, data_dir)
    from services.reference.parity import Frozen
    from services.reference.parity import reference_parity as run

    bounds = {"rows": rows, "relative": tolerance, "absolute": absolute, "limit": limit, "days": days}
    given = Frozen(file, tuple(key), score, tuple(without or ()), **bounds)  # type: ignore[arg-type]
    raise typer.Exit(run(settings, model, version, given, dry_run=dry_run, as_json=json))


@reference_app.command("ls")
def reference_ls(
    config: ConfigFile = None, namespace: Namespace = None, data_dir: DataDir = None, json: Json = False
) -> None:
    """List references, and the versions that are still learning."""
    settings, _ = load_settings(config, namespace, None, data_dir)
    from services.reference.run import reference_ls as run

    raise typer.Exit(run(settings, as_json=json))
