"""Frozen rows as streams of the judge: in which share of its compared rows a feature is not as at training. Pure.

The null of each is "in no pane more than the share `limit` of the compared rows is expected to differ". A pane is one
unit, because predictions of one frozen row differ together or not at all: L = 1 + λ(s/n − m), a bet that allows any
dependence within the pane (`detectors`). With a limit of 0.001, and every tenth row other, M grows eightyfold a pane.
Counts of one stream say nothing of another's: a wrong feature shows in its own, in the score's and in that of the rows.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from schemas.control import ParitySet
from streams.judge.evidence import Evidences, Ints, Null
from streams.judge.parity import shown
from streams.measure.ledger import Ledger
from streams.measure.parity import COMPARED, DIFFER, GONE, NEW, OF_FEATURE, ROWS, SCORE, differing, named

EXAMPLES = 3
LEAST = 1e-12
"""Stands for a limit of 0: the first row that differs is an alarm."""


def rows_null(stream: str, limit: float) -> Null:
    """Give the null of a stream: its share of rows that differ is at most `limit`.

    >>> rows_null("parity:feature:age", 0.001).names
    ("the share of rows whose 'age' is not as at training",)
    """
    what = {ROWS: "that are", SCORE: "whose score is"}.get(stream, f"whose {stream.removeprefix(OF_FEATURE)!r} is")
    names = (f"the share of rows {what} not as at training",)
    return Null(stream, np.ones((1, 1), dtype=np.int64), np.array([max(limit, LEAST)]), names)


def compared(streams: Sequence[str], ledger: Ledger, start: int, end: int) -> tuple[Ints, Evidences]:
    """Give the places of the streams that have rows in a pane, and what it shows of them.

    A stream whose counts cannot be (deltas are missing) is left out.
    """
    rows = np.array([ledger.get(name, COMPARED) for name in streams], dtype=np.int64)
    differ = np.array([ledger.get(name, DIFFER) for name in streams], dtype=np.int64)
    places = np.flatnonzero((rows > 0) & (differ >= 0) & (differ <= rows))
    counts = differ[places].astype(np.float64)[:, None]
    return places, Evidences(start, end, counts, rows[places].astype(np.float64), np.zeros((1, 0)))


def differences(stream: str, window: Ledger) -> dict[str, float]:
    """Give the rows that were compared, that differ, and those missing on one side; nothing without rows."""
    rows = window.get(stream, COMPARED)
    if rows <= 0:
        return {}
    found = {"rows": float(rows), "differ": float(window.get(stream, DIFFER))}
    if stream != ROWS:
        found["missing_live"] = float(window.get(stream, GONE))
        found["missing_at_training"] = float(window.get(stream, NEW))
    return found


def examples(given: ParitySet, stream: str, window: Ledger) -> str:
    """Name the frozen rows that differ in a window, those that did most often first, with what they were at training.

    The values that came live are in the predictions with that key: only counts are kept of them.
    """
    cells = window.cells.get(stream, {})
    places = [at for at in differing(cells) if at < len(given.rows)]
    told = []
    for at in places[:EXAMPLES]:
        row = given.rows[at]
        value = row.score if stream == SCORE else row.features.get(stream.removeprefix(OF_FEATURE))
        was = "" if stream == ROWS else f" ({'missing' if value is None else shown(value)} at training)"
        told.append(f"{named(given, row)}{was}")
    more = f" and {len(places) - EXAMPLES} more" if len(places) > EXAMPLES else ""
    differ, rows = cells.get(DIFFER, 0), cells.get(COMPARED, 0)
    return f"{differ:,} of {rows:,} compared rows of the window differ: {'; '.join(told)}{more}"
