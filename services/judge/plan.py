"""`weir judge plan`: what drift could be found in 1, 7 and 30 days, at a model's own traffic or at one that is told."""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from schemas.control import Reference
from schemas.errors import OK, USAGE, WeirError
from schemas.event import decode
from schemas.measures import Measures
from schemas.settings import Settings
from services.clickhouse import reading
from services.judge.again import bounds_of
from services.record.recount import references_of
from streams.judge.bounds import DAY_MS, JudgeBounds
from streams.judge.plan import Traffic, detectable, witness_of
from streams.judge.shares import model_share, reference_part
from streams.judge.watch import Watch
from streams.judge.watched import QUALITY, Stream
from streams.measure.ledger import BUCKET_ROWS, BUCKETS, COUNT, LABELLED, Ledger, N

if TYPE_CHECKING:
    from clickhouse_connect.driver.httpclient import HttpClient

HORIZONS = (1.0, 7.0, 30.0)
LOOK_BACK_MS = DAY_MS
VERSION = 1


def judge_plan(
    settings: Settings,
    *,
    model: str | None,
    rows_a_day: float | None,
    subjects: int,
    error_rate: float,
    reference_rows: int,
    models: int = 1,
    as_json: bool = False,
) -> int:
    """Print the smallest effects; give the exit code.

    With `rows_a_day` nothing is read: the model is taken to be one of `models` of equal weight, and to have a reference
    of `reference_rows` labelled rows with `error_rate`. Raises `WeirError` for a model without reference or traffic, or
    when ClickHouse is away.
    """
    bounds = bounds_of(settings, {})
    if rows_a_day is not None:
        if not math.isfinite(rows_a_day) or rows_a_day <= 0 or not 0 <= error_rate < 1 or reference_rows < 1:
            raise WeirError(
                "expected --rows-a-day above 0, --error-rate in [0, 1) and --reference-rows of at least 1", code=USAGE
            )
        pane_ms = settings.join.pane_ms
        supposed = Reference(
            id="supposed", model="supposed", version="", n=reference_rows, error_rate=error_rate, error_n=reference_rows
        )
        traffic = Traffic(rows_a_day * pane_ms / DAY_MS, min(subjects, BUCKETS), pane_ms)
        told = [planned(bounds, supposed, traffic, traffic, Part(1.0 / models, models, settings.measures_partitions))]
    else:
        told = _landed(settings, bounds, model)
    print(json.dumps({"v": VERSION, "plans": told}) if as_json else "\n\n".join(as_text(one) for one in told))
    return OK


def _landed(settings: Settings, bounds: JudgeBounds, model: str | None) -> list[dict[str, Any]]:
    with reading(settings) as client:
        references = {(one.reference.model, one.reference.version): one.reference for one in references_of(client)}
        seen = traffic_of(client, settings.join.pane_ms)
    known = sorted({name for name, _ in references})
    since = dict.fromkeys(known, 0)
    if model is not None and model not in known:
        raise WeirError(
            f"model {model!r} has no reference; models that have: {', '.join(known) or 'none'}",
            fix="weir reference learn MODEL; or say the traffic: --rows-a-day 5000",
        )
    found = [
        planned(
            bounds,
            reference,
            *seen[name, version],
            Part(model_share(name, 0, 1, since, bounds.weights), len(references), settings.measures_partitions),
        )
        for (name, version), reference in sorted(references.items())
        if model in (None, name) and (name, version) in seen
    ]
    if not known:
        raise WeirError(
            "no version has a reference yet",
            fix="weir reference learn MODEL; or say the traffic: --rows-a-day 5000",
        )
    if not found:
        raise WeirError(
            "no traffic of a version with a reference was measured in the last day that has any",
            fix="wait for predictions, or say the traffic: --rows-a-day 5000",
        )
    return found


def traffic_of(client: HttpClient, pane_ms: int) -> dict[tuple[str, str], tuple[Traffic, Traffic]]:
    """Give, by (model, version), the traffic and the labelled traffic of a pane, over the last day that has any.

    Panes without predictions count as empty, so the rows are those of a mean pane.
    """
    last = client.query("SELECT max(append_ms) FROM landed_measures").result_rows[0][0]
    sql = f"SELECT body FROM measures WHERE unreadable = '' AND append_ms > {int(last) - LOOK_BACK_MS}"
    rows: Counter[tuple[str, str]] = Counter()
    labelled: Counter[tuple[str, str]] = Counter()
    panes: dict[tuple[str, str], set[int]] = {}
    buckets: dict[tuple[str, str, int], Ledger] = {}
    with client.query_rows_stream(sql) as stream:
        for (body,) in stream:
            for pane in decode(body, Measures).panes:
                if pane.slice or pane.role != "primary":
                    continue
                key = (pane.model, pane.version)
                cells = Ledger()
                cells.add_flat({name: pane.cells[name] for name in (N, LABELLED, BUCKET_ROWS) if name in pane.cells})
                rows[key] += cells.get(N)
                labelled[key] += cells.get(LABELLED, COUNT)
                panes.setdefault(key, set()).add(pane.pane_ms)
                buckets.setdefault((*key, pane.pane_ms), Ledger()).add(cells.cells)
    found = {}
    for key, starts in panes.items():
        span = max(int((max(starts) - min(starts)) // pane_ms) + 1, 1)
        filled = [len(buckets[(*key, start)].cells.get(BUCKET_ROWS, {})) for start in starts]
        units = max(int(np.median(filled)), 1)
        found[key] = (
            Traffic(rows[key] / span, units, pane_ms),
            Traffic(max(labelled[key], 0) / span, units, pane_ms),
        )
    return found


class Part(NamedTuple):
    """A model's `share` of the budget, how many `references` there are, in how many `partitions` of measures."""

    share: float
    references: int
    partitions: int


def planned(
    bounds: JudgeBounds, reference: Reference, traffic: Traffic, labelled: Traffic, part: Part
) -> dict[str, Any]:
    """Give the smallest effect of each stream of a reference at each horizon, as plain data.

    The reference's radius is taken as that of the last of all references: which came first where, the judges know.
    """
    streams = []
    watch = Watch(reference, bounds, part=reference_part(max(part.references, 1), part.partitions))
    for stream in watch.streams:
        if stream.histogram is None and stream.name != QUALITY:
            continue  # a cloud's witness is chosen as panes come, and of frozen rows nobody knows how many will
        of = labelled if stream.name == QUALITY else traffic
        share = _reference_share(stream, reference)
        found = [detectable(stream, share, of, bounds, days, part.share) for days in HORIZONS] if of.rows > 0 else []
        _, witness, bound = witness_of(stream)
        streams.append(
            {
                "stream": stream.name,
                "witness": witness,
                "reference": share,
                "bound": bound,
                "detectable": {f"{one.days:g}": one.share for one in found},
            }
        )
    return {
        "model": reference.model,
        "version": reference.version,
        "budget": bounds.budget,
        "share": part.share,
        "rows_a_day": traffic.rows * DAY_MS / traffic.pane_ms,
        "labelled_a_day": labelled.rows * DAY_MS / labelled.pane_ms,
        "units_a_pane": traffic.units,
        "streams": streams,
    }


def _reference_share(stream: Stream, reference: Reference) -> float:
    if stream.histogram is None:
        return reference.error_rate or 0.0
    at, _, _ = witness_of(stream)
    counts = stream.histogram.reference
    return float(stream.null.sets[at] @ counts) / float(counts.sum())


def as_text(told: Mapping[str, Any]) -> str:
    """Say it to a person."""
    head = (
        f"{told['model']} {told['version']}: {told['rows_a_day']:,.0f} predictions and {told['labelled_a_day']:,.0f} "
        f"labels a day, {told['units_a_pane']} subject buckets a pane; {told['share']:.3g} of the budget of "
        f"{told['budget']:g} false alarms in 30 days.\n"
        "About half of the changes to the shares below are found in that time; larger ones sooner.\n"
    )
    rows = [["stream", "what rises", "now", "allowed", *(f"in {days:g} d" for days in HORIZONS)]]
    for one in told["streams"]:
        shares = [one["detectable"].get(f"{days:g}") for days in HORIZONS]
        rows.append(
            [
                one["stream"],
                one["witness"] if one["witness"] != one["stream"] else "error rate",
                f"{one['reference']:.3f}",
                f"{one['bound']:.3f}",
                *("never" if share is None else f"{share:.3f}" for share in shares),
            ]
        )
    return head + aligned(rows)


def aligned(rows: Sequence[Sequence[str]]) -> str:
    """Lay out columns: text to the left, figures to the right.

    >>> print(aligned([["a", "n"], ["bcd", "12"]]))
    a     n
    bcd  12
    """
    widths = [max(len(row[at]) for row in rows) for at in range(len(rows[0]))]
    numeric = [all(row[at][:1].isdigit() or row[at] == "never" for row in rows[1:]) for at in range(len(widths))]
    return "\n".join(
        "  ".join(
            text.rjust(width) if right else text.ljust(width)
            for text, width, right in zip(row, widths, numeric, strict=True)
        ).rstrip()
        for row in rows
    )
