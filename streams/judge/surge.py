"""Jumps of the traffic itself: ten times the usual log-in attempts, a client that calls in a loop. Pure.

Watched are the requests of each primary deployment as a whole and of each of its slices (a route, a country), and the
requests of the busiest of the 64 subject buckets. No reference is needed: what is usual is learnt, hour of the week by
hour of the week (UTC: both changes of daylight saving are smaller than `factor`), from panes that were not a jump.

**Bound.** With E the mean of the panes of this hour of the week so far, a pane's count is taken as negative binomial
with variance E + φE² (counts of requests come in bursts; Noufaily et al. 2013, Statistics in Medicine 32). φ is learnt
by moments from how far panes lay from their expectation, and taken with two standard errors and the 1/n of the hours'
own means, as in `forecast`. A pane is a jump where its count is at least `factor` times E *and* has a chance of at
most p. With p = b · (a pane's days) / 30 / (streams of the model) the expected number of false jumps in 30 days is at
most b, under any dependence, as long as counts are no wilder than that law. That is an assumption about traffic, not a
theorem as of the e-SR; so the alarms stand beside its budget, with one of their own.

**Quiet at first.** Nothing alarms before `warm_up_ms` (a week) of a stream was learnt: "learning, N of M" until then.
The pane in which a stream begins is not learnt: it is a part of one. One alarm is raised when a jump begins; it ends
with the first pane nearer to the usual than to the bound. A jump that lasts for a day is what is usual from then on:
all hours are raised by as much. Hours remember about four weeks. Panes without a single request leave no trace in
`measures`, so E is that of panes with requests: too high rather than too low.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from schemas.verdict import Verdict
from streams.judge.panes import Key, Pane
from streams.measure.ledger import BUCKET_ROWS, N

HOURS: Final = 168
HOUR_MS: Final = 3_600_000
MONTH_MS: Final = 30 * 24 * HOUR_MS
WEEKS: Final = 4
ACCEPTED_MS: Final = 24 * HOUR_MS
FORGOTTEN_MS: Final = WEEKS * HOURS * HOUR_MS
"""A stream that was silent for so long is let go of: it would only take its part of the budget."""
KEEP: Final = 0.999
"""What the moments of the errors keep from pane to pane."""
MOST: Final = 10**15
REQUESTS: Final = "traffic:requests"
SUBJECT: Final = "traffic:subject"
Floats = NDArray[np.float64]


class Law(NamedTuple):
    """`chance` of a false jump in a pane, the `factor` that a jump has at least, and how long is learnt before."""

    chance: float
    factor: float
    warm_up_ms: int


@dataclass(slots=True)
class Usual:
    """What is usual of one stream: by hour of the week the sum and number of panes; moments of the errors."""

    rows: Floats = field(default_factory=lambda: np.zeros(HOURS))
    panes: Floats = field(default_factory=lambda: np.zeros(HOURS))
    error: float = 0.0
    square: float = 0.0
    weight: float = 0.0
    began_ms: int = -1
    jump_ms: int = -1
    """When the jump that goes on began; −1 while there is none."""
    jump_rows: float = 0.0
    jump_expected: float = 0.0
    last_ms: int = -1

    def expected(self, at_ms: int) -> tuple[float, float]:
        """Give E of an hour of the week, and from how many requests it was learnt; that of all hours for a new one."""
        hour = at_ms // HOUR_MS % HOURS
        if self.panes[hour] > 0:
            return float(self.rows[hour] / self.panes[hour]), float(self.rows[hour])
        panes = float(self.panes.sum())
        return (float(self.rows.sum()) / panes, float(self.rows.sum())) if panes else (0.0, 0.0)

    def dispersion(self, expected: float, learnt_from: float) -> float:
        """Give φ, with what it may be wrong by."""
        if self.weight <= 0 or self.square <= 0:
            return float("inf")
        phi = max(self.error / self.square, 0.0)
        wrong = 2.0 * math.sqrt(2.0 / self.weight) * (phi + 1.0 / max(expected, 1e-9))
        return phi + wrong + 1.0 / max(learnt_from, 1.0)

    def take(self, count: int, start: int, end: int, law: Law) -> Verdict:
        """Look at a closed pane; `fail` where a jump begins."""
        first = self.began_ms < 0
        if first:
            self.began_ms = start
        self.last_ms = end
        expected, learnt_from = self.expected(start)
        known = end - self.began_ms >= law.warm_up_ms
        bound = upper(expected, self.dispersion(expected, learnt_from), law.chance) if known else float("inf")
        least = max(bound, law.factor * expected)
        goes_on = self.jump_ms >= 0 and count >= (least + expected) / 2
        jump = known and (count >= least or goes_on)
        begins = jump and self.jump_ms < 0
        self.jump_ms = -1 if not jump else start if begins else self.jump_ms
        if jump:
            self._endure(count, end, expected)
        else:
            self.jump_rows = self.jump_expected = 0.0
            if not first:
                self._learn(count, start, end, expected)
        return Verdict(
            outcome="fail" if begins else "pass" if known and not jump else "inconclusive",
            gate="traffic",
            statistic=float(count),
            threshold=None if np.isinf(least) or not known else float(least),
            value=count / expected if expected > 0 else None,
            n=count,
            sentence=_sentence(count, expected, least, known, jump, end - self.began_ms, law),
        )

    def _endure(self, count: int, end: int, expected: float) -> None:
        """Sum what a jump brings; after a day take it for usual."""
        self.jump_rows += count
        self.jump_expected += expected
        if end - self.jump_ms >= ACCEPTED_MS and self.jump_expected > 0:
            self.rows *= self.jump_rows / self.jump_expected
            self.jump_ms, self.jump_rows, self.jump_expected = -1, 0.0, 0.0

    def _learn(self, count: int, start: int, end: int, expected: float) -> None:
        if expected > 0:
            self.error = KEEP * self.error + (count - expected) ** 2 - expected
            self.square = KEEP * self.square + expected**2
            self.weight = KEEP * self.weight + 1.0
        hour = start // HOUR_MS % HOURS
        most = WEEKS * HOUR_MS / (end - start)
        keep = min(1.0, max(most - 1.0, 0.0) / max(self.panes[hour], 1.0))
        self.rows[hour] = keep * self.rows[hour] + count
        self.panes[hour] = keep * self.panes[hour] + 1.0

    def dump(self) -> list[Any]:
        """Give it as plain data."""
        jump = [self.jump_ms, self.jump_rows, self.jump_expected]
        moments = [self.error, self.square, self.weight]
        return [self.rows.tolist(), self.panes.tolist(), *moments, self.began_ms, *jump, self.last_ms]

    @classmethod
    def load(cls, plain: list[Any]) -> Usual:
        """Take up what `dump` gave."""
        return cls(np.array(plain[0], dtype=np.float64), np.array(plain[1], dtype=np.float64), *plain[2:])


@dataclass(slots=True)
class Surges:
    """The streams of one model: by key and name."""

    usual: dict[tuple[Key, str], Usual] = field(default_factory=dict)

    def take(
        self, at_start: Mapping[Key, Pane], start: int, budget: float, factor: float, warm_up_ms: int
    ) -> Iterator[tuple[Key, str, Verdict]]:
        """Look at a closed traffic pane of the model; give (key, stream, verdict), ascending."""
        counts = [
            (key, name, count)
            for key, pane in sorted(at_start.items())
            if key.role == "primary"
            for name, count in _counts(key, pane)
        ]
        for at in [at for at, usual in self.usual.items() if start - usual.last_ms > FORGOTTEN_MS]:
            del self.usual[at]
        for key, name, _ in counts:
            self.usual.setdefault((key, name), Usual(last_ms=start))
        for key, name, count in counts:
            size_ms = at_start[key].size_ms
            law = Law(min(budget * size_ms / MONTH_MS / len(self.usual), 0.5), factor, warm_up_ms)
            yield key, name, self.usual[key, name].take(count, start, start + size_ms, law)

    def dump(self) -> list[Any]:
        """Give them as plain data."""
        return [[list(key), name, usual.dump()] for (key, name), usual in sorted(self.usual.items())]

    @classmethod
    def load(cls, plain: list[Any]) -> Surges:
        """Take up what `dump` gave."""
        return cls({(Key.of(key), name): Usual.load(usual) for key, name, usual in plain})


def _counts(key: Key, pane: Pane) -> Iterator[tuple[str, int]]:
    ledger = pane.open()
    yield REQUESTS, max(ledger.get(N), 0)
    if not key.slice:
        yield SUBJECT, max(ledger.cells.get(BUCKET_ROWS, {}).values(), default=0)


def upper(expected: float, phi: float, chance: float) -> float:
    """Give the least count c with P(c or more) ≤ `chance`, for a negative binomial of variance E + φE².

    >>> upper(20.0, 0.0, 1e-4), upper(20.0, 0.1, 1e-4), upper(20.0, float("inf"), 1e-4)
    (40, 61, inf)
    """
    from scipy.special import betainc, gammainc

    if expected <= 0 or not np.isfinite(phi):
        return float("inf")

    def above(count: int) -> float:
        if phi < 1e-9:
            return float(gammainc(count, expected))
        return float(betainc(count, 1.0 / phi, expected / (expected + 1.0 / phi)))

    high = int(expected) + 2
    while above(high) > chance:
        high *= 2
        if high > MOST:  # spread so wide that doubles cannot tell a bound: nothing would be a jump
            return float("inf")
    low = 1
    while low < high:
        middle = (low + high) // 2
        if above(middle) <= chance:
            high = middle
        else:
            low = middle + 1
    return low


def _sentence(count: int, expected: float, least: float, known: bool, jump: bool, learnt_ms: int, law: Law) -> str:
    if not known:
        days, all_days = learnt_ms / (24 * HOUR_MS), law.warm_up_ms / (24 * HOUR_MS)
        return f"learning, {days:.1f} of {all_days:.3g} days: {count} requests"
    times = f"{count / expected:.2g} times" if expected > 0 else "where none"
    usual = f"{count} requests, {times} the usual {expected:.3g} of this hour of the week"
    return f"{usual}; a jump begins at {least:.3g}" if jump else f"{usual}, a jump would begin at {least:.3g}"
