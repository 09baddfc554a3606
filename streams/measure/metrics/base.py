"""What every metric is: a figure of quality read from a ledger, with its interval.

**Values** are ratios of integer sums, divided once, hence the same bits whatever the order. 0/0 is None, never 0.

**Intervals** (95 %) come from between-bucket variation: every subject lies whole in one of 64 hash buckets, so users
with many events do not fake precision. For a ratio R = ΣN_b / ΣD_b over B buckets with D_b > 0 the residuals
r_b = N_b − R·D_b give the delta-method variance B/(B−1) · Σr_b² / (ΣD_b)², with Student's t on B − 1 degrees of
freedom. What is no ratio leaves out one bucket at a time (`jackknife`). With fewer than two buckets there is no
interval. A proportion's interval is never narrower than Wilson's for as many independent events, since all-correct
buckets have no variance, yet are no certainty.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import sqrt
from typing import ClassVar, Final, Literal

import numpy as np
from numpy.typing import NDArray

from schemas.spec import Spec
from streams.measure import ledger as names
from streams.measure.ledger import Ledger

Floats = NDArray[np.float64]

LEVEL: Final = 0.95
MILLI: Final = 1_000
COARSE: Final = 0.005

Better = Literal["higher", "lower", "zero", "neither"]
"""Where a figure should go: up, down, towards 0, or nowhere, because it describes and does not judge."""


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
    better: ClassVar[Better] = "higher"
    least: ClassVar[float | None] = 0.0
    """The least possible value, None when there is none."""
    most: ClassVar[float | None] = 1.0
    """The greatest possible value, None when there is none."""
    sliced: ClassVar[bool] = True
    """Whether it is told of slices too. What only explains another figure is told of the whole alone."""
    labelled: ClassVar[bool] = True
    """Whether it is about labelled outcomes, and so matures with the labels."""

    def value(self, ledger: Ledger) -> float | None:
        """Give the figure, None when it cannot be told."""
        raise NotImplementedError

    def measured(self, ledger: Ledger) -> Measured:
        """Give the figure with its interval."""
        raise NotImplementedError

    def n(self, ledger: Ledger) -> int:
        """Count the outcomes behind it, or the predictions where it needs no label."""
        return ledger.get(names.MEASURED, names.SCORED)

    def maturity(self, ledger: Ledger) -> float:
        """Give the share of the predictions that it is about whose label has come, 0 where there are none."""
        return share(ledger.get(names.LABELLED, names.COUNT), ledger.get(names.N))

    def _clip(self, low: float, high: float) -> tuple[float, float]:
        return low if self.least is None else max(low, self.least), high if self.most is None else min(high, self.most)


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
        half = half_width(value, np.array(tops, dtype=np.float64) / self.unit, np.array(bottoms, dtype=np.float64))
        low, high = self._floor(ledger, value - half, value + half)
        low, high = self._clip(low, high)
        return Measured(value, min(low, value), max(high, value), n, subjects)

    def _floor(self, ledger: Ledger, low: float, high: float) -> tuple[float, float]:
        return low, high


def share(part: int, whole: int) -> float:
    """Give a part of a whole, within [0, 1]; 0 of nothing.

    >>> share(1, 4), share(3, 2), share(1, 0)
    (0.25, 1.0, 0.0)
    """
    return min(max(part / whole, 0.0), 1.0) if whole > 0 else 0.0


def half_width(value: float, tops: Floats, bottoms: Floats) -> float:
    """Give half the width of a ratio's interval from its numerators and denominators by bucket, two or more of them.

    >>> round(half_width(0.5, np.array([0.0, 1.0, 1.0, 0.0]), np.ones(4)), 3)
    0.919
    """
    count = int(np.sum(bottoms > 0))
    residual = float(np.sum((tops - value * bottoms) ** 2))
    return student(count - 1) * sqrt(residual * count / (count - 1)) / float(bottoms.sum())


def jackknife(left_out: Floats) -> float:
    """Give the standard error of a figure from its values with one bucket left out at a time.

    >>> round(jackknife(np.array([1.0, 2.0, 3.0])), 3)
    1.155
    """
    count = len(left_out)
    return sqrt((count - 1) / count * float(np.sum((left_out - left_out.mean()) ** 2)))


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
