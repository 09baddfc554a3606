"""Several label names and outputs: each has its metrics, under its name, within a budget."""

from __future__ import annotations

from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from schemas.inputs import Prediction
from schemas.measures import Trial
from streams.join.outcome import Change, Counted, Named, Outcome
from streams.judge.figures import figures
from streams.judge.panes import Key
from streams.measure.cells import cells
from streams.measure.ledger import LABEL, Ledger, apart, prefix_of
from streams.measure.measure import MOST_NAME_BYTES, MOST_NAMES
from streams.measure.trials import trials
from tests.streams.measure.test_measure import measures_of, stage, take


def said(label: Any, **fields: Any) -> Outcome:
    return Outcome(label=label, kind="explicit", status="final", **fields)


def two(i: int = 0, click: Any = 1, refund: Any = 0, **fields: Any) -> Counted:
    """A prediction with an output for each of two label names."""
    outputs = {"click": 0.9, "refund": 0.2}
    prediction = Prediction(request_id=f"r{i}", at_ms=5, model="a", subject=f"u{i}", outputs=outputs, **fields)
    return Counted(prediction, said(click), 1, None, "click", (Named("refund", said(refund)),))


def ledger_of(*counteds: Counted) -> Ledger:
    found = Ledger()
    for one in counteds:
        found.add(cells(one, None))
    return found


@given(st.text(min_size=1), st.sampled_from(["n", "class:a:b", "class:label:x", "label.sum", "label_delay"]))
def test_a_name_comes_back_from_its_vectors(name: str, vector: str) -> None:
    assert apart(prefix_of(name) + vector) == (name, vector)
    assert apart(vector) == ("", vector)


def test_each_output_is_measured_against_the_label_of_its_name() -> None:
    ledger = ledger_of(*(two(i, click=i % 2, refund=int(i == 3)) for i in range(10)))
    (part,) = ledger.parts().values()
    for mine, score, truth in (
        (ledger, 0.9, [i % 2 for i in range(10)]),
        (part, 0.2, [int(i == 3) for i in range(10)]),
    ):
        plain = [Prediction(request_id=f"r{i}", at_ms=5, model="a", subject=f"u{i}", score=score) for i in range(10)]
        alone = ledger_of(*(Counted(one, said(y)) for one, y in zip(plain, truth, strict=True)))
        same = {name: vector for name, vector in mine.cells.items() if not name.startswith(LABEL)}
        expected = dict(alone.cells)
        if mine is part:
            del expected["missing"]
        assert same == expected


def test_a_name_without_an_output_is_held_against_the_score() -> None:
    prediction = Prediction(request_id="r", at_ms=5, model="a", score=0.75, outputs={"click": 0.1})
    ledger = ledger_of(Counted(prediction, said(1), others=(Named("refund", said(1)),)))
    assert ledger.cells["score"] == ledger.parts()["refund"].cells["score"] == {1094: 1}


def test_the_figures_of_a_name_carry_it() -> None:
    ledger = ledger_of(*(two(i, click=i % 2, refund=int(i < 3)) for i in range(10)))
    told = {one.metric: one for one in figures("a", Key("1", "", "primary", ""), ledger, 0, 60, 60, closed=True)}
    assert told["positive_rate"].value == 0.5
    assert told["refund:positive_rate"].value == 0.3
    assert told["refund:accuracy"].value == 0.7
    assert (told["refund:accuracy"].n, told["refund:accuracy"].maturity) == (10, 1.0)
    assert "refund:missing_score" not in told
    assert len({one.id for one in told.values()}) == len(told)


def test_a_label_that_becomes_a_boolean_is_counted_anew() -> None:
    prediction = Prediction(request_id="r", at_ms=5, model="a", prediction=True)
    before, after = (Counted(prediction, others=(Named("x", said(one)),)) for one in (1, True))
    measure = stage(slice_dimension="")
    state = measure.empty(0)
    found = Ledger()
    for changes in ([Change(None, before)], [Change(before, after)]):
        for record in measures_of(take(measure, state, changes)):
            for pane in record.panes:
                found.add_flat(pane.cells)
    assert found == ledger_of(after)
    assert found.parts()["x"].cells["agreement"] == {0: 1000}


def test_names_beyond_the_budget_are_not_counted_for_ever() -> None:
    measure = stage(slice_dimension="")
    state = measure.empty(0)
    names = [f"n{i}" for i in range(MOST_NAMES - 1)] + ["x" * (MOST_NAME_BYTES + 1), "ü:%", "late"]
    prediction = Prediction(request_id="r", at_ms=5, model="a", score=0.5)
    told = Counted(prediction, said(1), others=tuple(Named(name, said(1)) for name in names))
    (record,) = measures_of(take(measure, state, [Change(None, told)]))
    found = Ledger()
    found.add_flat(record.panes[0].cells)
    assert set(found.parts()) == {*names} - {"late", "x" * (MOST_NAME_BYTES + 1)}
    state = measure.load(0, measure.dump(state))
    (record,) = measures_of(take(measure, state, [Change(told, None)]))
    found.add_flat(record.panes[0].cells)
    assert found == Ledger()


def test_a_snapshot_of_before_opens() -> None:
    assert stage().load(0, b'measure/1\n{"references":[],"slices":{"a":["country=DE"]}}').names == {}


def test_what_is_signed_is_possible_under_a_name_too() -> None:
    assert Ledger({"label:x:label.sum": {3: -1}}).possible()
    assert not Ledger({"label:x:n": {0: -1}}).possible()


def test_a_trial_is_of_the_first_name_and_its_output() -> None:
    after = two(click=1, refund=1, experiments={"ab": "b"})
    (trial,) = trials([Change(None, after)], source=0, step=1)
    assert isinstance(trial, Trial)
    assert trial.value == 1.0
    (other,) = trials([Change(None, two(click=0, experiments={"ab": "b"}))], source=0, step=1)
    assert other.value == 0.0
