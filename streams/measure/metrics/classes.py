"""Figures of several classes: each class counts alike, however rare it is.

The classes are the names in `class:NAME` and, where there is a binary task, 1 and 0. Those beyond the budget of names
are one class together, `~other`. Per class k there are tp, fp and fn; a class that is in neither labels nor predictions
is in no mean.

**Intervals.** Classes are not known by subject bucket. The variance of each class is that of independent outcomes
(smoothed, so that a class without errors is no certainty); it is multiplied by the design effect of accuracy, which is
known by bucket: how much wider subjects with many events make its interval. Recalls are of separate outcomes, so their
variances add up; an error is one of two classes, so for F1 twice their sum is an upper bound.
"""

from __future__ import annotations

from math import sqrt
from typing import Literal, NamedTuple

import numpy as np

from streams.measure import ledger as names
from streams.measure.ledger import BUCKETS, CLASS, Ledger
from streams.measure.metrics.base import MILLI, Measured, Metric, Ratio, student
from streams.measure.metrics.confusion import Accuracy


class Class(NamedTuple):
    """What is counted of one class, in milli-weights."""

    tp: int
    fp: int
    fn: int


class Macro(Metric):
    """A mean over classes."""

    def parts(self, ledger: Ledger) -> list[tuple[float, float]]:
        """Give the figure of each class that has one, and its variance for independent outcomes."""
        raise NotImplementedError

    def overlap(self) -> float:
        """Give of how many classes one outcome may change the figure, at most."""
        return 1.0

    def n(self, ledger: Ledger) -> int:
        cell = {which: ledger.get(names.MEASURED, which) for which in (names.SCORED, names.UNREADABLE, names.NAMED)}
        return cell[names.SCORED] - cell[names.UNREADABLE] + cell[names.NAMED]

    def value(self, ledger: Ledger) -> float | None:
        parts = self.parts(ledger)
        return sum(value for value, _ in parts) / len(parts) if parts else None

    def measured(self, ledger: Ledger) -> Measured:
        parts, n = self.parts(ledger), self.n(ledger)
        subjects, effect = design_effect(ledger)
        if not parts:
            return Measured(None, None, None, n, subjects)
        value = sum(value for value, _ in parts) / len(parts)
        if subjects < 2:
            return Measured(value, None, None, n, subjects)
        variance = self.overlap() * sum(variance for _, variance in parts) / len(parts) ** 2
        half = student(subjects - 1) * sqrt(effect * variance)
        low, high = self._clip(value - half, value + half)
        return Measured(value, min(low, value), max(high, value), n, subjects)


class MacroF1(Macro):
    """The mean over classes of F1 = 2 tp / (2 tp + fp + fn)."""

    kind: Literal["macro_f1"] = "macro_f1"

    def parts(self, ledger: Ledger) -> list[tuple[float, float]]:
        found = []
        for tp, fp, fn in per_class(ledger):
            if tp + fp + fn > 0:
                share, variance = _share(tp, tp + fp + fn)  # Jaccard's index J; F1 = 2J / (1 + J)
                found.append((2 * tp / (2 * tp + fp + fn), variance * (2 / (1 + share) ** 2) ** 2))
        return found

    def overlap(self) -> float:
        return 2.0


class BalancedAccuracy(Macro):
    """The mean over classes of recall = tp / (tp + fn); of two classes, the mean of recall and specificity."""

    kind: Literal["balanced_accuracy"] = "balanced_accuracy"

    def parts(self, ledger: Ledger) -> list[tuple[float, float]]:
        return [(tp / (tp + fn), _share(tp, tp + fn)[1]) for tp, _, fn in per_class(ledger) if tp + fn > 0]


class Jaccard(Ratio):
    """Labels that are lists: the mean share of the labels on either side that are on both (Jaccard's index)."""

    kind: Literal["jaccard"] = "jaccard"
    unit = 1e6

    def sums(self, ledger: Ledger) -> tuple[int, int]:
        return ledger.get(names.JACCARD, names.SHARED), ledger.get(names.JACCARD, names.SETS)

    def by_bucket(self, ledger: Ledger) -> tuple[list[int], list[int]]:
        cells = ledger.dense(names.BUCKET_JACCARD, BUCKETS * 2)
        return cells[names.SHARED :: 2], cells[names.SETS :: 2]

    def n(self, ledger: Ledger) -> int:
        return ledger.get(names.MEASURED, names.LISTED)


def per_class(ledger: Ledger) -> list[Class]:
    """Give what is counted of each class, names ascending, those of the binary task last.

    >>> per_class(Ledger({"class:cat": {0: 2000}, "confusion": {0: 3000, 3: 1000, 2: 1000}}))
    [Class(tp=2000, fp=0, fn=0), Class(tp=3000, fp=0, fn=1000), Class(tp=1000, fp=1000, fn=0)]
    """
    found = [Class(*ledger.dense(name, 3)) for name in sorted(ledger.cells) if name.startswith(CLASS)]
    tp, fp, fn, tn = ledger.dense(names.CONFUSION, 4)
    return [*found, Class(tp, fp, fn), Class(tn, fn, fp)] if tp + fp + fn + tn else found


def design_effect(ledger: Ledger) -> tuple[int, float]:
    """Give the number of subject buckets, and by how much their accuracies vary more than independent outcomes do."""
    accuracy = Accuracy()
    value = accuracy.value(ledger)
    tops, bottoms = (np.array(side, dtype=np.float64) / MILLI for side in accuracy.by_bucket(ledger))
    filled = bottoms > 0
    count, n = int(filled.sum()), float(bottoms.sum())
    if value is None or count < 2 or not 0 < value < 1:
        return count, 1.0
    spread = float(np.sum((tops - value * bottoms) ** 2)) * count / (count - 1) / n**2
    return count, max(spread / (value * (1 - value) / n), 1.0)


def _share(hits: int, weight: int) -> tuple[float, float]:
    """Give a share of a weight in milli-weights and its variance, half a hit and half a miss added."""
    n = weight / MILLI
    share = (hits / MILLI + 0.5) / (n + 1)
    return share, share * (1 - share) / (n + 1)
