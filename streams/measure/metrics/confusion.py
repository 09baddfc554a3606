"""Ratios of the confusion cells: how often the decided class was right, and in which way it was wrong."""

from __future__ import annotations

from math import sqrt
from typing import ClassVar, Literal

import numpy as np

from streams.measure import ledger as names
from streams.measure.ledger import BUCKETS, Ledger
from streams.measure.metrics.base import MILLI, Better, Measured, Metric, Ratio, jackknife, student, wilson


class Confused(Ratio):
    """A ratio of two sums over the confusion cells (tp, fp, fn, tn) and, for some, over agreement (agrees, differs)."""

    top: ClassVar[tuple[int, int, int, int]]
    bottom: ClassVar[tuple[int, int, int, int]]
    top_agreement: ClassVar[tuple[int, int]] = (0, 0)
    bottom_agreement: ClassVar[tuple[int, int]] = (0, 0)

    def sums(self, ledger: Ledger) -> tuple[int, int]:
        cells = ledger.dense(names.CONFUSION, 4)
        agreement = ledger.dense(names.AGREEMENT, 2)
        return (
            _dot(self.top, cells) + _dot(self.top_agreement, agreement),
            _dot(self.bottom, cells) + _dot(self.bottom_agreement, agreement),
        )

    def by_bucket(self, ledger: Ledger) -> tuple[list[int], list[int]]:
        cells = ledger.dense(names.BUCKET_CONFUSION, BUCKETS * 4)
        agreement = ledger.dense(names.BUCKET_AGREEMENT, BUCKETS * 2)
        tops, bottoms = [], []
        for b in range(BUCKETS):
            mine, ours = cells[b * 4 : b * 4 + 4], agreement[b * 2 : b * 2 + 2]
            tops.append(_dot(self.top, mine) + _dot(self.top_agreement, ours))
            bottoms.append(_dot(self.bottom, mine) + _dot(self.bottom_agreement, ours))
        return tops, bottoms

    def n(self, ledger: Ledger) -> int:
        return ledger.get(names.MEASURED, names.RIGHT) + ledger.get(names.MEASURED, names.WRONG)

    def _floor(self, ledger: Ledger, low: float, high: float) -> tuple[float, float]:
        numerator, denominator = self.sums(ledger)
        least, most = self._wilson(numerator / MILLI, denominator / MILLI)
        return min(low, least), max(high, most)

    def _wilson(self, hits: float, n: float) -> tuple[float, float]:
        return wilson(hits, n)


class Accuracy(Confused):
    """The share of outcomes whose label was predicted: (tp + tn) / all, labels that are not binary included."""

    kind: Literal["accuracy"] = "accuracy"
    top = (1, 0, 0, 1)
    bottom = (1, 1, 1, 1)
    top_agreement = (1, 0)
    bottom_agreement = (1, 1)


class Precision(Confused):
    """The share of predicted positives that were positive: tp / (tp + fp)."""

    kind: Literal["precision"] = "precision"
    top = (1, 0, 0, 0)
    bottom = (1, 1, 0, 0)


class Recall(Confused):
    """The share of positives that were predicted: tp / (tp + fn)."""

    kind: Literal["recall"] = "recall"
    top = (1, 0, 0, 0)
    bottom = (1, 0, 1, 0)


class Specificity(Confused):
    """The share of negatives that were predicted: tn / (tn + fp)."""

    kind: Literal["specificity"] = "specificity"
    top = (0, 0, 0, 1)
    bottom = (0, 1, 0, 1)


class PositiveRate(Confused):
    """The share of positives among the labels: (tp + fn) / all. It describes the data, not the model."""

    kind: Literal["positive_rate"] = "positive_rate"
    better: ClassVar[Better] = "neither"
    top = (1, 0, 1, 0)
    bottom = (1, 1, 1, 1)


class PredictedPositiveRate(Confused):
    """The share of labelled outcomes that were predicted positive: (tp + fp) / all."""

    kind: Literal["predicted_positive_rate"] = "predicted_positive_rate"
    better: ClassVar[Better] = "neither"
    top = (1, 1, 0, 0)
    bottom = (1, 1, 1, 1)


class F1(Confused):
    """The harmonic mean of precision and recall: 2 tp / (2 tp + fp + fn)."""

    kind: Literal["f1"] = "f1"
    top = (2, 0, 0, 0)
    bottom = (2, 1, 1, 0)

    def _floor(self, ledger: Ledger, low: float, high: float) -> tuple[float, float]:
        tp, fp, fn, _ = ledger.dense(names.CONFUSION, 4)
        least, most = wilson(tp / MILLI, (tp + fp + fn) / MILLI)  # Jaccard's index J; F1 = 2J / (1 + J) grows with it
        return min(low, 2 * least / (1 + least)), max(high, 2 * most / (1 + most))


class Whole(Metric):
    """A figure of the whole confusion matrix; its interval leaves out one bucket at a time."""

    sliced: ClassVar[bool] = False

    def of(self, tp: float, fp: float, fn: float, tn: float) -> float | None:
        """Give the figure, in any unit of weight; None when it cannot be told."""
        raise NotImplementedError

    def n(self, ledger: Ledger) -> int:
        return ledger.get(names.MEASURED, names.SCORED) - ledger.get(names.MEASURED, names.UNREADABLE)

    def value(self, ledger: Ledger) -> float | None:
        return self.of(*ledger.dense(names.CONFUSION, 4))

    def measured(self, ledger: Ledger) -> Measured:
        cells = ledger.dense(names.CONFUSION, 4)
        buckets = ledger.dense(names.BUCKET_CONFUSION, BUCKETS * 4)
        filled = [buckets[b * 4 : b * 4 + 4] for b in range(BUCKETS) if any(buckets[b * 4 : b * 4 + 4])]
        value, n = self.of(*cells), self.n(ledger)
        left = [self.of(*(all_ - mine for all_, mine in zip(cells, bucket, strict=True))) for bucket in filled]
        told = [one for one in left if one is not None]
        if value is None or len(filled) < 2 or len(told) < len(left):
            return Measured(value, None, None, n, len(filled))
        half = student(len(filled) - 1) * jackknife(np.array(told))
        low, high = self._clip(value - half, value + half)
        return Measured(value, min(low, value), max(high, value), n, len(filled))


class Mcc(Whole):
    """Matthews' correlation of label and prediction: (tp · tn − fp · fn) / √(product of the four margins)."""

    kind: Literal["mcc"] = "mcc"
    least: ClassVar[float | None] = -1.0

    def of(self, tp: float, fp: float, fn: float, tn: float) -> float | None:
        margins = (tp + fp) * (tp + fn) * (tn + fp) * (tn + fn)
        return min(max((tp * tn - fp * fn) / sqrt(margins), -1.0), 1.0) if margins > 0 else None


class Lift(Whole):
    """How many times as many positives are among the predicted positives as among all: precision / positive rate."""

    kind: Literal["lift"] = "lift"
    most: ClassVar[float | None] = None

    def of(self, tp: float, fp: float, fn: float, tn: float) -> float | None:
        chance = (tp + fp) * (tp + fn)
        return tp * (tp + fp + fn + tn) / chance if chance > 0 else None


def _dot(coefficients: tuple[int, ...], cells: list[int]) -> int:
    return sum(c * cell for c, cell in zip(coefficients, cells, strict=True) if c)
