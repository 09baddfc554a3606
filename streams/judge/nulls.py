"""From a frozen reference to nulls: which shares would still count as "no change".

A reference is a sample itself. Each bound is the upper end of an exact binomial (Clopper–Pearson) interval for the
reference's true share, plus ε; the chance that any bound of a model version lies too low is at most the `delta` it was
made with, split equally over the bounds. It is exact for rows that were independent, also where the cells' edges are
quantiles of the same rows (a share below an order statistic is Beta-distributed, and the interval is its quantile).
Reference rows of few subjects carry less information than that; `epsilon` must then cover the rest.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from itertools import pairwise

import numpy as np
from numpy.typing import ArrayLike, NDArray

from streams.judge.evidence import Null

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

FLOOR = 1e-9


def upper_share(hits: ArrayLike, n: int, delta: float) -> Floats:
    """Give the Clopper–Pearson upper bound of a share at confidence 1 − `delta`; 1 when all were hits or n is 0.

    >>> upper_share([0, 50], 100, 0.05).round(4).tolist()
    [0.0295, 0.5864]
    """
    from scipy.special import betaincinv

    s = np.asarray(hits, dtype=np.float64)
    if n <= 0:
        return np.ones_like(s)
    return np.where(s >= n, 1.0, betaincinv(np.minimum(s + 1, n), np.maximum(n - s, 1e-9), 1.0 - delta))


def error_null(stream: str, error_rate: float, error_n: int, *, delta: float, epsilon: float) -> Null:
    """Give the null "the error rate is at most the reference's, its radius and ε".

    >>> null = error_null("quality:error", 0.1, 5_000, delta=0.01, epsilon=0.0)
    >>> round(float(null.limits[0]), 4)
    0.1103
    """
    limit = float(upper_share(round(error_rate * error_n), error_n, delta)) + epsilon
    return Null.of_rate(stream, min(max(limit, FLOOR), 1.0))


def share_null(
    stream: str, counts: ArrayLike, names: Sequence[str], *, ordered: ArrayLike | None, delta: float, epsilon: float
) -> Null:
    """Give the null "no cell, and no lower or upper set of the ordered cells, is likelier than before, plus ε".

    `ordered` lists the cells that have an order, ascending; None or empty means categories. With both kinds of sets the
    binned Kolmogorov–Smirnov distance to the reference is at most ε under the null.
    """
    a = np.asarray(counts, dtype=np.int64)
    cells = a.size
    if len(names) != cells:
        raise ValueError(f"expected {cells} cell names for {stream}, got {len(names)}")
    order = () if ordered is None else tuple(int(cell) for cell in np.asarray(ordered))
    labels: list[str] = []
    for below, above in pairwise(order):
        labels += [f"the share of {stream} up to {names[below]}", f"the share of {stream} from {names[above]}"]
    # An end of the order by itself is already a lower or upper set.
    ends = {order[0], order[-1]} if len(order) > 1 else set()
    labels += [f"the share of {stream} in {name}" for cell, name in enumerate(names) if cell not in ends]
    matrix = _sets(cells, order)
    limits = upper_share(matrix @ a, int(a.sum()), delta / len(matrix)) + epsilon
    return Null(stream, matrix, np.clip(limits, FLOOR, 1.0), tuple(labels))


@lru_cache(maxsize=256)
def _sets(cells: int, order: tuple[int, ...]) -> Ints:
    """Give the lower and upper sets of each cut of the order, then the cells: one matrix for all streams of a shape."""
    sets: list[Ints] = []
    for cut in range(1, len(order)):
        for held in (order[:cut], order[cut:]):
            one = np.zeros(cells, dtype=np.int64)
            one[list(held)] = 1
            sets.append(one)
    ends = {order[0], order[-1]} if len(order) > 1 else set()
    single = np.eye(cells, dtype=np.int64)[[cell for cell in range(cells) if cell not in ends]]
    matrix = np.concatenate([np.array(sets, dtype=np.int64).reshape(len(sets), cells), single])
    matrix.flags.writeable = False
    return matrix


def coarsen(counts: ArrayLike, target: int) -> Ints:
    """Group adjacent cells into at most `target` groups of about equal reference weight; give each cell's group.

    >>> coarsen([1, 1, 1, 1, 4, 0], 2).tolist()
    [0, 0, 0, 0, 1, 1]
    """
    a = np.asarray(counts, dtype=np.float64)
    if a.size <= target or a.sum() == 0:
        return np.arange(a.size, dtype=np.int64) if a.size <= target else np.arange(a.size) * target // a.size
    before = np.cumsum(a) - a
    groups = np.minimum((before * target / a.sum()).astype(np.int64), target - 1)
    _, dense = np.unique(groups, return_inverse=True)
    return np.asarray(dense, dtype=np.int64)
