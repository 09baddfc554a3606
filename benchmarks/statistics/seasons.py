"""A stream with a daily cycle and another week-end, judged by one limit and by those of the hour of the week.

Panes are hours of 1,280 rows, 20 in each bucket. The error rate of 10 % goes 20 % up and down with the day and is 15 %
higher at week-ends, 0.1 on average; how one week differs from the next is what the kinds of stream differ in. The
first weeks are learnt and not counted; then nothing changes for some weeks; then the rate rises. The whole budget is
the error rate's.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from benchmarks.statistics.counted import Rate
from benchmarks.statistics.nulls import MONTH, bounds_of, learnt
from benchmarks.statistics.simulated import next_hour, shifted, weekly
from streams.judge.evidence import Evidences
from streams.judge.season import HOUR_MS, HOURS, Season
from streams.measure.ledger import BUCKETS

Floats = NDArray[np.float64]

MONDAY_MS: Final = 4 * 24 * HOUR_MS
"""The first Monday of 1970."""
RATE, PER_BUCKET = 0.1, 20.0
LEARN_WEEKS, RISE_WEEKS = 10, 4
RISES: Final = (1.3, 1.5, 2.0)
HOURLY, PERSISTENT, WHOLE = "each hour by itself", "AR(0.9) by the hour", "a week as a whole"
KINDS: Final = {"exactly alike": 0.0, HOURLY: 0.1, PERSISTENT: 0.1, WHOLE: 0.1}
"""How weeks differ, with the deviations' spread in logits."""


@dataclass(frozen=True)
class Seasonal:
    """What one way of judging gave: false alarms per 30 days, and the median days until a rise was found."""

    kind: str
    season: str
    budget: float
    alarms: Rate
    rise: float
    delay_days: float | None
    missed: int
    runs: int


def judged(
    seed: int, runs: int, kind: str, budget: float, *, quiet_weeks: int = 12, rise: float = 1.5
) -> list[Seasonal]:
    """Judge `runs` streams with season none and hour_of_week, both the same panes."""
    bounds = bounds_of(budget)
    draw = np.random.default_rng([seed, list(KINDS).index(kind)])
    nulls = learnt(draw, runs, bounds)
    ways = {name: bounds.detectors[0].many(nulls, bounds.alarm_days) for name in ("none", "hour_of_week")}
    tail = Season.tail_of(bounds.reference_delta, bounds.period_ms, 1)
    seasons = [Season(null, zone="UTC", epsilon=bounds.epsilon_error, tail=tail) for null in nulls]
    alarms, found = dict.fromkeys(ways, 0), {name: np.full(runs, np.inf) for name in ways}
    quiet, risen = LEARN_WEEKS * HOURS, (LEARN_WEEKS + quiet_weeks) * HOURS
    every, days = np.arange(runs), np.full(runs, 1 / 24)
    sizes = np.full((runs, BUCKETS), PER_BUCKET)
    deviations, spread = KINDS[kind] * draw.standard_normal(runs), KINDS[kind]
    for hour in range(risen + RISE_WEEKS * HOURS):
        if kind == PERSISTENT:
            deviations = next_hour(draw, deviations, sd=spread)
        elif kind != WHOLE or hour % HOURS == 0:
            deviations = spread * draw.standard_normal(runs)
        rates = shifted(weekly(RATE, hour), deviations) * (rise if hour >= risen else 1.0)
        hits = draw.binomial(int(PER_BUCKET), rates[:, None], sizes.shape).astype(np.float64)
        start = MONDAY_MS + hour * HOUR_MS
        panes = Evidences(start, start + HOUR_MS, hits.sum(axis=1, keepdims=True), sizes.sum(axis=1), sizes, hits)
        if hour == risen:  # each begins anew, so that the delay is that of the rise
            for trackers in ways.values():
                for run in range(runs):
                    trackers.load(run, {})
        limits = np.array([season.limits(start) for season in seasons])
        for name, trackers in ways.items():
            alarmed = trackers.update(every, panes, days, limits if name == "hour_of_week" else None).alarmed
            if quiet <= hour < risen:
                alarms[name] += int(alarmed.sum())
            elif hour >= risen:
                found[name][alarmed] = np.minimum(found[name][alarmed], (hour - risen + 1) / 24)
            if name == "hour_of_week":
                for run, season in enumerate(seasons):
                    season.take(panes[run])
                    if alarmed[run]:
                        season.alarmed(start)
    months = runs * (risen - quiet) / 24 / MONTH
    return [
        Seasonal(
            kind,
            name,
            budget,
            Rate.of(alarms[name], months),
            rise,
            median if np.isfinite(median := float(np.median(found[name]))) else None,
            int(np.isinf(found[name]).sum()),
            runs,
        )
        for name in ways
    ]
