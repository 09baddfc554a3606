"""Columns through snapshots: whole ones, and changes laid over each other. What follows is the same, byte for byte."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from random import Random
from typing import Any

import msgspec
import numpy as np
import pytest

from streams.join.columns import layout as l
from streams.join.columns.lane import Columns
from streams.join.columns.snapshot import SMALL
from streams.join.processor import JoinProcessor
from streams.runtime.processor import Batch, flat, whole_parts
from streams.runtime.records import Records
from tests.streams.join.columns.plain import chained_of, plain_history, processor_of
from tests.streams.join.driver import Driver
from tests.streams.join.histories import BOUNDS, T0_MS, S

Parts = dict[str, bytes]


def lay_over(parts: Parts, changed: Mapping[str, Any]) -> Parts:
    """Apply an incremental dump."""
    merged = parts | {name: flat(body).tobytes() for name, body in changed.items() if body is not None}
    return {name: body for name, body in merged.items() if name not in changed or changed[name] is not None}


def columns_of(state: Any) -> Columns:
    return state.join.columns  # type: ignore[no-any-return]


def told(stepped: Any) -> tuple[Any, ...]:
    return [*stepped.outputs], dict(stepped.counters), stepped.wake_at_ms


@pytest.mark.parametrize("make", [processor_of, chained_of])
def test_a_driver_that_reloads_gives_the_same_bytes(make: Any) -> None:
    for seed in range(5):
        one = plain_history(Random(seed), requests=20)
        plain = Driver(make(BOUNDS), one, Random(seed))
        reloaded: Driver[Any] = Driver(make(BOUNDS), one, Random(seed), reload=Random(seed))
        plain.run()
        reloaded.run()
        for part, other in zip(plain.parts, reloaded.parts, strict=True):
            assert [told(step.stepped) for step in part.steps] == [told(step.stepped) for step in other.steps], seed


@pytest.mark.parametrize("make", [processor_of, chained_of])
def test_changes_laid_over_each_other_make_the_whole(make: Any) -> None:
    for seed in range(4):
        random = Random(seed)
        one = plain_history(random, requests=30)
        processor: JoinProcessor[Any] = make(BOUNDS)
        driver = Driver(processor, one, Random(seed))
        driver.run()
        for partition, part in enumerate(driver.parts):
            state = processor.empty(partition)
            followers: list[Any] = []
            parts: Parts = {}
            for number, step in enumerate(part.steps):
                wanted = told(step.stepped)
                assert told(processor.step(state, step.batch, step.clock_ms)) == wanted
                for follower in followers:
                    assert told(processor.step(follower, step.batch, step.clock_ms)) == wanted
                if random.random() < 0.25 or number == 0:
                    whole = number == 0 or random.random() < 0.1
                    changed = processor.dump(state, whole=whole).parts
                    parts = lay_over({} if whole else parts, changed)
                    followers = [*followers[-1:], processor.load(partition, parts)]


class Traffic:
    """A steady stream at one partition: every request is answered with a label, late, twice or never."""

    def __init__(self, *, each_ms: int, text: str = "") -> None:
        self.random = Random(5)
        self.each_ms = each_ms
        self.text = text
        self.number = self.step_number = 0
        self.waiting: list[tuple[int, str, int]] = []

    def batch(self, clock_ms: int, count: int) -> Batch:
        predictions, labels = Records(), Records()
        for _ in range(count):
            self.number += 1
            at_ms = clock_ms - (count - len(predictions)) * self.each_ms
            name = f"request-{self.number}"
            value = f'{{"request_id":"{name}","at_ms":{at_ms},"model":"m","score":0.5,"slices":{{"a":"{self.text}"}}}}'
            predictions.append(self.number, at_ms, name.encode(), value.encode())
            if self.number % 3:
                self.waiting.append((at_ms + self.random.randrange(60 * S), name, at_ms))
        due = sorted(one for one in self.waiting if one[0] <= clock_ms)
        self.waiting = [one for one in self.waiting if one[0] > clock_ms]
        for offset, (append_ms, name, at_ms) in enumerate(due):
            value = f'{{"request_id":"{name}","at_ms":{at_ms + 1},"label":{offset % 2}}}'
            labels.append(self.number * 2 + offset, append_ms, name.encode(), value.encode())
        self.step_number += 1
        return Batch(0, self.step_number, {"predictions": predictions, "labels": labels})


def test_state_of_steady_traffic_does_not_grow_and_dumps_name_what_is_gone() -> None:
    bounds = replace(BOUNDS, early_label_ms=10 * S, grace_ms=S, partitions=1, virtual=True)
    processor = processor_of(bounds)
    state = processor.empty(0)
    policy = (
        b'{"kind":"policy_set","policy":{"model":"m","horizon_ms":60000,"lateness_ms":0,"retain_ms":1000,'
        b'"on_timeout":"negative"}}'
    )
    processor.step(state, Batch(0, 0, {"control": Records([0], [T0_MS], [None], [policy])}), T0_MS)
    traffic = Traffic(each_ms=20)
    clock_ms = T0_MS
    parts: Parts = lay_over({}, processor.dump(state, whole=True).parts)
    sizes = []
    freed = 0
    again: Any = None
    for number in range(200):
        clock_ms += 5 * S
        batch = traffic.batch(clock_ms, 250)
        stepped = processor.step(state, batch, clock_ms)
        if again is not None:
            assert told(processor.step(again, batch, clock_ms)) == told(stepped)
        parts = lay_over(parts, processor.dump(state, whole=False).parts)
        registers = columns_of(state).memory.registers
        freed = max(freed, int(registers[l.FREED]))
        if number % 40 == 39:
            arena = sum(name.startswith("arena/") for name in parts)
            assert arena == registers[l.SEGMENTS] - registers[l.FREED]
            sizes.append((int(registers[l.SEGMENTS]), len(parts), int(registers[l.TEXTS_USED])))
            whole = whole_parts(processor, state)
            assert parts.keys() == whole.keys()
            assert all(parts[name] == whole[name] for name in whole)
            again = processor.load(0, parts)
    assert sizes[1][0] == sizes[-1][0], sizes
    assert sizes[1][2] == sizes[-1][2], sizes
    assert freed >= 1
    assert stepped.counters["predictions.final"] > 40_000
    processor.step(state, Batch(0, 10**6, {}), clock_ms + 200 * S)
    assert len(columns_of(state)) == registers[l.LINKED] == 0
    assert int(columns_of(state).memory.area[l.LIVE][: int(registers[l.SEGMENTS])].sum()) == 0


def small_of(parts: Parts) -> list[Any]:
    return msgspec.msgpack.decode(parts[SMALL])  # type: ignore[no-any-return]


def test_what_is_not_a_snapshot_of_these_columns_is_refused() -> None:
    processor = processor_of(BOUNDS)
    driver = Driver(processor, plain_history(Random(1), requests=10, freezes=False), Random(1))
    while not any(len(columns_of(part.state)) for part in driver.parts):
        driver.tick()
    number, part = next((n, part) for n, part in enumerate(driver.parts) if len(columns_of(part.state)))
    parts = whole_parts(processor, part.state)
    processor.load(number, parts)
    segment = next(name for name in parts if name.startswith("arena/"))
    other_format = parts | {SMALL: msgspec.msgpack.encode([99, *small_of(parts)[1:]])}
    with pytest.raises(ValueError, match="format 99"):
        processor.load(number, other_format)
    with pytest.raises(ValueError, match="partition"):
        processor.load(
            number, parts | {SMALL: msgspec.msgpack.encode([small_of(parts)[0], number + 1, *small_of(parts)[2:]])}
        )
    with pytest.raises(ValueError, match="chained"):
        processor.load(
            number, parts | {SMALL: msgspec.msgpack.encode([*small_of(parts)[:2], True, *small_of(parts)[3:]])}
        )
    with pytest.raises(ValueError, match=f"{segment} has"):
        processor.load(number, parts | {segment: parts[segment][:-8]})
    with pytest.raises(ValueError, match=f"{segment} is missing"):
        processor.load(number, {name: body for name, body in parts.items() if name != segment})
    with pytest.raises(ValueError, match="truncated"):
        processor.load(number, parts | {SMALL: parts[SMALL][:-1]})
    with pytest.raises(ValueError, match="without them"):
        processor_of(BOUNDS, columns=False).load(number, parts)


def test_a_state_of_objects_goes_on_beside_new_columns() -> None:
    """An older snapshot has none: its requests stay objects, and are found there."""
    for seed in range(4):
        objects, both = processor_of(BOUNDS, columns=False), processor_of(BOUNDS)
        driver = Driver(objects, plain_history(Random(seed), requests=20), Random(seed))
        driver.run()
        for partition, part in enumerate(driver.parts):
            state, other = objects.empty(partition), None
            for number, step in enumerate(part.steps):
                stepped = objects.step(state, step.batch, step.clock_ms)
                if other is not None:
                    mixed = both.step(other, step.batch, step.clock_ms)
                    assert dict(mixed.counters) == dict(stepped.counters)
                    assert len(mixed.outputs) == len(stepped.outputs)
                elif number == len(part.steps) // 3:
                    other = both.load(partition, whole_parts(objects, state))
                    assert np.count_nonzero(columns_of(other).memory.area[l.COUNTERS]) == 0


def test_positions_do_not_depend_on_what_a_load_builds_anew() -> None:
    """A load builds table and wheel in another order; what a policy moves over follows neither."""
    bounds = replace(BOUNDS, early_label_ms=S, grace_ms=S, partitions=1, max_event_bytes=50_000, virtual=True)
    processor = processor_of(bounds)
    state = processor.empty(0)
    traffic = Traffic(each_ms=1, text="x" * 300)
    clock_ms = T0_MS
    for _ in range(30):
        clock_ms += S
        processor.step(state, traffic.batch(clock_ms, 300), clock_ms)
    other = processor.load(0, whole_parts(processor, state))
    policy = (
        b'{"kind":"policy_set","policy":{"model":"m","version":%d,"effective_from_ms":%d,"horizon_ms":20000,'
        b'"lateness_ms":0,"retain_ms":0,"on_timeout":"negative"}}'
    )
    for version in range(1, 40):
        clock_ms += 2 * S
        value = policy % (version, T0_MS + (40 - version) * 700)
        control = Records([version], [clock_ms], [None], [value])
        batch = traffic.batch(clock_ms, 200)
        batch = replace(batch, inputs={**batch.inputs, "control": control})
        first, second = (processor.step(one, batch, clock_ms) for one in (state, other))
        assert told(first) == told(second), version
        if version % 10 == 0:
            other = processor.load(0, whole_parts(processor, other))
