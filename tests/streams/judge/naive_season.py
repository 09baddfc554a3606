"""The naive twin of `season`'s limits: an hour, a week and a witness at a time."""

from __future__ import annotations

import math
from statistics import fmean, variance

from scipy import stats

Hour = dict[int, tuple[float, list[float]]]
"""By week: rows, and the hits of each witness."""


def limits(hours: list[Hour], witness: int, *, tail: float, epsilon: float) -> list[float | None]:
    """Give the limit of each hour for one witness; None where no week counts or no hour has two."""
    used = []
    for hour in hours:
        last = [one for _, one in sorted(hour.items()) if one[0] > 0][-8:]
        weeks = []
        for n, hits in last:
            yes, no = hits[witness] + 0.5, n - hits[witness] + 0.5
            weeks.append((math.log(yes / no), 1 / yes + 1 / no))
        used.append(weeks)
    several = [weeks for weeks in used if len(weeks) > 1]
    if not several:
        return [None for _ in hours]
    noises = [fmean(noise for _, noise in weeks) for weeks in several]
    weights = [(len(weeks) - 1) / noise for weeks, noise in zip(several, noises, strict=True)]
    spreads = [variance(x for x, _ in weeks) - noise for weeks, noise in zip(several, noises, strict=True)]
    total = sum(weights)
    between = max(sum(w * s for w, s in zip(weights, spreads, strict=True)) / total, 0.0)
    unsure = 0.0
    for weeks, noise, weight in zip(several, noises, weights, strict=True):
        unsure += (weight / total) ** 2 * 2 * (between + noise) ** 2 / (len(weeks) - 1)
    found: list[float | None] = []
    for weeks in used:
        if not weeks:
            found.append(None)
            continue
        more = 1 + 1 / len(weeks)
        ahead = between * more + fmean(noise for _, noise in weeks) / len(weeks)
        quantile = float(stats.t.isf(tail, 2 * ahead**2 / (more**2 * unsure)))
        limit = 1 / (1 + math.exp(-(fmean(x for x, _ in weeks) + quantile * math.sqrt(ahead))))
        found.append(min(limit + epsilon, 1.0))
    return found
