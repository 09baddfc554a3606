"""Events through the loop that runs live, in memory and under a virtual clock: join, measure behind it, judge.

A step takes what came in a short span and ends at its end, so nothing is said before it was read. What is said of a
pane does not depend on how time was cut (docs/join.md, `streams.judge.processor`).
"""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Final

from schemas.control import Control, PolicySet, ReferenceSet
from schemas.event import decode, encode
from schemas.measures import Drift, Measures, Metric
from schemas.policy import JoinPolicy
from schemas.records import DeadLetter
from schemas.settings import Settings
from services.watch.rows import Advance, Arrived, Refused
from streams.join.admission import JoinBounds
from streams.join.processor import JoinProcessor
from streams.judge.bounds import JudgeBounds
from streams.judge.processor import Judge
from streams.measure.ledger import Ledger
from streams.measure.measure import Measure
from streams.runtime.processor import Batch, Block, Output, Outputs
from streams.runtime.records import Records

SPANS: Final = 4
"""Into how many steps a pane's time is cut."""

Where = tuple[str, str, bool]
"""(version, slice, whether its pane begins at or after the version's cut)."""


@dataclass(frozen=True, slots=True)
class Heard:
    """A control record and the time at which it is heard."""

    at_ms: int
    event: Control


@dataclass(slots=True)
class Replayed:
    """What the loop said: figures of closed panes, drift, dead letters, what became of requests."""

    metrics: list[Metric] = field(default_factory=list)
    drifts: list[Drift] = field(default_factory=list)
    ledgers: dict[Where, Ledger] = field(default_factory=dict)
    dead: Refused = field(default_factory=Refused)
    counters: Mapping[str, int] = field(default_factory=dict)
    clock_ms: int = 0


def replay(
    settings: Settings,
    arrived: Sequence[Arrived],
    policy: JoinPolicy,
    references: Sequence[ReferenceSet],
    bounds: JudgeBounds,
    *,
    pane_ms: int,
    slice_dimension: str,
    until_ms: int,
    advance: Advance,
) -> Replayed:
    """Take events, which are in order, through the loop, and then its clock to `until_ms`.

    `references` are heard at the times that they count from. `advance` is told of events taken.
    """
    loop = _Loop(settings, bounds, pane_ms, slice_dimension, {one.reference.version: one.at_ms for one in references})
    heard = [Heard(0, PolicySet(policy=policy)), *(Heard(one.at_ms, one) for one in references)]
    heard.sort(key=lambda one: one.at_ms)
    span_ms = max(pane_ms // SPANS, 1)
    place = 0
    while place < len(arrived):
        end_ms = (arrived[place].at_ms // span_ms + 1) * span_ms
        after = bisect_left(arrived, end_ms, lo=place, key=lambda one: one.at_ms)
        said = [one.event for one in heard if one.at_ms < end_ms]
        heard = heard[len(said) :]
        loop.step(arrived[place:after], said, end_ms - 1)
        advance(after - place)
        place = after
    loop.step((), [one.event for one in heard], loop.clock_ms)
    while loop.clock_ms < until_ms:
        loop.step((), (), min(loop.clock_ms + pane_ms, until_ms))
    return loop.found


class _Loop:
    """One partition of each stage."""

    def __init__(
        self,
        settings: Settings,
        bounds: JudgeBounds,
        pane_ms: int,
        slice_dimension: str,
        cuts: Mapping[str, int],
    ) -> None:
        measure = Measure(partitions=1, pane_ms=pane_ms, slice_dimension=slice_dimension)
        self._join = JoinProcessor(replace(JoinBounds.of(settings), partitions=1, virtual=True), measure)
        self._judge = Judge(bounds, virtual=True)
        self._joined, self._judged = self._join.empty(0), self._judge.empty(0)
        self._cuts = cuts
        self._number = 0
        self._offsets: Counter[str] = Counter()
        self.clock_ms = 0
        self.found = Replayed()

    def step(self, arrived: Sequence[Arrived], said: Sequence[Control], clock_ms: int) -> None:
        """Take one step of the join, and one of the judge behind it."""
        inputs: dict[str, Records] = {}
        for event in said:
            self._append(inputs, "control", clock_ms, b"", encode(event))
        for one in arrived:
            self._append(inputs, one.topic, one.at_ms, one.key, one.value)
        stepped = self._join.step(self._joined, Batch(0, self._number, inputs), clock_ms)
        self.found.counters = stepped.counters
        passed: dict[str, Records] = {"control": inputs["control"]} if said else {}
        for output in _told(stepped.outputs):
            if output.topic == "dead-letters":
                letter = decode(output.value, DeadLetter)
                about = letter.request_id or letter.topic
                self.found.dead.add(about, letter.reason, f"{letter.reason}: {letter.detail}")
            elif output.topic in ("measures", "trials"):
                self._append(passed, output.topic, clock_ms, output.key, output.value)
                if output.topic == "measures":
                    self._add(decode(output.value, Measures))
        judged = self._judge.step(self._judged, Batch(0, self._number, passed), clock_ms)
        for output in _told(judged.outputs):
            if output.topic == "metrics":
                metric = decode(output.value, Metric)
                if metric.closed:
                    self.found.metrics.append(metric)
            elif output.topic == "drift":
                self.found.drifts.append(decode(output.value, Drift))
        self._number += 1
        self.clock_ms = self.found.clock_ms = max(self.clock_ms, clock_ms)

    def _append(self, inputs: dict[str, Records], topic: str, at_ms: int, key: bytes | None, value: bytes) -> None:
        inputs.setdefault(topic, Records()).append(self._offsets[topic], at_ms, key, value)
        self._offsets[topic] += 1

    def _add(self, measures: Measures) -> None:
        """Count panes before and from each version's cut."""
        for pane in measures.panes:
            if pane.role == "primary":
                where = pane.version, pane.slice, pane.pane_ms >= self._cuts.get(pane.version, 0)
                self.found.ledgers.setdefault(where, Ledger()).add_flat(pane.cells)


def _told(outputs: Sequence[Output]) -> list[Output]:
    """Give outputs one by one, without the blocks of `feedback`, which nobody reads here."""
    if not isinstance(outputs, Outputs):
        return list(outputs)
    return [piece for piece in outputs.pieces if not isinstance(piece, Block)]
