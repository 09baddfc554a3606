"""Features counted a step at a time, against value by value."""

from __future__ import annotations

from collections import defaultdict

from hypothesis import given
from hypothesis import strategies as st

from schemas.event import Scalar
from schemas.inputs import Prediction
from streams.join.outcome import Change, Counted
from streams.measure import batch
from streams.measure.batch import FEW, FeatureBatch, counts
from streams.measure.cells import Deltas, add_prediction, flatten
from streams.measure.ledger import FEATURE
from streams.measure.reference import Categorical, Cut, Numeric

CUTS: dict[str, Cut] = {
    "a": Numeric((0.5, 1.0, 2.0), -1.0, 3.0),
    "b": Numeric((), 0.0, 0.0),
    "c": Categorical({"1": 0, "true": 1, "x": 2}),
    "d": Numeric((float(2**53), 2.0**60), -float(2**53), 2.0**63),
}
EDGES = [-1.0, -1.0000001, 0.0, -0.0, 0.5, 1.0, 2.0, 3.0, 3.0000001, float("nan"), float("inf"), float("-inf")]
number: st.SearchStrategy[Scalar] = st.one_of(
    st.sampled_from(EDGES), st.floats(-4, 4), st.integers(-3, 4), st.booleans()
)
odd: st.SearchStrategy[Scalar] = st.one_of(
    number, st.none(), st.sampled_from(["x", "1", "1.5", ""]), st.integers(2**53 - 1, 2**53 + 3), st.just(10**400)
)


def rows_of(value: st.SearchStrategy[Scalar]) -> st.SearchStrategy[list[dict[str, Scalar]]]:
    whole = st.fixed_dictionaries(dict.fromkeys("abcd", value))
    some = st.dictionaries(st.sampled_from("abcdz"), value)
    return st.one_of(st.lists(whole, max_size=3 * FEW), st.lists(some, max_size=3 * FEW))


@given(st.one_of(rows_of(number), rows_of(odd)))
def test_a_step_at_once_counts_what_value_by_value_counts(rows: list[dict[str, Scalar]]) -> None:
    expected: dict[str, dict[int, int]] = {name: {} for name in CUTS}
    for row in rows:
        for name, cut in CUTS.items():
            cell = cut.cell(row.get(name))
            expected[name][cell] = expected[name].get(cell, 0) + 1
    assert {name: dict(cells) for name, cells in counts(CUTS, rows)} == expected


def test_a_column_is_taken_at_once_only_when_doubles_hold_it() -> None:
    plain = [{"a": float(i), "b": i, "d": 2**53 - 1 - i} for i in range(FEW)]
    assert set(batch._columns("abd", plain)) == {"a", "b", "d"}
    assert set(batch._columns("abd", [*plain, {"a": 1.0, "b": 1, "d": 2**53 + 1}])) == {"a", "b"}
    assert set(batch._columns("abd", [*plain, {"a": "1.0", "b": None}])) == {"b", "d"}


@given(rows_of(odd), st.lists(st.integers(0, 5), max_size=8))
def test_what_is_taken_away_cancels_what_was_added(rows: list[dict[str, Scalar]], gone: list[int]) -> None:
    told = [Prediction(request_id=str(i), at_ms=i, model="m", features=row) for i, row in enumerate(rows)]
    deltas = Deltas(60_000, lambda _: CUTS, lambda _: "s=1")
    deltas.add(Change(None, Counted(prediction)) for prediction in told)
    deltas.add(Change(Counted(told[i]), None) for i in set(gone) if i < len(told))
    target: dict[str, dict[int, int]] = defaultdict(dict)
    for i, prediction in enumerate(told):
        if i not in gone:
            add_prediction([(target, False)], prediction, CUTS, 1)  # type: ignore[list-item]
    whole = next((delta.cells for delta in deltas.pane_deltas() if not delta.slice), {})
    assert whole == {name: flatten(vector) for name, vector in sorted(target.items()) if any(vector.values())}


def test_panes_references_and_signs_are_kept_apart() -> None:
    held = FeatureBatch()
    one: dict[str, dict[int, int]] = defaultdict(dict)
    other: dict[str, dict[int, int]] = defaultdict(dict)
    for i in range(2 * FEW):
        held.add(one, CUTS, {"a": 1.0}, 1)
        held.add(other, {"a": CUTS["b"]}, {"a": 0.0}, 1 if i % 2 else -1)
    assert not one
    held.flush()
    held.flush()
    assert one[FEATURE + "a"] == {2: 2 * FEW}
    assert flatten(other[FEATURE + "a"]) == []
