"""Maximum mean discrepancy of two samples from sums of features of length 1, and its law when nothing has changed.

With μ and ν the means of φ in the two samples of n and m rows:

| | |
|---|---|
| `mmd2` | the unbiased estimate of MMD(P, Q)²: (n·μ·μ−1)/(n−1) + (m·ν·ν−1)/(m−1) − 2 μ·ν; it may be below 0 |
| statistic | nm/(n+m) · (μ−ν)·(μ−ν), the biased one, never below 0 |
| its law | Σ λ_i χ²_1, with λ the eigenvalues of the covariance of φ over both samples together |

(Gretton et al. 2012, JMLR 13; the law by the eigenvalues: Gretton et al. 2009, NIPS 22.) The features are as many as
their covariance has rows, so the law needs no rows kept. The covariance is that of all rows, as in a permutation test:
the mean and the variance of the statistic over permutations are its own. Chances are reckoned by the saddle-point
approximation (Kuonen 1999, Biometrika 86), whose *relative* error stays small far out, where a simulation has no draws.
Rows are taken as independent.

**Size.** Two lower bounds of the total variation, the share of rows that would have to be others; the larger is told.

- Where a share t of the rows is other, MMD ≤ t·√2 under a kernel between 0 and 1: the difference of two means of
  features of length 1 that are never opposed is at most √2. So t ≥ MMD/√2.
- Of any f, with Δ the difference of its means under P and Q and s² its variances: t ≥ Δ²/(Δ² + 2 s_P² + 2 s_Q²), by
  Cauchy and Schwarz on ∫ (p−q) f. Here f is the witness, φ along μ−ν; its Δ is taken from the unbiased estimate.

Both fall short of t where no smooth f tells the two apart well: they say "at least".
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

_TINY = 1e-12
FAR = 10_000.0


@dataclass(slots=True)
class FeatureSums:
    """Sums over rows of `size` features: `total`, and `products`, those of each two of them. They add up."""

    size: int
    n: int = 0
    total: Floats = field(init=False)
    products: Floats = field(init=False)

    def __post_init__(self) -> None:
        """Begin with nothing."""
        self.total, self.products = np.zeros(self.size), np.zeros((self.size, self.size))

    def add(self, features: Floats) -> None:
        """Take up rows of features: (rows, size), each of length 1."""
        self.n += len(features)
        self.total += features.sum(axis=0)
        self.products += features.T @ features

    def variance(self, along: Floats) -> float:
        """Give the variance of the features along a direction."""
        return max(float(along @ self.products @ along) / self.n - float(self.total @ along / self.n) ** 2, 0.0)


def mmd2(reference: FeatureSums, current: FeatureSums) -> float:
    """Give the unbiased estimate of MMD²; NaN with fewer than two rows on a side.

    >>> a, c = FeatureSums(2), FeatureSums(2)
    >>> a.add(np.array([[1.0, 0.0]] * 3)), c.add(np.array([[0.0, 1.0]] * 2))
    (None, None)
    >>> mmd2(a, c)  # the two have nothing in common
    2.0
    """
    n, m = reference.n, current.n
    if min(n, m) < 2:
        return math.nan
    mu, nu = reference.total / n, current.total / m
    return float((n * (mu @ mu) - 1) / (n - 1) + (m * (nu @ nu) - 1) / (m - 1) - 2 * (mu @ nu))


def statistic(reference: FeatureSums, current: FeatureSums) -> float:
    """Give nm/(n+m) · |μ−ν|²; NaN where a side is empty."""
    n, m = reference.n, current.n
    if not n or not m:
        return math.nan
    gap = reference.total / n - current.total / m
    return float(gap @ gap) * n * m / (n + m)


def null_weights(reference: FeatureSums, current: FeatureSums) -> Floats:
    """Give the λ of the law, the greatest first, without those that are 0."""
    n = reference.n + current.n
    if n < 2:
        return np.zeros(0)
    total = reference.total + current.total
    covariance = (reference.products + current.products - np.outer(total, total) / n) / (n - 1)
    found = np.linalg.eigvalsh(covariance)[::-1]
    return np.asarray(found[found > _TINY], dtype=np.float64)


def tail(value: float, weights: Floats) -> float:
    """Give P(Σ λ_i χ²_1 ≥ value), within some per cent of itself; 1 where there is nothing that varies.

    >>> round(tail(3.841, np.array([1.0])), 3), round(tail(18.307, np.ones(10)), 4)
    (0.052, 0.0501)
    """
    if not len(weights) or value <= 0:
        return 1.0
    from scipy.optimize import brentq
    from scipy.special import log_ndtr, ndtr

    greatest = float(weights.max())
    lam, q = weights / greatest, value / greatest
    if q > FAR * len(lam):  # below exp(−FAR/3), which no double holds; and the root would lie where none can be told
        return 0.0

    def slope(t: float) -> float:
        """Give K'(t) of the cumulants' generating function K(t) = −½ Σ ln(1−2tλ)."""
        return float(np.sum(lam / (1 - 2 * t * lam)))

    # Each term grows in λ, so K' lies between that of the greatest λ alone and that of as many of it as there are.
    low, high, room = (1 - len(lam) / q) / 2, (1 - 1 / q) / 2, 1e-9
    between = low - room * (1 - 2 * low), high + room * (1 - 2 * high)
    t = low if len(lam) == 1 else float(brentq(lambda at: slope(at) - q, *between))
    mean, variance = float(lam.sum()), 2 * float(lam @ lam)
    w2 = 2 * (t * q + 0.5 * float(np.sum(np.log1p(-2 * t * lam))))
    if w2 < 1e-7:  # at the mean v and w are both 0, and log(v/w)/w goes to a sixth of the skewness
        skewness = 8 * float(np.sum(lam**3)) / variance**1.5
        return float(ndtr((mean - q) / math.sqrt(variance) - skewness / 6))
    w = math.copysign(math.sqrt(w2), t)
    v = t * math.sqrt(2 * float(np.sum((lam / (1 - 2 * t * lam)) ** 2)))
    return float(np.exp(log_ndtr(-(w + math.log(v / w) / w))))


def quantile(level: float, weights: Floats) -> float:
    """Give what Σ λ_i χ²_1 stays below with probability `level`; 0 where there is nothing that varies."""
    if not len(weights):
        return 0.0
    from scipy.optimize import brentq

    mean, deviation = float(weights.sum()), math.sqrt(2 * float(weights @ weights))
    high = mean + deviation
    while tail(high, weights) > 1 - level:
        high += 2 * deviation
    return float(brentq(lambda q: tail(q, weights) - (1 - level), 1e-9 * mean, high, xtol=1e-9 * mean))


def rows_that_differ(reference: FeatureSums, current: FeatureSums) -> float:
    """Give the least share of rows that differ, by the larger bound; NaN with fewer than two rows on a side.

    >>> a, c = FeatureSums(2), FeatureSums(2)
    >>> a.add(np.array([[1.0, 0.0]] * 8)), c.add(np.array([[1.0, 0.0]] * 4 + [[0.0, 1.0]] * 4))
    (None, None)
    >>> round(rows_that_differ(a, c), 2)  # half of them do; the estimate of MMD² is a little below ½
    0.46
    """
    squared = mmd2(reference, current)
    if math.isnan(squared):
        return math.nan
    gap = reference.total / reference.n - current.total / current.n
    length = math.sqrt(float(gap @ gap))
    if squared <= 0 or length <= _TINY:
        return 0.0
    witness = gap / length
    apart = squared / length
    noise = 2 * (reference.variance(witness) + current.variance(witness))
    return min(max(first_bound(squared), apart**2 / (apart**2 + noise)), 1.0)


def first_bound(squared: float) -> float:
    """Give MMD/√2 from an MMD²; 0 for an estimate below 0."""
    return min(math.sqrt(max(squared, 0.0) / 2), 1.0)
