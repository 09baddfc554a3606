"""How far two samples lie apart, from the values themselves, and how often chance alone would do that.

`distances` compares counts; here is what needs the values, sorted, or gives a p-value. All of it supposes that rows are
independent: rows of one subject are not, and then p-values are too small.

| function | definition | peer |
|---|---|---|
| `ks_of` | max abs(F−G) over the values | `scipy.stats.ks_2samp` |
| `ks_p_value` | P(D_nm ≥ d), Stephens' correction of Kolmogorov's limit | `kstwobign` |
| `wasserstein` | ∫ abs(F−G) dx, in units of the reference's robust spread | `scipy.stats.wasserstein_distance` |
| `homogeneity` | Σ (√(m/n) a − √(n/m) c)² / (a+c), χ² with cells − 1 | `scipy.stats.chi2_contingency` |
| `adjusted` | Benjamini and Hochberg (1995), step-up, as p-values | `scipy.stats.false_discovery_control` |

`homogeneity` puts cells together in which fewer than `LEAST` are expected on either side; what is then one cell says
nothing, and its p-value is 1. A test against the reference's shares as if they were exact rejects a quarter of quiet
windows at 5 %, when both have about the same size; this one does not.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import ArrayLike, NDArray

Floats = NDArray[np.float64]

LEAST = 5.0
NORMAL_IQR = 1.349
"""The distance between the quartiles of a normal distribution, in standard deviations."""


def ks_of(reference: Floats, current: Floats) -> float:
    """Give the Kolmogorov–Smirnov distance of two sorted samples, NaN when one is empty.

    >>> ks_of(np.array([1.0, 2.0, 3.0, 4.0]), np.array([3.0, 4.0]))
    0.5
    """
    n, m = len(reference), len(current)
    if not n or not m:
        return math.nan
    few, many = (current, reference) if m <= n else (reference, current)
    # The greatest distance is at a value of either sample, or just before one of the smaller: between two of those, the
    # other one only grows.
    before, upto = np.arange(len(few)) / len(few), np.arange(1, len(few) + 1) / len(few)
    last = np.r_[few[1:] != few[:-1], True]
    first = np.r_[True, last[:-1]]
    below = np.searchsorted(many, few[first], side="left") / len(many)
    through = np.searchsorted(many, few[last], side="right") / len(many)
    return float(max(np.abs(below - before[first]).max(), np.abs(through - upto[last]).max()))


def ks_p_value(distance: float, n: float, m: float) -> float:
    """Give the chance of at least this distance of two samples of one continuous law, within 0.01 from nm/(n+m) ≥ 5 on.

    >>> round(ks_p_value(0.0, 10, 10), 3), ks_p_value(1.0, 1000, 1000) < 1e-12
    (1.0, True)
    """
    if not n or not m or math.isnan(distance):
        return math.nan
    from scipy.special import kolmogorov

    root = math.sqrt(n * m / (n + m))
    return float(kolmogorov(distance * (root + 0.12 + 0.11 / root)))


def spread(reference: Floats) -> float:
    """Give the robust spread of a sorted sample: quartile distance / 1.349; its deviation where that is 0; else 0.

    >>> round(spread(np.arange(101.0)), 2), spread(np.array([1.0, 1.0])), spread(np.array([]))
    (37.06, 0.0, 0.0)
    """
    if not len(reference):
        return 0.0
    low, high = (reference[round(share * (len(reference) - 1))] for share in (0.25, 0.75))
    distance = float(high) - float(low)
    return distance / NORMAL_IQR if distance > 0 else float(np.std(reference))


def wasserstein(reference: Floats, current: Floats) -> float:
    """Give the first Wasserstein distance of two sorted samples, not normalised; NaN when one is empty.

    >>> wasserstein(np.array([0.0, 1.0, 3.0]), np.array([5.0, 6.0, 8.0]))
    5.0
    """
    if not len(reference) or not len(current):
        return math.nan
    centre = float(reference[len(reference) // 2])  # so that sums of large values keep their last digits
    few, many = (current, reference) if len(current) <= len(reference) else (reference, current)
    few, many = few - centre, many - centre
    n = len(many)
    sums = np.concatenate(([0.0], np.cumsum(many)))

    def area(x: Floats, below: NDArray[np.int64]) -> Floats:
        """Give ∫ F up to each x, `below` of the many being ≤ x."""
        return (x * below - sums[below]) / n

    upto = np.searchsorted(many, few, side="right")
    left, right = few[:-1], few[1:]
    level = np.arange(1, len(few)) / len(few)
    # Between two of the few, G stands still and F only grows: it crosses G once at most, at one of the many.
    crossing = np.minimum(np.arange(1, len(few)) * n // len(few), n - 1)
    turn = np.clip(many[crossing], left, right)
    middle = area(turn, np.clip(crossing + 1, upto[:-1], upto[1:]))
    start, end = area(left, upto[:-1]), area(right, upto[1:])
    between = level * (2 * turn - left - right) + start + end - 2 * middle
    before = float(few[0]) * upto[0] - sums[upto[0]]
    behind = float(sums[n] - sums[upto[-1]]) - float(few[-1]) * (n - upto[-1])
    return float(np.sum(np.maximum(between, 0.0)) + (before + behind) / n)


def homogeneity(reference: ArrayLike, current: ArrayLike) -> tuple[float, int, float]:
    """Give (χ², degrees of freedom, p-value) of two histograms over the same cells having one law.

    >>> chi2, dof, p = homogeneity([50, 50, 0], [60, 40, 0])
    >>> round(chi2, 3), dof, round(p, 3)
    (2.02, 1, 0.155)
    >>> homogeneity([10, 0], [20, 0])
    (0.0, 0, 1.0)
    """
    a, c = np.asarray(reference, dtype=np.float64), np.asarray(current, dtype=np.float64)
    n, m = float(a.sum()), float(c.sum())
    if not n or not m:
        return 0.0, 0, math.nan
    pooled = (a + c) * min(n, m) / (n + m)
    a, c = _together(a, c, pooled)
    dof = len(a) - 1
    if dof < 1:
        return 0.0, 0, 1.0
    from scipy.special import gammaincc

    chi2 = float(np.sum((math.sqrt(m / n) * a - math.sqrt(n / m) * c) ** 2 / (a + c)))
    return chi2, dof, float(gammaincc(dof / 2, chi2 / 2))


def _together(a: Floats, c: Floats, expected: Floats) -> tuple[Floats, Floats]:
    """Put neighbours together until at least `LEAST` are expected in each cell; what is left goes to the last."""
    sums: list[list[float]] = []
    filling = [0.0, 0.0, 0.0]
    for row in zip(a.tolist(), c.tolist(), expected.tolist(), strict=True):
        filling = [held + more for held, more in zip(filling, row, strict=True)]
        if filling[2] >= LEAST:
            sums.append(filling)
            filling = [0.0, 0.0, 0.0]
    if sums:
        sums[-1] = [held + more for held, more in zip(sums[-1], filling, strict=True)]
    elif filling[2] > 0:
        sums.append(filling)
    cells = np.array(sums).reshape(-1, 3)
    return cells[:, 0], cells[:, 1]


def adjusted(p_values: ArrayLike) -> Floats:
    """Give p-values adjusted for their number: those ≤ q are a list with an expected false share of at most q.

    Under independence, and positive dependence of a certain kind (Benjamini and Yekutieli, 2001). NaN stays NaN and
    does not count.

    >>> adjusted([0.01, 0.04, 0.03, float("nan")]).tolist()
    [0.03, 0.04, 0.04, nan]
    """
    p = np.asarray(p_values, dtype=np.float64)
    known = np.flatnonzero(~np.isnan(p))
    order = known[np.argsort(p[known], kind="stable")]
    found = np.full(p.shape, math.nan)
    if len(order):
        scaled = p[order] * len(order) / np.arange(1, len(order) + 1)
        found[order] = np.minimum(np.minimum.accumulate(scaled[::-1])[::-1], 1.0)
    return found
