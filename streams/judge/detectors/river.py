"""River's detectors through the same contract: outside the budget of false alarms."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
from pydantic import Field

from schemas.verdict import Verdict
from streams.judge.detectors.base import Detector
from streams.judge.evidence import Evidence, Null
from streams.judge.trackers import Plain, Tracker


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
