"""The replay that counts how often forecasts hold: on rows whose truth is known, and on its own parts."""

import numpy as np
import pytest

from benchmarks.statistics.coverage import Fared, coverage, delays, fitted


def test_a_logistic_model_is_fitted_on_the_first_rows_alone() -> None:
    rng = np.random.default_rng(1)
    features = rng.normal(size=(3_000, 2))
    labels = (rng.random(3_000) < 1 / (1 + np.exp(-2 * features[:, 0]))).astype(int)
    scores = fitted(features, labels, 1_000)
    labels[1_000:] = 1 - labels[1_000:]
    assert np.array_equal(scores, fitted(features, labels, 1_000))
    assert np.corrcoef(scores, features[:, 0])[0, 1] > 0.9


def test_positives_come_sooner() -> None:
    found = delays(np.array([0, 1] * 5_000), 2)
    assert np.median(found[1::2]) == pytest.approx(0.25, rel=0.1)
    assert np.median(found[::2]) == pytest.approx(0.6, rel=0.1)


def test_projections_lose_the_bias_of_what_has_come_and_their_intervals_hold() -> None:
    """160 intervals at 90 %: 0.8 to 0.98 is four standard errors; the seed is fixed."""
    rng = np.random.default_rng(3)
    features = rng.normal(size=(9_000, 2))
    labels = (rng.random(9_000) < 1 / (1 + np.exp(-2 * features[:, 0]))).astype(int)
    found = {
        (one.estimator, one.metric): one
        for one in coverage(features, labels, rows_a_pane=40, fit=500, reference=1_000, seed=4)
    }
    rate = found["projected", "positive_rate"]
    assert isinstance(rate, Fared)
    assert rate.panes > 120
    assert 0.8 <= rate.coverage <= 0.98
    assert rate.bias_so_far > 0.1
    assert abs(rate.bias) < 0.3 * rate.bias_so_far
    still = found["estimated", "accuracy"]  # nothing drifts here, so scores alone are right as well
    assert abs(still.bias) < 0.03
    assert 0.8 <= still.coverage <= 0.98
