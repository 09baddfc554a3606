"""What every registered metric owes, the ones of plug-ins included."""

from __future__ import annotations

import re
from collections.abc import Callable
from math import isfinite
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest
from msgspec import convert

from schemas.inputs import Prediction
from streams.join.outcome import Counted, Named, Outcome
from streams.measure.cells import cells
from streams.measure.ledger import Ledger
from streams.measure.lists import ledger_of_lists
from streams.measure.metrics import Metric, metrics
from streams.measure.metrics.base import Better
from streams.measure.tally import ledger_of

ALL = [pytest.param(metric, id=metric.kind) for metric in metrics()]


def sample(seed: int, n: int = 400, base: float = 0.3) -> Ledger:
    rng = np.random.default_rng(seed)
    scores = rng.beta(2 * base, 2 * (1 - base), n)
    return ledger_of(scores, rng.random(n) < scores, [f"u{i}" for i in rng.integers(0, 90, n)])


def figures(seed: int, n: int = 400, base: float = 0.3) -> Ledger:
    rng = np.random.default_rng(seed)
    labels = rng.lognormal(3, 1, n)
    answers = labels * rng.lognormal(base - 0.5, 0.5, n)
    return ledger_of([None] * n, labels, [f"u{i}" for i in rng.integers(0, 90, n)], None, answers)


def classes(seed: int, n: int = 400, base: float = 0.3) -> Ledger:
    rng = np.random.default_rng(seed)
    labels: list[Any] = [*rng.choice(["cat", "dog", "emu"], n - n // 3), *([["a"], ["a", "b"], []] * n)[: n // 3]]
    answers = [one if rng.random() < base else labels[0] for one in labels]
    return ledger_of([None] * n, labels, [f"u{i}" for i in rng.integers(0, 90, n)], None, answers)


def traffic(seed: int, n: int = 400, base: float = 0.3) -> Ledger:
    rng = np.random.default_rng(seed)
    found = Ledger()
    for i, latency_ms in enumerate(rng.lognormal(3, 1, n).tolist()):
        given = {"score": 0.5, "subject": f"u{i % 90}", "features": {"x": i}, "latency_ms": latency_ms}
        kept = {name: value for name, value in given.items() if rng.random() > base}
        prediction = convert({"request_id": f"r{i}", "at_ms": 0, "model": "m", **kept}, Prediction)
        found.add(cells(Counted(prediction), None))
    return found


def lists(seed: int, n: int = 400, base: float = 0.3) -> Ledger:
    rng = np.random.default_rng(seed)
    gains = (rng.random((n, 12)) < base / 4).astype(float).tolist()
    return ledger_of_lists(gains, [f"u{i}" for i in rng.integers(0, 90, n)])


def amounts(seed: int, n: int = 400, base: float = 0.3) -> Ledger:
    rng = np.random.default_rng(seed)
    found = Ledger()
    for i, value in enumerate(rng.normal(base - 0.5, 5, n).tolist()):
        prediction = Prediction(request_id=f"r{i}", at_ms=0, model="m", subject=f"u{i % 90}")
        outcome = Outcome(label=value, kind="explicit")
        found.add(cells(Counted(prediction, others=(Named("v", outcome, value=True),)), None))
    return found.parts()["v"]


SAMPLES = [pytest.param(give, id=give.__name__) for give in (sample, figures, classes, traffic, lists, amounts)]
Sample = Callable[..., Ledger]


def test_the_metrics_of_the_first_release_are_there() -> None:
    assert {metric.kind for metric in metrics()} >= {
        "accuracy",
        "precision",
        "recall",
        "f1",
        "log_loss",
        "brier",
        "auc",
    }


@pytest.mark.parametrize("metric", ALL)
def test_it_is_documented_and_prints_itself(metric: Metric) -> None:
    assert metric.__doc__
    assert metric.better in get_args(Better)
    assert Metric.parse(metric.model_dump()) == metric


@pytest.mark.parametrize("metric", ALL)
def test_it_cannot_tell_from_nothing(metric: Metric) -> None:
    measured = metric.measured(Ledger())
    assert (metric.value(Ledger()), measured.value, measured.low, measured.high) == (None, None, None, None)
    assert (measured.n, measured.subjects) == (0, 0)


@pytest.mark.parametrize("sample", SAMPLES)
@pytest.mark.parametrize("metric", ALL)
def test_it_is_pure(metric: Metric, sample: Sample) -> None:
    ledger = sample(1)
    kept = Ledger(ledger.cells)
    assert metric.measured(ledger) == metric.measured(ledger)
    assert ledger == kept


@pytest.mark.parametrize("sample", SAMPLES)
@pytest.mark.parametrize("metric", ALL)
def test_merging_equals_one_pass(metric: Metric, sample: Sample) -> None:
    parts = [sample(seed) for seed in range(4)]
    forwards, backwards = Ledger(), Ledger()
    for part in parts:
        forwards.add(part.cells)
    for part in reversed(parts):
        backwards.add(part.cells)
    assert metric.measured(forwards) == metric.measured(backwards)
    assert metric.measured(forwards - parts[0]) == metric.measured(parts[3] + parts[1] + parts[2])


@pytest.mark.parametrize("sample", SAMPLES)
@pytest.mark.parametrize("metric", ALL)
@pytest.mark.parametrize("n", [1, 2, 3, 10, 400])
def test_the_interval_holds_the_value_and_stays_in_bounds(metric: Metric, n: int, sample: Sample) -> None:
    for seed in range(5):
        for base in (0.02, 0.5, 0.98):
            measured = metric.measured(sample(seed, n, base))
            if measured.value is None:
                continue
            assert isfinite(measured.value)
            assert metric.least is None or measured.value >= metric.least
            assert metric.most is None or measured.value <= metric.most
            assert (measured.low is None) == (measured.high is None)
            if measured.low is not None and measured.high is not None:
                assert measured.low <= measured.value <= measured.high
                assert metric.least is None or measured.low >= metric.least
                assert metric.most is None or measured.high <= metric.most
            assert 0 < measured.n <= n


def test_every_metric_is_in_the_documentation() -> None:
    told = (Path(__file__).parents[2] / "docs" / "metrics.md").read_text(encoding="utf-8")
    assert [metric.kind for metric in metrics() if f"`{metric.kind}`" not in told] == []
    whole = set(re.findall(r"`(\w+)` \\\*", told))
    assert whole == {metric.kind for metric in metrics() if not metric.sliced}
