"""Whether what got a label is like what got none: the selection that every realised figure silently has.

A bank learns the outcome of the loans that it granted, a shop hears from those who return. The gap is the
Kolmogorov–Smirnov distance between the scores of the labelled outcomes (by weight) and those of all predictions, over
the score bins: the largest difference of any share "scores up to p". If n of N predictions were labelled by a lot, the
gap would lie below 1.358 √((N − n) / (n N)) in 95 of 100 windows (Kolmogorov's limit, for drawing without putting
back); `selection_excess` is the gap beyond that. At 0 or below nothing is shown; above it, figures of the labelled are
not those of all. The unlabelled share itself is 1 − maturity of a closed window.
"""

from __future__ import annotations

from math import sqrt
from typing import ClassVar, Final, Literal

from streams.measure import ledger as names
from streams.measure.ledger import SCORE_BINS, Ledger
from streams.measure.metrics.base import Better, Measured, Metric

QUANTILE: Final = 1.358
"""The 95 % quantile of Kolmogorov's law."""


class Selection(Metric):
    """A figure of how the labelled scores differ from all, told of the whole alone."""

    better: ClassVar[Better] = "lower"
    sliced: ClassVar[bool] = False

    def measured(self, ledger: Ledger) -> Measured:
        """See `Metric.measured`. There is no interval: `selection_excess` has the quantile by chance in it."""
        subjects = len(ledger.cells.get(names.BUCKET_N, {}))
        return Measured(self.value(ledger), None, None, self.n(ledger), subjects)


class SelectionGap(Selection):
    """The largest difference between a share of the labelled scores and the same share of all."""

    kind: Literal["selection_gap"] = "selection_gap"

    def value(self, ledger: Ledger) -> float | None:
        """See `Metric.value`. None without labelled scores."""
        return _gap(ledger)


class SelectionExcess(Selection):
    """The gap beyond what labelling by a lot would give: at 0 or below nothing is shown."""

    kind: Literal["selection_excess"] = "selection_excess"
    least: ClassVar[float | None] = None

    def value(self, ledger: Ledger) -> float | None:
        """See `Metric.value`."""
        gap, n = _gap(ledger), self.n(ledger)
        if gap is None or n <= 0:
            return None
        total = sum(_scored(ledger).values())
        return gap - QUANTILE * sqrt(max(total - n, 0) / (n * total))


def _gap(ledger: Ledger) -> float | None:
    every = _scored(ledger)
    labelled = dict(ledger.cells.get(names.SCORE_POS, {}))
    for cell, weight in ledger.cells.get(names.SCORE_NEG, {}).items():
        labelled[cell] = labelled.get(cell, 0) + weight
    total, heard = sum(every.values()), sum(labelled.values())
    if total <= 0 or heard <= 0:
        return None
    gap = of_all = of_labelled = 0.0
    for cell in sorted({*labelled, *every}):
        of_all += every.get(cell, 0) / total
        of_labelled += labelled.get(cell, 0) / heard
        gap = max(gap, abs(of_all - of_labelled))
    return min(gap, 1.0)


def _scored(ledger: Ledger) -> dict[int, int]:
    """Count the predictions by score bin, without those whose score is none."""
    return {cell: count for cell, count in ledger.cells.get(names.SCORE, {}).items() if cell < SCORE_BINS}
