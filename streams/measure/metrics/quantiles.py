"""Quantiles of a histogram, with their intervals."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from math import ceil

from streams.measure.metrics.base import LEVEL

Quantile = tuple[float, float | None, float | None]


def quantile(
    cells: Mapping[int, int], share: float, value_of: Callable[[int], float], n: int, level: float = LEVEL
) -> Quantile | None:
    """Give the value of the bin that holds a quantile, and of those that hold the ends of its interval.

    The quantile is the least value that a `share` of the weight does not exceed. The interval lies between the order
    statistics whose ranks are quantiles of Binomial(n, share); `n` events are taken as independent, whatever their law.
    With so few that a rank lies outside of 1…n there is no interval. None without any weight.

    >>> quantile({1: 50, 2: 49, 9: 1}, 0.5, float, 100)
    (1.0, 1.0, 2.0)
    >>> quantile({1: 50, 2: 49, 9: 1}, 0.99, float, 100)
    (2.0, None, None)
    """
    total = sum(cells.values())
    if total <= 0 or n <= 0:
        return None
    low, high = ranks(share, n, level)
    places = [share] if low < 1 or high > n else [low / n, share, high / n]
    found = [value_of(_holding(cells, place * total)) for place in places]
    return (found[0], None, None) if len(found) == 1 else (found[1], found[0], found[2])


def ranks(share: float, n: int, level: float = LEVEL) -> tuple[int, int]:
    """Give the ranks of the order statistics between which a quantile lies with at least `level`.

    >>> ranks(0.5, 100), ranks(0.99, 100)
    ((40, 61), (97, 101))
    """
    from scipy.special import bdtrik

    tail = (1 - level) / 2
    return ceil(float(bdtrik(tail, n, share))), ceil(float(bdtrik(1 - tail, n, share))) + 1


def _holding(cells: Mapping[int, int], weight: float) -> int:
    """Give the first bin up to which at least this weight lies."""
    held = 0
    last = 0
    for index in sorted(cells):
        held, last = held + cells[index], index
        if held >= weight * (1 - 1e-12):  # so that a rank that is whole is not missed by its last bit
            break
    return last
