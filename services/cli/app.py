"""Commands, grouped as people look for them. Bodies live beside their rooms; here is only the surface."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from services.cli.governing import add_freezes, policy_app, rollout_app
from services.cli.intake import intake_app
from services.cli.judging import judge_app, reference_app
from services.cli.options import Bootstrap, ConfigFile, DataDir, Json, Namespace, Standby, load_settings
from services.cli.processes import PROCESSES, SLOTTED

app = typer.Typer(
    name="weir",
    help="Joins predictions with what turned out to be true, measures models live, drives retraining and promotion.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
config_app = typer.Typer(help="Show settings and where each value came from.", no_args_is_help=True)
topics_app = typer.Typer(help="Plan and create topics.", no_args_is_help=True)
dlq_app = typer.Typer(help="List, show and retry dead letters.", no_args_is_help=True)
app.add_typer(config_app, name="config", rich_help_panel=None)
app.add_typer(topics_app, name="topics")
app.add_typer(dlq_app, name="dlq")
app.add_typer(policy_app, name="policy")
app.add_typer(rollout_app, name="rollout")
add_freezes(app)
app.add_typer(intake_app, name="intake")
app.add_typer(judge_app, name="judge")
app.add_typer(reference_app, name="reference")


def _show_version(asked: bool) -> None:
    if asked:
        from importlib.metadata import version

        print(f"weir {version('weir')}")
        raise typer.Exit


@app.callback()
def weir(
    version: Annotated[
        bool, typer.Option("--version", help="Print the version.", callback=_show_version, is_eager=True)
    ] = False,
) -> None:
    """Take what stands before a command."""


def _add_process(name: str, about: str) -> None:
    def command(
        config: ConfigFile = None, namespace: Namespace = None, bootstrap: Bootstrap = None, data_dir: DataDir = None
    ) -> None:
        settings, flags = load_settings(config, namespace, bootstrap, data_dir, asks=False)
        from services.cli.processes import run_here

        run_here(name, settings, flags)

    def command_of_a_slot(
        standby: Standby = False,
        config: ConfigFile = None,
        namespace: Namespace = None,
        bootstrap: Bootstrap = None,
        data_dir: DataDir = None,
    ) -> None:
        settings, flags = load_settings(config, namespace, bootstrap, data_dir, standby=standby, asks=False)
        from services.cli.processes import run_here

        run_here(name, settings, flags)

    def alone(
        context: typer.Context,
        standby: Standby = False,
        config: ConfigFile = None,
        namespace: Namespace = None,
        bootstrap: Bootstrap = None,
        data_dir: DataDir = None,
    ) -> None:
        if context.invoked_subcommand is None:
            command_of_a_slot(standby, config, namespace, bootstrap, data_dir)

    def alone_without_slot(
        context: typer.Context,
        config: ConfigFile = None,
        namespace: Namespace = None,
        bootstrap: Bootstrap = None,
        data_dir: DataDir = None,
    ) -> None:
        if context.invoked_subcommand is None:
            command(config, namespace, bootstrap, data_dir)

    if name in ASKED:
        ASKED[name].callback(invoke_without_command=True)(alone if name in SLOTTED else alone_without_slot)
    else:
        app.command(name, help=f"Run the process `{name}`: {about}.")(command_of_a_slot if name in SLOTTED else command)


ASKED = {"intake": intake_app, "judge": judge_app}
"""Processes that can be asked something besides."""


for _name, (_where, _about) in PROCESSES.items():
    _add_process(_name, _about)


@app.command()
def up(
    only: Annotated[list[str] | None, typer.Option("--only", help="Start only these processes (repeat).")] = None,
    without: Annotated[list[str] | None, typer.Option("--without", help="Start all but these (repeat).")] = None,
    remote: Annotated[bool, typer.Option("--remote", help="Start no Kafka and no ClickHouse here.")] = False,
    config: ConfigFile = None,
    namespace: Namespace = None,
    data_dir: DataDir = None,
) -> None:
    """Start everything (embedded Kafka and ClickHouse included), watch over it, stop it all on Ctrl-C."""
    settings, _ = load_settings(config, namespace, None, data_dir, asks=False)
    from services.cli.up import up as run

    run(settings, only=only or [], without=without or [], embedded=not remote)


@app.command()
def demo(
    seed: Annotated[int, typer.Option(help="Seed of delays, corrections and traffic.")] = 0,
    drift_at: Annotated[int | None, typer.Option(help="Row at which a drift is planted.")] = None,
    drift_size: Annotated[float | None, typer.Option(help="Its size; 0 plants none.")] = None,
    shuffle: Annotated[bool, typer.Option("--shuffle", help="Permute the rows: no drift at all.")] = False,
    rows: Annotated[int | None, typer.Option(help="Replay only so many rows.")] = None,
    json: Annotated[bool, typer.Option("--json", help="One JSON object as the last line.")] = False,
    exit_: Annotated[bool, typer.Option("--exit", help="End when the replay has ended.")] = False,
) -> None:
    """Replay a real stream and watch a model degrade, be retrained and be promoted."""
    from services.demo.run import run

    raise typer.Exit(
        run(seed=seed, drift_at=drift_at, drift_size=drift_size, shuffle=shuffle, rows=rows, json=json, exit_=exit_)
    )


@app.command()
def verify(
    config: ConfigFile = None,
    namespace: Namespace = None,
    bootstrap: Bootstrap = None,
    data_dir: DataDir = None,
    measures: Annotated[bool, typer.Option("--measures", help="Count every ledger again by SQL, too.")] = False,
    json: Json = False,
) -> None:
    """Replay the topics through the naive twin and compare with feedback; count the residual."""
    settings, _ = load_settings(config, namespace, bootstrap, data_dir)
    from services.cli.verify import verify as run

    raise typer.Exit(run(settings, as_json=json, measures=measures))


@app.command()
def doctor(
    config: ConfigFile = None,
    namespace: Namespace = None,
    bootstrap: Bootstrap = None,
    data_dir: DataDir = None,
    json: Json = False,
) -> None:
    """Look at settings, disk, Kafka, ClickHouse, topics and policies; say what is wrong and how to mend it."""
    settings, _ = load_settings(config, namespace, bootstrap, data_dir)
    from services import logs
    from services.doctor.run import doctor as run

    logs.configure("weir", "critical")  # what clients say of what is away is told as a finding

    raise typer.Exit(run(settings, as_json=json))


@app.command()
def trace(
    request_id: Annotated[str, typer.Argument(help="As the app sent it.")],
    config: ConfigFile = None,
    namespace: Namespace = None,
    bootstrap: Bootstrap = None,
    data_dir: DataDir = None,
    json: Json = False,
) -> None:
    """Tell one request's whole story: its events, what was said of it and why, what it went into."""
    settings, _ = load_settings(config, namespace, bootstrap, data_dir)
    from services.trace.run import trace as run

    raise typer.Exit(run(settings, request_id, as_json=json))


@app.command()
def watch(
    predictions: Annotated[Path, typer.Argument(help="Predictions: Parquet (a file or a directory) or CSV.")],
    labels: Annotated[Path | None, typer.Option(help="Labels, where they are not in the same table.")] = None,
    reference: Annotated[
        Path | None, typer.Option(help="What was usual, like PREDICTIONS; else the first rows are.")
    ] = None,
    mapping: Annotated[
        Path | None, typer.Option("--map", help="A mapping file (docs/intake.md); else columns are known by name.")
    ] = None,
    request_id: Annotated[str | None, typer.Option("--id", help="The column of request ids.")] = None,
    at: Annotated[str | None, typer.Option(help="The column of times.")] = None,
    score: Annotated[str | None, typer.Option(help="The column of scores.")] = None,
    prediction: Annotated[str | None, typer.Option(help="The column of predicted classes or values.")] = None,
    label: Annotated[str | None, typer.Option(help="The column of labels.")] = None,
    label_at: Annotated[str | None, typer.Option(help="The column of the labels' times.")] = None,
    label_id: Annotated[str | None, typer.Option(help="The labels' column of request ids.")] = None,
    version: Annotated[str | None, typer.Option(help="The column of model versions.")] = None,
    subject: Annotated[str | None, typer.Option(help="The column of users, for intervals that hold.")] = None,
    without: Annotated[list[str] | None, typer.Option("--without", help="Leave this column out (repeat).")] = None,
    slice_: Annotated[str | None, typer.Option("--slice", help="Tell figures for each value of this column.")] = None,
    model: Annotated[str, typer.Option(help="What the model is called.")] = "model",
    reference_share: Annotated[float, typer.Option(help="The share of rows that are the reference.")] = 0.3,
    horizon: Annotated[str | None, typer.Option(help="How long labels are waited for: 7d.")] = None,
    negative: Annotated[
        bool, typer.Option("--negative", help="Without a label in time the outcome is negative (0).")
    ] = False,
    pane: Annotated[str | None, typer.Option(help="How long panes are: 1h. Else by the number of rows.")] = None,
    budget: Annotated[float | None, typer.Option(help="Expected false alarms in 30 days.")] = None,
    html: Annotated[Path | None, typer.Option("--html", help="Write a report here: one file, nothing to load.")] = None,
    fail_on: Annotated[
        list[str] | None,
        typer.Option("--fail-on", help="Exit with 1 when: alarm; refused; a stream; a limit, auc<0.7 (repeat)."),
    ] = None,
    json: Json = False,
) -> None:
    """Take tables of predictions and labels through the loop that runs live. Needs no Kafka, no server, no torch."""
    from services.cli.watch import watch_files
    from services.watch.columns import duration_ms
    from services.watch.reading import Options

    said = {
        "request_id": request_id, "at": at, "score": score, "prediction": prediction, "label": label,
        "label_at": label_at, "label_id": label_id, "version": version, "subject": subject,
    }  # fmt: skip
    options = Options(
        given={role: column for role, column in said.items() if column is not None},
        without=without or [],
        map=mapping,
        model=model,
        slice=slice_,
        reference_share=reference_share,
        horizon_ms=duration_ms(horizon, "--horizon"),
        negative=negative,
        pane_ms=duration_ms(pane, "--pane"),
        budget=budget,
    )
    raise typer.Exit(
        watch_files(predictions, labels, reference, options, html=html, fail_on=fail_on or [], as_json=json)
    )


@app.command()
def drift(
    reference: Annotated[Path, typer.Argument(help="What was usual: Parquet (a file or a directory) or CSV.")],
    current: Annotated[Path, typer.Argument(help="What is now.")],
    only: Annotated[list[str] | None, typer.Option("--column", help="Compare only this column (repeat).")] = None,
    without: Annotated[list[str] | None, typer.Option("--without", help="Leave this column out (repeat).")] = None,
    embeddings: Annotated[
        list[str] | None,
        typer.Option("--embedding", metavar="PREFIX", help="Columns PREFIX0, PREFIX1, … are one vector (repeat)."),
    ] = None,
    alpha: Annotated[float, typer.Option(help="Expected share of false ones among the columns that drift.")] = 0.05,
    least: Annotated[float, typer.Option(help="Share of rows that must differ for a drift.")] = 0.05,
    fail_on: Annotated[
        list[str] | None,
        typer.Option(
            "--fail-on", help="Exit with 1 when: any; a share of columns, 0.2; a column; classifier (repeat)."
        ),
    ] = None,
    classifier: Annotated[
        bool, typer.Option("--classifier", help="Ask whether a classifier tells rows of the two tables apart.")
    ] = False,
    parity: Annotated[
        list[str] | None,
        typer.Option("--parity", metavar="KEY", help="Compare row by row instead, rows being matched by KEY (repeat)."),
    ] = None,
    tolerance: Annotated[float, typer.Option(help="With --parity: numbers this near, relatively, agree.")] = 1e-6,
    absolute: Annotated[float, typer.Option(help="With --parity: numbers this near agree.")] = 0.0,
    html: Annotated[Path | None, typer.Option("--html", help="Write a report here: one file, nothing to load.")] = None,
    top: Annotated[int, typer.Option(min=1, help="So many columns in the terminal, the worst first.")] = 20,
    compare: Annotated[
        str | None, typer.Option(help="Put these peers' values beside: evidently,nannyml; for the --top columns.")
    ] = None,
    peer_python: Annotated[
        str | None, typer.Option(metavar="PATH", help="The Python that has the peers (default: this one).")
    ] = None,
    json: Json = False,
) -> None:
    """Compare two tables column by column. Needs no Kafka, no ClickHouse, no server."""
    from services.cli.drift import drift as run

    raise typer.Exit(
        run(
            reference,
            current,
            only=only or [],
            without=without or [],
            alpha=alpha,
            least=least,
            fail_on=fail_on or [],
            html=html,
            top=top,
            as_json=json,
            compare=compare,
            peer_python=peer_python,
            embeddings=embeddings or [],
            classify=classifier,
            keys=parity or [],
            tolerance=tolerance,
            absolute=absolute,
        )
    )


@config_app.command("show")
def config_show(
    origin: Annotated[bool, typer.Option("--origin", help="Say where each value came from.")] = False,
    config: ConfigFile = None,
    namespace: Namespace = None,
    data_dir: DataDir = None,
    json: Json = False,
) -> None:
    """Print every setting; secrets are masked."""
    settings, flags = load_settings(config, namespace, None, data_dir, asks=False)
    from services.cli.configuration import show

    show(settings, flags, with_origin=origin, as_json=json)


@topics_app.command("plan")
def topics_plan(config: ConfigFile = None, namespace: Namespace = None, json: Json = False) -> None:
    """Print what an administrator must create: names, partitions, configuration."""
    settings, _ = load_settings(config, namespace)
    from services.cli.topics import show_plan

    show_plan(settings, as_json=json)


@topics_app.command("apply")
def topics_apply(config: ConfigFile = None, namespace: Namespace = None, bootstrap: Bootstrap = None) -> None:
    """Create what is missing; refuse what exists with another partition count or timestamp type."""
    settings, _ = load_settings(config, namespace, bootstrap)
    from services.cli.topics import apply

    apply(settings)


@dlq_app.command("ls")
def dlq_ls(
    reason: Annotated[str | None, typer.Option(help="Only this reason.")] = None,
    limit: Annotated[int, typer.Option(min=1, help="At most so many, the newest.")] = 50,
    config: ConfigFile = None,
    namespace: Namespace = None,
    bootstrap: Bootstrap = None,
    data_dir: DataDir = None,
    json: Json = False,
) -> None:
    """List dead letters: id, reason, topic and offset, request."""
    settings, _ = load_settings(config, namespace, bootstrap, data_dir)
    from services.cli.dlq import ls

    ls(settings, reason=reason, limit=limit, as_json=json)


@dlq_app.command("show")
def dlq_show(
    id: Annotated[str, typer.Argument(help="topic/partition/offset[/index], as `ls` prints it.")],
    config: ConfigFile = None,
    namespace: Namespace = None,
    bootstrap: Bootstrap = None,
    data_dir: DataDir = None,
    json: Json = False,
) -> None:
    """Show one dead letter whole: why, from where, its headers and its body."""
    settings, _ = load_settings(config, namespace, bootstrap, data_dir)
    from services.cli.dlq import show

    show(settings, id, as_json=json)


@dlq_app.command("retry")
def dlq_retry(
    ids: Annotated[list[str] | None, typer.Argument(help="Which ones.")] = None,
    reason: Annotated[str | None, typer.Option(help="All with this reason.")] = None,
    config: ConfigFile = None,
    namespace: Namespace = None,
    bootstrap: Bootstrap = None,
    data_dir: DataDir = None,
    json: Json = False,
) -> None:
    """Send dead letters to the topic they came from once more."""
    settings, _ = load_settings(config, namespace, bootstrap, data_dir)
    from services.cli.dlq import retry

    retry(settings, ids or [], reason=reason, as_json=json)
