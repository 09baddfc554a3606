"""Predictions beside frozen rows: what agrees, what is found, what is refused."""

from __future__ import annotations

from collections import Counter
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from schemas.control import ParityRow, ParitySet
from schemas.event import Scalar
from schemas.inputs import Prediction
from streams.measure.measure import Measure, MeasureState
from streams.measure.parity import (
    COMPARED,
    DIFFER,
    FIRST,
    GONE,
    MOST_ROWS,
    NEW,
    ParityCut,
    parity_fault,
    streams_of,
)
from tests.streams.measure.generate import FROZEN, features
from tests.streams.measure.naive import _parity

SET = ParitySet(
    id="p",
    model="m",
    version="1",
    key=["user"],
    rows=[
        ParityRow(key=["u1"], features={"x": 1.0, "c": "de"}, score=0.25),
        ParityRow(key=["2"], features={"x": None}),
    ],
)


def prediction(at_ms: int = 0, **given: Any) -> Prediction:
    return Prediction(request_id="r", at_ms=at_ms, model="m", version="1", **given)


def counted(given: ParitySet, one: Prediction) -> dict[tuple[str, int], int]:
    return dict(Counter(ParityCut(given).cells(one)))


@given(
    features,
    st.sampled_from(["DE", 3.0, 3, None]),
    st.sampled_from([None, 0.5, 0.5004, 0.6, 1.1, [0.5]]),
    st.integers(0, 300),
)
def test_any_prediction_is_compared_as_the_twin_compares_it(
    values: dict[str, Scalar], country: Scalar, score: Any, at_ms: int
) -> None:
    one = prediction(at_ms, features=values, slices={"country": country}, score=score)
    expected: Counter[tuple[str, int]] = Counter()
    _parity(expected, FROZEN, one)
    assert counted(FROZEN, one) == dict(expected)


def test_a_feature_that_differs_is_counted_with_its_row() -> None:
    found = counted(SET, prediction(features={"user": "u1", "x": 1.5, "c": "de"}, score=0.25))
    x, rows = "parity:feature:x", "parity:rows"
    assert found == {
        (x, COMPARED): 1, (x, DIFFER): 1, (x, FIRST): 1, ("parity:feature:c", COMPARED): 1,
        ("parity:score", COMPARED): 1, (rows, COMPARED): 1, (rows, DIFFER): 1, (rows, FIRST): 1,
    }  # fmt: skip


def test_what_is_missing_on_one_side_is_told_apart() -> None:
    gone = counted(SET, prediction(features={"user": "u1", "c": "de"}, score=None))
    assert gone["parity:feature:x", GONE] == gone["parity:score", GONE] == 1
    new = counted(SET, prediction(features={"user": 2, "x": 0.0}))
    assert new["parity:feature:x", NEW] == new["parity:feature:x", FIRST + 1] == 1
    assert ("parity:score", COMPARED) not in new
    assert counted(SET, prediction(features={"user": 2.0}))["parity:rows", COMPARED] == 1


@pytest.mark.parametrize(
    "one",
    [
        prediction(features={"user": "u9", "x": 1.0}),
        prediction(features={"user": None}),
        prediction(features={}),
        prediction(features={"user": float("nan")}),
    ],
)
def test_a_prediction_without_the_key_of_a_row_is_not_compared(one: Prediction) -> None:
    assert counted(SET, one) == {}


def test_a_key_may_be_of_the_prediction_itself_or_a_slice() -> None:
    rows = [ParityRow(key=["r", "u", "9"], features={"x": 1})]
    own = replace(SET, key=["request_id", "subject", "day"], rows=rows)
    one = prediction(subject="u", slices={"day": 9}, features={"x": 1})
    assert counted(own, one)["parity:rows", COMPARED] == 1
    assert counted(own, replace(one, subject="")) == {}


def test_only_predictions_of_its_time_are_compared() -> None:
    timed = replace(SET, at_ms=10, until_ms=20)
    told = [bool(counted(timed, prediction(at_ms, features={"user": "u1"}))) for at_ms in (9, 10, 19, 20)]
    assert told == [False, True, True, False]


@pytest.mark.parametrize(
    ("a", "b", "same"),
    [
        (1.0, 1.0000005, True), (1.0, 1.00001, False), (1, 1.0000005, True), (10**15, 10**15 + 1, False),
        (0.0, 1e-9, False), (True, 1, False), ("1", 1, False), (None, float("nan"), True), (0.25, [0.25], False),
        (10**400, 1.0, False), (float("inf"), float("inf"), True), (float("inf"), 1.0, False), ("a", "a", True),
    ],
)  # fmt: skip
def test_what_agrees(a: Scalar, b: Any, same: bool) -> None:
    assert ParityCut(SET).agrees(a, b) is same


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"key": []}, "need a key"),
        ({"key": ["user", "user"]}, "there twice"),
        ({"rows": []}, "0 parity rows"),
        ({"rows": [ParityRow(key=[str(i)], score=1.0) for i in range(MOST_ROWS + 1)]}, "1001 parity rows"),
        ({"rows": [ParityRow(key=["a", "b"], score=1.0)]}, "expected 1 texts"),
        ({"rows": [ParityRow(key=["a"], score=1.0)] * 2}, "two parity rows have one key"),
        ({"rows": [ParityRow(key=["a"])]}, "neither features nor scores"),
        ({"rows": [ParityRow(key=["a"], features={"x" * 101: 1})]}, "at most 100 characters"),
        ({"rows": [ParityRow(key=["a"], features={"x": "y" * 600_000})]}, "expected at most 500,000"),
        ({"relative": -1.0}, "tolerances"),
        ({"absolute": float("inf")}, "tolerances"),
    ],
)
def test_rows_that_cannot_be_say_what_is_wrong_and_are_not_taken(change: dict[str, Any], said: str) -> None:
    wrong = replace(SET, **change)
    assert said in parity_fault(wrong)
    state = MeasureState(0)
    state.freeze(wrong)
    assert state.parity_of(prediction()) is None
    state.freeze(SET)
    state.freeze(replace(SET, id="later", rows=SET.rows[:1]))
    kept = state.parity_of(prediction())
    assert kept is not None
    assert kept.given == SET
    assert not parity_fault(SET)


def test_streams_are_those_of_what_is_compared() -> None:
    assert streams_of(SET) == ["parity:rows", "parity:score", "parity:feature:c", "parity:feature:x"]


def test_a_snapshot_from_before_there_were_frozen_rows_opens() -> None:
    measure = Measure(partitions=1)
    state = measure.empty(0)
    state.freeze(SET)
    head, _, body = measure.dump(state).partition(b"\n")
    kept = msgspec.json.decode(body)
    assert len(kept.pop("parities")) == 1
    assert measure.load(0, head + b"\n" + msgspec.json.encode(kept)).parities == {}
    assert measure.load(0, measure.dump(state)).parities == state.parities
