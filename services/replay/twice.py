"""The same records through the real join twice: under the policies that were in force, and under the one to try.

Each partition by itself, and in it the order of Kafka's time. A step takes what Kafka took in a short span and ends at
the span's end, which is its clock: nothing is said before it was read, and what is said is up to one span later than it
would have been (`span_ms` of the result). The last revision does not depend on steps (docs/join.md).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Final

import msgspec

from schemas.control import Control, PolicySet
from schemas.event import encode
from schemas.feedback import Feedback
from schemas.inputs import Prediction, Role
from schemas.policy import JoinPolicy
from schemas.settings import Settings
from schemas.topics import INPUTS
from services.replay.compare import Comparison, Side
from services.replay.plan import Plan, during
from services.replay.stream import ROWS, Landed, Part
from services.train.teaching import waits_of
from streams.join.admission import JoinBounds
from streams.join.arrivals import Arrivals
from streams.join.naive import Record
from streams.join.outcome import Change
from streams.join.processor import JoinProcessor
from streams.measure.cells import Deltas
from streams.measure.ledger import Ledger
from streams.runtime.processor import Batch
from streams.runtime.records import Records

STEPS: Final = 20_000
"""A partition's time is cut into at most about so many spans."""
LEAST_SPAN_MS: Final = 1_000

Which = tuple[str, str, Role]
"""(version, deployment, role)."""
Advance = Callable[[int], None]


class Tally:
    """What `measure` would count, chained behind the join: one ledger per version, deployment and role, no panes."""

    version = "replay"

    def empty(self, partition: int) -> dict[Which, Ledger]:
        """Give no counts."""
        return {}

    def step(
        self,
        state: dict[Which, Ledger],
        changes: Sequence[Change],
        control: Sequence[Control],
        batch: Batch,
        clock_ms: int,
        *,
        arrivals: Arrivals,
        timers_ms: int,
    ) -> list[Any]:
        """Add what changed."""
        if changes:
            deltas = Deltas(1 << 60, _no_reference, _no_slice)
            deltas.add(changes)
            for pane in deltas.pane_deltas():
                state.setdefault((pane.version, pane.deployment, pane.role), Ledger()).add_flat(pane.cells)
        return []

    def dump(self, state: dict[Which, Ledger]) -> bytes:
        """Raise: a replay takes no snapshots."""
        raise NotImplementedError

    def load(self, partition: int, body: bytes) -> dict[Which, Ledger]:
        """Raise: a replay takes no snapshots."""
        raise NotImplementedError


def _no_reference(prediction: Prediction) -> None:
    return None


def _no_slice(prediction: Prediction) -> str:
    return ""


@dataclass(slots=True)
class Replayed:
    """What came of both. `span_ms` is how finely time was cut, `clock_ms` the least clock that was replayed up to."""

    comparison: Comparison
    ledgers: dict[Side, dict[Which, Ledger]]
    rows: int = 0
    span_ms: int = 0
    clock_ms: int = 0
    reading: dict[int, int] = field(default_factory=dict)


def replay(settings: Settings, landed: Landed, plan: Plan, parts: Sequence[Part], advance: Advance) -> Replayed:
    """Read the window once and resolve it under both. `advance` is told of rows read."""
    newest = max(
        (one for part in parts for one in during(plan.in_force[part.number], plan.model, plan.window)),
        key=lambda one: (one.effective_from_ms, one.version),
        default=JoinPolicy(model=plan.model),
    )
    in_force = waits_of(plan.model, (one for part in parts for one in plan.in_force[part.number]))
    comparison = Comparison(
        {"before": newest.label_name, "after": plan.tried.label_name, "landed": newest.label_name},
        {"before": in_force, "after": waits_of(plan.model, [plan.tried]), "landed": in_force},
    )
    found = Replayed(comparison, {"before": {}, "after": {}}, clock_ms=min((p.clock_ms for p in parts), default=0))
    bounds = replace(JoinBounds.of(settings), virtual=True)
    for part in parts:
        _part(settings, landed, plan, part, bounds, found, advance)
    return found


@dataclass(slots=True)
class _Running:
    """One side of one partition."""

    side: Side
    processor: JoinProcessor[dict[Which, Ledger]]
    state: Any
    wake_at_ms: int | None = None
    number: int = 0

    def step(self, partition: int, inputs: Mapping[str, Records], clock_ms: int, comparison: Comparison) -> None:
        """Take a step, if there is anything to take."""
        due = self.wake_at_ms is not None and self.wake_at_ms <= clock_ms
        if not inputs and not due:
            return
        stepped = self.processor.step(self.state, Batch(partition, self.number, inputs), clock_ms)
        self.number += 1
        self.wake_at_ms = stepped.wake_at_ms
        for output in stepped.outputs:
            if output.topic == "feedback":
                comparison.say(self.side, _feedback.decode(output.value))


_feedback = msgspec.json.Decoder(Feedback)


def _part(
    settings: Settings,
    landed: Landed,
    plan: Plan,
    part: Part,
    bounds: JoinBounds,
    found: Replayed,
    advance: Advance,
) -> None:
    comparison, last_said_ms = found.comparison, landed.last_said_ms(part)
    rows, first_ms, _ = landed.rows(plan, part)
    end_ms = min(part.clock_ms, plan.window.to_ms + plan.reach_ms + settings.join.skew_ms + settings.join.grace_ms)
    sides = [
        _started("before", part, plan.in_force[part.number], bounds, comparison),
        _started("after", part, [plan.tried], bounds, comparison),
    ]
    said = landed.said(plan, part)
    heard = next(said, None)
    span_ms = max(LEAST_SPAN_MS, (end_ms - first_ms) // STEPS)
    found.span_ms = max(found.span_ms, span_ms) if rows else found.span_ms
    stretch_ms = max(span_ms, -(-(end_ms - first_ms) * ROWS // max(rows, 1)) // span_ms * span_ms)
    start_ms = first_ms if rows else end_ms
    while start_ms <= end_ms:
        until_ms = min(start_ms + stretch_ms, end_ms + 1)
        read = landed.stretch(plan, part, start_ms, until_ms) if rows else {}
        for clock_ms, inputs in spans(read, start_ms, until_ms, span_ms, sides):
            for side in sides:
                side.step(part.number, inputs, min(clock_ms, end_ms), comparison)
        while heard is not None and heard.joined_at_ms < until_ms:
            comparison.say("landed", heard)
            heard = next(said, None)
        found.rows += (count := sum(map(len, read.values())))
        advance(count)
        start_ms = until_ms
        comparison.end(until_ms - plan.reach_ms - settings.join.grace_ms - span_ms, last_said_ms, until_ms - 1)
    while heard is not None and heard.joined_at_ms <= end_ms:
        comparison.say("landed", heard)
        heard = next(said, None)
    comparison.end(None, last_said_ms, end_ms)
    for side in sides:
        for which, ledger in side.state.chained.items():
            found.ledgers[side.side].setdefault(which, Ledger()).add(ledger.cells)


def _started(
    side: Side, part: Part, policies: Sequence[JoinPolicy], bounds: JoinBounds, comparison: Comparison
) -> _Running:
    """Begin one side: its policies are there before anything else."""
    processor = JoinProcessor(bounds, Tally())
    running = _Running(side, processor, processor.empty(part.number))
    control = Records()
    for offset, policy in enumerate(policies):
        control.append(offset, 0, None, encode(PolicySet(policy=policy)))
    running.step(part.number, {"control": control} if policies else {}, 0, comparison)
    return running


def spans(
    read: Mapping[str, Sequence[Record]], start_ms: int, until_ms: int, span_ms: int, sides: Sequence[_Running]
) -> Iterator[tuple[int, dict[str, Records]]]:
    """Cut a stretch into steps: (clock, what was read), only where there is something to read or due."""
    taken = dict.fromkeys(read, 0)
    now_ms = start_ms
    while now_ms < until_ms:
        waiting = [read[topic][place].append_ms for topic, place in taken.items() if place < len(read[topic])]
        due = [side.wake_at_ms for side in sides if side.wake_at_ms is not None]
        nearest = min([*waiting, *due], default=until_ms)
        if nearest >= until_ms:
            break
        now_ms = max(now_ms, start_ms + (nearest - start_ms) // span_ms * span_ms)
        end_ms = min(now_ms + span_ms, until_ms)
        inputs: dict[str, Records] = {}
        for topic in INPUTS:
            one = read.get(topic, ())
            place = taken.get(topic, 0)
            records = Records()
            while place < len(one) and one[place].append_ms < end_ms:
                record = one[place]
                beside = record.headers or None, record.index
                records.append(record.offset, record.append_ms, record.key, record.value, *beside)
                place += 1
            if len(records):
                taken[topic] = place
                inputs[topic] = records
        yield end_ms - 1, inputs
        now_ms = end_ms
    yield until_ms - 1, {}
