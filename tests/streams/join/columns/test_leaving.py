"""A case leaves, and what was heard of it stays until it has ended: in the columns, as in the objects."""

from __future__ import annotations

from typing import Any

import pytest
from msgspec.structs import replace

from schemas.policy import Attribution, JoinPolicy
from streams.join.columns import layout as l
from streams.runtime.processor import Batch, whole_parts
from tests.streams.join.columns.plain import chained_of
from tests.streams.join.columns.test_limits import ONE, Pair, labelled, predicted
from tests.streams.join.columns.test_plain import told
from tests.streams.join.histories import T0_MS, S

POLICY = JoinPolicy(
    model="m",
    horizon_ms=10 * S,
    lateness_ms=0,
    retain_ms=0,
    on_timeout="negative",
    attribution=[Attribution(signal="click", label=1)],
)
LEAVES_MS = T0_MS + 10 * S + ONE.grace_ms + 1
STAYS_MS = ONE.early_label_ms + ONE.grace_ms


def left(*heard: dict[str, Any], early: bool = False) -> Pair:
    """Give a prediction and what is heard of it, at `at_ms` each, on to where the prediction has left."""
    pair = Pair()
    pair.step(T0_MS - 500 * S, control=[POLICY])
    if not early:
        pair.step(T0_MS, predictions=[predicted()])
    for one in heard:
        is_label = "label" in one
        pair.step(one["at_ms"], labels=[one] if is_label else [], signals=[] if is_label else [one])
    if early:
        pair.step(T0_MS + 9 * S, predictions=[predicted()])
    pair.step(LEAVES_MS)
    assert not pair.objects
    assert len(pair.columns) == 1
    assert pair.columns.counters()["predictions.final"] == 1
    return pair


def test_a_label_stays_until_it_ends() -> None:
    pair = left(labelled(1, at_ms=T0_MS + 9 * S))
    pair.step(LEAVES_MS + S, labels=[labelled(1, at_ms=T0_MS + 9 * S)])
    assert pair.columns.counters()["labels.duplicate"] == 1
    pair.step(T0_MS + 9 * S + STAYS_MS - 1)
    assert len(pair.columns) == 1
    pair.step(T0_MS + 9 * S + STAYS_MS)
    assert len(pair.columns) == pair.columns.memory.registers[l.LINKED] == 0
    assert pair.columns.counters()["labels.joined"] == 1


@pytest.mark.parametrize("early", [False, True])
def test_each_ends_by_itself(early: bool) -> None:
    heard = [labelled(k, at_ms=T0_MS + k * S, source=f"s{k % 3}") for k in (1, 3, 3, 5, 8)]
    heard.insert(2, {"request_id": "r", "at_ms": T0_MS + 4 * S, "signal": "click"})
    pair = left(*heard, early=early)
    for second in range(1, 10):
        clock_ms = T0_MS + second * S + STAYS_MS
        if clock_ms < LEAVES_MS:
            continue
        pair.step(clock_ms)
        assert len(pair.columns) == (second < 8)
        assert not pair.objects


def test_what_ended_comes_again_as_if_for_the_first_time() -> None:
    pair = left(labelled(1, at_ms=T0_MS + S), labelled(0, at_ms=T0_MS + 9 * S, source="audit"))
    ended_ms = T0_MS + S + STAYS_MS
    pair.step(ended_ms)
    pair.step(ended_ms + 1, labels=[labelled(1, at_ms=T0_MS + S)])
    assert pair.columns.counters()["labels.parked"] == 1
    pair.step(ended_ms + 8 * S)
    assert "r" in pair.objects  # it will be a dead letter
    pair.step(ended_ms + STAYS_MS + 1)
    assert not pair.objects
    assert len(pair.columns) == 0


@pytest.mark.parametrize("spoken", [True, False])
def test_an_id_that_is_used_again_finds_what_stayed(spoken: bool) -> None:
    pair = left(labelled(1, at_ms=T0_MS + 9 * S))
    if spoken:
        pair.step(LEAVES_MS, labels=[labelled(0, at_ms=LEAVES_MS, source="late")])
    said = pair.step(LEAVES_MS + 1, predictions=[predicted(at_ms=LEAVES_MS)])
    assert [one.label for one in said] == [0 if spoken else 1]
    pair.step(LEAVES_MS + 2, labels=[labelled(0, at_ms=LEAVES_MS + 1, source="later")])
    pair.step(LEAVES_MS + 10**6)
    assert not pair.objects
    assert len(pair.columns) == 0


@pytest.mark.parametrize("retain_ms", [0, 4 * 3600 * S])
def test_what_stays_is_in_a_snapshot(retain_ms: int) -> None:
    policy = replace(POLICY, retain_ms=retain_ms)
    reach_ms = T0_MS + policy.reach_ms
    pair = Pair()
    pair.step(T0_MS - 500 * S, control=[policy])
    names = ["r", "a-much-longer-request-id", "67e55044-10b1-426f-9247-bb680e5fe0c8"]
    pair.step(T0_MS, predictions=[predicted(name) for name in names])
    pair.step(T0_MS + S, labels=[labelled(1, name, T0_MS + S) for name in names])
    pair.step(reach_ms, labels=[{"request_id": name, "at_ms": reach_ms, "op": "retract"} for name in names])
    pair.step(reach_ms + ONE.grace_ms + 1)
    assert len(pair.columns) == 3
    pair.states[0] = pair.fast.load(0, whole_parts(pair.fast, pair.states[0]))
    pair.step(reach_ms + ONE.grace_ms + 2, labels=[labelled(1, names[1], T0_MS + S), labelled(1, names[2], T0_MS)])
    assert not pair.objects
    pair.step(reach_ms + STAYS_MS)
    pair.step(reach_ms + 3 * STAYS_MS)
    assert len(pair.columns) == 0


def test_what_changes_as_it_leaves_is_told_before_its_memory_is_used_again() -> None:
    fast, plain = chained_of(ONE), chained_of(ONE, columns=False)
    states = [fast.empty(0), plain.empty(0)]
    pair = Pair()  # only to write the records
    names = [f"r{k}" for k in range(3_000)]
    batches: list[tuple[int, dict[str, list[Any]]]] = [
        (T0_MS - 500 * S, {"control": [POLICY]}),
        (T0_MS, {"predictions": [predicted(name, T0_MS + k, subject="s" * 200) for k, name in enumerate(names)]}),
        (
            T0_MS + S,
            {
                "signals": [
                    {"request_id": name, "at_ms": T0_MS + S + k % 7, "signal": "click", "note": "x" * 400}
                    for k, name in enumerate(names)
                ]
            },
        ),
        (LEAVES_MS + 10 * S, {}),  # they become final as they leave
        (LEAVES_MS + 10 * STAYS_MS, {}),
    ]
    for number, (clock_ms, bodies) in enumerate(batches):
        batch = Batch(0, number, pair.records(clock_ms, bodies))
        first, second = fast.step(states[0], batch, clock_ms), plain.step(states[1], batch, clock_ms)
        assert told(first.outputs) == told(second.outputs)
        assert dict(first.counters) == dict(second.counters)
    columns = states[0].join.columns
    assert columns is not None
    assert len(columns) == 0
    assert not states[0].join.requests
