"""Errors of a regression: absolute, squared, signed, their median, and R².

The sums are exact in the units of `ledger` and are put together here in integers without bound, divided once. What is
left is the rounding of each number to 2⁻²¹ of itself. MAE, bias and the square of RMSE are ratios over the weight, with
the interval of every ratio; RMSE's is the root of that.

**R²** = 1 − Σ(answer − label)² / Σ(label − mean label)²: the reference is the mean of the labels of the same window, so
a window in which labels hardly vary has a poor R² whatever the errors. It cannot be told when the labels' standard
deviation is below 4e-6 of their mean, where the rounding shows. Its interval is that of the squared error, the variance
of the labels taken as known.
"""

from __future__ import annotations

from math import ldexp, sqrt
from typing import ClassVar, Final, Literal

import numpy as np

from streams.measure import ledger as names
from streams.measure.ledger import BUCKETS, WIDE_LEVELS, Ledger
from streams.measure.metrics.base import Better, Floats, Measured, Metric, half_width
from streams.measure.metrics.quantiles import quantile
from streams.measure.scale import size_value

UNIT: Final = 1_043
"""Level 0 of `scale.split` is in units of 2^−1043."""
_WIDE_UNIT: Final = 1_031
_FLAT: Final = 36
"""A variance below 2^−36 of the squared mean is not told from the rounding."""


class Errors(Metric):
    """A mean over the regression tasks."""

    better: ClassVar[Better] = "lower"
    most: ClassVar[float | None] = None

    def n(self, ledger: Ledger) -> int:
        return ledger.get(names.MEASURED, names.REGRESSED)

    def mean(self, ledger: Ledger) -> float | None:
        """Give the mean whose interval comes from buckets."""
        raise NotImplementedError

    def tops(self, ledger: Ledger) -> Floats:
        """Give the sums of which it is the mean, by bucket, about."""
        raise NotImplementedError

    def told(self, ledger: Ledger, mean: float) -> float | None:
        """Give the figure from the mean, growing or falling with it."""
        return mean

    def value(self, ledger: Ledger) -> float | None:
        mean = self.mean(ledger)
        return None if mean is None else self.told(ledger, mean)

    def measured(self, ledger: Ledger) -> Measured:
        mean, value, n = self.mean(ledger), self.value(ledger), self.n(ledger)
        weights = np.array(ledger.dense(names.BUCKET_REGRESSION, BUCKETS), dtype=np.float64)
        subjects = int(np.sum(weights > 0))
        if mean is None or value is None or subjects < 2:
            return Measured(value, None, None, n, subjects)
        half = half_width(mean, self.tops(ledger), weights)
        least = mean - half if self.least is None else max(mean - half, 0.0)
        ends = [end for end in (self.told(ledger, at) for at in (least, mean + half)) if end is not None]
        low, high = self._clip(min(ends), max(ends))
        return Measured(value, min(low, value), max(high, value), n, subjects)


class Mae(Errors):
    """Mean absolute error, in units of the label."""

    kind: Literal["mae"] = "mae"

    def mean(self, ledger: Ledger) -> float | None:
        return _mean(ledger, level_sum(ledger, names.ERROR_OVER) + level_sum(ledger, names.ERROR_UNDER))

    def tops(self, ledger: Ledger) -> Floats:
        return bucket_sums(ledger, names.BUCKET_ERROR_OVER) + bucket_sums(ledger, names.BUCKET_ERROR_UNDER)


class Bias(Errors):
    """Mean signed error, answer less label, in units of the label: above 0 the model answers too much."""

    kind: Literal["bias"] = "bias"
    better: ClassVar[Better] = "zero"
    least: ClassVar[float | None] = None

    def mean(self, ledger: Ledger) -> float | None:
        return _mean(ledger, level_sum(ledger, names.ERROR_OVER) - level_sum(ledger, names.ERROR_UNDER))

    def tops(self, ledger: Ledger) -> Floats:
        return bucket_sums(ledger, names.BUCKET_ERROR_OVER) - bucket_sums(ledger, names.BUCKET_ERROR_UNDER)


class Squared(Errors):
    """A figure that follows the mean squared error."""

    def mean(self, ledger: Ledger) -> float | None:
        weight = ledger.get(names.REGRESSION)
        return _squares(ledger, names.ERROR_SQUARE) / (weight << 2 * UNIT) if weight > 0 else None

    def tops(self, ledger: Ledger) -> Floats:
        return bucket_sums(ledger, names.BUCKET_ERROR_SQUARE)


class Rmse(Squared):
    """Root of the mean squared error, in units of the label."""

    kind: Literal["rmse"] = "rmse"

    def told(self, ledger: Ledger, mean: float) -> float | None:
        return sqrt(max(mean, 0.0))


class R2(Squared):
    """The share of the labels' variance that is explained; below 0 their mean would have been the better answer."""

    kind: Literal["r2"] = "r2"
    better: ClassVar[Better] = "higher"
    least: ClassVar[float | None] = None
    most: ClassVar[float | None] = 1.0
    sliced: ClassVar[bool] = False

    def told(self, ledger: Ledger, mean: float) -> float | None:
        variance = label_variance(ledger)
        return None if variance is None else 1.0 - max(mean, 0.0) / variance


class MedianAbsoluteError(Metric):
    """The median absolute error, in units of the label, within 3.2 % (bins of the size of an error)."""

    kind: Literal["median_absolute_error"] = "median_absolute_error"
    better: ClassVar[Better] = "lower"
    most: ClassVar[float | None] = None
    sliced: ClassVar[bool] = False

    def n(self, ledger: Ledger) -> int:
        return ledger.get(names.MEASURED, names.REGRESSED)

    def value(self, ledger: Ledger) -> float | None:
        return self.measured(ledger).value

    def measured(self, ledger: Ledger) -> Measured:
        n, subjects = self.n(ledger), len(ledger.cells.get(names.BUCKET_REGRESSION, {}))
        found = quantile(ledger.cells.get(names.ERROR_SIZE, {}), 0.5, size_value, n)
        value, low, high = found or (None, None, None)
        return Measured(value, low, high, n, subjects)


def label_variance(ledger: Ledger) -> float | None:
    """Give the variance of the labels, None when there is none to tell."""
    weight, total = ledger.get(names.REGRESSION), level_sum(ledger, names.LABEL_SUM)
    spread = _squares(ledger, names.LABEL_SQUARE) * weight - total * total
    if weight <= 0 or spread <= 0 or spread << _FLAT < total * total:
        return None
    return spread / (weight * weight << 2 * UNIT)


def _mean(ledger: Ledger, total: int) -> float | None:
    weight = ledger.get(names.REGRESSION)
    return total / (weight << UNIT) if weight > 0 else None


def level_sum(ledger: Ledger, name: str) -> int:
    """Give a sum over levels in units of 2^−1043 × milli-weight."""
    return sum(cell << 4 * level for level, cell in ledger.cells.get(name, {}).items())


def _squares(ledger: Ledger, name: str) -> int:
    """Give a sum of squares over levels and limbs in units of 2^−2086 × milli-weight."""
    return sum(cell << 8 * (index // 2) + 24 * (index % 2) for index, cell in ledger.cells.get(name, {}).items())


def bucket_sums(ledger: Ledger, name: str) -> Floats:
    """Give the sums over wide levels of each subject bucket, in milli-weights, about."""
    sums = np.zeros(BUCKETS)
    for index in sorted(ledger.cells.get(name, {})):
        sums[index // WIDE_LEVELS] += ldexp(ledger.cells[name][index], 16 * (index % WIDE_LEVELS) - _WIDE_UNIT)
    return sums
