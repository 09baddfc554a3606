"""The area under the ROC curve, and that under the curve of precision and recall, from score bins.

AUC is computed from 2,048 logit bins (512 in a slice), pairs that share a bin counting one half. The true AUC lies
within ½ΣP_bN_b / (PN) of it, without any assumption: `bound`. Its interval is the wider of the delete-one-bucket
jackknife (on 64 score bins) and Hanley–McNeil, widened by the bound. Above 0.005 the bound says that the bins are
coarse for this model.

**Average precision** is Σ (R_k − R_(k−1)) P_k over the bins from the highest score down, P and R being precision and
recall with the threshold at the bin's foot: scores that share a bin share a step, and nothing is interpolated. Its
interval leaves out one bucket at a time, on 64 score bins. A model without skill has the share of positives.
"""

from __future__ import annotations

from math import sqrt
from typing import Any, ClassVar, Literal

import numpy as np

from streams.measure import ledger as names
from streams.measure.ledger import BUCKET_SCORE_BINS, BUCKETS, SCORE_BINS, Ledger
from streams.measure.metrics.base import MILLI, Floats, Measured, Metric, jackknife, student


class Auc(Metric):
    """The chance that a positive scores above a negative, ties counting one half."""

    kind: Literal["auc"] = "auc"

    def value(self, ledger: Ledger) -> float | None:
        wins, ties, pairs = _pairs(ledger)
        return (2 * wins + ties) / (2 * pairs) if pairs else None

    def measured(self, ledger: Ledger) -> Measured:
        wins, ties, pairs = _pairs(ledger)
        n, subjects = self.n(ledger), len(ledger.cells.get(names.BUCKET_N, {}))
        if not pairs:
            return Measured(None, None, None, n, subjects)
        value, bound = (2 * wins + ties) / (2 * pairs), ties / (2 * pairs)
        spread = _jackknife(ledger)
        if spread is None:
            return Measured(value, None, None, n, subjects, bound)
        error, count = spread
        positives, negatives = ledger.total(names.SCORE_POS) / MILLI, ledger.total(names.SCORE_NEG) / MILLI
        half = student(count - 1) * max(error, sqrt(hanley_mcneil(value, positives, negatives))) + bound
        low, high = self._clip(value - half, value + half)
        return Measured(value, low, high, n, subjects, bound)


class AveragePrecision(Metric):
    """The mean precision over the positives, from the highest score down (PR-AUC without interpolation)."""

    kind: Literal["average_precision"] = "average_precision"
    sliced: ClassVar[bool] = False

    def value(self, ledger: Ledger) -> float | None:
        cells = [ledger.cells.get(name, {}) for name in (names.SCORE_POS, names.SCORE_NEG)]
        pos, neg = (np.array([side.get(index, 0) for index in range(SCORE_BINS)], dtype=np.float64) for side in cells)
        found = _average_precision(pos, neg)
        return None if found is None else float(found)

    def measured(self, ledger: Ledger) -> Measured:
        value, n, subjects = self.value(ledger), self.n(ledger), len(ledger.cells.get(names.BUCKET_N, {}))
        parts = _without_each(ledger)
        left_out = None if parts is None else _average_precision(*parts)
        if value is None or left_out is None:
            return Measured(value, None, None, n, subjects)
        half = student(len(left_out) - 1) * jackknife(left_out)
        low, high = self._clip(value - half, value + half)
        return Measured(value, min(low, value), max(high, value), n, subjects)


def hanley_mcneil(auc: float, positives: float, negatives: float) -> float:
    """Give the variance of an AUC from independent outcomes, kept above 0 where the sample separates perfectly."""
    pairs = positives * negatives
    a = (auc * pairs + 0.5) / (pairs + 1)
    q1, q2 = a / (2 - a), 2 * a * a / (1 + a)
    spread = a * (1 - a) + (positives - 1) * (q1 - a * a) + (negatives - 1) * (q2 - a * a)
    return max(spread, a * (1 - a)) / pairs


def _pairs(ledger: Ledger) -> tuple[int, int, int]:
    """Weigh the pairs of a positive and a negative: won by the positive, tied in one bin, all. Exact integers."""
    positives, negatives = ledger.cells.get(names.SCORE_POS, {}), ledger.cells.get(names.SCORE_NEG, {})
    wins = ties = below = 0
    for index in sorted({*positives, *negatives}):
        pos, neg = positives.get(index, 0), negatives.get(index, 0)
        wins += pos * below
        ties += pos * neg
        below += neg
    return wins, ties, sum(positives.values()) * below


def _jackknife(ledger: Ledger) -> tuple[float, int] | None:
    """Give the delete-one-bucket standard error of the AUC on 64 score bins, and the number of buckets."""
    parts = _without_each(ledger)
    if parts is None:
        return None
    pos, neg = parts
    pairs = pos.sum(axis=1) * neg.sum(axis=1)
    if not np.all(pairs > 0):
        return None
    below = np.cumsum(neg, axis=1) - neg / 2
    left_out = np.sum(pos * below, axis=1) / pairs
    return jackknife(left_out), len(pos)


def _without_each(ledger: Ledger) -> tuple[Floats, Floats] | None:
    """Give positives and negatives by 64 score bins without each bucket, one row each; None with fewer than two."""
    shape = (BUCKETS, BUCKET_SCORE_BINS)
    pos: Any = np.array(ledger.dense(names.BUCKET_SCORE_POS, BUCKETS * BUCKET_SCORE_BINS), dtype=np.float64)
    neg: Any = np.array(ledger.dense(names.BUCKET_SCORE_NEG, BUCKETS * BUCKET_SCORE_BINS), dtype=np.float64)
    pos, neg = pos.reshape(shape), neg.reshape(shape)
    filled = (pos.sum(axis=1) + neg.sum(axis=1)) > 0
    if int(filled.sum()) < 2:
        return None
    return pos.sum(axis=0) - pos[filled], neg.sum(axis=0) - neg[filled]


def _average_precision(pos: Floats, neg: Floats) -> Floats | None:
    """Give the average precision over the bins of the last axis; None where a row has no positive."""
    hits = np.cumsum(pos[..., ::-1], axis=-1)
    seen = hits + np.cumsum(neg[..., ::-1], axis=-1)
    positives = hits[..., -1]
    if not np.all(positives > 0):
        return None
    precision = hits / np.where(seen > 0, seen, 1.0)
    result: Floats = np.sum(pos[..., ::-1] * precision, axis=-1) / positives
    return result
