"""Columns give the same ledger as rows."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from schemas.inputs import Prediction
from streams.join.outcome import Counted, Outcome
from streams.measure.cells import cells
from streams.measure.ledger import ERROR_SIZE, LABEL_SQUARE, LABEL_SUM, SCORE_CHOSEN, SCORE_UNDECIDED, Ledger, vector_of
from streams.measure.tally import ledger_of
from tests.streams.measure.generate import labels

COUNTED = {SCORE_CHOSEN, SCORE_UNDECIDED, ERROR_SIZE, LABEL_SUM, LABEL_SQUARE}
"""What columns count though slices do not."""

rows = st.lists(
    st.tuples(
        st.one_of(st.none(), st.floats(0, 1), st.sampled_from([-0.5, 1.5, 0.5])),
        st.one_of(st.none(), labels),
        st.sampled_from(["u1", "u2", "ü"]),
        st.sampled_from([1.0, 0.0004, 0.3335]),
        st.one_of(st.none(), labels),
    ),
    max_size=12,
)


def by_rows(table: list[Any], threshold: float) -> Ledger:
    total = Ledger()
    for score, label, subject, weight, prediction in table:
        given_ = Prediction(
            request_id="r", at_ms=0, model="m", score=score, subject=subject, prediction=prediction, threshold=threshold
        )
        outcome = Outcome() if label is None else Outcome(label=label, kind="explicit", weight=weight)
        found = cells(Counted(given_, outcome), None)
        total.add({name: vector for name, vector in found.items() if vector_of(name).sliced or name in COUNTED})
    return total


@settings(max_examples=150, deadline=None)
@given(rows, st.sampled_from([0.5, 0.2]))
def test_columns_equal_the_sum_of_rows(table: list[Any], threshold: float) -> None:
    scores, truth, subjects, weights, predictions = ([row[i] for row in table] for i in range(5))
    assert ledger_of(scores, truth, subjects, weights, predictions, threshold=threshold) == by_rows(table, threshold)


def test_arrays_equal_the_sum_of_rows() -> None:
    rng = np.random.default_rng(3)
    n = 2_000
    scores, labels_ = rng.beta(1, 20, n), rng.random(n) < 0.05
    subjects = [f"u{i}" for i in rng.integers(0, 200, n)]
    table = [(float(s), bool(y), u, 1.0, None) for s, y, u in zip(scores, labels_, subjects, strict=True)]
    assert ledger_of(scores, labels_, subjects) == by_rows(table, 0.5)
    assert ledger_of(scores, labels_.astype(np.float32), subjects) == by_rows(table, 0.5)


def test_columns_of_two_lengths_are_refused() -> None:
    with pytest.raises(ValueError, match="one length"):
        ledger_of([0.5], [1, 0], ["a"])
