"""What a detector is: it starts trackers for nulls, and loads them again."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from xxhash import xxh3_64_hexdigest

from schemas.spec import Spec
from streams.judge.evidence import Evidences, Floats, Ints, Null
from streams.judge.trackers import Listed, Plain, Tracker, Trackers, Verdicts


class Detector(Spec):
    """A family of detectors: each starts a tracker for a null, or loads one.

    `budgeted` says whether E[false alarms] ≤ Σ days / `alarm_days` is promised (`streams.judge.detectors`).
    """

    kind: str
    budgeted: ClassVar[bool] = False

    def shape(self, null: Null) -> str:
        """Give what tells whether a tracker's state can be gone on with: the null's sets and this detector's settings.

        Limits are not in it: they may change from pane to pane, as long as they are known before the pane is seen.
        """
        about = f"{null.sets.shape}|{self.model_dump_json()}|".encode() + null.sets.astype("<i8").tobytes()
        return xxh3_64_hexdigest(about)

    def start(self, null: Null, alarm_days: float) -> Tracker:
        """Start on a stream about which nothing is known yet."""
        return self.load(null, alarm_days, {})

    def load(self, null: Null, alarm_days: float, state: Plain) -> Tracker:
        """Go on from what `Tracker.dump` gave (an empty mapping: from the start)."""
        raise NotImplementedError

    def many(self, nulls: Sequence[Null], alarm_days: float) -> Trackers:
        """Start on many streams at once, whose nulls have the same sets."""
        return OneByOne(self, nulls, alarm_days)


class OneByOne(Trackers):
    """A tracker for each stream."""

    def __init__(self, spec: Detector, nulls: Sequence[Null], alarm_days: float) -> None:
        self.spec, self.nulls, self.alarm_days = spec, nulls, alarm_days
        self.trackers: dict[int, Tracker] = {}

    def update(self, rows: Ints, panes: Evidences, days: Floats, limits: Floats | None = None) -> Verdicts:
        """See `Trackers.update`; these know their null's limits alone."""
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
