"""Quantiles of latency against the rows themselves, and shares of what is missing."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from schemas.inputs import Prediction
from streams.join.outcome import Counted
from streams.judge.figures import figures
from streams.judge.panes import Key
from streams.measure.cells import cells
from streams.measure.ledger import LATENCY, Ledger
from streams.measure.metrics import (
    LatencyP50,
    LatencyP95,
    LatencyP99,
    Metric,
    MissingFeatures,
    MissingScore,
    MissingSubject,
)
from streams.measure.metrics.quantiles import ranks
from streams.measure.scale import bins, span_edges
from streams.measure.tally import ledger_of


def took(spans: Any) -> Ledger:
    places, counts = np.unique(bins(span_edges(), np.asarray(spans)), return_counts=True)
    return Ledger({LATENCY: dict(zip(places.tolist(), counts.tolist(), strict=True))})


@pytest.mark.parametrize(("metric", "share"), [(LatencyP50(), 0.5), (LatencyP95(), 0.95), (LatencyP99(), 0.99)])
def test_quantiles_are_those_of_the_rows_within_a_bin(metric: Metric, share: float) -> None:
    spans = np.random.default_rng(0).lognormal(3, 1, 5_000)
    measured = metric.measured(took(spans))
    ordered = np.sort(spans)
    low, high = ranks(share, 5_000)
    assert measured.n == 5_000
    assert measured.value == pytest.approx(np.quantile(spans, share, method="inverted_cdf"), rel=0.0101)
    assert measured.low == pytest.approx(ordered[low - 1], rel=0.0101)
    assert measured.high == pytest.approx(ordered[high - 1], rel=0.0101)


@pytest.mark.parametrize(("metric", "share", "n"), [(LatencyP50(), 0.5, 30), (LatencyP95(), 0.95, 400)])
def test_their_intervals_cover(metric: Metric, share: float, n: int) -> None:
    """95 % intervals over 1,000 seeded samples cover at least 93 %: the bins are 2 % wide."""
    rng = np.random.default_rng(1)
    truth = float(np.quantile(rng.lognormal(3, 1, 2_000_000), share))
    hits = 0
    for _ in range(1_000):
        measured = metric.measured(took(rng.lognormal(3, 1, n)))
        assert measured.low is not None
        assert measured.high is not None
        hits += measured.low <= truth * 1.01 and truth <= measured.high * 1.01
    assert hits >= 930


def test_too_few_for_a_rank_have_no_interval() -> None:
    measured = LatencyP99().measured(took([5.0] * 50))
    assert measured.value == pytest.approx(5.0, rel=0.0101)
    assert (measured.low, measured.high) == (None, None)


def predictions(**given: Any) -> Ledger:
    found = Ledger()
    for i in range(10):
        kept = {name: value for name, value in given.items() if i % 5}
        found.add(cells(Counted(Prediction(request_id=f"r{i}", at_ms=0, model="m", **kept)), None))
    return found


def test_what_is_missing_is_a_share_of_the_predictions() -> None:
    ledger = predictions(score=0.5, features={"x": 1.0})
    assert (MissingScore().value(ledger), MissingFeatures().value(ledger)) == (0.2, 0.2)
    measured = MissingSubject().measured(ledger)
    assert (measured.value, measured.high, measured.n) == (1.0, 1.0, 10)
    assert measured.low is not None
    assert measured.low < 0.75


def test_nobody_looked_at_rows_or_slices() -> None:
    assert MissingScore().value(ledger_of([0.5], [1], ["u"])) is None
    sliced = cells(Counted(Prediction(request_id="r", at_ms=0, model="m")), None, sliced=True)
    assert MissingSubject().measured(Ledger(sliced)).value is None


def test_traffic_is_mature_without_labels_and_told_of_the_whole_alone() -> None:
    ledger = predictions(score=0.5, latency_ms=3.0)
    whole = {one.metric: one for one in figures("m", Key("1", "", "primary", ""), ledger, 0, 1, 1, closed=True)}
    assert set(whole) == {"latency_p50", "latency_p95", "latency_p99"} | {
        f"missing_{what}" for what in ("score", "features", "subject")
    }
    assert {one.maturity for one in whole.values()} == {1.0}
    assert list(figures("m", Key("1", "", "primary", "a=b"), ledger, 0, 1, 1, closed=True)) == []
