"""Commands that govern the loop: policies, freezes, rollouts. All of them are events, sent to Kafka."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from services.cli.options import Bootstrap, ConfigFile, DataDir, Json, Namespace, load_settings

policy_app = typer.Typer(help="Set what the join and decide may do for a model.", no_args_is_help=True)
rollout_app = typer.Typer(help="Approve, reject or abort a rollout.", no_args_is_help=True)


@policy_app.command("set")
def policy_set(
    file: Annotated[Path, typer.Argument(help="TOML with [join] and/or [decide].")],
    config: ConfigFile = None,
    namespace: Namespace = None,
    bootstrap: Bootstrap = None,
    data_dir: DataDir = None,
    json: Json = False,
) -> None:
    """Put a policy into force; a join policy from two minutes from now unless it says later."""
    settings, _ = load_settings(config, namespace, bootstrap, data_dir)
    from services.cli.policy import set_policy

    set_policy(settings, file, as_json=json)


@policy_app.command("ls")
def policy_ls(
    model: Annotated[str | None, typer.Option(help="Only this model.")] = None,
    config: ConfigFile = None,
    namespace: Namespace = None,
    bootstrap: Bootstrap = None,
    data_dir: DataDir = None,
    json: Json = False,
) -> None:
    """List the policies that were set: which are in force, from when on, which are superseded."""
    settings, _ = load_settings(config, namespace, bootstrap, data_dir)
    from services.cli.standing import list_policies

    list_policies(settings, model=model, as_json=json)


@policy_app.command("replay")
def policy_replay(
    policy: Annotated[Path, typer.Option("--policy", help="TOML with [join]: the policy to try.")],
    model: Annotated[str | None, typer.Option(help="Try it on this model (default: the file's).")] = None,
    days: Annotated[float | None, typer.Option(help="How far back from the end (default: 30).")] = None,
    since: Annotated[str | None, typer.Option("--from", help="First moment: ISO 8601, or milliseconds.")] = None,
    until: Annotated[str | None, typer.Option("--to", help="End (default: the join's clock).")] = None,
    config: ConfigFile = None,
    namespace: Namespace = None,
    data_dir: DataDir = None,
    json: Json = False,
) -> None:
    """Resolve what has landed under another policy: how labels, metrics and the training set would differ."""
    settings, _ = load_settings(config, namespace, None, data_dir)
    from services.replay.run import policy_replay as run

    raise typer.Exit(run(settings, policy, model=model, days=days, since=since, until=until, as_json=json))


def add_freezes(app: typer.Typer) -> None:
    """Add `freeze`, `thaw` and `freezes`."""

    def add(kind: str, about: str) -> None:
        def command(
            source: Annotated[str, typer.Argument(help="A label's source, or signal:NAME; '' for those without one.")],
            reason: Annotated[str, typer.Option(help="Kept in the alert and the audit.")] = "",
            config: ConfigFile = None,
            namespace: Namespace = None,
            bootstrap: Bootstrap = None,
            data_dir: DataDir = None,
            json: Json = False,
        ) -> None:
            settings, _ = load_settings(config, namespace, bootstrap, data_dir)
            from services.cli.freeze import freeze

            freeze(settings, source, reason, thaw=kind == "thaw", as_json=json)

        app.command(kind, help=about)(command)

    add("freeze", "Hold back negatives, retrainings and promotions, because labels of a source are cut off.")
    add("thaw", "End a freeze, the outage guard's or one by hand.")

    @app.command("freezes")
    def freezes(
        config: ConfigFile = None,
        namespace: Namespace = None,
        bootstrap: Bootstrap = None,
        data_dir: DataDir = None,
        json: Json = False,
    ) -> None:
        """List which sources are frozen, by whom, since when and why."""
        settings, _ = load_settings(config, namespace, bootstrap, data_dir)
        from services.cli.standing import list_freezes

        list_freezes(settings, as_json=json)


def _decide(decision: str, about: str) -> None:
    def command(
        rollout_id: Annotated[str, typer.Argument(help="As the page and the alert name it.")],
        model: Annotated[str, typer.Option(help="The model it is of.")],
        note: Annotated[str, typer.Option(help="Kept in the audit.")] = "",
        config: ConfigFile = None,
        namespace: Namespace = None,
        bootstrap: Bootstrap = None,
        data_dir: DataDir = None,
    ) -> None:
        settings, _ = load_settings(config, namespace, bootstrap, data_dir)
        from services.cli.policy import decide

        decide(settings, rollout_id, model, decision, note)

    rollout_app.command(decision, help=about)(command)


_decide("approve", "Let a waiting rollout go on to its next stage.")
_decide("reject", "End a rollout; the champion stays.")
_decide("abort", "End a rollout and go back to the champion at once.")
