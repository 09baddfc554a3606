"""The verdict at the edges of its windows. All times are relative to a prediction at 10,000."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas.event import LabelValue
from schemas.inputs import Label, Prediction, Signal
from schemas.policy import Attribution, JoinPolicy
from streams.join.outcome import NOTHING, Outcome
from streams.join.resolve import (
    COUNTS,
    ORPHAN,
    OUTSIDE_HORIZON,
    TOO_LATE,
    UNKNOWN_NAME,
    Bounds,
    Heard,
    Scope,
    compares,
    conclude,
    gather,
    known,
    resolve,
    same_label,
    scope,
    stage,
)

AT = 10_000
BOUNDS = Bounds(skew_ms=500, early_label_ms=300, grace_ms=50)


def scope_of(append_ms: int = 0, **policy: Any) -> Scope:
    windows = {"horizon_ms": 1000, "lateness_ms": 100, "retain_ms": 500}
    prediction = Prediction(request_id="r", at_ms=AT, model="m")
    return scope(prediction, AT + append_ms, JoinPolicy(model="m", **(windows | policy)), BOUNDS)


def label_of(at: int = 0, key: int = 0, append_ms: int = 0, **fields: Any) -> dict[int, Heard[Label]]:
    event = Label(request_id="r", at_ms=AT + at, **({"label": 1} | fields))
    return {key: Heard(key, key, event, AT + append_ms)}


def signal_of(at: int = 0, key: int = 0, **fields: Any) -> dict[int, Heard[Signal]]:
    event = Signal(request_id="r", at_ms=AT + at, **({"signal": "click"} | fields))
    return {key: Heard(key, key, event, AT)}


@pytest.mark.parametrize(
    ("fields", "append_ms", "expected"),
    [
        ({"at": -500}, 0, COUNTS),
        ({"at": -501}, 0, OUTSIDE_HORIZON),
        ({"at": 1000}, 0, COUNTS),
        ({"at": 1001}, 0, OUTSIDE_HORIZON),
        ({"at": 1001, "op": "retract"}, 0, COUNTS),
        ({"at": 1600, "op": "retract"}, 0, COUNTS),
        ({"at": 1601, "op": "retract"}, 0, OUTSIDE_HORIZON),
        ({}, 1600, COUNTS),
        ({}, 1601, TOO_LATE),
        ({}, -300, COUNTS),
        ({}, -301, TOO_LATE),
        ({"model": "m"}, 0, COUNTS),
        ({"model": "n", "name": "x", "at": 9999}, 9999, ORPHAN),
        ({"model": ""}, 0, ORPHAN),
        ({"name": "x", "at": 9999}, 9999, UNKNOWN_NAME),
        ({"at": 9999}, 9999, OUTSIDE_HORIZON),
    ],
)
def test_stage_of_a_label(fields: dict[str, Any], append_ms: int, expected: int) -> None:
    (heard,) = label_of(**fields).values()
    assert stage(scope_of(), heard.event, AT + append_ms) == expected


def test_signals_have_no_name_to_miss_and_end_with_the_horizon() -> None:
    (heard,) = signal_of(1000, signal="anything").values()
    assert stage(scope_of(), heard.event, heard.append_ms) == COUNTS
    (heard,) = signal_of(1001).values()
    assert stage(scope_of(), heard.event, heard.append_ms) == OUTSIDE_HORIZON


@pytest.mark.parametrize(("append_ms", "expected"), [(1650, True), (1651, False), (-349, True), (-350, False)])
def test_known_to_each_other(append_ms: int, expected: bool) -> None:
    assert known(scope_of(), AT + append_ms, BOUNDS) is expected


def test_equal_times_are_decided_by_the_key() -> None:
    labels = label_of(5, 2**63 - 1, label="first") | label_of(5, 2**63, label="second")
    for said in (labels, dict(reversed(labels.items()))):
        assert resolve(scope_of(), said, None, AT).label == "second"


def test_precedence_skips_a_source_that_is_silent() -> None:
    labels = label_of(5, 1, label="desk", source="desk") | label_of(9, 2, source="boss", op="retract")
    labels |= label_of(7, 3, label="other", source="other")
    assert resolve(scope_of(precedence=["boss", "desk"]), labels, None, AT).label == "desk"
    assert resolve(scope_of(precedence=["nobody"]), labels, None, AT).label == "other"


def test_window_of_a_rule_ends_with_the_horizon_at_the_latest() -> None:
    rule = Attribution(signal="click", label="yes", within_ms=10_000)
    found = resolve(scope_of(attribution=[rule]), None, signal_of(1000), AT)
    assert found == Outcome("yes", "implicit", 1.0, "provisional", 0.0, AT + 1000)
    short = Attribution(signal="click", label="yes", within_ms=10)
    assert resolve(scope_of(attribution=[short]), None, signal_of(11), AT) is NOTHING


@pytest.mark.parametrize(("clock", "status"), [(1099, "provisional"), (1100, "final")])
def test_signals_outcome_is_final_at_the_deadline(clock: int, status: str) -> None:
    rule = Attribution(signal="click", label=1)
    assert resolve(scope_of(attribution=[rule]), None, signal_of(), AT + clock).status == status


@pytest.mark.parametrize(
    ("compare", "matching"), [("lt", {1.0}), ("le", {1.0, 2.0}), ("gt", {3.0}), ("ge", {2.0, 3.0}), ("eq", {2.0})]
)
def test_comparisons(compare: Any, matching: set[float]) -> None:
    rule = Attribution(signal="dwell", label=0, compare=compare, value=2.0)
    assert {value for value in (1.0, 2.0, 3.0) if compares(rule, value)} == matching
    assert not compares(rule, None)


@pytest.mark.parametrize(
    ("clock", "expected"),
    [
        (199, NOTHING),
        (200, Outcome(0, "timeout", 1.0, "provisional", 0.25)),
        (1099, Outcome(0, "timeout", 1.0, "provisional", 0.25)),
        (1100, Outcome(0, "timeout", 1.0, "final")),
    ],
)
def test_silence(clock: int, expected: Outcome) -> None:
    quiet = scope_of(on_timeout="negative", provisional_after_ms=200, p_fake_negative=0.25)
    assert resolve(quiet, None, None, AT + clock) == expected
    shy = scope_of(on_timeout="negative", provisional_after_ms=200, p_fake_negative=0.25, exposure="seen")
    assert resolve(shy, None, None, AT + clock) is NOTHING
    assert resolve(shy, None, signal_of(signal="seen"), AT + clock) == expected
    assert resolve(shy, None, signal_of(1001, signal="seen"), AT + clock) is NOTHING


def test_labels_compare_as_json() -> None:
    apart: list[LabelValue | None] = [
        None,
        True,
        False,
        1,
        0,
        "1",
        "",
        [1.0],
        ["1"],
        [1.0, 1.0],
        2**53 + 1,
        float(2**53),
    ]
    for i, one in enumerate(apart):
        for j, other in enumerate(apart):
            assert same_label(one, other) is (i == j), (one, other)
    assert same_label(0, -0.0)


heard = st.lists(
    st.tuples(st.integers(-600, 1700), st.sampled_from("abc"), st.booleans(), st.sampled_from("xyz")), max_size=12
)


@given(heard, heard)
def test_evidence_grows_to_what_is_gathered(said: list[tuple[int, str, bool, str]], seen: list[Any]) -> None:
    one = scope_of(
        precedence=["x"],
        exposure="c",
        attribution=[Attribution(signal="a", label=1, within_ms=700), Attribution(signal="b", label=0)],
    )
    labels: dict[int, Heard[Label]] = {}
    signals: dict[int, Heard[Signal]] = {}
    evidence = gather(one, labels, signals)
    for n, (at, _, silent, source) in enumerate(said):
        labels |= label_of(at, n, label=n, source=source, op="retract" if silent else "assert")
        if stage(one, labels[n].event, AT) == COUNTS:
            evidence.add(one, labels[n])
    for n, (at, name, _, _) in enumerate(seen):
        signals |= signal_of(at, n, signal=name)
        if stage(one, signals[n].event, AT) == COUNTS:
            evidence.add(one, signals[n])
    assert evidence == gather(one, dict(reversed(labels.items())), dict(reversed(signals.items())))
    assert conclude(one, evidence, AT) == resolve(one, labels, signals, AT)
