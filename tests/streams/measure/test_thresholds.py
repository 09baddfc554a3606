"""Every threshold against counting the rows again."""

from __future__ import annotations

import numpy as np
import pytest

from schemas.inputs import Prediction
from streams.join.outcome import Counted, Outcome
from streams.measure.cells import cells
from streams.measure.ledger import Ledger
from streams.measure.metrics import Precision, Recall
from streams.measure.scale import score_edges
from streams.measure.tally import ledger_of
from streams.measure.thresholds import thresholds


def test_each_threshold_gives_what_the_rows_give() -> None:
    rng = np.random.default_rng(0)
    scores = 1 / (1 + np.exp(-rng.normal(-1, 2, 3_000)))
    labels = rng.random(3_000) < scores
    weights = rng.integers(1, 1001, 3_000) / 1000
    found = thresholds(ledger_of(scores, labels, ["u"] * 3_000, weights), cost_fp=1.0, cost_fn=4.0)
    assert found is not None
    assert len(found.threshold) == 2_049
    for place in (0, 700, 1_000, 1_024, 1_300, 2_000):
        at = float(found.threshold[place])
        ledger = ledger_of(scores, labels, ["u"] * 3_000, weights, threshold=at)
        cells_ = ledger.dense("confusion", 4)
        assert [found.tp[place], found.fp[place], found.fn[place], found.tn[place]] == pytest.approx(
            [cell / 1000 for cell in cells_]
        )
        if Precision().value(ledger) is not None:
            assert found.precision[place] == pytest.approx(Precision().value(ledger))
        assert found.recall[place] == pytest.approx(Recall().value(ledger))
        wrong = labels != (scores >= at)
        cost = np.sum(weights * wrong * np.where(labels, 4.0, 1.0)) / weights.sum()
        assert found.cost[place] == pytest.approx(cost)
    assert float(found.cost.min()) == found.cost[found.best]
    assert 0.1 < found.threshold[found.best] < 0.3, "a calibrated model's is near 1 / (1 + 4)"


def test_the_last_takes_nothing_and_0_over_0_is_no_precision() -> None:
    found = thresholds(ledger_of([0.2, 0.9], [0, 0], ["a", "b"]))
    assert found is not None
    assert np.isnan(found.precision[-1])
    assert np.isnan(found.recall).all()
    assert (found.tp[-1] + found.fp[-1], found.cost[found.best]) == (0.0, 0.0)


def test_a_slice_has_its_own_bins() -> None:
    said = Outcome(label=1, kind="explicit")
    prediction = Prediction(request_id="r", at_ms=0, model="m", score=0.5)
    found = thresholds(Ledger(cells(Counted(prediction, said), None, sliced=True)), sliced=True)
    assert found is not None
    assert len(found.threshold) == 513
    assert found.threshold[256] == score_edges()[1023] == 0.5
    assert (found.tp[256], found.fn[257]) == (1.0, 1.0)
