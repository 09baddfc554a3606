"""Random Fourier features: an embedding as numbers whose means say where its distribution lies.

For frequencies w ~ N(0, I/σ²) the features φ(x) = (cos w·x, sin w·x)/√D have length 1, and φ(x)·φ(y) has the mean
exp(−|x−y|²/2σ²), the Gaussian kernel, with a deviation of at most 1/√(2D) (Rahimi and Recht 2007, NIPS 20). So sums of
features are all that a comparison of two distributions under this kernel needs: they add up, in any order and split.

σ² is half the median of |x−y|² over pairs of rows of the reference (the median heuristic: Gretton et al. 2012, JMLR 13,
§8). The frequencies come from a seed and are the same wherever NumPy's generator is; the last digits of cos and sin
differ between machines, so features are reckoned once and never again elsewhere.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Final

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

FREQUENCIES: Final = 128


@dataclass(frozen=True)
class Fourier:
    """Features of vectors of `dimension` ≥ 1 numbers for a Gaussian kernel of width `bandwidth` > 0 (their σ)."""

    dimension: int
    bandwidth: float
    seed: int = 0
    frequencies: int = FREQUENCIES

    @cached_property
    def directions(self) -> Floats:
        """The frequencies, standard normal, not yet divided by the bandwidth: (dimension, frequencies)."""
        draw = np.random.Generator(np.random.PCG64([self.seed, self.dimension]))
        return draw.standard_normal((self.frequencies, self.dimension)).T

    def features(self, rows: Floats) -> Floats:
        """Give φ of each row: (rows, 2 · frequencies). A row with an angle that is not finite gets NaN.

        >>> found = Fourier(3, 1.0).features(np.array([[0.0, 0.0, 0.0], [1.0, 2.0, 3.0]]))
        >>> found.shape, (found**2).sum(axis=1).round(12).tolist()
        ((2, 256), [1.0, 1.0])
        """
        with np.errstate(over="ignore", invalid="ignore"):
            angles = (rows / self.bandwidth) @ self.directions
            found = np.concatenate((np.cos(angles), np.sin(angles)), axis=1) / np.sqrt(self.frequencies)
        found[~np.isfinite(found).all(axis=1)] = np.nan
        return np.asarray(found, dtype=np.float64)


def median_bandwidth(rows: Floats) -> float:
    """Give σ of the median heuristic for (rows, dimension); 0 where no two rows differ.

    Where more than half of the pairs are equal rows, the median is that of the pairs that differ.

    >>> round(median_bandwidth(np.array([[0.0], [2.0], [2.0]])) ** 2, 9)
    2.0
    >>> median_bandwidth(np.ones((5, 2)))
    0.0
    """
    if len(rows) < 2:
        return 0.0
    centred = rows / 2 - rows.mean(axis=0) / 2  # halves, so that huge values do not overflow
    largest = float(np.abs(centred).max())
    if not largest > 0 or not np.isfinite(largest):
        return 0.0
    scaled = centred / largest
    length = (scaled**2).sum(axis=1)
    squared = length[:, None] + length[None, :] - 2 * scaled @ scaled.T
    pairs = np.maximum(squared[np.triu_indices(len(rows), 1)], 0.0)
    apart = pairs[pairs > 1e-12 * max(float(length.max()), 1e-300)]
    if not len(apart):
        return 0.0
    median = float(np.median(pairs))
    middle = median if median >= float(apart.min()) else float(np.median(apart))
    return 2 * largest * float(np.sqrt(middle / 2))
