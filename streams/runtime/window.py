"""Rebuilding a state without its beginning: nothing of what is older than a window is in state any more.

When neither a snapshot nor the first steps are left, a processor that forgets (`processor.Forgetful`) can still be
brought to step N. Begin at a step f so old that whatever was read before it has left state by N: empty, but for all of
control up to then. Take the steps after f again. Their outputs differ from the recorded ones while something of before
f is missing, so they are not compared; once all of that would have left (step g), the cumulative counters are taken
from the record of g, and those of them that count what is in state must be what the rebuilt state counts. From g to N
every step is compared as usual, digest and counters. So f lies a margin before the window: there are steps to compare.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import structlog

from schemas.records import Step
from streams.runtime import steps
from streams.runtime.clock import CONTROL, PartitionClock
from streams.runtime.failures import NotRestored
from streams.runtime.past import Between, Gone, Past
from streams.runtime.processor import Batch, Forgetful
from streams.runtime.restore import Restored, repeat

StateT = TypeVar("StateT")

MARGIN_MS = 1_800_000
"""How much older than the window the first step is: an input may lead the clock (`worker.LEAD_MS`), and more."""

_log = structlog.get_logger()


def rebuilt(
    processor: Forgetful[StateT], partition: int, past: Past, number: int, clock_at: Callable[[int], PartitionClock]
) -> Restored[StateT]:
    """Build the state after a step. Raises `Gone` when what is there does not reach back far enough.

    Raises `NotRestored` when what was built is not what the records say.
    """
    last = past.at(number)
    reach_ms = processor.reach_ms(_begun(processor, partition, past, last))
    if reach_ms is None:
        raise Gone(
            f"partition {partition}: what is in state has no end now (a freeze is in force): no window holds it",
            fix="to go on without it, use another namespace",
        )
    found = past.before(last.clock_ms - reach_ms - MARGIN_MS, number)
    if found is None:
        raise Gone(
            f"partition {partition}: state reaches {reach_ms} ms back from the clock {last.clock_ms} of step {number}, "
            f"and no step {MARGIN_MS} ms older than that is left",
            fix="retention of `steps` and ClickHouse together have to reach back so far; to go on without, use another "
            "namespace",
        )
    place, first = found
    restored = Restored(
        _begun(processor, partition, past, first),
        clock_at(first.clock_ms),
        step=first.number,
        offsets=dict(first.offsets),
        steps_offset=place,
        origin=f"nothing at step {first.number}, older than anything in state",
    )
    _log.info("rebuilding", partition=partition, first_step=first.number, up_to=number, reach_ms=reach_ms)
    records = past.records(first.offsets)
    adopted = False
    for offset, step in past.steps(first.number, place, number):
        if adopted:
            repeat(processor, restored, partition, offset, step, records.up_to)
            continue
        _take(processor, restored, partition, offset, step, records)
        if processor.forgotten(restored.state, first.clock_ms):
            _adopt(processor, restored, partition, step)
            adopted = True
    if not adopted:
        raise Gone(
            f"partition {partition}: from step {first.number} to {number} not all that was older left state",
            fix="to go on without it, use another namespace",
        )
    return restored


def _begun(processor: Forgetful[StateT], partition: int, past: Past, step: Step) -> StateT:
    """Give the state that has heard all of control up to a step, and nothing else."""
    control = past.records({CONTROL: 0}).up_to({CONTROL: step.offsets.get(CONTROL, 0)})[CONTROL]
    state = processor.empty(partition)
    processor.step(state, Batch(partition, step.number, {CONTROL: control}), step.clock_ms)
    return state


def _take(
    processor: Forgetful[StateT],
    restored: Restored[StateT],
    partition: int,
    offset: int,
    step: Step,
    records: Between,
) -> None:
    batch = Batch(partition, step.number, records.up_to(step.offsets), step.offsets, step.cut_ms)
    stepped = steps.take(processor, restored.state, restored.clock, batch, step.clock_ms)
    restored.step, restored.offsets, restored.steps_offset = step.number, dict(step.offsets), offset
    restored.wake_at_ms, restored.counters = stepped.wake_at_ms, stepped.counters
    restored.replayed += 1


def _adopt(processor: Forgetful[StateT], restored: Restored[StateT], partition: int, step: Step) -> None:
    wrong = {
        name: (step.counters.get(name, 0), restored.counters.get(name, 0))
        for name in processor.gauges
        if step.counters.get(name, 0) != restored.counters.get(name, 0)
    }
    if wrong:
        said = ", ".join(f"{name}: recorded {was}, rebuilt {now}" for name, (was, now) in sorted(wrong.items()))
        raise NotRestored(
            f"partition {partition}: the state rebuilt up to step {step.number} is not the one that was: {said}",
            fix="records are missing in ClickHouse (`weir verify` names the residual), or something older is still in "
            "state; a snapshot is needed, or another namespace",
        )
    processor.adopt(restored.state, step.counters)
    restored.counters = dict(step.counters)
