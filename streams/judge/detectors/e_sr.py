"""The e-SR, Weir's own detector: the only one that keeps the budget."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar, Literal

from pydantic import Field

from streams.judge.detectors.base import Detector
from streams.judge.esr import ESRTrackers, Unit
from streams.judge.evidence import Null
from streams.judge.trackers import First, Plain, Trackers


class ESR(Detector):
    """The e-SR with a mixture of bets; `bets` are the shares of wealth that a unit without a hit loses."""

    kind: Literal["e_sr"] = "e_sr"
    budgeted: ClassVar[bool] = True
    bets: tuple[float, ...] = Field(default=(0.01, 0.025, 0.06, 0.15, 0.35, 0.8), min_length=1)
    unit: Unit = "subject"

    def load(self, null: Null, alarm_days: float, state: Plain) -> First:
        """See `Detector.load`. Raises `ValueError` when the state belongs to another null or other bets."""
        one = self.many([null], alarm_days)
        one.load(0, state)
        return First(one)

    def many(self, nulls: Sequence[Null], alarm_days: float) -> Trackers:
        """See `Detector.many`."""
        return ESRTrackers(nulls, self.bets, self.unit, alarm_days)
