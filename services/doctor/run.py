"""All checks, in order, and what is printed of them."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Sequence
from contextlib import closing

from rich.console import Console
from rich.text import Text

from schemas.errors import FAILURE, OK, WeirError
from schemas.settings import Settings
from services.doctor import cluster, history, machine
from services.doctor.finding import Check, Finding, House

CHECKS: Sequence[tuple[str, Check, tuple[str, ...]]] = (
    ("settings", machine.settings_are_valid, ()),
    ("data", machine.data_is_writable, ()),
    ("compiled", machine.join_is_compiled, ()),
    ("edges", machine.edges_are_guarded, ()),
    ("kafka", cluster.kafka_answers, ()),
    ("transactions", cluster.kafka_does_transactions, ("kafka",)),
    ("topics", cluster.topics_are_as_planned, ("kafka",)),
    ("retention", cluster.inputs_are_kept, ("kafka", "topics")),
    ("lag", cluster.stages_keep_up, ("kafka", "topics")),
    ("clickhouse", history.clickhouse_answers, ()),
    ("tables", history.tables_are_there, ("clickhouse",)),
    ("policies", history.models_have_policies, ("clickhouse", "tables")),
    ("dead letters", history.nothing_dies, ("clickhouse", "tables")),
)
"""Name, check, and what it needs: the one place to add one."""
MARKS = {"ok": ("✓", "green"), "warn": ("!", "yellow"), "fail": ("✗", "bold red"), "skipped": ("–", "dim")}
VERSION = 1


def examine(settings: Settings, now_ms: int) -> list[Finding]:
    """Run every check. Raises nothing for what it finds."""
    found: list[Finding] = []
    with closing(House(settings, now_ms)) as house:
        for name, check, needs in CHECKS:
            lacking = next((house.away[one] for one in needs if one in house.away), None)
            if lacking is not None:
                found.append(Finding(name, "skipped", lacking))
                continue
            try:
                found += check(house)
            except WeirError as error:
                found.append(Finding(name, "fail", error.message, error.fix))
            except Exception as error:
                # A doctor that dies of one finding tells none: this one is a bug or a surprise, and is told as such.
                found.append(Finding(name, "fail", f"it could not be told: {type(error).__name__}: {error}"))
    return found


def doctor(settings: Settings, *, as_json: bool = False) -> int:
    """Print what was found; give the exit code: `FAILURE` where something fails."""
    found = examine(settings, int(time.time() * 1000))
    failed = any(one.state == "fail" for one in found)
    if as_json:
        told = [{"check": f.check, "state": f.state, "says": f.says, "fix": f.fix, "link": f.link} for f in found]
        print(json.dumps({"v": VERSION, "ok": not failed, "findings": told}))
    else:
        _print(found, Console(file=sys.stdout))
    return FAILURE if failed else OK


def _print(found: Sequence[Finding], console: Console) -> None:
    wide = max(len(one.check) for one in found)
    for one in found:
        mark, style = MARKS[one.state]
        console.print(Text(f"{mark} {one.check:<{wide}}  ", style).append(one.says, "default"), soft_wrap=True)
        if one.fix:
            link = f"; see {one.link}" if one.link else ""
            console.print(Text(f"  {'':<{wide}}  {one.fix}{link}", "dim"), soft_wrap=True)
    counts = {state: sum(one.state == state for one in found) for state in MARKS}
    console.print(", ".join(f"{count} {state}" for state, count in counts.items() if count), style="bold")
