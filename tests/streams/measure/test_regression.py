"""Errors of a regression against scikit-learn, on scales that have nothing in common."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn import metrics as sk

from schemas.inputs import Prediction
from streams.join.outcome import Counted, Outcome
from streams.measure import scale
from streams.measure.cells import cells
from streams.measure.ledger import MEASURED, REGRESSED, RIGHT, SCORED, UNMEASURABLE, WRONG, Ledger
from streams.measure.metrics import R2, Accuracy, Bias, Mae, MedianAbsoluteError, Metric, Rmse
from streams.measure.tally import ledger_of

Array = np.ndarray[Any, np.dtype[np.float64]]


def sample(n: int, seed: int, unit: float) -> tuple[Array, Array]:
    rng = np.random.default_rng(seed)
    labels = unit * rng.lognormal(1.0, 1.5, n)
    return labels * rng.lognormal(0.1, 0.3, n), labels


def ledger_from(answers: Array, labels: Array, weights: Array | None = None) -> Ledger:
    n = len(labels)
    return ledger_of([None] * n, labels, [f"u{i % 700}" for i in range(n)], weights, answers)


@pytest.mark.parametrize("unit", [1e-6, 1.0, 137.0, 1e9, 1e20])
@pytest.mark.parametrize("n", [1, 2, 4_000])
def test_figures_equal_sklearn_on_any_scale(unit: float, n: int) -> None:
    answers, labels = sample(n, 3, unit)
    weights = np.random.default_rng(1).integers(1, 1001, n) / 1000
    ledger = ledger_from(answers, labels, weights)
    near: dict[str, Any] = {"rel": 2e-6}
    assert Mae().value(ledger) == pytest.approx(sk.mean_absolute_error(labels, answers, sample_weight=weights), **near)
    assert Rmse().value(ledger) == pytest.approx(
        sk.root_mean_squared_error(labels, answers, sample_weight=weights), **near
    )
    mean = float(np.average(answers - labels, weights=weights))
    assert Bias().value(ledger) == pytest.approx(mean, abs=2e-6 * float(np.abs(answers - labels).mean()))
    if n > 1:
        assert R2().value(ledger) == pytest.approx(sk.r2_score(labels, answers, sample_weight=weights), abs=2e-5)
    else:
        assert R2().value(ledger) is None, "one label has no variance"


def test_the_median_error_is_told_within_its_bins() -> None:
    answers, labels = sample(5_000, 5, 40.0)
    measured = MedianAbsoluteError().measured(ledger_from(answers, labels))
    assert measured.value == pytest.approx(sk.median_absolute_error(labels, answers), rel=0.033)
    assert measured.low is not None
    assert measured.high is not None
    assert measured.low < measured.high < 1.2 * measured.low
    assert MedianAbsoluteError().value(ledger_from(labels, labels)) == 0.0


def test_labels_far_from_nought_have_their_own_variance() -> None:
    rng = np.random.default_rng(0)
    labels = 1e4 + rng.normal(0, 1, 5_000)
    answers = labels + rng.normal(0, 0.5, 5_000)
    assert R2().value(ledger_from(answers, labels)) == pytest.approx(sk.r2_score(labels, answers), abs=1e-3)
    assert R2().value(ledger_from(answers + 1e8, labels + 1e8)) is None, "1 in 1e8 is not told from the rounding"


def test_a_model_worse_than_the_mean_is_below_nought() -> None:
    labels = np.array([1.5, 2.5, 3.5] * 20)
    measured = R2().measured(ledger_from(np.full(60, 9.5), labels))
    assert measured.value is not None
    assert measured.value == pytest.approx(sk.r2_score(labels, np.full(60, 9.5)), rel=1e-5)
    assert measured.low is not None
    assert measured.low <= measured.value < 0
    assert (Bias().value(ledger_from(labels - 1.25, labels)) or 0) == pytest.approx(-1.25, rel=1e-6)


def test_a_million_squared_errors_of_1e5_fit_int64() -> None:
    p = Prediction(request_id="r", at_ms=0, model="m", prediction=0.0)
    one = cells(Counted(p, Outcome(label=123_456.5, kind="explicit")), None)
    assert max(abs(cell) for vector in one.values() for cell in vector.values()) * 10**6 < 2**63
    assert max(abs(cell) for vector in one.values() for cell in vector.values()) <= 2**24 * 1000


@pytest.mark.parametrize(
    ("label", "prediction", "score", "counted"),
    [
        (3, 2, None, {WRONG: 1, REGRESSED: 1}),
        (3, 3.0, None, {RIGHT: 1, REGRESSED: 1}),
        (0, 1, None, {WRONG: 1, REGRESSED: 1}),
        (2.5, 2.25, 0.7, {REGRESSED: 1}),
        (2.5, None, 17.0, {REGRESSED: 1}),
        (1, None, 17.0, {REGRESSED: 1}),
        (1, None, 0.7, {SCORED: 1, RIGHT: 1}),
        (True, 2.5, None, {UNMEASURABLE: 1}),
        ("2.5", 2.5, None, {UNMEASURABLE: 1}),
        (2.5, None, None, {UNMEASURABLE: 1}),
        (2.5, 1e31, None, {UNMEASURABLE: 1}),
        (2.5, "x", 17.0, {UNMEASURABLE: 1}),
    ],
)
def test_what_is_a_regression(label: Any, prediction: Any, score: float | None, counted: dict[int, int]) -> None:
    given_ = Prediction(request_id="r", at_ms=0, model="m", prediction=prediction, score=score)
    found = cells(Counted(given_, Outcome(label=label, kind="explicit")), None)
    assert found[MEASURED] == counted
    assert found.get("bucket.n", {}) == ({} if UNMEASURABLE in counted else {next(iter(found["bucket.n"])): 1})


def test_counts_have_an_accuracy_and_an_error() -> None:
    ledger = ledger_from(np.array([0.0, 3.0, 5.0, 2.0]), np.array([0.0, 3.0, 4.0, 0.0]))
    assert (Accuracy().value(ledger), Mae().value(ledger)) == (0.5, 0.75)


@given(st.floats(0, 1e60))
def test_a_split_number_is_near_what_it_was(x: float) -> None:
    level, mantissa = scale.split(x)
    assert mantissa * 2.0 ** (4 * level - 1043) == pytest.approx(x, rel=2**-21, abs=1e-300)
    level, mantissa = scale.split_wide(x)
    assert mantissa * 2.0 ** (16 * level - 1031) == pytest.approx(x, rel=2**-9, abs=1e-300)
    assert scale.size_value(scale.size_bin(x)) == pytest.approx(x, rel=1 / 31, abs=1e-300)


@given(st.lists(st.floats(0, 1e60), min_size=1, max_size=20))
def test_one_and_many_give_the_same_integers(values: list[float]) -> None:
    array = np.array(values)
    for one, many in ((scale.split, scale.splits), (scale.split_wide, scale.splits_wide)):
        levels, mantissas = many(array)
        assert list(zip(levels.tolist(), mantissas.tolist(), strict=True)) == [one(x) for x in values]
    assert scale.size_bins(array).tolist() == [scale.size_bin(x) for x in values]


@pytest.mark.slow
@pytest.mark.parametrize("metric", [Mae(), Rmse(), Bias(), R2()])
def test_intervals_cover_when_users_send_many_events(metric: Metric) -> None:
    """95 % intervals over 200 seeded samples of 300 users with 20 events each cover at least 88 %."""
    rng = np.random.default_rng(9)

    def clustered(users: int, each: int) -> Ledger:
        labels = rng.normal(100, 30, users * each)
        own = np.repeat(rng.normal(2, 5, users), each)
        subjects = [str(i) for i in np.repeat(np.arange(users), each)]
        answers = labels + own + rng.normal(0, 5, users * each)
        return ledger_of([None] * len(labels), labels, subjects, None, answers)

    truth = metric.value(clustered(20_000, 5))
    assert truth is not None
    hits = 0
    for _ in range(200):
        measured = metric.measured(clustered(300, 20))
        assert measured.low is not None
        assert measured.high is not None
        hits += measured.low <= truth <= measured.high
    assert hits >= 176
