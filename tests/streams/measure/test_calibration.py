"""Calibration against a direct computation, its null laws, and intervals that cover."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from sklearn import metrics as sk

from streams.measure.ledger import Ledger
from streams.measure.metrics import (
    Brier,
    Ece,
    EceExcess,
    Metric,
    Reliability,
    Resolution,
    SpiegelhalterZ,
    Uncertainty,
)
from streams.measure.tally import ledger_of

Array = np.ndarray[Any, np.dtype[np.float64]]


def sample(n: int, seed: int, bent: float = 1.0) -> tuple[Array, Array]:
    """Draw outcomes, and scores whose logit is `bent` times the true one."""
    rng = np.random.default_rng(seed)
    logit = rng.normal(-0.5, 1.3, n)
    truth = 1 / (1 + np.exp(-logit))
    return 1 / (1 + np.exp(-bent * logit)), (rng.random(n) < truth).astype(np.float64)


def ledger_from(scores: Array, labels: Array, weights: Array | None = None) -> Ledger:
    return ledger_of(scores, labels, [f"u{i % 500}" for i in range(len(scores))], weights)


def value(metric: Metric, ledger: Ledger) -> float:
    found = metric.value(ledger)
    assert found is not None
    return found


def by_hand(p: Array, y: Array, w: Array) -> dict[str, float]:
    """Go through the bins one by one."""
    total, base = w.sum(), float((w * y).sum() / w.sum())
    found = {"ece": 0.0, "null": 0.0, "reliability": 0.0, "resolution": 0.0}
    for k in range(15):
        mine = np.minimum(np.floor(p * 15), 14) == k
        if not mine.any():
            continue
        held = w[mine].sum()
        mean_p, mean_y = (w * p)[mine].sum() / held, (w * y)[mine].sum() / held
        found["ece"] += held / total * abs(mean_p - mean_y)
        found["null"] += np.sqrt(2 / np.pi) * np.sqrt((w * p * (1 - p))[mine].sum()) / total
        found["reliability"] += held / total * (mean_p - mean_y) ** 2
        found["resolution"] += held / total * (mean_y - base) ** 2
    z = (w * (y - p) * (1 - 2 * p)).sum() / np.sqrt((w * (1 - 2 * p) ** 2 * p * (1 - p)).sum())
    return found | {"uncertainty": base * (1 - base), "z": float(z)}


@pytest.mark.parametrize(("n", "seed", "bent"), [(1, 0, 1.0), (40, 1, 1.0), (3_000, 2, 1.0), (3_000, 3, 2.0)])
def test_figures_equal_those_of_going_through_the_rows(n: int, seed: int, bent: float) -> None:
    scores, labels = sample(n, seed, bent)
    weights = np.random.default_rng(seed).integers(1, 1001, n) / 1000
    ledger, told = ledger_from(scores, labels, weights), by_hand(scores, labels, weights)
    assert value(Ece(), ledger) == pytest.approx(told["ece"], abs=1e-6)
    assert value(EceExcess(), ledger) == pytest.approx(told["ece"] - told["null"], abs=2e-6)
    assert value(Reliability(), ledger) == pytest.approx(told["reliability"], abs=1e-6)
    assert value(Resolution(), ledger) == pytest.approx(told["resolution"], abs=1e-6)
    assert value(Uncertainty(), ledger) == pytest.approx(told["uncertainty"], abs=1e-6)
    assert value(SpiegelhalterZ(), ledger) == pytest.approx(told["z"], abs=2e-3)


def test_the_parts_add_up_to_the_score_of_the_bin_means() -> None:
    scores, labels = sample(5_000, 4)
    means = (np.minimum(np.floor(scores * 15), 14) + 0.5) / 15
    ledger = ledger_from(means, labels)
    parts = value(Reliability(), ledger) - value(Resolution(), ledger) + value(Uncertainty(), ledger)
    assert parts == pytest.approx(sk.brier_score_loss(labels, means), abs=2e-6)
    assert value(Brier(), ledger) == pytest.approx(parts, abs=2e-6)


def test_a_calibrated_model_has_no_excess_and_a_bent_one_has() -> None:
    """Over 60 samples of a calibrated model ECE has the stated null mean, and Z has the standard normal law."""
    excess, zs = [], []
    for seed in range(60):
        ledger = ledger_from(*sample(2_000, seed))
        excess.append(value(EceExcess(), ledger))
        zs.append(value(SpiegelhalterZ(), ledger))
    assert abs(float(np.mean(excess))) < 0.001
    assert abs(float(np.mean(zs))) < 0.4
    assert 0.7 < float(np.std(zs)) < 1.3
    bent = ledger_from(*sample(2_000, 0, 2.0))
    assert value(EceExcess(), bent) > 0.03
    assert value(SpiegelhalterZ(), bent) > 5


def test_one_subject_has_a_value_and_no_interval() -> None:
    measured = Ece().measured(ledger_of([0.9] * 10, [1] * 10, ["u"] * 10))
    assert measured.value == pytest.approx(0.1, abs=1e-6)
    assert (measured.low, measured.high) == (None, None)
    assert SpiegelhalterZ().value(ledger_of([1.0, 0.5], [1, 0], ["a", "b"])) is None, "they claim no variance"


@pytest.mark.slow
@pytest.mark.parametrize("metric", [Ece(), Reliability(), Resolution(), Uncertainty()])
def test_intervals_cover_when_users_send_many_events(metric: Metric) -> None:
    """95 % intervals of a bent model over 200 seeded samples of 300 users with 20 events each cover at least 88 %."""
    rng = np.random.default_rng(7)

    def clustered(users: int, each: int) -> Ledger:
        logit = np.repeat(rng.normal(-0.3, 1.0, users), each) + rng.normal(0, 1.0, users * each)
        own = np.repeat(rng.normal(0, 0.7, users), each)
        labels = rng.random(users * each) < 1 / (1 + np.exp(-logit - own))
        scores = 1 / (1 + np.exp(-1.8 * logit))
        return ledger_of(scores, labels, [str(i) for i in np.repeat(np.arange(users), each)])

    truth = value(metric, clustered(40_000, 5))
    hits = 0
    for _ in range(200):
        measured = metric.measured(clustered(300, 20))
        assert measured.low is not None
        assert measured.high is not None
        hits += measured.low <= truth <= measured.high
    assert hits >= 176
