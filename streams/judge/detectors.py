"""Detectors: from closed panes, in order, to "this is no longer the reference", within a budget of false alarms.

**The null.** A `Null` is a list of witnesses, each a set of cells S with a bound m: "the probability of S is at most
m". For the error rate there is one witness; for a histogram there are the lower and upper sets of its order and each
cell by itself, so that the null says: no share of these lies more than ε above the reference's (`nulls` makes the
bounds; the reference's own uncertainty is in them).

**The evidence.** A unit is a thing whose outcome is not tied to the others' within the pane. With X in [0, 1] the
share of a unit's events in S, and E[X | the past] ≤ m, the factor 1 + λ(X − m) has mean ≤ 1 for every λ in [0, 1/m)
that is fixed before X is seen; factors multiply over units. A pane's evidence L is that product. Three kinds of unit:

- `subject` (default): the 64 subject-hash buckets, each subject whole in one. The factor is linear in the bucket's
  count, 1 + λ_j(s_j − m·n_j) with λ_j = min(λ, 0.95/(m·n_j)), so any dependence *within* a bucket is allowed. Where
  only the pane's total s is known (histograms), the chord of the concave logarithm bounds the product from below: with
  k buckets, the largest of r rows, and s' = s/r + m(k − n/r), L = (1+λ(1−m))^s' · (1−λm)^(k−s'). It is exact for k
  buckets of equal size that are each wholly in or out of S, and costs evidence elsewhere.
- `event`: every row is a unit, L = (1+λ(1−m))^s (1−λm)^(n−s): for streams whose rows are independent given the past.
- `pane`: the pane is one unit, L = 1 + λ(s/n − m): any dependence within the pane is allowed.

**The alarm** (e-SR, Shin, Ramdas and Rinaldo 2024). For each witness and bet, M ← (M + w)·L; when the mean over all of
them reaches A there is an alarm, and all M start again at 0. w is the pane's weight in days, fixed before the pane's
outcomes are seen. M + A·N − Σw is a supermartingale, N the number of alarms, hence **E[N] ≤ Σw / A**, under any
dependence between streams, and expectations add over streams: one budget of expected false alarms is split by
splitting w.

**What is proved and what is not.** Proved: E[N] ≤ Σw/A on streams where in every pane each unit's expectation given the
earlier panes and the other units is at most m. Not proved, and in general false: autocorrelated or seasonal streams
whose conditional mean exceeds m at times (a subject with a bad day over many panes is that too); labels whose coming
depends on the outcome. Sizes of units are taken as given (exposure), so traffic that depends on coming errors is
outside too. The mean M is no e-value at a fixed time (its mean grows with Σw); lists of alarms are rankings and
control no FDR.

River's detectors fit the same contract, keep no budget, say so in their verdicts and are not switched on by default.
"""

from __future__ import annotations

import abc
import math
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from schemas.spec import Spec
from schemas.verdict import Verdict

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Unit = Literal["subject", "event", "pane"]
Plain = dict[str, Any]
"""What a tracker dumps: numbers, strings and lists of them."""

CAP = 0.95
"""No bet risks more than this share of the wealth on one unit."""


@dataclass(frozen=True)
class Null:
    """What the reference allows. `sets` is a 0/1 matrix (witness, cell), `limits` the bound of each witness's share."""

    stream: str
    sets: Ints
    limits: Floats
    names: tuple[str, ...]

    @classmethod
    def of_rate(cls, stream: str, limit: float) -> Null:
        """Give the null "the rate is at most `limit`": one cell (the hits), one witness."""
        return cls(stream, np.ones((1, 1), dtype=np.int64), np.array([limit]), (stream,))


@dataclass(frozen=True)
class Evidence:
    """What one closed pane shows: counts per cell, rows in all, and how they fall into units.

    `sizes` holds the rows of each subject bucket (zeros are ignored; empty when nobody counted them, then the pane is
    one unit); `unit_hits` the hits of each bucket when they are known, which needs a null of one cell. Rows may be
    weights.
    """

    from_ms: int
    to_ms: int
    counts: Floats | Ints
    rows: float
    sizes: Floats | Ints
    unit_hits: Floats | Ints | None = None


class Tracker(abc.ABC):
    """The running state of one detector on one stream."""

    @abc.abstractmethod
    def update(self, pane: Evidence, days: float) -> Verdict:
        """Take the next closed pane, which may spend `days` of the budget. `fail` is an alarm, raised once."""

    @abc.abstractmethod
    def dump(self) -> Plain:
        """Give the state as plain data."""


class Detector(Spec):
    """A family of detectors: each starts a tracker for a null, or loads one.

    `budgeted` says whether E[false alarms] ≤ Σ days / `alarm_days` is promised (see above).
    """

    kind: str
    budgeted: ClassVar[bool] = False

    def start(self, null: Null, alarm_days: float) -> Tracker:
        """Start on a stream about which nothing is known yet."""
        return self.load(null, alarm_days, {})

    def load(self, null: Null, alarm_days: float, state: Plain) -> Tracker:
        """Go on from what `Tracker.dump` gave (an empty mapping: from the start)."""
        raise NotImplementedError


class ESR(Detector):
    """The e-SR with a mixture of bets; `bets` are the shares of wealth that a unit without a hit loses."""

    kind: Literal["e_sr"] = "e_sr"
    budgeted: ClassVar[bool] = True
    bets: tuple[float, ...] = Field(default=(0.01, 0.025, 0.06, 0.15, 0.35, 0.8), min_length=1)
    unit: Unit = "subject"

    def load(self, null: Null, alarm_days: float, state: Plain) -> Tracker:
        """See `Detector.load`. Raises `ValueError` when the state belongs to another null or other bets."""
        return _ESRTracker(self, null, alarm_days, state)


def log_growth(null: Null, pane: Evidence, bets: Floats, unit: Unit) -> Floats:
    """Give log L for each (witness, bet) of one pane; see the head of this file."""
    m = null.limits[:, None]
    rows = pane.rows
    if rows <= 0:
        return np.zeros((m.size, bets.size))
    hits = (null.sets @ pane.counts).astype(np.float64)[:, None]
    if unit == "subject" and pane.unit_hits is not None:
        n = pane.sizes[pane.sizes > 0].astype(np.float64)
        s = pane.unit_hits[pane.sizes > 0].astype(np.float64)
        # λ_j·(s_j − m·n_j), with λ = bet/m; the cap keeps every factor above 1 − CAP.
        stake = np.minimum(bets[:, None] / m, CAP / (m * n))
        return np.asarray(np.log1p(stake * (s - m * n)).sum(axis=-1), dtype=np.float64)[None, :]
    if unit == "event":
        units, largest = float(rows), 1.0
    elif unit == "pane" or not pane.sizes.any():
        units, largest = 1.0, float(rows)
    else:
        units, largest = float((pane.sizes > 0).sum()), float(pane.sizes.max())
    if units == 1.0:  # one unit: the linear factor itself, not its chord
        return np.log1p(bets * (hits / rows / m - 1.0))
    inside = hits / largest + m * (units - rows / largest)
    win, lose = np.log1p(bets * (1.0 / m - 1.0)), np.log1p(-bets)
    return np.asarray(inside * win + (units - inside) * lose, dtype=np.float64)


class _ESRTracker(Tracker):
    def __init__(self, spec: ESR, null: Null, alarm_days: float, state: Plain) -> None:
        self.null, self.alarm_days = null, alarm_days
        self.bets = np.minimum(np.asarray(spec.bets), CAP)
        self.unit: Unit = spec.unit
        shape = (null.limits.size, self.bets.size)
        self.log_m = np.full(shape, -np.inf)
        self.rows = 0.0
        if state:
            log_m = np.asarray(state["log_m"], dtype=np.float64)
            if log_m.size != self.log_m.size:
                raise ValueError(f"expected {self.log_m.size} e-SR values for {null.stream}, got {log_m.size}")
            self.log_m, self.rows = log_m.reshape(shape), float(state["rows"])

    def update(self, pane: Evidence, days: float) -> Verdict:
        if days > 0:
            self.log_m = np.logaddexp(self.log_m, math.log(days))
        self.log_m = self.log_m + log_growth(self.null, pane, self.bets, self.unit)
        self.rows += pane.rows
        level = _log_mean(self.log_m)
        alarmed = level >= math.log(self.alarm_days)
        witness = int(np.argmax(self.log_m.max(axis=1)))
        n, limit = self.rows, float(self.null.limits[witness])
        if alarmed:
            self.log_m = np.full_like(self.log_m, -np.inf)
            self.rows = 0.0
        share = float(self.null.sets[witness] @ pane.counts) / pane.rows if pane.rows else None
        return Verdict(
            outcome="fail" if alarmed else "inconclusive",
            gate=self.null.stream,
            statistic=math.exp(min(level, 700.0)),
            threshold=self.alarm_days,
            value=share,
            n=int(n),
            sentence=_sentence(self.null.names[witness], level, self.alarm_days, limit, alarmed),
        )

    def dump(self) -> Plain:
        return {"log_m": self.log_m.ravel().tolist(), "rows": self.rows}


def _log_mean(values: Floats) -> float:
    top = float(values.max())
    if top == -math.inf:
        return top
    return top + math.log(float(np.exp(values - top).mean()))


def _sentence(name: str, level: float, alarm_days: float, limit: float, alarmed: bool) -> str:
    evidence = math.exp(min(level, 700.0))
    if alarmed:
        return f"{name} is above {limit:.4g}: evidence {evidence:.3g} reached {alarm_days:.3g} days per false alarm"
    return f"no alarm: the evidence that {name} is above {limit:.4g} is {evidence:.3g} of {alarm_days:.3g}"


class ADWIN(Detector):
    """River's ADWIN on the panes' rates. Outside the budget: nothing is promised about its false alarms."""

    kind: Literal["adwin"] = "adwin"
    delta: float = Field(default=0.002, gt=0, lt=1)
    memory: int = Field(default=2048, ge=2)

    def load(self, null: Null, alarm_days: float, state: Plain) -> Tracker:
        """See `Detector.load`."""
        return _RiverTracker(self, null, self.memory, state)


class PageHinkley(Detector):
    """River's Page–Hinkley on the panes' rates, upwards. Outside the budget, like ADWIN."""

    kind: Literal["page_hinkley"] = "page_hinkley"
    slack: float = 0.005
    threshold: float = 1.0
    min_panes: int = 10
    memory: int = Field(default=2048, ge=2)

    def load(self, null: Null, alarm_days: float, state: Plain) -> Tracker:
        """See `Detector.load`."""
        return _RiverTracker(self, null, self.memory, state)


class _RiverTracker(Tracker):
    """Keeps the panes' rates since the last alarm, at most `memory`: a river object is rebuilt from them, not pickled.

    When the memory is full the older half is forgotten and the detector rebuilt, in every run at the same pane.
    """

    def __init__(self, spec: ADWIN | PageHinkley, null: Null, memory: int, state: Plain) -> None:
        self.spec, self.null, self.memory = spec, null, memory
        self.values: list[float] = [float(value) for value in state.get("values", [])]
        self._rebuild()

    def _rebuild(self) -> None:
        from river import drift  # heavy: only where somebody asked for it

        spec = self.spec
        self.river: Any
        if isinstance(spec, ADWIN):
            self.river = drift.ADWIN(delta=spec.delta, clock=1)
        else:
            self.river = drift.PageHinkley(
                min_instances=spec.min_panes, delta=spec.slack, threshold=spec.threshold, alpha=1.0, mode="up"
            )
        for value in self.values:
            self.river.update(value)

    def update(self, pane: Evidence, days: float) -> Verdict:
        if pane.rows <= 0 or self.null.limits.size != 1:
            return Verdict(outcome="inconclusive", gate=self.null.stream, sentence="no rows, or no single rate")
        rate = float(pane.counts.sum()) / pane.rows
        before = float(np.mean(self.values)) if self.values else rate
        self.values.append(rate)
        self.river.update(rate)
        found = bool(self.river.drift_detected)
        if found:
            self.values = []
            self._rebuild()
        elif len(self.values) >= self.memory:
            self.values = self.values[-self.memory // 2 :]
            self._rebuild()
        said = "found a change" if found else "found nothing"
        # A fall of the error rate is a change too, for ADWIN; it is no harm, so it is no alarm.
        return Verdict(
            outcome="fail" if found and rate > before else "inconclusive",
            gate=self.null.stream,
            value=rate,
            n=int(pane.rows),
            sentence=f"river's {self.spec.kind} {said}; outside the budget of false alarms",
        )

    def dump(self) -> Plain:
        return {"values": list(self.values)}
