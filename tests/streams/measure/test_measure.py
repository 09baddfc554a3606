"""The chained stage: what leaves a step, where to, in which size, and what a snapshot keeps."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings

from schemas.control import Control, Reference, ReferenceSet
from schemas.event import decode
from schemas.inputs import Prediction
from schemas.measures import Measures, Trial
from streams.join.chained import Chained
from streams.join.outcome import Change, Counted, Outcome
from streams.join.partition import partition_of
from streams.measure.ledger import Ledger
from streams.measure.measure import MOST_SLICES, Measure, MeasureState
from streams.runtime.processor import Batch, Output
from tests.streams.measure.generate import FROZEN, REFERENCE, changes_of, histories, standing
from tests.streams.measure.naive import count


def stage(**options: Any) -> Measure:
    full: dict[str, Any] = {"partitions": 4, "pane_ms": 100, "slice_dimension": "country"} | options
    return Measure(**full)


def take(
    measure: Measure, state: MeasureState, changes: list[Change], control: list[Control] | None = None, step: int = 1
) -> list[Output]:
    return measure.step(state, changes, control or [], Batch(state.partition, step, {}), clock_ms=1_000 + step)


def measures_of(outputs: list[Output]) -> list[Measures]:
    return [decode(output.value, Measures) for output in outputs if output.topic == "measures"]


def new(**fields: Any) -> Change:
    full: dict[str, Any] = {"request_id": "r", "at_ms": 5, "model": "a", "version": "1"} | fields
    return Change(None, Counted(Prediction(**full)))


def test_it_is_what_the_join_expects() -> None:
    chained: Chained[MeasureState] = stage()
    assert chained.version


def test_an_idle_step_tells_its_clock_to_every_partition() -> None:
    measure = stage(measures_partitions=3)
    outputs = take(measure, measure.empty(2), [], step=7)
    assert [output.partition for output in outputs] == [0, 1, 2]
    assert measures_of(outputs) == [Measures(source=2, sources=4, step=7, clock_ms=1_007)] * 3


def test_panes_go_where_the_model_lives() -> None:
    measure = stage(measures_partitions=5)
    models = [f"model-{i}" for i in range(12)]
    outputs = take(measure, measure.empty(0), [new(model=model, request_id=model) for model in models])
    for output in outputs:
        for pane in decode(output.value, Measures).panes:
            assert partition_of(pane.model.encode(), 5) == output.partition
    assert sorted(p.model for m in measures_of(outputs) for p in m.panes) == sorted(models)


@settings(max_examples=60, deadline=None)
@given(histories())
def test_steps_and_restores_add_up_to_the_naive_twin(history: Any) -> None:
    measure = stage()
    state = measure.empty(0)
    changes = [change for one in history for change in changes_of(one)]
    found: dict[tuple[Any, ...], Ledger] = {}
    for number, change in enumerate([None, *changes]):
        if change is None:
            outputs = take(measure, state, [], [ReferenceSet(reference=REFERENCE), FROZEN], step=0)
        else:
            outputs = take(measure, state, [change], step=number)
        for record in measures_of(outputs):
            for p in record.panes:
                key = (p.model, p.version, p.deployment, p.role, p.slice, p.pane_ms)
                found.setdefault(key, Ledger()).add_flat(p.cells)
        state = measure.load(0, measure.dump(state))
    known: dict[str, Any] = {"references": {("a", "1"): REFERENCE}, "parities": {("a", "1"): FROZEN}}
    expected = count(standing(history), pane_ms=100, dimension="country", **known)
    assert {key: ledger.cells for key, ledger in found.items() if ledger} == expected


def test_a_large_step_is_split_and_only_the_last_part_has_the_clock() -> None:
    changes = [
        Change(None, Counted(p, Outcome(label=i % 2, kind="explicit", labelled_at_ms=i * 7)))
        for i in range(3_000)
        for p in [Prediction(request_id=f"r{i}", at_ms=i, model="a", score=i / 3_000, slices={"country": i % 20})]
    ]
    whole = measures_of(take(stage(), stage().empty(0), changes))
    small = stage(max_bytes=50_000)
    outputs = take(small, small.empty(0), changes)
    parts = measures_of(outputs)
    assert len(whole) == 1 < len(parts)
    assert [part.clock_ms for part in parts] == [0] * (len(parts) - 1) + [1_001]
    assert all(len(output.value) <= 50_000 for output in outputs)

    def added(records: list[Measures]) -> dict[tuple[str, int], Ledger]:
        found: dict[tuple[str, int], Ledger] = {}
        for record in records:
            for pane in record.panes:
                found.setdefault((pane.slice, pane.pane_ms), Ledger()).add_flat(pane.cells)
        return found

    assert added(parts) == added(whole)


def features_of(outputs: list[Output]) -> set[str]:
    return {name for m in measures_of(outputs) for p in m.panes for name in p.cells if name.startswith("feature:")}


def test_a_reference_counts_from_its_time_on_and_the_first_one_stands() -> None:
    measure = stage()
    state = measure.empty(0)
    assert features_of(take(measure, state, [new()])) == set()
    other = Reference(id="late", model="a", version="1", n=1, categories={"other": []})
    take(measure, state, [], [ReferenceSet(reference=REFERENCE, at_ms=50), ReferenceSet(reference=other)])
    state = measure.load(0, measure.dump(state))
    assert features_of(take(measure, state, [new(at_ms=49)])) == set()
    assert features_of(take(measure, state, [new(at_ms=50)])) == {"feature:price", "feature:constant", "feature:plan"}
    assert features_of(take(measure, state, [new(at_ms=50, version="2")])) == set()


def test_an_unreadable_reference_stops_nothing() -> None:
    broken = Reference(id="broken", model="a", version="1", n=1, edges={"x": [1.0]}, ranges={})
    measure = stage()
    state = measure.empty(0)
    assert len(take(measure, state, [new()], [ReferenceSet(reference=broken)])) == 1
    assert not state.references


def test_slices_beyond_the_budget_share_one_and_can_be_taken_back() -> None:
    measure = stage()
    state = measure.empty(0)
    changes = [new(request_id=f"r{i}", slices={"country": f"c{i}"}) for i in range(MOST_SLICES + 5)]
    (record,) = measures_of(take(measure, state, changes))
    parts = {pane.slice for pane in record.panes}
    assert len(parts) == 1 + MOST_SLICES + 1
    assert [pane.cells["n"] for pane in record.panes if pane.slice == "country=~other"] == [[0, 5]]
    state = measure.load(0, measure.dump(state))
    (back,) = measures_of(take(measure, state, [Change(change.after, None) for change in changes]))
    assert {pane.slice: pane.cells["n"] for pane in back.panes} == {
        pane.slice: [0, -pane.cells["n"][1]] for pane in record.panes
    }


def test_the_same_step_gives_the_same_bytes() -> None:
    changes = [new(request_id=f"r{i}", score=i / 9, slices={"country": f"c{i}"}) for i in range(10)]
    measure = stage()
    assert take(measure, measure.empty(0), changes) == take(measure, measure.empty(0), changes)


def test_an_unknown_snapshot_is_refused() -> None:
    with pytest.raises(ValueError, match="measure/1"):
        stage().load(0, b"measure/9\n{}")


P = Prediction(request_id="r", at_ms=5, model="a", score=0.9, subject="u", experiments={"canary": "new", "ab": "b"})
FINAL = Counted(P, Outcome(label=1, kind="explicit", status="final"), revision=1)


def said(*changes: Change) -> list[tuple[str, str, float, int, bool]]:
    measure = stage()
    outputs = take(measure, measure.empty(0), list(changes))
    found = [decode(output.value, Trial) for output in outputs if output.topic == "trials"]
    assert all(output.key == b"a" and output.partition is None for output in outputs if output.topic == "trials")
    return [(trial.layer, trial.arm, trial.value, trial.revision, trial.void) for trial in found]


def test_a_final_outcome_is_one_trial_a_layer() -> None:
    assert said(Change(Counted(P), FINAL)) == [("ab", "b", 1.0, 1, False), ("canary", "new", 1.0, 1, False)]


def test_a_provisional_outcome_is_none_until_it_is_final() -> None:
    early = Counted(P, Outcome(label=0, kind="timeout", status="provisional"), revision=1)
    late = Counted(P, Outcome(label=0, kind="timeout", status="final"), revision=1)
    assert said(Change(Counted(P), early)) == []
    assert [trial[2:] for trial in said(Change(early, late))] == [(0.0, 1, False)] * 2


def test_a_correction_repeats_it_and_a_retraction_voids_it() -> None:
    corrected = Counted(P, Outcome(label=0, kind="explicit", status="final"), revision=2)
    assert [trial[2:] for trial in said(Change(FINAL, corrected))] == [(0.0, 2, False)] * 2
    assert [trial[2:] for trial in said(Change(FINAL, Counted(P, Outcome(), revision=2)))] == [(1.0, 2, True)] * 2
    lighter = Counted(P, Outcome(label=1, kind="explicit", status="final", weight=0.5), revision=2)
    assert said(Change(FINAL, lighter)) == []


def test_another_arm_takes_the_trial_over() -> None:
    moved = Prediction(request_id="r", at_ms=4, model="a", score=0.9, subject="u", experiments={"canary": "old"})
    after = Counted(moved, FINAL.outcome, revision=2)
    assert said(Change(FINAL, after)) == [
        ("ab", "b", 1.0, 2, True),
        ("canary", "new", 1.0, 2, True),
        ("canary", "old", 1.0, 2, False),
    ]


def test_an_error_of_a_regression_is_no_trial() -> None:
    number = Prediction(request_id="r", at_ms=5, model="a", prediction=2.7, experiments={"canary": "new"})
    assert said(Change(None, Counted(number, Outcome(label=2.5, kind="explicit", status="final"), revision=1))) == []
