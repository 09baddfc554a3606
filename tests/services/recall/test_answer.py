"""Questions and what has landed become answers: equal bytes, whatever order, duplication and time brought."""

from __future__ import annotations

import json
from itertools import pairwise
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas.event import decode, encode
from schemas.feedback import Feedback
from schemas.recall import Recalled, RecallRequested
from services.recall.answer import FEEDBACK, KINDS, BadQuestion, Stored, answer, read_question
from streams.join.partition import partition_of

CLOCK_MS = 1000


def question(**more: object) -> RecallRequested:
    fields = {
        "request_id": "r",
        "cause": "label",
        "partition": 1,
        "step": 7,
        "clock_ms": CLOCK_MS,
        "offsets": dict.fromkeys(KINDS, 10),
        **more,
    }
    return RecallRequested(**fields)  # type: ignore[arg-type]


def stored(topic: int, offset: int, value: bytes = b"{}", *, partition: int = 1) -> Stored:
    return Stored(topic, partition, offset, 500 + offset, b"r", value, [])


def said(offset: int, revision: int, joined_at_ms: int, **more: object) -> Stored:
    fields = {"request_id": "r", "model": "m", "revision": revision, "status": "final", "policy": "p@1", **more}
    feedback = Feedback(predicted_at_ms=1, joined_at_ms=joined_at_ms, **fields)  # type: ignore[arg-type]
    return stored(FEEDBACK, offset, encode(feedback))


def only(values: list[bytes]) -> Recalled:
    assert len(values) == 1
    return decode(values[0], Recalled)


def test_only_what_lies_below_the_question_in_its_partition() -> None:
    landed = [stored(1, 9), stored(1, 10), stored(0, 3), stored(0, 4, partition=2), stored(2, 11), stored(1, 2)]
    given = only(answer(question(), landed))
    assert [(one.topic, one.offset) for one in given.events] == [("predictions", 3), ("labels", 2), ("labels", 9)]
    assert given.found
    assert (given.step, given.partition, given.offsets) == (7, 1, dict.fromkeys(KINDS, 10))


def test_a_label_alone_is_not_found_and_still_given() -> None:
    given = only(answer(question(), [stored(1, 2)]))
    assert not given.found
    assert len(given.events) == 1
    nothing = only(answer(question(), []))
    assert (nothing.found, nothing.events, nothing.feedback) == (False, [], [])


def test_records_come_as_they_came() -> None:
    one = Stored(0, 1, 5, 77, b"\x00\xff", b' {"request_id": "r"}\n', [("a", b"\xfe"), ("b", None), ("a", b"")])
    (record,) = only(answer(question(), [one])).events
    assert (record.key, record.value, record.headers) == (one.key, one.value, one.headers)
    assert (record.append_ms, record.offset, record.partition) == (77, 5, 1)
    bare = Stored(1, 1, 6, 77, None, None, [])
    (record,) = only(answer(question(), [bare])).events
    assert (record.key, record.value) == (None, None)


def test_the_last_revision_of_each_identity_at_the_questions_clock() -> None:
    landed = [
        said(5, 1, 900),
        said(8, 2, CLOCK_MS),
        said(9, 3, CLOCK_MS + 1),
        said(6, 1, 950, deployment="blue"),
        said(7, 1, 950, name="refund"),
        stored(FEEDBACK, 4, b"not json"),
    ]
    given = only(answer(question(), landed))
    assert [(one.deployment, one.name, one.revision) for one in given.feedback] == [
        ("", "label", 2),
        ("", "refund", 1),
        ("blue", "label", 1),
    ]
    assert not given.found, "feedback alone is no prediction"


records = st.lists(
    st.one_of(
        st.builds(stored, st.integers(0, 2), st.integers(0, 14), partition=st.integers(0, 2)),
        st.builds(said, st.integers(0, 30), st.integers(1, 3), st.integers(990, 1010)),
    ),
    max_size=12,
    unique_by=lambda one: one.place,
)


@given(records, st.randoms(use_true_random=False))
def test_order_and_repetition_change_nothing(landed: list[Stored], random: Random) -> None:
    again = landed + random.sample(landed, len(landed) // 2)
    random.shuffle(again)
    assert answer(question(), again) == answer(question(), landed)


@given(records, st.integers(0, 14))
def test_what_lands_later_changes_nothing(landed: list[Stored], bound: int) -> None:
    asked = question(offsets=dict.fromkeys(KINDS, bound))
    below = [one for one in landed if one.topic == FEEDBACK or one.offset < bound]
    assert answer(asked, below) == answer(asked, landed)


@given(st.lists(st.integers(0, 3000), max_size=8), st.integers(3500, 9000))
def test_parts_hold_everything_once_in_order(sizes: list[int], part_bytes: int) -> None:
    landed = [stored(0, offset, bytes(size)) for offset, size in enumerate(sizes)]
    landed.append(said(20, 1, 900, subject="s" * 200))
    values = answer(question(), landed, part_bytes)
    parts = [decode(value, Recalled) for value in values]
    assert [(one.part, one.parts) for one in parts] == [(index, len(parts)) for index in range(len(parts))]
    assert [event.offset for one in parts for event in one.events] == list(range(len(sizes)))
    assert sum(len(one.feedback) for one in parts) == 1
    assert {one.found for one in parts} == {bool(sizes)}
    alone = 2048 + 3000 * 4 // 3 + 400
    assert all(len(value) <= max(part_bytes, alone) for value in values)
    assert all(one.step == other.step for one, other in pairwise(parts))


def test_an_answer_is_what_the_contract_says() -> None:
    """What is written without reading feedback again is what the class would write."""
    (value,) = answer(question(), [said(5, 1, 900), stored(0, 1), stored(1, 1)])
    assert encode(decode(value, Recalled)) == value


@pytest.mark.parametrize(
    ("changed", "reason", "told"),
    [
        ({"request_id": ""}, "bad_event", "request_id"),
        ({"cause": "boredom"}, "bad_event", "boredom"),
        ({"offsets": {"labels": 3}}, "bad_event", "lacks predictions, signals"),
        ({"offsets": {"labels": 3, "gates": 1}}, "bad_event", "gates"),
        ({"partition": 9}, "wrong_partition", "says 9 and came in"),
        ({"request_id": "another"}, "wrong_partition", "belongs to partition"),
        ({"unknown": 1}, "bad_event", "unknown"),
    ],
)
def test_what_is_no_question(changed: dict[str, object], reason: str, told: str) -> None:
    home = partition_of(b"r", 4)
    good = encode(question(partition=home))
    assert read_question(good, home, 4).step == 7
    with pytest.raises(BadQuestion, match=told) as bad:
        read_question(json.dumps({**json.loads(good), **changed}).encode(), home, 4)
    assert bad.value.reason == reason


@pytest.mark.parametrize("value", [None, b"", b"\xff", b"{"])
def test_what_is_no_json(value: bytes | None) -> None:
    with pytest.raises(BadQuestion, match="no RecallRequested"):
        read_question(value, 0, 4)
