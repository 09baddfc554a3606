"""Intervals for a figure that is told before its labels are there, recalibrated by how past ones fared. Pure.

**Score.** A forecast p̂ with a scale σ̂ is scored when its figure r is realised: s = |r − p̂| / σ̂. The interval at level
1 − α_t is p̂ ± q·σ̂, q the conformal quantile of the last `MEMORY` scores. No law of the errors is supposed.

**Adaptation** (adaptive conformal inference: Gibbs and Candès 2021, NeurIPS). Errors of projections are neither
independent nor of one law: windows overlap, concepts drift. So α_t itself moves: α ← min(α + γ(α* − miss), 1) after
each score, α* the wanted share of misses. Where α_t ≤ 0 the interval is the whole range of the figure.

**What is promised, with delay.** Scores come D forecasts later than their intervals were told. α_t never falls below
−γ(D + 1): beyond 0 every new interval covers, and at most D + 1 steps are still on their way. The steps add up to at
least α_T − α*, so after T scores, *whatever* the sequence was,

    share of misses ≤ α* + (α* + γ(D + 1)) / (γT)

`Tally.bound` is the last term, told beside the coverage. It speaks of the average over the past, not of the next
interval, and overlapping windows make T scores of fewer independent ones: both are shown. Nothing is promised against
covering too often, as a figure that never errs does.
"""

from __future__ import annotations

import math
from collections import deque
from dataclasses import dataclass, field
from typing import Any, Final

LEVEL: Final = 0.9
GAMMA: Final = 0.02
MEMORY: Final = 200
LEAST: Final = 20
"""With fewer scores there is no interval yet."""


@dataclass(frozen=True, slots=True)
class Tally:
    """How past intervals fared: `scored` of them, of which `covered` held their figure; the promise's `bound`."""

    scored: int
    covered: int
    bound: float

    @property
    def coverage(self) -> float | None:
        """The share that held."""
        return self.covered / self.scored if self.scored else None


@dataclass(frozen=True, slots=True)
class Told:
    """A forecast: value, scale, and its interval (None, None while there is none)."""

    value: float
    scale: float
    low: float | None = None
    high: float | None = None


@dataclass(slots=True)
class Adaptive:
    """The intervals of one series of forecasts. `alpha` moves; `delay` is the most forecasts that were ever waited for.

    >>> series = Adaptive()
    >>> for t in range(100):
    ...     told = series.tell(0.5, 0.1, 0.0, 1.0)
    ...     series.score(told, 0.5 + 0.01 * (t % 10))
    >>> round(told.low, 2), round(told.high, 2), series.tally().covered
    (0.42, 0.58, 72)
    """

    alpha: float = 1.0 - LEVEL
    scores: deque[float] = field(default_factory=lambda: deque(maxlen=MEMORY))
    scored: int = 0
    covered: int = 0
    delay: int = 0

    def tell(self, value: float, scale: float, least: float, greatest: float) -> Told:
        """Give the interval of a forecast, within the figure's range [`least`, `greatest`] (may be infinite)."""
        if len(self.scores) < LEAST:
            return Told(value, scale)
        half = self.quantile() * scale
        if math.isinf(half):
            return Told(value, scale, least, greatest)
        return Told(value, scale, max(value - half, least), min(value + half, greatest))

    def quantile(self) -> float:
        """Give the ⌈(n + 1)(1 − α_t)⌉-th least score: infinite beyond the last, 0 before the first."""
        n = len(self.scores)
        rank = math.ceil((n + 1) * (1.0 - self.alpha))
        if rank > n:
            return math.inf
        return sorted(self.scores)[rank - 1] if rank >= 1 else 0.0

    def score(self, told: Told, realised: float, waiting: int = 0) -> None:
        """Learn what became of a forecast, while `waiting` later ones were already told."""
        self.delay = max(self.delay, waiting)
        if told.low is not None and told.high is not None:
            held = told.low <= realised <= told.high
            self.scored += 1
            self.covered += held
            self.alpha = min(self.alpha + GAMMA * ((1.0 - LEVEL) - (not held)), 1.0)
        self.scores.append(abs(realised - told.value) / told.scale if told.scale > 0 else 0.0)

    def tally(self) -> Tally:
        """Say how past intervals fared."""
        aim = 1.0 - LEVEL
        bound = (aim + GAMMA * (self.delay + 1)) / (GAMMA * self.scored) if self.scored else 1.0
        return Tally(self.scored, self.covered, min(bound, 1.0))

    def dump(self) -> list[Any]:
        """Give it as plain data."""
        return [self.alpha, list(self.scores), self.scored, self.covered, self.delay]

    @classmethod
    def load(cls, plain: list[Any]) -> Adaptive:
        """Take up what `dump` gave."""
        alpha, scores, scored, covered, delay = plain
        return cls(alpha, deque(scores, maxlen=MEMORY), scored, covered, delay)
