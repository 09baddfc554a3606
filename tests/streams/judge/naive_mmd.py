"""MMD² as it is defined: a loop over all pairs of rows, with the Gaussian kernel itself."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

Row = Sequence[float]


def gaussian(bandwidth: float) -> Callable[[Row, Row], float]:
    """Give exp(−|x−y|²/2σ²)."""
    return lambda x, y: math.exp(-sum((a - b) ** 2 for a, b in zip(x, y, strict=True)) / (2 * bandwidth**2))


def mmd2(xs: Sequence[Row], ys: Sequence[Row], kernel: Callable[[Row, Row], float]) -> float:
    """Give the U-statistic: means over pairs of different rows."""
    n, m = len(xs), len(ys)
    within = sum(kernel(xs[i], xs[j]) for i in range(n) for j in range(n) if i != j) / (n * (n - 1))
    other = sum(kernel(ys[i], ys[j]) for i in range(m) for j in range(m) if i != j) / (m * (m - 1))
    between = sum(kernel(x, y) for x in xs for y in ys) / (n * m)
    return within + other - 2 * between


def median_bandwidth(xs: Sequence[Row]) -> float:
    """Give σ with σ² = ½ median |x−x'|²."""
    squared = sorted(
        sum((a - b) ** 2 for a, b in zip(xs[i], xs[j], strict=True)) for i in range(len(xs)) for j in range(i)
    )
    half = len(squared) // 2
    middle = squared[half] if len(squared) % 2 else (squared[half - 1] + squared[half]) / 2
    return math.sqrt(middle / 2)
