"""What every threshold would have given, from the deltas of `measures` that have landed.

Score bins of positives and negatives are summed in ClickHouse, the whole window at once; what follows from them is
`streams.measure.thresholds`. A delta is read once, however often its record has landed.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from schemas.settings import Settings
from services.api.store import Row, Store, plain
from streams.measure.ledger import SCORE_NEG, SCORE_POS, Ledger
from streams.measure.thresholds import Thresholds, thresholds

DAY_MS = 86_400_000
LOOK_BACK_MS = 7 * DAY_MS
VERSIONS = 8


def choices(
    settings: Settings,
    store: Store,
    model: str,
    *,
    cost_fp: float,
    cost_fn: float,
    slice_: str = "",
    from_ms: int = 0,
    to_ms: int = 0,
    points: int = 101,
) -> dict[str, Any]:
    """Give, for each version of a model in primary traffic, precision, recall and cost at every threshold.

    The window is of the predictions' event time; without `to_ms` it ends with the newest pane of the model, without
    `from_ms` it begins a week before that. At most `points` thresholds of a version are told, among them the first, the
    last and the best one; the newest version comes first. Raises what `Store.rows` raises.
    """
    known = {"model": model, "slice": slice_, "name": f'"model":"{_escaped(model)}"'}
    if not to_ms:
        found = store.rows(
            "SELECT max(to_ms) AS at FROM landed_metrics WHERE unreadable = '' AND model = {model:String}", model=model
        )
        to_ms = int(found[0]["at"]) if found else 0
    from_ms = from_ms or max(to_ms - LOOK_BACK_MS, 0)
    # A delta is told after its pane began, so what was told before the window cannot be of it.
    once = (
        "SELECT body FROM landed_measures WHERE unreadable = '' AND (clock_ms = 0 OR clock_ms >= {from_ms:Int64} - "
        "{skew_ms:Int64}) AND position(assumeNotNull(body), {name:String}) > 0 LIMIT 1 BY partition, offset, idx"
    )
    cells = ", ".join(
        f"JSONExtract(pane, 'cells', '{name}', 'Array(Int64)') AS {alias}"
        for name, alias in ((SCORE_POS, "pos"), (SCORE_NEG, "neg"))
    )
    summed = ", ".join(
        f"sumMap(arrayFilter((one, at) -> at % 2 = 1, {alias}, arrayEnumerate({alias})), "
        f"arrayFilter((one, at) -> at % 2 = 0, {alias}, arrayEnumerate({alias}))) AS {alias}s"
        for alias in ("pos", "neg")
    )
    rows = store.rows(
        f"SELECT version, min(start) AS first_ms, max(start + size) AS last_ms, {summed} FROM ("
        "SELECT JSONExtractString(pane, 'version') AS version, JSONExtractInt(pane, 'pane_ms') AS start, "
        f"JSONExtractInt(pane, 'pane_size_ms') AS size, {cells} FROM ("
        f"SELECT arrayJoin(JSONExtractArrayRaw(assumeNotNull(body), 'panes')) AS pane FROM ({once})) "
        "WHERE JSONExtractString(pane, 'model') = {model:String} AND JSONExtractString(pane, 'slice') = {slice:String} "
        "AND JSONExtractString(pane, 'role') IN ('', 'primary') "
        "AND start >= {from_ms:Int64} AND start < {to_ms:Int64}) "
        "GROUP BY version ORDER BY last_ms DESC, version DESC LIMIT {most:UInt32}",
        from_ms=from_ms,
        to_ms=to_ms,
        skew_ms=settings.join.skew_ms,
        most=VERSIONS,
        **known,
    )
    told = [(row, _read(row, cost_fp, cost_fn, sliced=bool(slice_))) for row in rows]
    return {
        "model": model,
        "slice": slice_,
        "from_ms": from_ms,
        "to_ms": to_ms,
        "cost_fp": cost_fp,
        "cost_fn": cost_fn,
        "versions": [
            {
                "version": row["version"],
                "first_ms": row["first_ms"],
                "last_ms": row["last_ms"],
                "positives": float(read.tp[0]),
                "negatives": float(read.fp[0]),
                "best": _point(read, read.best),
                "points": [_point(read, place) for place in places(read, points)],
            }
            for row, read in told
            if read is not None
        ],
    }


def _read(row: Row, cost_fp: float, cost_fn: float, *, sliced: bool) -> Thresholds | None:
    ledger = Ledger()
    for name, column in ((SCORE_POS, "poss"), (SCORE_NEG, "negs")):
        bins, counts = row[column]
        ledger.add_pairs(name, zip(map(int, bins), map(int, counts), strict=True))
    if not ledger.possible():  # deltas are missing: what had been counted before them is being taken back
        return None
    return thresholds(ledger, cost_fp, cost_fn, sliced=sliced)


def places(read: Thresholds, points: int) -> list[int]:
    """Choose at most `points` thresholds (three at least): where something changes, spread evenly over the outcomes."""
    taken = read.tp + read.fp
    changes = np.flatnonzero(np.diff(taken, prepend=np.inf))
    kept = {0, read.best, len(taken) - 1}
    left = max(points, 3) - len(kept)
    if len(changes) <= left:
        return sorted(kept | set(changes.tolist()))
    wanted = np.linspace(taken[0], 0.0, left + 2)[1:-1]
    nearest = np.searchsorted(-taken[changes], -wanted)
    return sorted(kept | {int(changes[min(at, len(changes) - 1)]) for at in nearest.tolist()})


def _point(read: Thresholds, place: int) -> dict[str, Any]:
    """Give one threshold; null: above every score, so that nothing is positive."""
    found = {name: plain(float(getattr(read, name)[place])) for name in ("threshold", "tp", "fp", "fn", "tn", "cost")}
    rates = {name: float(getattr(read, name)[place]) for name in ("precision", "recall")}
    return {**found, **{name: None if math.isnan(rate) else rate for name, rate in rates.items()}}


def _escaped(model: str) -> str:
    """Write a name as our encoder does inside a JSON string."""
    import msgspec

    return msgspec.json.encode(model).decode()[1:-1]
