"""Cells, deltas and their twin: any order, any split, any retraction gives the same integers."""

from __future__ import annotations

import random
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from schemas.inputs import Prediction
from streams.join.outcome import NOTHING, Change, Counted, Outcome
from streams.measure.cells import Deltas, cells, slice_text
from streams.measure.embedding import EmbeddingCut
from streams.measure.ledger import LABELLED, Ledger, vector_of
from streams.measure.parity import ParityCut
from streams.measure.reference import cuts
from tests.streams.measure.generate import FROZEN, REFERENCE, changes_of, histories, outcomes, predictions, standing
from tests.streams.measure.naive import count

PANE_MS = 100
Panes = dict[tuple[Any, ...], Ledger]


def counted_deltas(changes: list[Change]) -> Deltas:
    bins = cuts(REFERENCE)
    assert REFERENCE.embedding is not None
    vectors = EmbeddingCut.of(REFERENCE.embedding)
    deltas = Deltas(
        PANE_MS,
        lambda p: bins if (p.model, p.version) == ("a", "1") else None,
        lambda p: slice_text("country", p),
        embedded=lambda p: vectors if (p.model, p.version) == ("a", "1") else None,
        parity=lambda p: ParityCut(FROZEN) if (p.model, p.version) == ("a", "1") else None,
    )
    deltas.add(changes)
    return deltas


def panes_of(*parts: Deltas) -> Panes:
    found: Panes = {}
    for part in parts:
        for pane in part.pane_deltas():
            key = (pane.model, pane.version, pane.deployment, pane.role, pane.slice, pane.pane_ms)
            found.setdefault(key, Ledger()).add_flat(pane.cells)
    return {key: ledger for key, ledger in found.items() if ledger}


@settings(max_examples=150, deadline=None)
@given(histories(), st.randoms(use_true_random=False))
def test_any_order_and_split_gives_what_the_naive_twin_counts(history: Any, rng: random.Random) -> None:
    changes = [change for one in history for change in changes_of(one)]
    known: dict[str, Any] = {"references": {("a", "1"): REFERENCE}, "parities": {("a", "1"): FROZEN}}
    expected = count(standing(history), pane_ms=PANE_MS, dimension="country", **known)
    whole = panes_of(counted_deltas(changes))
    assert {key: ledger.cells for key, ledger in whole.items()} == expected
    rng.shuffle(changes)
    cut = rng.randint(0, len(changes))
    assert panes_of(counted_deltas(changes[:cut]), counted_deltas(changes[cut:])) == whole


@settings(max_examples=75, deadline=None)
@given(histories())
def test_taking_everything_back_leaves_nothing(history: Any) -> None:
    changes = [change for one in history for change in changes_of([*one, None])]
    assert panes_of(counted_deltas(changes)) == {}


@settings(max_examples=75, deadline=None)
@given(predictions(), outcomes())
def test_every_cell_is_in_the_vocabulary(prediction: Prediction, outcome: Outcome) -> None:
    bins = cuts(REFERENCE)
    for sliced in (False, True):
        for name, vector in cells(Counted(prediction, outcome), REFERENCE, sliced=sliced).items():
            known = vector_of(name)
            assert known.sliced or not sliced
            size = bins[name.removeprefix("feature:")].size if name.startswith("feature:") else known.size
            assert min(vector) >= 0
            assert not size or max(vector) < size
            assert all(vector.values())


def test_a_label_alone_bins_no_feature_again() -> None:
    prediction = Prediction(request_id="r", at_ms=5, model="a", version="1", score=0.7, features={"price": 1.0})
    labelled = Counted(prediction, Outcome(label=1, kind="explicit", labelled_at_ms=9))
    asked: list[Prediction] = []
    deltas = Deltas(PANE_MS, lambda p: asked.append(p), lambda p: "")
    deltas.add([Change(Counted(prediction), labelled)])
    (pane,) = deltas.pane_deltas()
    assert not asked
    assert not {"n", "score", "missing", "latency"} & set(pane.cells)
    assert pane.cells[LABELLED] == [0, 1, 1, 1000]


def test_true_is_not_one_when_another_prediction_takes_over() -> None:
    said = Outcome(label=True, kind="explicit")
    old, new = (Prediction(request_id="r", at_ms=5, model="a", prediction=value) for value in (1, True))
    (pane,) = counted_deltas([Change(Counted(old, said), Counted(new, said))]).pane_deltas()
    assert pane.cells["measured"] == [1, 1, 3, -1]


def test_a_change_of_status_counts_nothing() -> None:
    prediction = Prediction(request_id="r", at_ms=5, model="a", score=0.7)
    early = Outcome(label=0, kind="timeout", status="provisional", p_fake_negative=0.2)
    late = Outcome(label=0, kind="timeout", status="final")
    deltas = counted_deltas([Change(Counted(prediction, early, 1), Counted(prediction, late, 1))])
    assert deltas.pane_deltas() == []


@settings(max_examples=50, deadline=None)
@given(
    st.lists(st.tuples(predictions(), outcomes()), max_size=6),
    st.lists(st.tuples(predictions(), outcomes()), max_size=6),
)
def test_ledgers_are_an_abelian_group(one: Any, two: Any) -> None:
    a, b = Ledger(), Ledger()
    for target, rows in ((a, one), (b, two)):
        for prediction, outcome in rows:
            target.add(cells(Counted(prediction, outcome), REFERENCE))
    assert a + b == b + a
    assert (a + b) - b == a
    assert not (a - a)
    flat = Ledger()
    flat.add_flat((a + b).flat())
    assert flat == a + b


def test_nothing_is_labelled_without_a_label() -> None:
    prediction = Prediction(request_id="r", at_ms=5, model="a")
    assert LABELLED not in cells(Counted(prediction, NOTHING), None)


def test_rows_of_a_bucket_are_counted_before_their_labels_come() -> None:
    prediction = Prediction(request_id="r", at_ms=5, model="a", subject="u1")
    (pane,) = counted_deltas([Change(None, Counted(prediction))]).pane_deltas()
    assert pane.cells["bucket.rows"][1] == 1
    labelled = Counted(prediction, Outcome(label=1, kind="explicit"))
    (later,) = counted_deltas([Change(Counted(prediction), labelled)]).pane_deltas()
    assert "bucket.rows" not in later.cells
