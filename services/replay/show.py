"""A comparison as one object, and as tables for people."""

from __future__ import annotations

import io
import math
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from services.replay.compare import Comparison, Examples, Labels, Side, Teaching, counted, largest
from services.replay.plan import Plan, during
from services.replay.twice import Replayed, Which
from streams.measure.ledger import COUNT, LABELLED, SCORE_BINS, SCORE_NEG, SCORE_POS, Ledger, N
from streams.measure.metrics import metrics

VERSION = 1
BOTH: tuple[Side, Side] = ("before", "after")
MOST = 8
PRINTED = 2_000


def as_object(plan: Plan, found: Replayed) -> dict[str, Any]:
    """Give everything as plain data; `v` is its version."""
    comparison = found.comparison
    return {
        "v": VERSION,
        "same": False,
        "model": plan.model,
        "from_ms": plan.window.from_ms,
        "to_ms": plan.window.to_ms,
        "clock_ms": found.clock_ms,
        "span_ms": found.span_ms,
        "rows": found.rows,
        "policies": {"before": named(plan), "after": [plan.tried.label]},
        "check": check(comparison),
        "labels": {side: labels(comparison.labels[side]) for side in BOTH},
        "changes": {
            "outcomes": comparison.outcomes,
            "changed": sum(one.count for one in comparison.changes.values()),
            "kinds": [
                {"name": name, "from": was, "to": now, **told(one)}
                for (name, was, now), one in largest(comparison.changes.items())
            ],
        },
        "metrics": {
            f"{'/'.join(part for part in which if part)}": {
                side: figures(found.ledgers[side].get(which, Ledger())) for side in BOTH
            }
            for which in sorted({*found.ledgers["before"], *found.ledgers["after"]})
        }
        | {"all primary": {side: figures(whole(found.ledgers[side])) for side in BOTH}},
        "training": {
            **{side: teaching(comparison.teaching[side]) for side in BOTH},
            "changes": {what: told(one) for what, one in largest(comparison.taught.items())},
        },
        "notes": notes(plan, found),
    }


def named(plan: Plan) -> list[str]:
    """Name the policies that were in force in the window."""
    found = (one for policies in plan.in_force.values() for one in during(policies, plan.model, plan.window))
    return list(dict.fromkeys(one.label for one in found))


def check(comparison: Comparison) -> dict[str, Any]:
    """Say whether the replay under the policies in force says what has landed."""
    return {
        "equal": comparison.agreeing,
        "different": sum(one.count for one in comparison.disagreeing.values()),
        "why": {why: told(one) for why, one in largest(comparison.disagreeing.items())},
    }


def told(one: Examples) -> dict[str, Any]:
    """Give a count with its examples."""
    return {"count": one.count, "requests": one.requests}


def labels(side: Labels) -> dict[str, Any]:
    """Give the outcomes of one side."""
    return {
        "outcomes": side.counts.total(),
        "by_label": counted(side, lambda key: f"{key[0]} {key[1]}"),
        "by_kind": counted(side, lambda key: key[2] or "void"),
        "by_status": counted(side, lambda key: key[3]),
        "delay_p50_ms": _rounded(side.delay_ms(0.5)),
        "delay_p95_ms": _rounded(side.delay_ms(0.95)),
    }


def whole(ledgers: Mapping[Which, Ledger]) -> Ledger:
    """Sum all that is primary."""
    found = Ledger()
    for (_, _, role), ledger in ledgers.items():
        if role == "primary":
            found.add(ledger.cells)
    return found


def figures(ledger: Ledger) -> dict[str, Any]:
    """Give what `measure` says of a ledger, and how many it is about."""
    found: dict[str, Any] = {"predictions": ledger.get(N), "labelled": ledger.get(LABELLED, COUNT)}
    for metric in metrics():
        read = metric.measured(ledger)
        if read.value is not None:
            found[metric.kind] = {"value": read.value, "low": read.low, "high": read.high, "n": read.n}
    positive, negative = ledger.total(SCORE_POS), ledger.total(SCORE_NEG)
    if positive + negative:
        found["base_rate"] = {"value": positive / (positive + negative), "n": ledger.get("measured")}
    if positive:
        found["calibration"] = {"value": expected(ledger) / positive, "n": ledger.get("measured")}
    return found


def expected(ledger: Ledger) -> float:
    """Sum the scores of what is labelled, by the middle of their logit bins: the positives that the model expected.

    Divided by the positives there are, it is 1 for a calibrated model, above for one that promises too much.
    """
    total = 0.0
    for name in (SCORE_POS, SCORE_NEG):
        for place, weight in ledger.cells.get(name, {}).items():
            total += weight / (1 + math.exp(16 - (place + 0.5) * 32 / SCORE_BINS))
    return total


def teaching(one: Teaching) -> dict[str, Any]:
    """Give one training set."""
    return {
        "rows": one.rows,
        "positives": one.positives,
        "weight": round(one.weight, 6),
        "base_rate": one.base_rate,
    }


def notes(plan: Plan, found: Replayed) -> list[str]:
    """Say what a reader has to know to believe it."""
    said = []
    wait_ms = max(plan.tried.longest_wait_ms, 0)
    if plan.window.to_ms + wait_ms > found.clock_ms:
        late_ms = max(found.clock_ms - wait_ms, plan.window.from_ms)
        said.append(
            f"predictions made after {moment(late_ms)} are not due under the new policy yet: the join's clock has come "
            f"to {moment(found.clock_ms)}; end the window there (--to) for a comparison of what is due"
        )
    if plan.tried.lateness_ms or plan.tried.horizon_ms:
        said.append(f"delays are rounded up to {found.span_ms:,} ms, so finely was time cut")
    return said


def same_text(plan: Plan) -> str:
    """Say that there is nothing to compare."""
    return (
        f"{plan.model}: the policy equals the one that was in force ({', '.join(named(plan))}) from "
        f"{moment(plan.window.from_ms)} to {moment(plan.window.to_ms)}; nothing would differ"
    )


def as_text(said: Mapping[str, Any]) -> str:
    """Give tables for people."""
    from rich.console import Console
    from rich.table import Table

    terminal = Console()
    out = io.StringIO()
    console = Console(
        file=out, width=terminal.width if terminal.is_terminal else PRINTED, highlight=False, force_terminal=False
    )
    before, after = ", ".join(said["policies"]["before"]), ", ".join(said["policies"]["after"])
    console.print(f"{said['model']}, predictions from {moment(said['from_ms'])} to {moment(said['to_ms'])} UTC")
    console.print(f"in force: {before}; tried: {after}; {said['rows']:,} rows read\n")
    one = said["check"]
    total = one["equal"] + one["different"]
    console.print(f"check: replayed under the policies in force, {one['equal']:,} of {total:,} outcomes are as landed")
    for why, some in one["why"].items():
        console.print(f"  {some['count']:,} differ: {why} ({', '.join(some['requests'])})")

    def table(title: str, rows: list[tuple[str, Any, Any]]) -> None:
        shown = Table(title=title, title_justify="left", title_style="bold", box=None, padding=(0, 3, 0, 0))
        for name in ("", "in force", "tried", "change"):
            shown.add_column(name, justify="left" if not name else "right")
        for name, was, now in rows:
            shown.add_row(name, _number(was), _number(now), _change(was, now))
        console.print()
        console.print(shown)

    was, now = (said["labels"][side] for side in BOTH)
    rows: list[tuple[str, Any, Any]] = [("outcomes with a revision", was["outcomes"], now["outcomes"])]
    for by in ("by_label", "by_kind", "by_status"):
        rows += [(f"  {name}", was[by].get(name, 0), now[by].get(name, 0)) for name in sorted({*was[by], *now[by]})]
    rows += [(f"delay {p}, s", _seconds(was[f"delay_{p}_ms"]), _seconds(now[f"delay_{p}_ms"])) for p in ("p50", "p95")]
    table("Labels", rows)
    changes = said["changes"]
    console.print(f"\n{changes['changed']:,} of {changes['outcomes']:,} outcomes end otherwise:")
    for kind in changes["kinds"][:MOST]:
        ids = ", ".join(kind["requests"])
        console.print(f"  {kind['count']:>7,}  {kind['name']}: {kind['from']} → {kind['to']}   {ids}")
    if len(changes["kinds"]) > MOST:
        console.print(f"  … and {len(changes['kinds']) - MOST} more kinds (--json gives all)")
    shown = said["metrics"] if len(said["metrics"]) > 2 else {"all primary": said["metrics"]["all primary"]}
    for which, sides in shown.items():
        was, now = (sides[side] for side in BOTH)
        rows = [("predictions", was["predictions"], now["predictions"]), ("labelled", was["labelled"], now["labelled"])]
        for name in (key for key in {**was, **now} if key not in ("predictions", "labelled")):
            rows.append((name, (was.get(name) or {}).get("value"), (now.get(name) or {}).get("value")))
        table(f"Metrics, {which}", rows)
    was, now = (said["training"][side] for side in BOTH)
    table("Training set", [(name, was[name], now[name]) for name in ("rows", "positives", "weight", "base_rate")])
    for what, some in said["training"]["changes"].items():
        console.print(f"  {some['count']:>7,}  {what}   {', '.join(some['requests'])}")
    for note in said["notes"]:
        console.print(f"\nnote: {note}")
    console.print("\n`weir trace ID` tells the story of any of these.")
    return out.getvalue().rstrip()


def moment(at_ms: int) -> str:
    """Write a moment.

    >>> moment(1_767_225_600_000)
    '2026-01-01 00:00:00'
    """
    return f"{datetime.fromtimestamp(at_ms / 1000, UTC):%Y-%m-%d %H:%M:%S}"


def _number(value: Any) -> str:
    if value is None:
        return "-"
    return f"{value:,}" if isinstance(value, int) else f"{value:,.4f}"


def _change(was: Any, now: Any) -> str:
    if was is None or now is None or was == now:
        return ""
    return f"{now - was:+,}" if isinstance(was, int) and isinstance(now, int) else f"{now - was:+,.4f}"


def _seconds(span_ms: int | None) -> float | None:
    return None if span_ms is None else span_ms / 1000


def _rounded(value: float | None) -> int | None:
    return None if value is None else round(value)
