"""What `weir watch` found: figures before and since, streams, alarms; as plain data and in the terminal."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from typing import Any, Final, NamedTuple

from rich.console import Console
from rich.table import Table
from rich.text import Text

from schemas.errors import USAGE, WeirError
from schemas.measures import Drift
from services.watch.doubts import doubts
from services.watch.run import Watched
from streams.measure import metrics
from streams.measure.ledger import COUNT, LABELLED, Ledger, N
from streams.measure.metrics import Measured, Metric

FIRST: Final = (
    *("auc", "accuracy", "f1", "log_loss", "brier", "ece", "macro_f1", "mae", "rmse", "r2", "ndcg", "mrr"),
    *("precision", "recall", "positive_rate", "value_mean", "value_sum"),
)
"""The figures that most people look for, first."""
SHOWN = 10
CONTROLS = ("placebo:", "injected:")
VERSION = 1
_LIMIT = re.compile(r"^\s*([A-Za-z0-9_@:]+)\s*(<|>)\s*(-?[0-9.eE+-]+)\s*$")


class Figure(NamedTuple):
    """One metric before and since the cut of its version; None where it cannot be told."""

    name: str
    metric: Metric
    before: Measured | None
    since: Measured | None

    @property
    def verdict(self) -> str:
        """`worse`, `better`, `moved`, or empty where the intervals overlap or there is one only."""
        a, c = _ends(self.before), _ends(self.since)
        if a is None or c is None or (c[0] <= a[2] and a[0] <= c[2]):
            return ""
        if self.metric.better == "neither":
            return "moved"
        before, since = a[1], c[1]
        nearer = {"higher": since > before, "lower": since < before, "zero": abs(since) < abs(before)}
        return "better" if nearer[self.metric.better] else "worse"


def _ends(one: Measured | None) -> tuple[float, float, float] | None:
    """Give (low, value, high), None where any cannot be told."""
    if one is None or one.low is None or one.value is None or one.high is None:
        return None
    return one.low, one.value, one.high


def figures(found: Watched, version: str, part: str = "") -> list[Figure]:
    """Give every figure of a version (of one of its slices) that has an outcome, those most looked for first."""
    sides = [found.replayed.ledgers.get((version, part, since)) for since in (False, True)]
    told: dict[str, list[Measured | None]] = {}
    kinds: dict[str, Metric] = {}
    for side, ledger in enumerate(sides):
        for name, metric, measured in _measured(ledger):
            told.setdefault(name, [None, None])[side] = measured
            kinds[name] = metric
    rank = {name: place for place, name in enumerate(FIRST)}
    order = sorted(told, key=lambda name: (rank.get(name, len(rank)), name))
    return [Figure(name, kinds[name], *told[name]) for name in order]


def _measured(ledger: Ledger | None) -> Iterator[tuple[str, Metric, Measured]]:
    if ledger is None:
        return
    parts = [("", ledger), *((f"{name}:", part) for name, part in ledger.parts().items())]
    for prefix, part in parts:
        for metric in metrics.metrics():
            measured = metric.measured(part)
            if measured.n > 0:
                yield prefix + metric.kind, metric, measured


def streams(found: Watched) -> list[Drift]:
    """Give what was said last of each stream, alarms first and then by evidence; controls are left out."""
    raised = {(one.version, one.slice, one.stream) for one in found.alarms}
    told = [one for one in found.last.values() if not one.stream.startswith(CONTROLS)]

    def order(one: Drift) -> tuple[bool, float, str]:
        share = (one.evidence.statistic or 0.0) / (one.evidence.threshold or math.inf)
        return (one.version, one.slice, one.stream) not in raised, -share, one.stream

    return sorted(told, key=order)


def grouped(found: Watched) -> list[tuple[Drift, int]]:
    """Give the first alarm of each stream, in order, and how many it raised: an e-SR begins anew after each."""
    times = Counter((one.version, one.slice, one.stream) for one in found.alarms)
    first: dict[tuple[str, str, str], Drift] = {}
    for one in found.alarms:
        first.setdefault((one.version, one.slice, one.stream), one)
    return [(one, times[key]) for key, one in first.items()]


def labelled(found: Watched, version: str) -> tuple[int, int]:
    """Give how many predictions of a version have a label, and how many there are."""
    sides = [found.replayed.ledgers.get((version, "", since), Ledger()) for since in (False, True)]
    return sum(one.get(LABELLED, COUNT) for one in sides), sum(one.get(N) for one in sides)


def versions(found: Watched) -> set[str]:
    """Give every version that predicted, those that could not be judged among them."""
    return {version for version, _, _ in found.replayed.ledgers}


def parts(found: Watched, version: str) -> list[str]:
    """Give the slices of a version, by name."""
    return sorted({part for name, part, _ in found.replayed.ledgers if name == version and part})


def unmatched(found: Watched) -> int:
    """Count the labels that reach no prediction: of an unknown request, or later than the horizon."""
    counters = found.replayed.counters
    return counters.get("labels.parked", 0) + counters.get("labels.dead", 0)


def fails(found: Watched, conditions: Sequence[str]) -> list[str]:
    """Say which conditions of `--fail-on` hold: `alarm`, `refused`, a stream, or a metric's limit (`auc<0.7`).

    A limit is of the time since the reference. Raises `WeirError` (usage) for what is none of these, and for what
    cannot be told: silence of what was not looked at is no pass.
    """
    held = []
    known = {one.stream for one in streams(found)}
    for condition in conditions:
        if condition == "alarm":
            if not found.references:
                raise _untold(condition, "nothing was judged", found)
            unjudged = sorted(versions(found) - found.references.keys())
            if unjudged and not found.alarms:
                raise _untold(condition, f"version {unjudged[0]} was not judged", found)
            if found.alarms:
                count = len(found.alarms)
                held.append(f"{count} alarm{'' if count == 1 else 's'}: {found.alarms[0].evidence.sentence}")
        elif condition == "refused":
            refused = found.refused.counts.total()
            if refused:
                held.append(f"{refused:,} rows were refused")
        elif limit := _LIMIT.match(condition):
            held += _beyond(found, *limit.groups())
        elif condition in known:
            raised = [one for one in found.alarms if one.stream == condition]
            held += [f"{condition}: {one.evidence.sentence}" for one in raised[:1]]
        else:
            raise WeirError(
                f"--fail-on {condition}: neither `alarm`, `refused`, a limit such as auc<0.7, nor a stream of these "
                f"tables ({', '.join(sorted(known)[:8]) or 'nothing was judged'})",
                fix="name one of these",
                code=USAGE,
            )
    return held


def _beyond(found: Watched, name: str, sign: str, bound: str) -> list[str]:
    metrics.known_metric(name)
    try:
        limit = float(bound)
    except ValueError:
        fix = "give a number: auc<0.7"
        raise WeirError(f"--fail-on {name}{sign}{bound}: {bound} is no number", fix=fix, code=USAGE) from None
    held, told = [], 0
    for version in sorted(versions(found)):
        one = next((figure.since for figure in figures(found, version) if figure.name == name), None)
        if one is None or one.value is None:
            continue
        told += 1
        if one.value < limit if sign == "<" else one.value > limit:
            where = f" of {version}" if version else ""
            held.append(f"{name}{where} is {span(one)}, {'below' if sign == '<' else 'above'} {limit:g}")
    if not told:
        raise _untold(f"{name}{sign}{bound}", f"there is no {name} of the time since the reference", found)
    return held


def _untold(condition: str, why: str, found: Watched) -> WeirError:
    said = "; ".join(notes(found)[:2]) or "see the report without --fail-on"
    return WeirError(f"--fail-on {condition} cannot be told: {why}", fix=said, code=USAGE)


def as_object(found: Watched, held: Sequence[str]) -> dict[str, Any]:
    """Give everything as plain data; what cannot be told is null."""
    events = found.events
    return {
        "v": VERSION,
        "model": found.model,
        "rows": found.rows,
        "predictions": len(events.made),
        "labels": len(events.labels),
        "labels_unmatched": unmatched(found),
        "refused": dict(sorted(found.refused.counts.items())),
        "refused_examples": found.refused.examples,
        "read_as": found.roles,
        "left_out": [{"column": name, "why": why} for name, why in found.left_out],
        "pane_ms": found.pane_ms,
        "horizon_ms": found.policy.horizon_ms,
        "silence": found.policy.on_timeout,
        "budget": found.bounds.budget,
        "versions": [_version(found, version) for version in found.references],
        "not_judged": sorted(versions(found) - found.references.keys()),
        "alarms": [_alarm(one) for one in found.alarms],
        "requests": {name: count for name, count in sorted(found.replayed.counters.items()) if count},
        "notes": notes(found),
        "failed": list(held),
        "seconds": round(found.seconds, 2),
    }


def _version(found: Watched, version: str) -> dict[str, Any]:
    reference = found.references[version]
    with_label, rows = labelled(found, version)
    told = figures(found, version)
    return {
        "version": version,
        "reference": {"id": reference.id, "rows": reference.n, "learnt_from": reference.learnt_from},
        "judged_from_ms": found.cuts[version],
        "predictions": rows,
        "labelled": with_label,
        "metrics": [_figure(one) for one in told],
        "series": {one.name: _series(found, version, one.name) for one in told[:SHOWN]},
        "slices": {part: [_figure(one) for one in figures(found, version, part)] for part in parts(found, version)},
        "streams": [_stream(one) for one in streams(found) if one.version == version],
    }


def _figure(one: Figure) -> dict[str, Any]:
    return {"metric": one.name, "before": _plain(one.before), "since": _plain(one.since), "verdict": one.verdict}


def _plain(one: Measured | None) -> dict[str, Any] | None:
    return None if one is None else {"value": one.value, "low": one.low, "high": one.high, "n": one.n}


def _series(found: Watched, version: str, name: str) -> list[dict[str, Any]]:
    return [
        {"from_ms": one.from_ms, "to_ms": one.to_ms, "value": one.value, "low": one.low, "high": one.high, "n": one.n}
        for one in found.series(version, name)
    ]


def _stream(one: Drift) -> dict[str, Any]:
    said = one.evidence
    return {
        "stream": one.stream, "slice": one.slice, "detector": one.detector, "evidence": said.statistic,
        "threshold": said.threshold, "sentence": said.sentence, "distances": one.distances,
    }  # fmt: skip


def _alarm(one: Drift) -> dict[str, Any]:
    said = one.evidence
    return {
        "version": one.version, "slice": one.slice, "stream": one.stream, "at_ms": one.at_ms, "from_ms": one.from_ms,
        "to_ms": one.to_ms, "value": said.value, "n": said.n, "sentence": said.sentence,
    }  # fmt: skip


def moment(ms: int) -> str:
    """Give a time in UTC."""
    return datetime.fromtimestamp(ms / 1000, UTC).strftime("%Y-%m-%d %H:%M")


def span(one: Measured | None) -> str:
    """Give a value with its interval."""
    if one is None or one.value is None:
        return "–"
    if one.low is None or one.high is None:
        return f"{one.value:.3g}"
    return f"{one.value:.3g} [{one.low:.3g}, {one.high:.3g}]"


def notes(found: Watched) -> list[str]:
    """Give what has to be known to read the report rightly."""
    return [*doubts(found), *found.notes]


def summary(found: Watched) -> str:
    """Say in a line what was found."""
    judged = len(streams(found))
    raised = grouped(found)
    what = ", ".join(dict.fromkeys(one.stream for one, _ in raised))
    if not found.references:
        return "nothing was judged: see the notes"
    if not raised:
        return f"no alarm on {judged} streams (at most {found.bounds.budget:g} false ones in 30 days are expected)"
    return f"{len(raised)} of {judged} streams alarmed: {what}"


def print_report(found: Watched, console: Console, top: int = SHOWN) -> None:
    """Print what people look at first; `--html` and `--json` have the rest."""
    events = found.events
    horizon = f"{found.policy.horizon_ms / 3_600_000:.3g} hours"
    text = f"{found.model}: {len(events.made):,} predictions, {len(events.labels):,} labels, waited for {horizon}"
    console.print(text, style="bold", highlight=False)
    for line in found.roles:
        console.print(line, highlight=False)
    if found.left_out:
        console.print("left out: " + ", ".join(f"{name} ({why})" for name, why in found.left_out), highlight=False)
    for version in found.references:
        _print_version(found, version, console, top)
    raised = grouped(found)
    for one, times in raised[:top]:
        where = " ".join(part for part in (one.version, one.slice) if part)
        pane = f"of {moment(one.to_ms - found.pane_ms)} to {moment(one.to_ms)}"
        line = f"{moment(one.at_ms)} {where + ' ' if where else ''}{one.stream}, {pane}: {one.evidence.sentence}"
        again = f"; {times - 1} more since" if times > 1 else ""
        console.print(Text("alarm ", "bold red").append(line + again, "default"))
    if len(raised) > top:
        console.print(f"… and {len(raised) - top} more streams (--html, --json)", highlight=False)
    refused = found.refused
    if refused.counts:
        reasons = ", ".join(f"{count:,} {reason}" for reason, count in refused.counts.most_common())
        console.print(Text(f"refused: {reasons}", "yellow"))
        for example in refused.examples[:3]:
            console.print(f"  {example}", highlight=False)
    for note in notes(found):
        console.print(Text(f"note: {note}", "yellow"))
    console.print(summary(found), style="bold", highlight=False)


def _print_version(found: Watched, version: str, console: Console, top: int) -> None:
    with_label, rows = labelled(found, version)
    reference = found.references[version]
    named = f"version {version}: " if version else ""
    share = f"{with_label / rows:.0%} labelled" if rows else "no rows"
    text = f"{named}{reference.n:,} rows are the reference; judged from {moment(found.cuts[version])} UTC; {share}"
    console.print(text, highlight=False)
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("metric")
    for name in ("reference", "since", "n"):
        table.add_column(name, justify="right")
    table.add_column("")
    for one in figures(found, version)[:top]:
        style = {"worse": "bold red", "better": "green", "moved": "yellow"}.get(one.verdict, "")
        n = f"{one.since.n:,}" if one.since is not None else "–"
        table.add_row(one.name, span(one.before), span(one.since), n, Text(one.verdict, style))
    console.print(table)
