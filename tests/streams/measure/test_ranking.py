"""Rankings: the definitions, scikit-learn's figures, corrections a month later, and intervals."""

from __future__ import annotations

import random
from functools import partial
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace
from sklearn.metrics import ndcg_score

from schemas.inputs import Item, Prediction
from streams.join.outcome import Change, Counted, Outcome
from streams.measure.cells import Deltas, cells
from streams.measure.ledger import BUCKET_RANKING, JUDGED, LISTS, RANKING, RANKING_CELLS, RELEVANT, Ledger
from streams.measure.lists import ledger_of_lists
from streams.measure.metrics import HitAt1, HitAt5, Mrr, Ndcg, NdcgAt5, NdcgAt10, RelevantRate
from streams.measure.ranking import MOST_RANKS, cells_of, discounts, gain, order

gains = st.lists(st.one_of(st.none(), st.sampled_from([0.0, 0.0, 1.0, 2.0, 3.0]), st.floats(0, 1e6)), max_size=30)


def listed(labels: list[Any], request_id: str = "r", subject: str = "u", **fields: Any) -> Counted:
    """A list in this order, with a label for each item that is not None."""
    items = [Item(item=f"i{place}", **fields) for place in range(len(labels))]
    prediction = Prediction(request_id=request_id, at_ms=0, model="m", subject=subject, items=items)
    said = [(f"i{place}", Outcome(label=one, kind="explicit")) for place, one in enumerate(labels)]
    return Counted(prediction, items=tuple(one for one in said if one[1].label is not None))


def ledger_of(*lists: Counted) -> Ledger:
    found = Ledger()
    for one in lists:
        found.add(cells(one, None))
    return found


@given(gains.filter(lambda one: len(one) > 1 and any(one)))
def test_ndcg_is_that_of_scikit_learn(given_: list[float | None]) -> None:
    truth = np.array([[one or 0.0 for one in given_]])
    shown = -np.arange(len(given_), dtype=np.float64)[None, :]
    told = dict(cells_of(given_))
    for cell, k in ((3, 5), (4, 10), (5, None)):
        assert told.get(cell, 0) / 1e6 == pytest.approx(ndcg_score(truth, shown, k=k), abs=1e-5)


def test_the_classic_example() -> None:
    """Gains 3, 2, 3, 0, 1, 2: DCG is 6.861 and the ideal 7.141, which is the textbook's example of linear gain."""
    ledger = ledger_of(listed([3, 2, 3, 0, 1, 2]))
    assert Ndcg().value(ledger) == pytest.approx(6.861127 / 7.140995, abs=2e-6)
    assert Mrr().value(ledger) == 1.0


@given(gains)
def test_every_figure_lies_between_0_and_1_and_the_ideal_order_has_1(given_: list[float | None]) -> None:
    told = dict(cells_of(given_))
    assert told[LISTS] == 1
    assert told.get(JUDGED, 0) == any(one is not None for one in given_)
    assert told.get(RELEVANT, 0) == any(given_)
    assert all(0 <= value <= 1_000_000 for cell, value in told.items())
    best = dict(cells_of(sorted(given_, key=lambda one: -(one or 0.0))))
    if any(given_):
        assert {best[cell] for cell in (3, 4, 5, 6)} == {1_000_000}
        assert {best[cell] for cell in (7, 8, 9)} == {1}


def test_edges() -> None:
    assert cells_of([]) == [(LISTS, 1)]
    assert dict(cells_of([1.0])) == {0: 1, 1: 1, 2: 1, 3: 10**6, 4: 10**6, 5: 10**6, 6: 10**6, 7: 1, 8: 1, 9: 1}
    far = dict(cells_of([0.0] * 2_000 + [1.0]))
    assert (far[5], far[6]) == (0, 500)
    tiny = dict(cells_of([5e-324, 2.0**100]))
    assert tiny[7] == 1
    assert tiny[5] == pytest.approx(630_930, abs=1)


def test_an_empty_list_is_no_list_and_one_without_a_relevant_item_has_no_value() -> None:
    empty = Counted(Prediction(request_id="r", at_ms=0, model="m", items=[]), items=None)
    assert RANKING not in cells(empty, None)
    barren = ledger_of(listed([0, 0, None]), listed([None, None]), listed(["cat"]))
    assert barren.flat()[RANKING] == [LISTS, 3, JUDGED, 1]
    assert Ndcg().value(barren) is None
    assert (Ndcg().measured(barren).n, RelevantRate().value(barren)) == (0, 0.0)
    assert Ndcg().maturity(barren) == pytest.approx(1 / 3)


def test_the_order_is_by_position_else_by_score_else_as_listed() -> None:
    a, b, c = (partial(Item, item=name) for name in "abc")
    assert order([a(score=1, position=2), b(position=0), c(position=1)]) == ["b", "c", "a"]
    assert order([a(score=0.1), b(score=0.9), c(score=0.9)]) == ["b", "c", "a"]
    assert order([a(score=0.1, position=1), b(score=0.9), c(score=0.5)]) == ["b", "c", "a"]
    assert order([a(score=0.1), b()]) == ["a", "b"]
    assert order([a(score=float("nan")), b(score=2.0)]) == ["a", "b"]
    assert order([a(position=2**70), b(position=0)]) == ["a", "b"]


def test_a_weight_makes_a_gain_of_what_is_half_believed() -> None:
    labels: list[Any] = [3, False, "0", 2**101, [1.0]]
    assert [gain(label, 0.5) for label in labels] == [1.5, 0.0, 0.0, None, None]
    assert gain(1, 0.0) == 0.0


def test_discounts_are_those_of_the_logarithm() -> None:
    ranks = np.arange(1, MOST_RANKS + 1)
    assert np.abs(np.array(discounts()) / 2**20 - 1 / np.log2(ranks + 1)).max() < 2**-21 + 1e-15


def deltas_of(*changes: Change) -> Ledger:
    deltas = Deltas(60_000, lambda _: None, lambda _: "")
    deltas.add(changes)
    found = Ledger()
    for pane in deltas.pane_deltas():
        found.add_flat(pane.cells)
    return found


def test_a_label_that_is_corrected_a_month_later_patches_the_old_figure() -> None:
    first, corrected = listed([1, 0, 0, 0, 0, 0]), listed([0, 0, 0, 0, 0, 1])
    corrected = Counted(first.prediction, items=corrected.items)
    ledger = deltas_of(Change(None, first), *(Change(None, listed([0, 1], f"r{i}", f"u{i}")) for i in range(3)))
    patched = ledger + deltas_of(Change(first, corrected))
    rest = [listed([0, 1], f"r{i}", f"u{i}") for i in range(3)]
    assert patched == ledger_of(corrected, *rest)
    assert HitAt5().value(ledger) == 1.0
    assert HitAt5().value(patched) == 0.75
    assert patched + deltas_of(Change(corrected, None)) == ledger_of(*rest)


def test_what_was_not_told_before_an_upgrade_is_not_taken_back() -> None:
    now = listed([0, 1])
    old = Counted(now.prediction)
    after = ledger_of(now)
    assert ledger_of(old) + deltas_of(Change(old, now)) == after
    assert deltas_of(Change(old, None)) + ledger_of(old) == Ledger()


def test_buckets_add_up_and_widen_the_interval_of_users_with_many_lists() -> None:
    rng = random.Random(5)
    taste = {f"u{i}": rng.random() for i in range(60)}
    many = [
        listed([int(rng.random() < taste[user] * (place == 0) + 0.1) for place in range(8)], f"r{i}", user)
        for i, user in enumerate(rng.choices(sorted(taste), k=1_200))
    ]
    ledger = ledger_of(*many)
    full = ledger.dense(BUCKET_RANKING, 64 * RANKING_CELLS)
    assert [sum(full[cell::RANKING_CELLS]) for cell in range(RANKING_CELLS)] == ledger.dense(RANKING, RANKING_CELLS)
    crowd = HitAt1().measured(ledger)
    alone = HitAt1().measured(
        ledger_of(*(Counted(replace(one.prediction, subject=f"s{i}"), items=one.items) for i, one in enumerate(many)))
    )
    assert crowd.value == alone.value
    assert crowd.high is not None
    assert crowd.low is not None
    assert alone.high is not None
    assert alone.low is not None
    assert crowd.high - crowd.low > 1.2 * (alone.high - alone.low)
    for metric in (NdcgAt5(), NdcgAt10(), Mrr()):
        measured = metric.measured(ledger)
        assert measured.low < measured.value < measured.high  # type: ignore[operator]


@given(st.lists(st.tuples(gains, st.sampled_from(["u1", "u2", "\u00fc"])), max_size=8))
def test_arrays_of_lists_give_the_cells_of_each(lists: list[tuple[list[float | None], str]]) -> None:
    rows = [listed(one, f"r{i}", subject) for i, (one, subject) in enumerate(lists) if one]
    expected = {name: vector for name, vector in ledger_of(*rows).cells.items() if name in (RANKING, BUCKET_RANKING)}
    kept = [(one, subject) for one, subject in lists if one]
    assert ledger_of_lists([one for one, _ in kept], [subject for _, subject in kept]).cells == expected


def test_arrays_are_ordered_by_their_scores() -> None:
    found = ledger_of_lists([[0, 1, 0], [1.0, float("nan")]], ["a", "b"], scores=[[0.1, 0.9, 0.9], [0.5, 0.5]])
    assert found == ledger_of_lists([[1, 0, 0], [1.0, None]], ["a", "b"])
    with pytest.raises(ValueError, match="one length"):
        ledger_of_lists([[1]], ["a", "b"])
    with pytest.raises(ValueError, match="as many scores"):
        ledger_of_lists([[1]], ["a"], scores=[[0.5, 0.1]])
