"""What the replay came to: quality per span beside the baselines that Elec2 flatters everybody without."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from services.demo.stream import TRAINED, Ints, Stream, no_change_lagged, no_change_yesterday
from streams.measure.metrics import Accuracy, Measured
from streams.measure.tally import ledger_of


@dataclass(frozen=True, slots=True)
class Judged:
    """One primary prediction with the last label that was joined to it (None: none came)."""

    row: int
    version: str
    prediction: int
    label: int | None


@dataclass(frozen=True, slots=True)
class Span:
    """A stretch of rows [start, end) with its accuracy, and that of both baselines on the same labelled rows."""

    name: str
    start: int
    end: int
    model: Measured
    lagged: Measured
    yesterday: Measured


def spans(stream: Stream, judged: Sequence[Judged], promoted_row: int | None) -> dict[str, Span]:
    """Measure before the drift, in it, and after the promotion, and the whole.

    Without a planted drift there is no `drifted` span; without a promotion no `recovered` one.
    """
    end = len(stream)
    borders = {"all": (TRAINED, end)}
    if stream.drift_at is None:
        borders["before"] = (TRAINED, promoted_row or end)
    else:
        borders["before"] = (TRAINED, stream.drift_at)
        borders["drifted"] = (stream.drift_at, promoted_row or end)
    if promoted_row is not None:
        # As long as the span before the drift: Elec2 drifts on by itself, and a later loss is another story.
        borders["recovered"] = (promoted_row, min(end, promoted_row + borders["before"][1] - TRAINED))
    by_row = {one.row: one for one in judged if one.label is not None}
    lagged, yesterday = no_change_lagged(stream), no_change_yesterday(stream)
    return {name: _span(name, start, stop, by_row, lagged, yesterday) for name, (start, stop) in borders.items()}


def _span(name: str, start: int, end: int, by_row: Mapping[int, Judged], lagged: Ints, yesterday: Ints) -> Span:
    rows = [row for row in range(start, end) if row in by_row]
    labels = [by_row[row].label for row in rows]
    subjects = [Stream.subject(row) for row in rows]

    def accuracy(guesses: Sequence[int]) -> Measured:
        ledger = ledger_of(np.asarray(guesses, dtype=np.float64), labels, subjects, None, list(guesses))
        return Accuracy().measured(ledger)

    return Span(
        name,
        start,
        end,
        accuracy([by_row[row].prediction for row in rows]),
        accuracy([int(lagged[row - TRAINED]) for row in rows]),
        accuracy([int(yesterday[row - TRAINED]) for row in rows]),
    )


def shown(measured: Measured) -> str:
    """Write a figure with its interval.

    >>> shown(Measured(value=0.8123, low=0.79, high=0.83, n=500, subjects=12))
    '0.812 [0.790, 0.830]'
    """
    if measured.value is None:
        return "-"
    if measured.low is None or measured.high is None:
        return f"{measured.value:.3f}"
    return f"{measured.value:.3f} [{measured.low:.3f}, {measured.high:.3f}]"
