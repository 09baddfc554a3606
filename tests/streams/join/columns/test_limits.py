"""Where the columns end: what is too much for a record, a table or a number goes to the objects, or is said plainly."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import asdict, replace
from typing import Any

import msgspec
import pytest

from schemas.control import PolicySet
from schemas.event import decode, encode
from schemas.feedback import Feedback
from schemas.policy import Attribution, JoinPolicy
from streams.join.admission import JoinBounds
from streams.join.columns import layout as l
from streams.join.columns.lane import Columns
from streams.join.columns.policies import PolicyTable, plain
from streams.join.policies import DEFAULT
from streams.join.processor import JoinProcessor
from streams.runtime.processor import Batch, whole_parts
from streams.runtime.records import Records
from tests.streams.join.columns.test_plain import told
from tests.streams.join.histories import BOUNDS, T0_MS, S

MANY = int(os.environ.get("WEIR_COLUMNS_REQUESTS", "60000"))
ONE = replace(BOUNDS, partitions=1, max_event_bytes=400_000, virtual=True)


class Pair:
    """One processor with columns and one without, fed with the same steps, compared after each."""

    def __init__(self, **more: Any) -> None:
        bounds = JoinBounds(**asdict(replace(ONE, **more)))
        self.fast, self.plain = JoinProcessor[None](bounds), JoinProcessor[None](bounds, columns=False)
        self.states: list[Any] = [self.fast.empty(0), self.plain.empty(0)]
        self.offset = 0
        self.steps = 0

    @property
    def columns(self) -> Columns:
        return self.states[0].join.columns  # type: ignore[no-any-return]

    @property
    def objects(self) -> dict[str, Any]:
        return self.states[0].join.requests  # type: ignore[no-any-return]

    def step(self, clock_ms: int, *, append_ms: int | None = None, **bodies: list[Any]) -> list[Feedback]:
        """Take events (JSON trees, or bytes), or policies; give the feedback."""
        self.steps += 1
        batch = Batch(0, self.steps, self.records(clock_ms if append_ms is None else append_ms, bodies))
        first = self.fast.step(self.states[0], batch, clock_ms)
        second = self.plain.step(self.states[1], batch, clock_ms)
        assert told(first.outputs) == told(second.outputs)
        assert dict(first.counters) == dict(second.counters)
        return [decode(one.value, Feedback) for one in first.outputs if one.topic == "feedback"]

    def records(self, append_ms: int, bodies: Mapping[str, list[Any]]) -> dict[str, Records]:
        """Write events, all appended at once, at the next offsets."""
        inputs = {}
        for topic, events in bodies.items():
            records = Records()
            for event in events:
                self.offset += 1
                if isinstance(event, JoinPolicy):
                    event = encode(PolicySet(policy=event))
                value = event if isinstance(event, bytes) else json.dumps(event, ensure_ascii=False).encode()
                tree = msgspec.json.decode(value) if b"request_id" in value else {}
                key = tree["request_id"].encode() if tree else None
                records.append(self.offset, append_ms, key, value)
            inputs[topic] = records
        return inputs


def predicted(request_id: str = "r", at_ms: int = T0_MS, **more: Any) -> dict[str, Any]:
    return {"request_id": request_id, "at_ms": at_ms, "model": "m"} | more


def labelled(label: Any, request_id: str = "r", at_ms: int = T0_MS + 1, **more: Any) -> dict[str, Any]:
    return {"request_id": request_id, "at_ms": at_ms, "label": label} | more


@pytest.mark.parametrize("count", [15, 16, 17, 40])
def test_more_is_heard_of_a_request_than_a_record_may_hold(count: int) -> None:
    pair = Pair()
    pair.step(T0_MS, predictions=[predicted()])
    for number in range(count):
        pair.step(T0_MS + number, labels=[labelled(number % 3, at_ms=T0_MS + number, source=f"s{number % 4}")])
    assert ("r" in pair.objects) == (count > l.MOST_HEARD)
    early = Pair()
    early.step(T0_MS, labels=[labelled(number, at_ms=T0_MS + number) for number in range(count)])
    assert len(early.step(T0_MS, predictions=[predicted()])) == 1
    assert ("r" in early.objects) == (count > l.MOST_HEARD)
    for pair_ in (pair, early):
        pair_.step(T0_MS + 10**9)
        assert not pair_.objects
        assert len(pair_.columns) == 0


@pytest.mark.parametrize("size", [3_000, 8_000, 9_000, 30_000, 33_000, 90_000, 120_000])
def test_large_records(size: int) -> None:
    pair = Pair()
    long = "y" * size
    pair.step(T0_MS, control=[JoinPolicy(model="m", carry="features", on_timeout="negative")])
    pair.step(T0_MS, predictions=[predicted("a", features={"x": long}), predicted("b", slices={"x": long})])
    pair.step(
        T0_MS, predictions=[predicted("c", prediction=long), predicted("d", unknown=long), predicted("e", action=long)]
    )
    pair.step(T0_MS, predictions=[predicted("f", subject=long), predicted("g")])
    pair.step(T0_MS, labels=[labelled(long, "a"), labelled(1, "b", source=long), labelled(1, "c", unknown=long)])
    pair.step(T0_MS, labels=[labelled(long, "g"), labelled(long, "g", at_ms=T0_MS + 2, source="h")])
    said = pair.step(T0_MS, labels=[labelled("z" + long, "g", at_ms=T0_MS + 3), labelled(0, "d", event_id=long)])
    assert said[0].was is not None
    assert said[0].was.label == long
    pair.step(T0_MS + 10**9)
    assert not pair.objects
    assert len(pair.columns) == 0


def test_labels_of_a_policy_are_bounded_in_the_columns() -> None:
    labels: tuple[Any, ...] = ("n" * 100_000, ["a"], "n" * 8_000)
    for label in labels:
        rule = Attribution(signal="click", label=label)
        for policy in (
            JoinPolicy(model="m", on_timeout="negative", negative_label=label, provisional_after_ms=0),
            JoinPolicy(model="m", attribution=[rule]),
        ):
            assert plain(policy) is (label == "n" * 8_000)
            pair = Pair()
            pair.step(T0_MS, control=[policy])
            pair.step(T0_MS, predictions=[predicted(f"r{number}", prediction="p" * 8_000) for number in range(200)])
            signals = [{"request_id": f"r{number}", "at_ms": T0_MS, "signal": "click"} for number in range(200)]
            pair.step(T0_MS + 1, signals=signals)
            pair.step(T0_MS + 2, labels=[labelled("l" * 8_000, f"r{number}") for number in range(200)])
            pair.step(T0_MS + 10**9)


def test_far_moments_are_no_records() -> None:
    """Moments have 48 bits: what may lie behind them goes to the objects, instead of firing at once for ever."""
    far_ms = 253_402_300_799_999
    pair = Pair()
    pair.step(T0_MS, control=[JoinPolicy(model="m", horizon_ms=far_ms, retain_ms=far_ms, on_timeout="negative")])
    pair.step(T0_MS, predictions=[predicted()])
    pair.step(T0_MS + 1, labels=[labelled(1)])
    pair.step(far_ms - S, predictions=[predicted("late", far_ms - S)], append_ms=far_ms - S)
    assert pair.states[0].join.wake_at_ms() > far_ms
    other = Pair()
    other.step(far_ms - S, predictions=[predicted("late", far_ms - S)], labels=[labelled(1, "no", at_ms=far_ms - S)])
    assert set(other.objects) == {"late", "no"}
    assert other.states[0].join.wake_at_ms() > far_ms - S
    without = Pair()
    without.step(0, predictions=[predicted("a", 5)], labels=[labelled(1, "b", 5)], append_ms=-1)
    assert set(without.objects) == {"a", "b"}


def test_a_model_named_as_the_default_policy_has_its_own() -> None:
    pair = Pair()
    pair.step(T0_MS, control=[JoinPolicy(model="default", horizon_ms=S, lateness_ms=0, on_timeout="negative")])
    pair.step(T0_MS, predictions=[predicted() | {"model": "default"}])
    assert len(pair.step(T0_MS + S)) == 1
    state = pair.fast.load(0, whole_parts(pair.fast, pair.states[0]))
    assert (
        pair.fast.step(state, Batch(0, 9, {}), T0_MS + S).wake_at_ms
        == pair.fast.step(pair.states[0], Batch(0, 9, {}), T0_MS + S).wake_at_ms
    )


def test_features_from_ahead_of_time_are_there_when_a_policy_wants_them() -> None:
    pair = Pair(virtual=False)
    at_ms = T0_MS + 90 * S
    events = [predicted("x", at_ms, features={"x": 1}), predicted("y", at_ms), predicted("z", features={"x": 1})]
    pair.step(T0_MS, predictions=events)
    policy = JoinPolicy(model="m", effective_from_ms=at_ms, carry="features", horizon_ms=S, on_timeout="negative")
    pair.step(T0_MS + S, control=[policy])
    said = pair.step(at_ms + 10**6)
    assert [one.features for one in sorted(said, key=lambda one: one.request_id)] == [{"x": 1}, {}]


def test_more_slices_than_are_shared() -> None:
    """From `SHARED_TEXTS` on, the text lies in the record."""
    pair = Pair()
    at_ms = T0_MS
    count = l.SHARED_TEXTS + 500
    for first in range(0, count, 10_000):
        records = Records()
        for number in range(first, min(count, first + 10_000)):
            value = b'{"request_id":"r%d","at_ms":%d,"model":"m","slices":{"n":%d}}' % (number, at_ms, number)
            records.append(number, at_ms, b"r%d" % number, value)
        pair.fast.step(pair.states[0], Batch(0, 0, {"predictions": records}), at_ms)
    columns = pair.columns
    assert len(columns) == count
    assert columns.memory.registers[l.TEXTS_USED] == l.SHARED_TEXTS
    chosen = [0, 1, l.SHARED_TEXTS - 10, l.SHARED_TEXTS, count - 1]
    labels = Records(
        [*range(5)],
        [at_ms] * 5,
        [b"r%d" % number for number in chosen],
        [json.dumps(labelled(1, f"r{number}")).encode() for number in chosen],
    )
    stepped = pair.fast.step(pair.states[0], Batch(0, 0, {"labels": labels}), at_ms)
    assert [decode(one.value, Feedback).slices for one in stepped.outputs] == [{"n": number} for number in chosen]
    assert not pair.objects


def test_names_that_records_bring_leave_room_for_policies() -> None:
    pair = Pair()
    columns = pair.columns
    for number in range(columns.memory.registers[l.TEXTS_USED], l.TAKEN_TEXTS):
        columns.name(b"source-%d" % number)
    pair.step(T0_MS, predictions=[predicted()])
    assert set(pair.objects) == {"r"}
    pair.step(T0_MS, labels=[labelled(1, source="new"), labelled(1, "q", source="newer")])
    pair.step(T0_MS, signals=[{"request_id": "q", "at_ms": T0_MS, "signal": "newest"}])
    assert set(pair.objects) == {"r", "q"}
    policy = JoinPolicy(model="m2", effective_from_ms=T0_MS, label_name="n", precedence=["a", "b"], exposure="seen")
    pair.step(T0_MS, control=[policy])
    pair.step(T0_MS, labels=[labelled(1, "s", source="source-7")])


def test_very_many_policies_of_one_model() -> None:
    columns = Columns(0, JoinBounds(**asdict(ONE)), chained=False)
    policies = []
    for version in range(1, 3_500):
        policies.append(JoinPolicy(model="m", version=version, effective_from_ms=version))
        if version % 7 == 0 or version > 3_490:
            columns.policies.govern("m", policies)
    table = PolicyTable(columns.memory, columns.name, DEFAULT)
    assert len(table.policies) == 1
    assert columns.policies.policies[-1] is policies[-1]


def test_many_requests_split_the_tables_and_leave_again() -> None:
    pair = Pair()
    state = pair.states[0]
    pair.fast.step(state, Batch(0, 0, {}), T0_MS)
    for first in range(0, MANY, 20_000):
        records = Records()
        for number in range(first, min(MANY, first + 20_000)):
            value = b'{"request_id":"request-%d","at_ms":%d,"model":"m"}' % (number, T0_MS)
            records.append(number, T0_MS, b"request-%d" % number, value)
        pair.fast.step(state, Batch(0, 1, {"predictions": records}), T0_MS)
    columns = pair.columns
    assert len(columns) == MANY
    assert columns.memory.registers[l.TABLES_USED] > MANY // l.TABLE
    assert all(columns.find(f"request-{number}") >= 0 for number in range(0, MANY, 97))
    other = pair.fast.load(0, whole_parts(pair.fast, state))
    assert len(other.join.columns or ()) == MANY
    end_ms = T0_MS + JoinPolicy(model="m").reach_ms + ONE.grace_ms + 1
    for one in (state, other):
        stepped = pair.fast.step(one, Batch(0, 2, {}), end_ms)
        assert stepped.counters["predictions.unlabelled"] == MANY
        assert stepped.wake_at_ms is None
        assert len(one.join.columns) == 0  # type: ignore[arg-type]
        registers = one.join.columns.memory.registers  # type: ignore[union-attr]
        assert registers[l.FREED] == registers[l.SEGMENTS] - 1
