"""`weir policy replay`: read, resolve twice, compare, print."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from schemas.errors import OK, WeirError
from schemas.policy import JoinPolicy
from schemas.settings import Settings
from services.clickhouse import reading
from services.replay.plan import Plan, read, window_of
from services.replay.show import as_object, as_text, same_text
from services.replay.stream import Landed, Part
from services.replay.twice import Advance, replay
from streams.join import naive

ANSWER_S = 600


def policy_replay(
    settings: Settings,
    file: Path,
    *,
    model: str | None = None,
    days: float | None = None,
    since: str | None = None,
    until: str | None = None,
    as_json: bool = False,
) -> int:
    """Print what a policy would have changed; give the exit code. Nothing is written to Kafka or ClickHouse.

    Raises `WeirError` for a policy or window that is not valid, a model that nobody knows, or when ClickHouse is away.
    """
    tried = read(file, model, int(time.time() * 1000))
    window_of(days, since, until, 1 << 45)  # what is wrong with it is said before anybody is asked
    with reading(settings, answer_s=ANSWER_S) as client:
        landed = Landed(settings, client)
        parts = landed.parts()
        if not parts:
            raise WeirError(
                f"no step of the join has landed in namespace {settings.namespace!r}: there is nothing to replay",
                fix="start `weir join` and `weir record`, and wait a minute",
            )
        plan = planned(settings, landed, parts, tried, days, since, until)
        if plan.same:
            print(json.dumps({"v": 1, "same": True}) if as_json else same_text(plan))
            return OK
        with progress(sum(landed.rows(plan, part)[0] for part in parts)) as advance:
            found = replay(settings, landed, plan, parts, advance)
    told = as_object(plan, found)
    print(json.dumps(told) if as_json else as_text(told))
    return OK


def planned(
    settings: Settings,
    landed: Landed,
    parts: list[Part],
    tried: JoinPolicy,
    days: float | None,
    since: str | None,
    until: str | None,
) -> Plan:
    """Find the window and the policies that were in force in it. Raises `WeirError` for a model without predictions."""
    known = landed.models()
    if tried.model not in known:
        raise WeirError(
            f"no prediction of model {tried.model!r} has landed; models that have: {', '.join(known) or 'none'}",
            fix="name one of them with --model, or mend `model` in the file",
        )
    window = window_of(days, since, until, max(part.clock_ms for part in parts))
    bounds = naive.Bounds.of(settings)
    in_force = {
        part.number: [
            policy
            for policy in (naive.read_policy(record, bounds) for record in part.control)
            if isinstance(policy, JoinPolicy) and policy.model == tried.model
        ]
        for part in parts
    }
    return Plan(tried.model, tried, in_force, window)


@contextmanager
def progress(rows: int) -> Iterator[Advance]:
    """Show how many rows are read, on standard error, where that is a terminal."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns: list[Any] = [TextColumn("replay"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()]
    console = Console(file=sys.stderr)
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task("replay", total=rows)
        yield lambda count: bar.advance(task, count)
