"""Amounts that came of predictions: their mean and sum, exactly corrected, with intervals by subject."""

from __future__ import annotations

import random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas.inputs import Prediction
from streams.join.outcome import Change, Counted, Named, Outcome
from streams.measure.cells import Deltas, cells
from streams.measure.ledger import Ledger
from streams.measure.metrics import ValueMean, ValueSum


def earned(value: Any, i: int = 0, subject: str = "", weight: float = 1.0) -> Counted:
    prediction = Prediction(request_id=f"r{i}", at_ms=5, model="a", score=0.5, subject=subject)
    outcome = Outcome() if value is None else Outcome(label=value, kind="explicit", weight=weight, status="final")
    return Counted(prediction, others=(Named("revenue", outcome, value=True),))


def ledger_of(*counteds: Counted) -> Ledger:
    found = Ledger()
    for one in counteds:
        found.add(cells(one, None))
    return found.parts().get("revenue", Ledger())


@given(st.lists(st.one_of(st.integers(-(10**9), 10**9), st.floats(-1e12, 1e12)), min_size=1, max_size=20))
def test_mean_and_sum_are_those_of_the_amounts(values: list[float]) -> None:
    ledger = ledger_of(*(earned(value, i) for i, value in enumerate(values)))
    most = max(abs(value) for value in values)
    assert ValueMean().value(ledger) == pytest.approx(sum(values) / len(values), abs=most * 2**-20 + 1e-300)
    assert ValueSum().value(ledger) == pytest.approx(sum(values), abs=len(values) * most * 2**-20 + 1e-300)
    assert ValueMean().n(ledger) == len(values)


def test_what_is_no_amount_is_unmeasurable_and_nothing_has_no_value() -> None:
    ledger = ledger_of(*(earned(value, i) for i, value in enumerate(["much", True, 10**40, None])))
    assert ledger.flat()["measured"] == [3, 3]
    assert (ValueMean().value(ledger), ValueSum().value(ledger)) == (None, None)
    assert "score" not in ledger.cells
    assert ledger.total("bucket.rows") == ledger.get("n") == 4


def test_zero_is_an_amount_and_a_weight_counts() -> None:
    ledger = ledger_of(earned(0, 0), earned(8.0, 1, weight=0.5))
    assert ValueMean().value(ledger) == pytest.approx(8 * 0.5 / 1.5)
    assert ValueSum().value(ledger) == 4.0


def test_a_refund_a_month_later_leaves_no_trace() -> None:
    before, after = earned(1e-3), earned(-250.75)
    deltas = Deltas(60_000, lambda _: None, lambda _: "")
    deltas.add([Change(before, after)])
    found = Ledger(cells(before, None))
    for pane in deltas.pane_deltas():
        found.add_flat(pane.cells)
    assert found == Ledger(cells(after, None))
    assert found.possible()


def test_users_who_come_often_widen_the_interval() -> None:
    rng = random.Random(3)
    worth = {f"u{i}": rng.lognormvariate(3, 1) for i in range(60)}
    told = [(user, worth[user] + rng.gauss(0, 1)) for user in rng.choices(sorted(worth), k=1_500)]
    crowd = ValueMean().measured(ledger_of(*(earned(value, i, user) for i, (user, value) in enumerate(told))))
    alone = ValueMean().measured(ledger_of(*(earned(value, i, f"s{i}") for i, (_, value) in enumerate(told))))
    assert crowd.low is not None
    assert crowd.high is not None
    assert alone.low is not None
    assert alone.high is not None
    assert crowd.value == alone.value
    assert crowd.low < sum(worth.values()) / 60 < crowd.high
    assert crowd.high - crowd.low > 2 * (alone.high - alone.low)
    total = ValueSum().measured(ledger_of(*(earned(value, i, user) for i, (user, value) in enumerate(told))))
    assert total.high == pytest.approx(crowd.high * 1_500)
