"""Metrics against scikit-learn, and intervals that cover."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import pytest
from sklearn import metrics as sk

from streams.measure.ledger import Ledger
from streams.measure.metrics import (
    F1,
    Accuracy,
    Auc,
    AveragePrecision,
    Brier,
    Lift,
    LogLoss,
    Mcc,
    Metric,
    PositiveRate,
    Precision,
    PredictedPositiveRate,
    Recall,
    Specificity,
)
from streams.measure.scale import bins, score_edges
from streams.measure.tally import ledger_of

Array = np.ndarray[Any, np.dtype[np.float64]]


def sample(n: int, base: float, seed: int) -> tuple[Array, Array]:
    rng = np.random.default_rng(seed)
    logit = np.log(base / (1 - base)) + rng.normal(0, 1.2, n)
    scores = 1 / (1 + np.exp(-logit))
    return scores, (rng.random(n) < scores).astype(np.float64)


def lift(labels: Array, decided: Array, sample_weight: Array) -> float:
    precision = sk.precision_score(labels, decided, sample_weight=sample_weight)
    return float(precision / np.average(labels, weights=sample_weight))


CASES = [(500, 0.5, 0), (5_000, 0.1, 1), (20_000, 0.01, 2)]


@pytest.mark.parametrize(("n", "base", "seed"), CASES)
def test_confusion_metrics_equal_sklearn(n: int, base: float, seed: int) -> None:
    scores, labels = sample(n, base, seed)
    weights = np.random.default_rng(seed).integers(1, 1001, n) / 1000
    ledger = ledger_of(scores, labels, ["u"] * n, weights, threshold=base)
    decided = scores >= base
    peers: list[tuple[Metric, Callable[..., Any]]] = [
        (Accuracy(), sk.accuracy_score),
        (Precision(), sk.precision_score),
        (Recall(), sk.recall_score),
        (F1(), sk.f1_score),
        (Specificity(), partial(sk.recall_score, pos_label=0)),
        (Mcc(), sk.matthews_corrcoef),
        (PositiveRate(), lambda y, _, sample_weight: np.average(y, weights=sample_weight)),
        (PredictedPositiveRate(), lambda _, guess, sample_weight: np.average(guess, weights=sample_weight)),
        (Lift(), lift),
    ]
    for metric, peer in peers:
        assert metric.value(ledger) == pytest.approx(peer(labels, decided, sample_weight=weights), abs=1e-12)


@pytest.mark.parametrize(("n", "base", "seed"), CASES)
def test_losses_equal_sklearn_within_a_micro_unit(n: int, base: float, seed: int) -> None:
    scores, labels = sample(n, base, seed)
    ledger = ledger_of(scores, labels, ["u"] * n)
    assert LogLoss().value(ledger) == pytest.approx(sk.log_loss(labels, scores, labels=[0, 1]), abs=0.65e-6)
    assert Brier().value(ledger) == pytest.approx(sk.brier_score_loss(labels, scores), abs=1e-6)


@pytest.mark.parametrize(("n", "base", "seed"), CASES)
def test_auc_equals_sklearn_on_bins_and_lies_within_its_bound_on_scores(n: int, base: float, seed: int) -> None:
    scores, labels = sample(n, base, seed)
    measured = Auc().measured(ledger_of(scores, labels, [str(i) for i in range(n)]))
    assert measured.value is not None
    assert measured.value == pytest.approx(sk.roc_auc_score(labels, bins(score_edges(), scores)), abs=1e-12)
    assert abs(measured.value - sk.roc_auc_score(labels, scores)) <= measured.bound
    assert 0 < measured.bound < 0.005
    assert not measured.coarse


@pytest.mark.parametrize(("n", "base", "seed"), CASES)
def test_average_precision_equals_sklearn_on_bins(n: int, base: float, seed: int) -> None:
    scores, labels = sample(n, base, seed)
    weights = np.random.default_rng(seed).integers(1, 1001, n) / 1000
    measured = AveragePrecision().measured(ledger_of(scores, labels, [str(i) for i in range(n)], weights))
    peer = sk.average_precision_score(labels, bins(score_edges(), scores), sample_weight=weights)
    assert measured.value == pytest.approx(peer, abs=1e-12)
    assert measured.value == pytest.approx(sk.average_precision_score(labels, scores, sample_weight=weights), abs=0.02)
    assert measured.low is not None
    assert measured.high is not None
    assert measured.low < measured.high


def test_a_model_that_hardly_varies_is_called_coarse() -> None:
    rng = np.random.default_rng(4)
    scores = 1 / (1 + np.exp(-rng.normal(0, 0.02, 4_000)))
    labels = rng.random(4_000) < scores
    measured = Auc().measured(ledger_of(scores, labels, [str(i) for i in range(4_000)]))
    assert measured.coarse
    assert measured.value is not None
    assert abs(measured.value - sk.roc_auc_score(labels, scores)) <= measured.bound


def test_half_an_outcome_counts_half() -> None:
    one = ledger_of([0.9, 0.9, 0.1], [1, 0, 0], ["a", "b", "c"], [1.0, 0.5, 1.0])
    assert Precision().value(one) == pytest.approx(1 / 1.5)
    assert Accuracy().value(one) == pytest.approx(2 / 2.5)


def test_labels_that_are_not_binary_give_accuracy_alone() -> None:
    ledger = ledger_of([None] * 4, ["cat", "dog", "cat", 2.5], list("abcd"), predictions=["cat", "cat", "cat", 2.5])
    assert Accuracy().value(ledger) == pytest.approx(2 / 3)
    assert Precision().value(ledger) is None
    assert Auc().value(ledger) is None
    assert Accuracy().measured(ledger).n == 3


def test_nothing_positive_is_no_precision_not_zero() -> None:
    ledger = ledger_of([0.1, 0.2], [0, 0], ["a", "b"])
    assert Precision().measured(ledger).value is None
    assert Recall().measured(ledger).value is None
    assert F1().measured(ledger).value is None
    assert Auc().measured(ledger).value is None
    for metric in (AveragePrecision(), Mcc(), Lift()):
        assert metric.measured(ledger).value is None
    assert Accuracy().value(ledger) == 1.0
    assert Specificity().value(ledger) == 1.0


def test_one_subject_has_a_value_and_no_interval() -> None:
    measured = Accuracy().measured(ledger_of([0.9] * 100, [1] * 100, ["u"] * 100))
    assert (measured.value, measured.low, measured.high, measured.subjects) == (1.0, None, None, 1)


def test_all_correct_is_no_certainty() -> None:
    measured = Accuracy().measured(ledger_of([0.9] * 50, [1] * 50, [str(i) for i in range(50)]))
    assert measured.low is not None
    assert measured.low == pytest.approx(0.929, abs=1e-3)
    assert measured.high == 1.0


def clustered(rng: np.random.Generator, subjects: int, each: int) -> Ledger:
    """Users with many events of their own difficulty: P(right) is the user's."""
    skill = np.repeat(rng.beta(4, 2, subjects), each)
    right = rng.random(len(skill)) < skill
    labels = rng.random(len(skill)) < 0.5
    scores = np.where(labels == right, 0.8, 0.2)
    return ledger_of(scores, labels, [str(i) for i in np.repeat(np.arange(subjects), each)])


@pytest.mark.slow
@pytest.mark.parametrize("metric", [Accuracy(), F1(), Brier(), Auc(), AveragePrecision(), Mcc(), Lift()])
def test_intervals_cover_when_users_send_many_events(metric: Metric) -> None:
    """95 % intervals over 200 seeded samples cover at least 90 %: the truth is the mean of 40,000 users."""
    rng = np.random.default_rng(5)
    truth = metric.value(clustered(rng, 40_000, 5))
    assert truth is not None
    hits = 0
    for _ in range(200):
        measured = metric.measured(clustered(rng, 300, 20))
        assert measured.low is not None
        assert measured.high is not None
        hits += measured.low <= truth <= measured.high
    assert hits >= 180
