"""The smallest change that a stream's e-SR would find in a given time, at a model's traffic. Pure.

With a true share p above the null's bound m, each pane multiplies M of a bet by L, log L growing by g(p) on average, so
after T panes M is about w (e^{Tg} − 1) / (1 − e^{−g}), w the pane's weight. The alarm is at A for the mean over all
bets and witnesses: one of K carries it, so it has to reach K·A, after

    T(p) = log(1 + (1 − e^{−g}) K·A / w) / g

panes. The smallest detectable p is the one whose T is the time that is given: about half of such changes are found by
then (log M grows with noise around its mean), earlier where they are larger. Growth is taken for rows that fall
independently into `units` equal subject buckets: the binomial law for rates, the linear chord for histograms, as in
`detectors`. Users who send many rows make it slower.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from streams.judge.bounds import DAY_MS, JudgeBounds
from streams.judge.detectors import ESR
from streams.judge.esr import CAP
from streams.judge.watched import Stream

Floats = NDArray[np.float64]
STEPS = 40
"""Bisections; the answer is exact to 1e-12."""


@dataclass(frozen=True, slots=True)
class Traffic:
    """What a pane holds: `rows` (may be a fraction: the mean) in at most `units` subject buckets, `pane_ms` long."""

    rows: float
    units: int
    pane_ms: int


@dataclass(frozen=True, slots=True)
class Detectable:
    """From `reference` the share would have to rise to `share` to be found in `days`; None where nothing would be."""

    stream: str
    witness: str
    reference: float
    bound: float
    days: float
    share: float | None

    @property
    def effect(self) -> float | None:
        """The rise that is found."""
        return None if self.share is None else self.share - self.reference


def detectable(
    stream: Stream, reference: float, traffic: Traffic, bounds: JudgeBounds, days: float, part: float = 1.0
) -> Detectable:
    """Give the smallest share of the witness nearest to one half (or of the rate) that is found in `days`.

    `reference` is the reference's own share of that witness (`witness_of`), `part` the model's part of the budget.
    """
    at, name, bound = witness_of(stream)
    panes = days * DAY_MS / traffic.pane_ms
    low, high = bound, 1.0
    if part <= 0 or bound >= 1.0 or _time(stream, at, high, traffic, bounds, part) > panes:
        return Detectable(stream.name, name, reference, bound, days, None)
    for _ in range(STEPS):
        middle = (low + high) / 2
        if _time(stream, at, middle, traffic, bounds, part) <= panes:
            high = middle
        else:
            low = middle
    return Detectable(stream.name, name, reference, bound, days, high)


def witness_of(stream: Stream) -> tuple[int, str, float]:
    """Give the witness by which a stream is planned: index, name, bound. Of a histogram, that nearest to one half."""
    limits = stream.null.limits
    at = int(np.argmin(np.abs(limits - 0.5)))
    return at, stream.null.names[at], float(limits[at])


def _time(stream: Stream, at: int, share: float, traffic: Traffic, bounds: JudgeBounds, part: float) -> float:
    """Give how many panes the fastest bet needs; infinite when none grows."""
    detector = next((one for one in bounds.detectors if isinstance(one, ESR)), ESR())
    bets = np.minimum(np.asarray(detector.bets), CAP)
    growth = _growth(stream, float(stream.null.limits[at]), share, traffic, bets)
    weight = traffic.pane_ms / DAY_MS * stream.share * part
    needed = bounds.alarm_days / weight * bets.size * stream.null.limits.size
    times = [math.log1p(-math.expm1(-g) * needed) / g for g in growth.tolist() if g > 1e-12]
    return max(min(times, default=math.inf), 1.0)


def _growth(stream: Stream, m: float, share: float, traffic: Traffic, bets: Floats) -> Floats:
    """Give the mean of log L of a pane for each bet."""
    units = max(min(traffic.units, int(traffic.rows)), 1)
    if stream.histogram is not None:
        win, lose = np.log1p(bets * (1.0 / m - 1.0)), np.log1p(-bets)
        return np.asarray(units * (share * win + (1.0 - share) * lose), dtype=np.float64)
    n = traffic.rows / units
    stake = np.minimum(bets / m, CAP / (m * n))
    hits, chance = _binomial(n, share)
    return np.asarray(units * (np.log1p(stake[:, None] * (hits - m * n)) @ chance), dtype=np.float64)


def _binomial(n: float, share: float) -> tuple[Floats, Floats]:
    """Give hits of one bucket and their chances; beyond 400 rows on 61 points of the normal law."""
    from scipy.stats import binom, norm

    if n <= 400:
        whole = max(round(n), 1)
        hits = np.arange(whole + 1, dtype=np.float64)
        return hits * (n / whole), np.asarray(binom.pmf(hits, whole, share))
    at = np.linspace(-5, 5, 61)
    chance = norm.pdf(at)
    hits = np.clip(n * share + at * math.sqrt(n * share * (1 - share)), 0.0, n)
    return np.asarray(hits), np.asarray(chance / chance.sum())
