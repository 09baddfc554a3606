"""Metrics read from a ledger, each with its interval. A subclass of `Metric` with a `kind` is all that a new one needs.

**Values** are ratios of integer sums, divided once, hence the same bits whatever the order. 0/0 is None, never 0.

**Intervals** (95 %) come from between-bucket variation: every subject lies whole in one of 64 hash buckets, so users
with many events do not fake precision. For a ratio R = ΣN_b / ΣD_b over B buckets with D_b > 0 the residuals
r_b = N_b − R·D_b give the delta-method variance B/(B−1) · Σr_b² / (ΣD_b)², with Student's t on B − 1 degrees of
freedom. With fewer than two buckets there is no interval. A proportion's interval is never narrower than Wilson's for
as many independent events, since all-correct buckets have no variance, yet are no certainty.

**AUC** is computed from 2,048 logit bins (512 in a slice), pairs that share a bin counting one half. The true AUC lies
within ½ΣP_bN_b / (PN) of it, without any assumption: `bound`. Its interval is the wider of the delete-one-bucket
jackknife (on 64 score bins) and Hanley–McNeil, widened by the bound. Above 0.005 the bound says that the bins are
coarse for this model.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import sqrt
from typing import Any, ClassVar, Final, Literal

import numpy as np

from schemas.spec import Spec
from streams.measure import ledger as names
from streams.measure.ledger import BUCKET_SCORE_BINS, BUCKETS, Ledger

LEVEL: Final = 0.95
COARSE: Final = 0.005
MILLI: Final = 1_000


@dataclass(frozen=True, slots=True)
class Measured:
    """A value with its interval. `n` outcomes in `subjects` non-empty buckets; `bound` is the binning's own error."""

    value: float | None
    low: float | None
    high: float | None
    n: int
    subjects: int
    bound: float = 0.0

    @property
    def coarse(self) -> bool:
        """Whether the score bins are too coarse for this model."""
        return self.bound > COARSE


class Metric(Spec):
    """One figure of quality. Pure: it reads the ledger and nothing else."""

    kind: str
    better: ClassVar[Literal["higher", "lower"]] = "higher"
    most: ClassVar[float | None] = 1.0
    """The greatest possible value; the least is 0."""

    def value(self, ledger: Ledger) -> float | None:
        """Give the figure, None when it cannot be told."""
        raise NotImplementedError

    def measured(self, ledger: Ledger) -> Measured:
        """Give the figure with its interval."""
        raise NotImplementedError

    def n(self, ledger: Ledger) -> int:
        """Count the outcomes behind it."""
        return ledger.get(names.MEASURED, names.SCORED)

    def _clip(self, low: float, high: float) -> tuple[float, float]:
        return max(low, 0.0), high if self.most is None else min(high, self.most)


class Ratio(Metric):
    """A ratio of two sums over outcomes, both known by bucket."""

    unit: ClassVar[float] = 1.0
    """Value = numerator / denominator / unit."""

    def sums(self, ledger: Ledger) -> tuple[int, int]:
        """Give numerator and denominator."""
        raise NotImplementedError

    def by_bucket(self, ledger: Ledger) -> tuple[list[int], list[int]]:
        """Give both for each of the 64 buckets; they add up to `sums`."""
        raise NotImplementedError

    def value(self, ledger: Ledger) -> float | None:
        numerator, denominator = self.sums(ledger)
        return numerator / (denominator * self.unit) if denominator else None

    def measured(self, ledger: Ledger) -> Measured:
        value, n = self.value(ledger), self.n(ledger)
        tops, bottoms = self.by_bucket(ledger)
        subjects = sum(bottom > 0 for bottom in bottoms)
        if value is None or subjects < 2:
            return Measured(value, None, None, n, subjects)
        top = np.array(tops, dtype=np.float64) / self.unit
        bottom = np.array(bottoms, dtype=np.float64)
        residual = float(np.sum((top - value * bottom) ** 2))
        half = student(subjects - 1) * sqrt(residual * subjects / (subjects - 1)) / float(bottom.sum())
        low, high = self._floor(ledger, value - half, value + half)
        low, high = self._clip(low, high)
        return Measured(value, min(low, value), max(high, value), n, subjects)

    def _floor(self, ledger: Ledger, low: float, high: float) -> tuple[float, float]:
        return low, high


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


class Lossy(Ratio):
    """A mean loss: a sum in units of 1e-6 times the milli-weight, over the weight."""

    better: ClassVar[Literal["higher", "lower"]] = "lower"
    unit: ClassVar[float] = 1e6
    vector: ClassVar[str]
    bucketed: ClassVar[str]

    def sums(self, ledger: Ledger) -> tuple[int, int]:
        return ledger.get(self.vector), ledger.total(names.SCORE_POS) + ledger.total(names.SCORE_NEG)

    def by_bucket(self, ledger: Ledger) -> tuple[list[int], list[int]]:
        weights = [0] * BUCKETS
        for vector in (names.BUCKET_SCORE_POS, names.BUCKET_SCORE_NEG):
            for index, weight in ledger.cells.get(vector, {}).items():
                weights[index // BUCKET_SCORE_BINS] += weight
        return ledger.dense(self.bucketed, BUCKETS), weights


class LogLoss(Lossy):
    """Mean −[y ln p + (1 − y) ln(1 − p)] in nats, p clipped to [2⁻²³, 1 − 2⁻²³]."""

    kind: Literal["log_loss"] = "log_loss"
    most: ClassVar[float | None] = None
    vector = names.LOG_LOSS
    bucketed = names.BUCKET_LOG_LOSS


class Brier(Lossy):
    """Mean (p − y)²."""

    kind: Literal["brier"] = "brier"
    vector = names.BRIER
    bucketed = names.BUCKET_BRIER


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


def metrics() -> list[Metric]:
    """Give every registered metric that needs no parameters, by kind."""
    found = [Metric.parse({"kind": kind}) for kind in sorted(Metric.members)]
    return found


def student(freedom: int, level: float = LEVEL) -> float:
    """Give the two-sided quantile of Student's t.

    >>> round(student(63), 3)
    1.998
    """
    from scipy.special import stdtrit

    return float(stdtrit(freedom, 0.5 + level / 2))


def wilson(hits: float, n: float, level: float = LEVEL) -> tuple[float, float]:
    """Give Wilson's interval of a proportion.

    >>> tuple(round(end, 3) for end in wilson(10, 10))
    (0.722, 1.0)
    """
    from scipy.special import ndtri

    z = float(ndtri(0.5 + level / 2))
    share = hits / n
    middle = share + z * z / (2 * n)
    half = z * sqrt(share * (1 - share) / n + z * z / (4 * n * n))
    return (middle - half) / (1 + z * z / n), (middle + half) / (1 + z * z / n)


def hanley_mcneil(auc: float, positives: float, negatives: float) -> float:
    """Give the variance of an AUC from independent outcomes, kept above 0 where the sample separates perfectly."""
    pairs = positives * negatives
    a = (auc * pairs + 0.5) / (pairs + 1)
    q1, q2 = a / (2 - a), 2 * a * a / (1 + a)
    spread = a * (1 - a) + (positives - 1) * (q1 - a * a) + (negatives - 1) * (q2 - a * a)
    return max(spread, a * (1 - a)) / pairs


def _dot(coefficients: tuple[int, ...], cells: list[int]) -> int:
    return sum(c * cell for c, cell in zip(coefficients, cells, strict=True) if c)


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
    shape = (BUCKETS, BUCKET_SCORE_BINS)
    pos: Any = np.array(ledger.dense(names.BUCKET_SCORE_POS, BUCKETS * BUCKET_SCORE_BINS), dtype=np.float64)
    neg: Any = np.array(ledger.dense(names.BUCKET_SCORE_NEG, BUCKETS * BUCKET_SCORE_BINS), dtype=np.float64)
    pos, neg = pos.reshape(shape), neg.reshape(shape)
    filled = (pos.sum(axis=1) + neg.sum(axis=1)) > 0
    count = int(filled.sum())
    if count < 2:
        return None
    pos, neg = pos.sum(axis=0) - pos[filled], neg.sum(axis=0) - neg[filled]
    pairs = pos.sum(axis=1) * neg.sum(axis=1)
    if not np.all(pairs > 0):
        return None
    below = np.cumsum(neg, axis=1) - neg / 2
    left_out = np.sum(pos * below, axis=1) / pairs
    return sqrt((count - 1) / count * float(np.sum((left_out - left_out.mean()) ** 2))), count
