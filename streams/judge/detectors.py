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
`esr` reckons the e-SR for many streams at once.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar, Literal

import numpy as np
from pydantic import Field

from schemas.spec import Spec
from schemas.verdict import Verdict
from streams.judge.esr import ESRTrackers, Unit
from streams.judge.evidence import Evidence, Evidences, Floats, Ints, Null
from streams.judge.trackers import First, Listed, Plain, Tracker, Trackers, Verdicts


class OneByOne(Trackers):
    """A tracker for each stream."""

    def __init__(self, spec: Detector, nulls: Sequence[Null], alarm_days: float) -> None:
        self.spec, self.nulls, self.alarm_days = spec, nulls, alarm_days
        self.trackers: dict[int, Tracker] = {}

    def update(self, rows: Ints, panes: Evidences, days: Floats) -> Verdicts:
        """See `Trackers.update`."""
        said = []
        for place, row in enumerate(rows.tolist()):
            if row not in self.trackers:
                self.trackers[row] = self.spec.start(self.nulls[row], self.alarm_days)
            said.append(self.trackers[row].update(panes[place], float(days[place])))
        return Listed(said)

    def dump(self, row: int) -> Plain:
        """See `Trackers.dump`."""
        return self.trackers[row].dump() if row in self.trackers else {}

    def load(self, row: int, state: Plain) -> None:
        """See `Trackers.load`."""
        self.trackers[row] = self.spec.load(self.nulls[row], self.alarm_days, state)


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

    def many(self, nulls: Sequence[Null], alarm_days: float) -> Trackers:
        """Start on many streams at once, whose nulls have the same sets."""
        return OneByOne(self, nulls, alarm_days)


class ESR(Detector):
    """The e-SR with a mixture of bets; `bets` are the shares of wealth that a unit without a hit loses."""

    kind: Literal["e_sr"] = "e_sr"
    budgeted: ClassVar[bool] = True
    bets: tuple[float, ...] = Field(default=(0.01, 0.025, 0.06, 0.15, 0.35, 0.8), min_length=1)
    unit: Unit = "subject"

    def load(self, null: Null, alarm_days: float, state: Plain) -> Tracker:
        """See `Detector.load`. Raises `ValueError` when the state belongs to another null or other bets."""
        one = self.many([null], alarm_days)
        one.load(0, state)
        return First(one)

    def many(self, nulls: Sequence[Null], alarm_days: float) -> Trackers:
        """See `Detector.many`."""
        return ESRTrackers(nulls, self.bets, self.unit, alarm_days)


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
