"""The naive twin of `season`'s limits: an hour, a week and a witness at a time."""

from __future__ import annotations

import math
from statistics import fmean, variance

from scipy import stats

Hour = dict[int, tuple[float, list[float]]]
"""By week: rows, and the hits of each witness."""


def limits(hours: list[Hour], witness: int, *, tail: float, epsilon: float) -> list[float | None]:
    """Give the limit of each hour for one witness; None where no week counts or no hour has two."""
    used = [
        [(n, hits[witness]) for _, (n, hits) in sorted((w, one) for w, one in hour.items() if one[0] >= 2)][-8:]
        for hour in hours
    ]
    weights, spreads, freedoms = [], [], []
    for weeks in used:
        if len(weeks) < 2:
            continue
        shares = [s / n for n, s in weeks]
        explained = fmean(p * (1 - p) / (n - 1) for p, (n, _) in zip(shares, weeks, strict=True))
        rows = 1 / fmean(1 / n for n, _ in weeks)
        weights.append((len(weeks) - 1) * rows)
        spreads.append(variance(shares) - explained)
        freedoms.append(len(weeks) - 1)
    if not weights:
        return [None for _ in hours]
    total = sum(weights)
    between = max(sum(w * s for w, s in zip(weights, spreads, strict=True)) / total, 0.0)
    freedom = total**2 / sum(w**2 / f for w, f in zip(weights, freedoms, strict=True))
    quantile = float(stats.t.isf(tail, freedom))
    found: list[float | None] = []
    for weeks in used:
        if not weeks:
            found.append(None)
            continue
        rate = (sum(s for _, s in weeks) + 1) / (sum(n for n, _ in weeks) + 2)
        noise = rate * (1 - rate) * fmean(1 / n for n, _ in weeks)
        width = quantile * math.sqrt((between + noise) * (1 + 1 / len(weeks)))
        found.append(min(fmean(s / n for n, s in weeks) + width + epsilon, 1.0))
    return found
