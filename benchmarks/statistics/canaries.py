"""A/A canaries: both arms alike, looked at again and again. How often does the gate ever decide, and so wrongly?

The bar is 0 (no margin), so that either decision is wrong: "better" at `alpha`, "worse" at `alpha_rollback` split over
the two gates. Subjects come one by one; the gate's own formulas (`betting`) run over all of them at once, for the one
candidate effect that a decision reads. `tests/benchmarks` holds this to the gate itself.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from benchmarks.statistics.counted import share_interval
from schemas.lifecycle import DecidePolicy
from streams.judge.betting import GRID, RISKS, _log_factors, _log_means
from streams.judge.gates import GATES

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]

SHARES = (0.01, 0.05, 0.5)
RATES = (0.001, 0.01, 0.1)


@dataclass(frozen=True)
class Canary:
    """A/A runs of one kind: how many ever said "better" or "worse", with the share's 95 % interval."""

    share: float
    rate: float
    runs: int
    looks: int
    better: int
    worse: int
    either: int
    low: float
    high: float


def evidence(values: Floats, challenger: Bools, share: float, every: int, bar: float = 0.0) -> tuple[Floats, Floats]:
    """Give log evidence against "at most `bar`" and "at least `bar`" at every `every`-th subject (look).

    `values` are the subjects' values in [0, 1], `challenger` their arms; see `gates` for the difference D.
    """
    n = values.size // every * every
    v, new = values[:n], challenger[:n]
    before = np.cumsum(v) - v
    c = (before + 0.5) / (np.arange(n) + 1)
    low = np.minimum(-c / share, -(1 - c) / (1 - share))
    high = np.maximum((1 - c) / share, c / (1 - share))
    difference = np.clip(np.where(new, (v - c) / share, -(v - c) / (1 - share)), low, high)
    above = GRID[min(int(np.searchsorted(GRID, bar - 1e-9)), GRID.size - 1)]
    below = GRID[max(int(np.searchsorted(GRID, bar + 1e-9, side="right")) - 1, 0)]

    def summed(factors: Floats) -> Floats:
        by_look = factors.reshape(-1, every, RISKS.size).sum(axis=1)
        return _log_means(np.cumsum(by_look, axis=0))

    return summed(_log_factors(difference, low, above)), summed(_log_factors(-difference, -high, -below))


def run(share: float, rate: float, runs: int, subjects: int, looks: int, seed: int = 0) -> Canary:
    """Look `looks` times at each of some A/A canaries of so many subjects with binary values."""
    policy = DecidePolicy(model="m")
    promote, rollback = -math.log(policy.alpha), -math.log(policy.alpha_rollback / GATES)
    draw = np.random.default_rng([seed, round(1e6 * share), round(1e6 * rate)])
    better = worse = either = 0
    for _ in range(runs):
        values = (draw.random(subjects) < rate).astype(np.float64)
        above, below = evidence(values, draw.random(subjects) < share, share, subjects // looks)
        up, down = bool((above >= promote).any()), bool((below >= rollback).any())
        better, worse, either = better + up, worse + down, either + (up or down)
    return Canary(share, rate, runs, looks, better, worse, either, *share_interval(either, runs))
