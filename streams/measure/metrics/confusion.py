"""Ratios of the confusion cells: how often the decided class was right, and in which way it was wrong."""

from __future__ import annotations

from typing import ClassVar, Final, Literal

from streams.measure import ledger as names
from streams.measure.ledger import BUCKETS, Ledger
from streams.measure.metrics.base import Ratio, wilson

MILLI: Final = 1_000


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


class F1(Confused):
    """The harmonic mean of precision and recall: 2 tp / (2 tp + fp + fn)."""

    kind: Literal["f1"] = "f1"
    top = (2, 0, 0, 0)
    bottom = (2, 1, 1, 0)

    def _floor(self, ledger: Ledger, low: float, high: float) -> tuple[float, float]:
        tp, fp, fn, _ = ledger.dense(names.CONFUSION, 4)
        least, most = wilson(tp / MILLI, (tp + fp + fn) / MILLI)  # Jaccard's index J; F1 = 2J / (1 + J) grows with it
        return min(low, 2 * least / (1 + least)), max(high, 2 * most / (1 + most))


def _dot(coefficients: tuple[int, ...], cells: list[int]) -> int:
    return sum(c * cell for c, cell in zip(coefficients, cells, strict=True) if c)
