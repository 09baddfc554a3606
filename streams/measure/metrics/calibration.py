"""Calibration: whether of the outcomes that were given a chance p a share p came true.

Read from 15 uniform bins of p, in which the sums of p and of y are exact. With W_k the weight of bin k, p̄_k and ȳ_k the
means in it, ȳ the mean of all:

- **ECE**, of the positive class: Σ W_k |p̄_k − ȳ_k| / W. It is positive even for a calibrated model; by how much on the
  average is its **null mean** √(2/π) · Σ_k √(Σ_{i in k} w_i p_i(1 − p_i)) / W, and `ece_excess` is what ECE has above.
- **Murphy's decomposition** of Brier's score: reliability Σ W_k (p̄_k − ȳ_k)² / W, resolution Σ W_k (ȳ_k − ȳ)² / W,
  uncertainty ȳ(1 − ȳ). Brier = reliability − resolution + uncertainty, but for what scores vary inside a bin.
- **Spiegelhalter's Z**: Σ(y − p)(1 − 2p) / √Σ(1 − 2p)² p(1 − p), standard normal for a calibrated model whose outcomes
  are independent; above 0 the scores are too extreme. Its numerator is the sum of Brier's loss less that of p(1 − p).

A weight counts as that many outcomes. **Intervals** leave out one subject bucket at a time: its weight and positives
are known by half a logit of the score, whose middle stands for p. The exact sums of the whole are what it is taken
from, so the approximation touches the width alone. Z has no interval: it is a test, not an estimate.

A. H. Murphy, J. Appl. Meteor. 12 (1973); D. Spiegelhalter, Statist. Med. 5 (1986); Guo et al., ICML 2017.
"""

from __future__ import annotations

from functools import lru_cache
from math import exp, pi, sqrt
from typing import ClassVar, Final, Literal, NamedTuple

import numpy as np

from streams.measure import ledger as names
from streams.measure.ledger import BUCKET_SCORE_BINS, BUCKETS, CALIBRATION_BINS, Ledger
from streams.measure.metrics.base import MILLI, Better, Floats, Measured, Metric, jackknife, student

_GRAIN: Final = 2.0**21
_MICRO: Final = 1e6


class Bins(NamedTuple):
    """Sums by uniform bin along the last axis: weight, p, y, p(1 − p)."""

    weight: Floats
    expected: Floats
    observed: Floats
    spread: Floats


class Calibrated(Metric):
    """A figure of the 15 bins."""

    better: ClassVar[Better] = "lower"
    sliced: ClassVar[bool] = False

    def of(self, bins: Bins) -> Floats:
        """Give the figure of each row of bins whose weight is not 0."""
        raise NotImplementedError

    def value(self, ledger: Ledger) -> float | None:
        bins = bins_of(ledger)
        return float(self.of(bins)) if bins.weight.sum() > 0 else None

    def measured(self, ledger: Ledger) -> Measured:
        value, n = self.value(ledger), self.n(ledger)
        subjects = len(ledger.cells.get(names.BUCKET_N, {}))
        rest = None if value is None else without_each(ledger)
        if value is None or rest is None:
            return Measured(value, None, None, n, subjects)
        half = student(len(rest.weight) - 1) * jackknife(self.of(rest))
        low, high = self._clip(value - half, value + half)
        return Measured(value, min(low, value), max(high, value), n, subjects)


class Ece(Calibrated):
    """Expected calibration error of the positive class: 15 uniform bins, L1. Never 0 by chance: see `ece_excess`."""

    kind: Literal["ece"] = "ece"
    sliced = True

    def of(self, bins: Bins) -> Floats:
        gaps: Floats = np.abs(bins.expected - bins.observed).sum(axis=-1)
        result: Floats = gaps / bins.weight.sum(axis=-1)
        return result


class EceExcess(Calibrated):
    """ECE less its mean for a calibrated model of as many outcomes: 0 or less says nothing against the calibration."""

    kind: Literal["ece_excess"] = "ece_excess"
    least: ClassVar[float | None] = -1.0

    def of(self, bins: Bins) -> Floats:
        return Ece().of(bins) - null_ece(bins)


class Reliability(Calibrated):
    """Murphy's reliability, in units of Brier's score: what miscalibration costs."""

    kind: Literal["brier_reliability"] = "brier_reliability"

    def of(self, bins: Bins) -> Floats:
        held = np.where(bins.weight > 0, bins.weight, 1.0)
        costs: Floats = ((bins.expected - bins.observed) ** 2 / held).sum(axis=-1)
        result: Floats = costs / bins.weight.sum(axis=-1)
        return result


class Resolution(Calibrated):
    """Murphy's resolution, in units of Brier's score: what telling outcomes apart earns."""

    kind: Literal["brier_resolution"] = "brier_resolution"
    better: ClassVar[Better] = "higher"
    most: ClassVar[float | None] = 0.25

    def of(self, bins: Bins) -> Floats:
        total = bins.weight.sum(axis=-1, keepdims=True)
        rate = bins.observed.sum(axis=-1, keepdims=True) / total
        held = np.where(bins.weight > 0, bins.weight, 1.0)
        gains: Floats = ((bins.observed - rate * bins.weight) ** 2 / held).sum(axis=-1)
        result: Floats = gains / total[..., 0]
        return result


class Uncertainty(Calibrated):
    """Murphy's uncertainty ȳ(1 − ȳ): Brier's score of always saying the base rate."""

    kind: Literal["brier_uncertainty"] = "brier_uncertainty"
    better: ClassVar[Better] = "neither"
    most: ClassVar[float | None] = 0.25

    def of(self, bins: Bins) -> Floats:
        rate: Floats = bins.observed.sum(axis=-1) / bins.weight.sum(axis=-1)
        return rate * (1.0 - rate)


class SpiegelhalterZ(Metric):
    """Spiegelhalter's Z of calibration: beyond ±1.96 a calibrated model lies 5 % of the time."""

    kind: Literal["spiegelhalter_z"] = "spiegelhalter_z"
    better: ClassVar[Better] = "zero"
    least: ClassVar[float | None] = None
    most: ClassVar[float | None] = None
    sliced: ClassVar[bool] = False

    def value(self, ledger: Ledger) -> float | None:
        squares = ledger.get(names.SPIEGELHALTER)
        bins = ledger.dense(names.CALIBRATION, CALIBRATION_BINS * 4)
        claimed, held = sum(bins[names.SPREAD :: 4]), sum(bins[names.HELD :: 4])
        # Counts from before calibration was counted are in the sum of Brier's loss, but not in that of p(1 − p).
        if squares <= 0 or held != ledger.total(names.SCORE_POS) + ledger.total(names.SCORE_NEG):
            return None
        return (ledger.get(names.BRIER) - claimed) / sqrt(squares) / sqrt(_MICRO * MILLI)

    def measured(self, ledger: Ledger) -> Measured:
        subjects = len(ledger.cells.get(names.BUCKET_N, {}))
        return Measured(self.value(ledger), None, None, self.n(ledger), subjects)


def bins_of(ledger: Ledger) -> Bins:
    """Give the sums of the whole, weights in outcomes."""
    cells = np.array(ledger.dense(names.CALIBRATION, CALIBRATION_BINS * 4), dtype=np.float64).reshape(-1, 4)
    return Bins(*(cells[:, cell] / (MILLI * unit) for cell, unit in enumerate((1.0, _GRAIN, 1.0, _MICRO))))


def null_ece(bins: Bins) -> Floats:
    """Give the mean ECE of a calibrated model with these scores (asymptotic in each bin).

    >>> even = np.full(15, 100.0)
    >>> round(float(null_ece(Bins(even, even / 2, even / 2, even / 4))), 4)
    0.0399
    """
    sums: Floats = np.sqrt(np.maximum(bins.spread, 0.0)).sum(axis=-1)
    result: Floats = sqrt(2 / pi) * sums / bins.weight.sum(axis=-1)
    return result


def without_each(ledger: Ledger) -> Bins | None:
    """Give the bins without each of the subject buckets, one row each; None with fewer than two of them."""
    size = BUCKETS * BUCKET_SCORE_BINS
    positives = np.array(ledger.dense(names.BUCKET_SCORE_POS, size), dtype=np.float64).reshape(BUCKETS, -1) / MILLI
    negatives = np.array(ledger.dense(names.BUCKET_SCORE_NEG, size), dtype=np.float64).reshape(BUCKETS, -1) / MILLI
    held = positives + negatives
    filled = held.sum(axis=1) > 0
    if filled.sum() < 2:
        return None
    middles, where = _middles()
    whole = bins_of(ledger)
    mine = (held, held * middles, positives, held * middles * (1.0 - middles))
    rows = [total - part[filled] @ where for total, part in zip(whole, mine, strict=True)]
    # The middle of half a logit may lie in a neighbouring bin: what is left there is kept within what can be.
    weight = np.maximum(rows[0], 0.0)
    observed = np.clip(rows[2], 0.0, weight)
    found = Bins(weight, np.clip(rows[1], 0.0, weight), observed, np.clip(rows[3], 0.0, weight / 4))
    return found if bool(np.all(found.weight.sum(axis=1) > 0)) else None


@lru_cache(maxsize=1)
def _middles() -> tuple[Floats, Floats]:
    """Give the middle p of the 64 score bins of a bucket, and in which of the 15 bins each lies (64 × 15, 0 or 1)."""
    middles = np.array([1 / (1 + exp(16 - (i + 0.5) / 2)) for i in range(BUCKET_SCORE_BINS)])
    where = np.zeros((BUCKET_SCORE_BINS, CALIBRATION_BINS))
    where[np.arange(BUCKET_SCORE_BINS), (middles * CALIBRATION_BINS).astype(np.int64)] = 1.0
    return middles, where
