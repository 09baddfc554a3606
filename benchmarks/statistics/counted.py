"""Rates of rare events with their intervals, and medians of delays some of which never ended."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from scipy.special import betaincinv, gammaincinv


@dataclass(frozen=True)
class Rate:
    """A count over an exposure, and the exact 95 % interval of its expectation, all per unit of exposure.

    >>> rate = Rate.of(3, 1.5)
    >>> rate.value, round(rate.low, 2), round(rate.high, 2)
    (2.0, 0.41, 5.84)
    """

    count: int
    exposure: float
    value: float
    low: float
    high: float

    @classmethod
    def of(cls, count: int, exposure: float) -> Rate:
        """Give the rate with its interval for a Poisson count (Garwood)."""
        low = float(gammaincinv(count, 0.025)) if count else 0.0
        high = float(gammaincinv(count + 1, 0.975))
        return cls(count, exposure, count / exposure, low / exposure, high / exposure)


def share_interval(hits: int, n: int) -> tuple[float, float]:
    """Give the exact 95 % interval of a share (Clopper–Pearson).

    >>> tuple(round(end, 4) for end in share_interval(2, 100))
    (0.0024, 0.0704)
    """
    low = float(betaincinv(hits, n - hits + 1, 0.025)) if hits else 0.0
    high = float(betaincinv(hits + 1, n - hits, 0.975)) if hits < n else 1.0
    return low, high


def median_delay(delays: Sequence[float | None]) -> float | None:
    """Give the median where None is a delay beyond every bound; None when it is that itself.

    >>> median_delay([5, None, 3]), median_delay([None, None, 3]), median_delay([4, None])
    (5, None, None)
    """
    ordered = sorted(math.inf if delay is None else delay for delay in delays)
    middle = len(ordered) // 2
    found = ordered[middle] if len(ordered) % 2 else (ordered[middle - 1] + ordered[middle]) / 2
    return None if math.isinf(found) else found


def tuned(
    alarms: Callable[[float], float], target: float, gentle: float, eager: float, steps: int = 7
) -> tuple[float, float]:
    """Give the value between `gentle` and `eager` whose rate of alarms comes nearest to `target`, and that rate.

    Bisection on a log scale of a rate that rises from gentle to eager, as far as chance lets it.

    >>> tuned(lambda x: 10 / x, 5.0, 100.0, 0.1, steps=20)[0].__round__(3)
    2.0
    """
    low, high = math.log(gentle), math.log(eager)
    best = (math.inf, gentle, math.nan)
    for _ in range(steps):
        value = math.exp((low + high) / 2)
        rate = alarms(value)
        best = min(best, (abs(math.log(max(rate, 1e-9) / target)), value, rate))
        if rate > target:
            high = math.log(value)
        else:
            low = math.log(value)
    return best[1], best[2]
