"""What is told ahead: when, from which law, how it is scored, and that a restart changes nothing."""

import json

import numpy as np
import pytest

from streams.judge.conformal import LEAST
from streams.judge.development import Development
from streams.judge.outlook import OUTSTANDING, OWN, Outlook, Part
from streams.measure.ledger import SCORE_BINS, SCORE_CHOSEN, Ledger

MINUTE = 60_000
ROWS = 50


def pane(right: int, wrong: int) -> Ledger:
    return Ledger({"n": {0: ROWS}, "labelled": {0: right + wrong}, "confusion": {3: right * 1000, 1: wrong * 1000}})


def learnt(panes: int) -> Development:
    """A law of which half is there at once: 20 right and 5 wrong of 40 and 10."""
    law = Development()
    for _ in range(panes):
        law.learn(ROWS, [(0, [0, 5_000, 0, 20_000, 0, 0])], [0, 10_000, 0, 40_000, 0, 0])
    return law


def accuracy(outlook: Outlook, window: list[Part], pooled: Development) -> float | None:
    found = outlook.tell(window, MINUTE, pooled, Ledger(), None, outlook.looks)
    return next((one.told.value for one in found if one.metric == "accuracy"), None)


def test_a_new_arm_borrows_its_models_law_until_it_has_its_own() -> None:
    outlook = Outlook()
    outlook.looks[0] = [(0, [])]
    window = [Part(0, pane(20, 5))]
    assert accuracy(outlook, window, Development()) is None
    assert accuracy(outlook, window, learnt(1)) == pytest.approx(0.8)
    for number in range(OWN):  # its own: the right ones come at once, the wrong ones later
        outlook.looks[-MINUTE] = [(0, [0, 0, 0, 40_000, 0, 0])]
        outlook.close(-MINUTE, ROWS, pane(40, 10), pane(40, 10))
        borrowed = accuracy(outlook, window, learnt(1))
        assert (borrowed == pytest.approx(0.8)) is (number < OWN - 1)


def test_a_forecast_is_scored_once_by_the_window_that_ends_with_its_pane() -> None:
    outlook, pooled = Outlook(), learnt(5)
    for number in range(LEAST + 3):
        start = number * MINUTE
        outlook.looks[start] = [(0, [0, 5_000, 0, 20_000, 0, 0])]
        told = {
            one.metric: one
            for one in outlook.tell([Part(start, pane(20, 5))], MINUTE, pooled, Ledger(), None, outlook.looks)
        }
        assert (told["accuracy"].told.low is not None) is (number >= LEAST)
        assert told["accuracy"].maturity == pytest.approx(0.5)
        assert told["accuracy"].n == 25
        outlook.close(start, ROWS, pane(40, 10), pane(40, 10))
        outlook.close(start, ROWS, pane(0, 50), pane(0, 50))  # nothing is told of it any more
    series = outlook.series["projected accuracy"]
    assert len(series.scores) == LEAST + 3
    assert series.tally().scored == 3
    assert not outlook.told
    assert not outlook.looks


def test_a_window_without_labels_or_rows_tells_nothing_and_breaks_nothing() -> None:
    outlook = Outlook()
    assert list(outlook.tell([Part(0, Ledger())], MINUTE, learnt(3), Ledger(), None, outlook.looks)) == []
    outlook.close(0, 0, Ledger(), Ledger())
    unlabelled = Development()
    unlabelled.learn(ROWS, [(0, [0] * 6)], [0] * 6)
    assert list(outlook.tell([Part(0, pane(0, 0))], MINUTE, unlabelled, Ledger(), None, outlook.looks)) == []


def test_scores_alone_tell_figures_without_any_label() -> None:
    chances = np.linspace(0, 1, SCORE_BINS)
    traffic = Ledger({"n": {0: 4}, "score": {500: 2, 1500: 2}, SCORE_CHOSEN: {1500: 2}})
    told = {one.metric: one for one in Outlook().tell([Part(0, traffic)], MINUTE, Development(), traffic, chances, ())}
    assert told["accuracy"].told.value == pytest.approx((chances[1500] + 1 - chances[500]) / 2, abs=1e-3)
    assert told["accuracy"].estimator == "estimated"
    assert told["accuracy"].n == 4
    assert "auc" in told


def test_with_many_panes_waiting_not_every_forecast_is_kept() -> None:
    outlook, pooled = Outlook(), learnt(5)
    panes = 3 * OUTSTANDING
    for number in range(panes):
        outlook.looks[number * MINUTE] = [(0, [0] * 6)]
        list(outlook.tell([Part(number * MINUTE, pane(20, 5))], MINUTE, pooled, Ledger(), None, outlook.looks))
    assert OUTSTANDING <= len(outlook.told) <= 2 * OUTSTANDING


def test_a_restart_changes_nothing() -> None:
    one, other, pooled = Outlook(), Outlook(), learnt(5)
    rng = np.random.default_rng(1)
    ledgers: dict[int, Ledger] = {}
    for number in range(60):
        start, right = number * MINUTE, int(rng.integers(10, 25))
        ledgers[start] = pane(right, 25 - right)
        for outlook in (one, other):
            outlook.look(start, MINUTE, ledgers.get)
            outlook.looks[start] = [(0, [0, 1_000, 0, 9_000, 0, 0])]
            list(outlook.tell([Part(start, ledgers[start])], MINUTE, pooled, Ledger(), None, outlook.looks))
            if number >= 20:
                done = start - 20 * MINUTE
                outlook.close(done, ROWS, ledgers[done], ledgers[done])
        other = Outlook.load(json.loads(json.dumps(other.dump())))
    assert one.dump() == other.dump()
    assert one.series["projected accuracy"].delay == 20
    assert [age for age, _ in one.looks[41 * MINUTE]] == [0, *range(1, 16), 16, 18]
