"""A state rebuilt from a window goes on as the one that was, digest and counters; what is missing is noticed."""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

import msgspec
import pytest

from schemas.control import Frozen, PolicySet
from schemas.event import encode
from schemas.inputs import Label, Prediction, Signal
from schemas.policy import Attribution, JoinPolicy
from schemas.records import Step
from streams.join.admission import JoinBounds
from streams.join.processor import JoinMeasureState, JoinProcessor
from streams.join.rebuild import window_ms
from streams.measure.measure import Measure, MeasureState
from streams.runtime import steps
from streams.runtime.clock import VirtualClock
from streams.runtime.failures import NotRestored
from streams.runtime.past import Gone
from streams.runtime.processor import Batch, whole_parts
from streams.runtime.records import Records
from streams.runtime.restore import Restored
from streams.runtime.window import MARGIN_MS, rebuilt

MINUTE_MS = 60_000
HOUR_MS = 60 * MINUTE_MS
STEP_MS = 4 * MINUTE_MS
T0_MS = 1_700_000_000_000
BOUNDS = JoinBounds(
    skew_ms=MINUTE_MS,
    early_label_ms=5 * MINUTE_MS,
    grace_ms=MINUTE_MS,
    partitions=1,
    max_event_bytes=10_000,
    virtual=True,
)
POLICY = JoinPolicy(
    model="m",
    horizon_ms=20 * MINUTE_MS,
    on_timeout="negative",
    provisional_after_ms=MINUTE_MS,
    retain_ms=HOUR_MS,
    attribution=[Attribution(signal="click", label=1)],
)
INPUTS = ("control", "predictions", "labels", "signals")

State = JoinMeasureState[MeasureState]


def processor(columns: bool = True) -> JoinProcessor[MeasureState]:
    return JoinProcessor(BOUNDS, Measure(partitions=1), columns=columns)


@dataclass
class Log:
    """Everything that was ever appended, the steps that were taken over it, and from where on it is still there."""

    records: dict[str, list[tuple[int, bytes]]] = field(default_factory=lambda: {name: [] for name in INPUTS})
    steps: list[Step] = field(default_factory=list)
    first_step: int = 1
    low: dict[str, int] = field(default_factory=lambda: dict.fromkeys(INPUTS, 0))
    lost: frozenset[tuple[str, int]] = frozenset()

    def between(self, name: str, start: int, end: int) -> Records:
        found = Records()
        for offset in range(start, end):
            if (name, offset) not in self.lost:
                append_ms, value = self.records[name][offset]
                key = msgspec.json.decode(value).get("request_id", "")
                found.append(offset, append_ms, key.encode(), value)
        return found

    # What a restore asks of `streams.runtime.past.Past`.

    def at(self, number: int) -> Step:
        return self.steps[number - 1]

    def before(self, clock_ms: int, number: int) -> tuple[int, Step] | None:
        found = [step for step in self.steps[self.first_step - 1 : number] if step.clock_ms <= clock_ms]
        return (found[-1].number, found[-1]) if found else None

    def up_to(self, start: Mapping[str, int]) -> _Tape:
        return _Tape(self, dict(start))

    def after(self, number: int, last: int) -> Iterator[tuple[int, Step]]:
        return ((step.number, step) for step in self.steps[number:last])


@dataclass
class _Tape:
    log: Log
    at: dict[str, int]

    def up_to(self, vector: Mapping[str, int]) -> dict[str, Records]:
        found = {}
        for name, start in self.at.items():
            assert start >= self.log.low[name], f"{name} is gone below {self.log.low[name]}"
            found[name] = self.log.between(name, start, vector[name])
            self.at[name] = vector[name]
        return found


class Past:
    """A `streams.runtime.past.Past` over a log in memory."""

    def __init__(self, log: Log) -> None:
        self.at, self.before, self.records = log.at, log.before, log.up_to
        self.steps = lambda after, offset, number: log.after(after, number)


def history(seed: int, hours: int, columns: bool) -> tuple[Log, State]:
    """Take a step every four minutes over predictions whose labels and clicks come late, twice, too early or never."""
    dice = random.Random(seed)
    log = Log()
    later: dict[str, list[tuple[int, bytes]]] = {name: [] for name in INPUTS}
    for number in range(hours * HOUR_MS // STEP_MS * 2):
        at_ms = T0_MS + number * STEP_MS // 2 + dice.randrange(20_000)
        request_id = f"r{number}" if dice.random() < 0.95 else f"r{number - 1}"
        told = Prediction(
            request_id=request_id,
            at_ms=at_ms,
            model="m" if dice.random() < 0.9 else "other",
            version="1",
            score=dice.random(),
            features={"x": dice.random()},
        )
        later["predictions"].append((at_ms + dice.randrange(2000), encode(told)))
        for _ in range(dice.choice((0, 1, 1, 2))):
            label_ms = at_ms + dice.randrange(-MINUTE_MS, 30 * MINUTE_MS)
            label = Label(request_id=request_id, at_ms=label_ms, label=dice.randrange(2))
            later["labels"].append((label_ms + dice.randrange(3 * MINUTE_MS), encode(label)))
        if dice.random() < 0.2:
            click = Signal(request_id=request_id, at_ms=at_ms + 1000, signal="click")
            later["signals"].append((at_ms + dice.randrange(1000, HOUR_MS), encode(click)))
    for name, found in later.items():
        log.records[name] = sorted(found)
    log.records["control"] = [(T0_MS, encode(PolicySet(policy=POLICY)))]
    taken = processor(columns)
    state, at = taken.empty(0), dict.fromkeys(INPUTS, 0)
    clock = VirtualClock()
    for number in range(1, hours * HOUR_MS // STEP_MS + 1):
        clock_ms = T0_MS + number * STEP_MS
        end = {name: sum(append_ms < clock_ms for append_ms, _ in log.records[name]) for name in INPUTS}
        batch = Batch(0, number, {name: log.between(name, at[name], end[name]) for name in INPUTS}, end)
        stepped = steps.take(taken, state, clock, batch, clock_ms)
        log.steps.append(steps.record(taken, batch, stepped, clock_ms))
        at = end
    return log, state


def rebuild(log: Log, number: int, columns: bool = True) -> Restored[State]:
    return rebuilt(processor(columns), 0, Past(log), number, lambda ms: VirtualClock(ms=ms))  # type: ignore[arg-type]


@pytest.fixture(scope="module", params=[True, False], ids=["columns", "objects"])
def past(request: pytest.FixtureRequest) -> tuple[Log, State, bool]:
    return *history(1, 34, request.param), request.param


def test_window_gives_the_state_that_was(past: tuple[Log, State, bool]) -> None:
    log, state, columns = past
    number = len(log.steps) - 60
    restored = rebuild(log, number, columns)
    assert restored.replayed < number - 20
    assert (restored.step, restored.counters) == (number, log.steps[number - 1].counters)
    taken = processor(columns)
    clock = VirtualClock()
    tape = log.up_to(restored.offsets)
    for _, step in log.after(number, len(log.steps)):
        batch = Batch(0, step.number, tape.up_to(step.offsets), step.offsets)
        again = steps.take(taken, restored.state, clock, batch, step.clock_ms)
        assert steps.record(taken, batch, again, step.clock_ms) == step
    if not columns:  # columns lie where there was room
        assert whole_parts(taken, restored.state) == whole_parts(taken, state)


def test_a_missing_record_is_noticed(past: tuple[Log, State, bool]) -> None:
    log, _, columns = past
    last = log.steps[-1]
    lacking = Log(log.records, log.steps, lost=frozenset({("predictions", last.offsets["predictions"] - 3)}))
    with pytest.raises(NotRestored, match="taken again differs from its record"):
        rebuild(lacking, last.number, columns)


def test_state_that_is_not_the_one_that_was_is_refused(past: tuple[Log, State, bool]) -> None:
    log, _, columns = past
    reach_ms = window_ms([POLICY], BOUNDS)
    last = log.steps[-1]
    first = log.before(last.clock_ms - reach_ms - MARGIN_MS, last.number)
    assert first is not None
    met = next(step for step in log.steps if step.clock_ms > first[1].clock_ms + reach_ms)
    lacking = Log(log.records, log.steps, lost=frozenset({("predictions", met.offsets["predictions"] - 1)}))
    with pytest.raises(NotRestored, match=r"is not the one that was: predictions\.\w+: recorded \d+, rebuilt \d+"):
        rebuild(lacking, last.number, columns)


def test_what_does_not_reach_back_is_gone(past: tuple[Log, State, bool]) -> None:
    log, _, columns = past
    short = Log(log.records, log.steps, first_step=200)
    with pytest.raises(Gone, match="no step 1800000 ms older than that is left"):
        rebuild(short, len(log.steps), columns)


def test_only_records_after_the_first_step_are_read(past: tuple[Log, State, bool]) -> None:
    log, _, columns = past
    last = log.steps[-1]
    found = log.before(last.clock_ms - window_ms([POLICY], BOUNDS) - MARGIN_MS, last.number)
    assert found is not None
    short = Log(log.records, log.steps, low={**found[1].offsets, "control": 0})
    assert rebuild(short, last.number, columns).step == last.number


def test_freeze_in_force_has_no_window() -> None:
    log, _ = history(2, 1, True)
    log.records["control"].append((T0_MS + 1, encode(Frozen(source="desk"))))
    log.steps[-1] = msgspec.structs.replace(log.steps[-1], offsets={**log.steps[-1].offsets, "control": 2})
    with pytest.raises(Gone, match="a freeze is in force"):
        rebuild(log, len(log.steps))
