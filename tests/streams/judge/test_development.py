"""How panes grow: the law beside a twin that keeps every pane, and what it makes of counts that are half there."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from streams.judge.development import CELLS, KEEP, Development, ages_between, counted
from streams.measure.ages import BIN_OF, EDGES, LIMIT
from streams.measure.ledger import Ledger

cells_of = st.lists(st.integers(0, 50), min_size=CELLS, max_size=CELLS)
pane_of = st.tuples(st.integers(0, 99), st.dictionaries(st.integers(0, 40), cells_of, max_size=6), cells_of)


@given(st.lists(pane_of, min_size=1, max_size=12))
def test_the_law_equals_a_twin_that_keeps_every_pane(panes: list[tuple[int, dict[int, list[int]], list[int]]]) -> None:
    law = Development()
    for rows, looks, final in panes:
        law.learn(rows, sorted(looks.items()), final)
    ages = sorted({age for _, looks, _ in panes for age in looks})
    found = law.parts(ages)
    assert law.rows == pytest.approx(sum(rows * KEEP**k for k, (rows, _, _) in enumerate(reversed(panes))))
    for row, age in enumerate(ages):
        peers = [age for age in ages if BIN_OF[age] == BIN_OF[ages[row]]]
        if len(peers) > 1:
            continue  # a bin of several ages is interpolated from its mean
        for cell in range(CELLS):
            early = late = 0.0
            for k, (_, looks, final) in enumerate(reversed(panes)):
                if age in looks:
                    early += KEEP**k * looks[age][cell]
                    late += KEEP**k * final[cell]
            if late > 0:
                assert found[row, cell] == pytest.approx(early / late)


@given(st.lists(pane_of, min_size=1, max_size=5))
def test_a_law_that_was_kept_goes_on_the_same(panes: list[tuple[int, dict[int, list[int]], list[int]]]) -> None:
    one, other = Development(), Development()
    for rows, looks, final in panes:
        one.learn(rows, sorted(looks.items()), final)
        other.learn(rows, sorted(looks.items()), final)
        other = Development.load(other.dump())
    assert one.dump() == other.dump()


def test_nothing_is_projected_before_a_pane_has_closed_or_without_predictions() -> None:
    law = Development()
    assert law.project([10], [0], [[0] * CELLS]) is None
    law.learn(10, [(0, [1] * CELLS)], [2] * CELLS)
    assert law.project([0], [0], [[0] * CELLS]) is None
    assert law.project([10], [0], [[1] * CELLS]) is not None


def test_a_window_that_has_closed_is_projected_as_it_is() -> None:
    law = Development()
    law.learn(10, [(0, [1] * CELLS)], [2_000] * CELLS)
    cells = [3_000, 1_000, 0, 4_000, 2_000, 0]
    projected = law.project([10], [-1], [cells])
    assert projected is not None
    assert list(counted(projected)) == cells


def test_a_kind_of_error_that_is_new_is_seen_before_the_first_pane_with_it_has_closed() -> None:
    law = Development()
    law.learn(100, [(0, [20_000, 0, 0, 30_000, 0, 0])], [40_000, 0, 0, 60_000, 0, 0])
    projected = law.project([100], [0], [[10_000, 25_000, 0, 15_000, 0, 0]])
    assert projected is not None
    assert counted(projected) == (20_000, 50_000, 0, 30_000, 0, 0)


def test_clicks_with_negatives_only_at_the_horizon() -> None:
    """Labelled-only says 1.0, unlabelled-as-negative says too little; the projection is right within four sds.

    400 windows of statistics on the click-through example: conversions of 10 %, log-normal delay, negatives by silence.
    """
    rng = np.random.default_rng(7)
    panes, rows, horizon = 160, 2_000, 72
    law = Development()
    delay = 6.0 * np.exp(1.2 * rng.standard_normal((panes, rows)))
    positive = (rng.random((panes, rows)) < 0.1) & (delay < horizon)

    def at(pane: int, age: int) -> list[int]:
        arrived = positive[pane] & (delay[pane] <= age)
        silent = int((~positive[pane]).sum()) if age >= horizon else 0
        return [int(arrived.sum()) * 1000, 0, 0, silent * 1000, 0, 0]

    for pane in range(88):
        law.learn(rows, [(age, at(pane, age)) for age in range(horizon)], at(pane, horizon))
    window = range(136, 160)
    projected = law.project([rows] * 24, [159 - pane for pane in window], [at(pane, 159 - pane) for pane in window])
    assert projected is not None
    cells = counted(projected)
    truth = float(positive[136:160].mean())
    rate = cells[0] / sum(cells)
    so_far = sum(at(pane, 159 - pane)[0] for pane in window) / 1000 / (24 * rows)
    assert abs(rate - truth) < 4 * 0.0026
    assert so_far < truth - 0.03
    assert sum(cells) / 1000 == pytest.approx(24 * rows, rel=0.001)


def test_a_pane_is_looked_at_once_in_each_bin_of_ages_however_rare_the_looks() -> None:
    looked = [age for age in range(LIMIT) if ages_between(age - 1, age)]
    assert looked == [int(edge) for edge in EDGES[:-1]]
    assert ages_between(16, 17) == []
    assert ages_between(16, 40) == [40]
    assert ages_between(None, 0) == [0]


def test_counted_reads_confusion_and_agreement() -> None:
    assert counted(Ledger({"confusion": {1: 5}, "agreement": {1: 7}, "n": {0: 3}})) == (0, 5, 0, 0, 0, 7)
