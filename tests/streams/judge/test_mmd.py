"""MMD from sums against loops over all pairs; its law against permutations and against quiet data."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy.stats import binom, chi2
from threadpoolctl import threadpool_limits

from streams.judge.mmd import (
    FeatureSums,
    first_bound,
    mmd2,
    null_weights,
    quantile,
    rows_that_differ,
    statistic,
    tail,
)
from streams.measure.fourier import Fourier, median_bandwidth
from tests.streams.judge import naive_mmd

Floats = NDArray[np.float64]


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Keep BLAS from spinning where other tests have the cores."""
    with threadpool_limits(1):
        yield


def sums(features: Floats, split: int = 0) -> FeatureSums:
    found = FeatureSums(features.shape[1])
    for part in (features[:split], features[split:]):
        found.add(part)
    return found


@settings(max_examples=40, deadline=None)
@given(
    n=st.integers(2, 9),
    m=st.integers(2, 9),
    dimension=st.integers(1, 4),
    split=st.integers(0, 9),
    seed=st.integers(0, 99),
)
def test_sums_equal_the_pairs_under_the_features_own_kernel(
    n: int, m: int, dimension: int, split: int, seed: int
) -> None:
    draw = np.random.default_rng(seed)
    fourier = Fourier(dimension, 1.3, seed, frequencies=16)
    a, c = (fourier.features(draw.normal(size=(rows, dimension)) * 2) for rows in (n, m))
    wanted = naive_mmd.mmd2(a.tolist(), c.tolist(), lambda x, y: sum(p * q for p, q in zip(x, y, strict=True)))
    assert mmd2(sums(a, split), sums(c)) == pytest.approx(wanted, abs=1e-12)
    gap = a.mean(axis=0) - c.mean(axis=0)
    assert statistic(sums(a), sums(c)) == pytest.approx(float(gap @ gap) * n * m / (n + m))


def test_the_estimate_is_that_of_the_gaussian_kernel_on_average_over_frequencies() -> None:
    """40 seeds; the mean lies beyond 4 standard errors with probability 1e-4."""
    draw = np.random.default_rng(5)
    a, c = draw.normal(size=(40, 3)), draw.normal(size=(30, 3)) * 1.5 + 0.5
    width = median_bandwidth(a)
    assert width == pytest.approx(naive_mmd.median_bandwidth(a.tolist()))
    wanted = naive_mmd.mmd2(a.tolist(), c.tolist(), naive_mmd.gaussian(width))
    found = []
    for seed in range(40):
        fourier = Fourier(3, width, seed)
        found.append(mmd2(sums(fourier.features(a)), sums(fourier.features(c))))
    error = float(np.std(found, ddof=1)) / math.sqrt(len(found))
    assert abs(float(np.mean(found)) - wanted) < 4 * error
    assert error < wanted / 20  # so the line above can fail


def test_the_law_has_the_moments_of_all_permutations() -> None:
    """The mean and the variance over 4,000 permutations are those of Σ λ χ²_1 (4 and 10 standard errors' room)."""
    draw = np.random.default_rng(8)
    features = Fourier(2, 1.0).features(draw.normal(size=(160, 2)))
    weights = null_weights(sums(features[:100]), sums(features[100:]))
    found = []
    for _ in range(4_000):
        order = draw.permutation(160)
        found.append(statistic(sums(features[order[:100]]), sums(features[order[100:]])))
    mean, variance = float(weights.sum()), 2 * float(weights @ weights)
    assert np.mean(found) == pytest.approx(mean, abs=4 * math.sqrt(variance / 4_000))
    assert np.var(found) == pytest.approx(variance, rel=0.15)
    for share in (0.5, 0.1, 0.05, 0.01):
        at = float(np.quantile(found, 1 - share))
        assert tail(at, weights) == pytest.approx(share, rel=0.3)


@pytest.mark.parametrize("dof", [1, 2, 5, 40, 256])
def test_chances_of_equal_weights_are_those_of_chi_squared(dof: int) -> None:
    weights = np.full(dof, 0.25)
    for p in (0.99, 0.5, 0.1, 1e-3, 1e-9, 1e-30):
        assert tail(0.25 * float(chi2.isf(p, dof)), weights) == pytest.approx(p, rel=0.12)
    assert quantile(0.95, weights) == pytest.approx(0.25 * float(chi2.isf(0.05, dof)), rel=0.02)
    found = [tail(float(q), weights) for q in np.linspace(0.2 * dof / 4, 3 * dof / 4, 400)]
    assert all(after <= before for before, after in itertools.pairwise(found))


@pytest.mark.slow
@pytest.mark.parametrize(("n", "m", "dimension"), [(50, 50, 8), (50, 1_000, 16), (1_000, 50, 4), (400, 300, 32)])
def test_a_quiet_pair_is_rejected_as_often_as_alpha_says(n: int, m: int, dimension: int) -> None:
    """200 pairs of heavy-tailed, dependent coordinates: more rejections at 5 % than binomial chance gives in 1e-4."""
    rejected = 0
    for seed in range(200):
        draw = np.random.default_rng([31, n, m, seed])
        whole = draw.standard_t(3, size=(n + m, dimension)) + draw.normal(size=(n + m, 1))
        features = Fourier(dimension, median_bandwidth(whole[:n]), seed).features(whole)
        a, c = sums(features[:n]), sums(features[n:])
        rejected += tail(statistic(a, c), null_weights(a, c)) <= 0.05
    assert rejected <= binom.isf(1e-4, 200, 0.05)


def test_the_share_that_differs_is_never_overstated() -> None:
    """A share of the rows comes from elsewhere: the bound stays below it (its noise, ±0.02, aside) and is not empty."""
    for share in (0.1, 0.3, 0.6, 1.0):
        for off in (0.5, 2.0, 20.0):
            draw = np.random.default_rng([3, int(10 * share), int(off)])
            a, c = draw.normal(size=(4_000, 6)), draw.normal(size=(4_000, 6))
            c[: int(4_000 * share)] += off
            fourier = Fourier(6, median_bandwidth(a[:300]))
            found = rows_that_differ(sums(fourier.features(a)), sums(fourier.features(c)))
            assert found <= share + 0.02
            if off > 1:
                assert found > share / 4


def test_edges() -> None:
    one = sums(Fourier(2, 1.0).features(np.zeros((1, 2))))
    two = sums(Fourier(2, 1.0).features(np.zeros((2, 2))))
    assert math.isnan(mmd2(one, two))
    assert math.isnan(rows_that_differ(one, two))
    assert math.isnan(statistic(FeatureSums(3), one))
    assert not len(null_weights(two, two))
    assert (tail(1.0, np.zeros(0)), quantile(0.95, np.zeros(0)), first_bound(-1.0)) == (1.0, 0.0, 0.0)
    assert median_bandwidth(np.zeros((0, 3))) == 0
    assert median_bandwidth(np.full((9, 3), 7e200)) == 0
    huge = median_bandwidth(np.array([[1e300], [-1e300], [0.0]]))
    assert huge == pytest.approx(1e300 / math.sqrt(2))
    mostly = median_bandwidth(np.array([[0.0]] * 20 + [[3.0]]))
    assert mostly == pytest.approx(3 / math.sqrt(2))
    assert np.isnan(Fourier(1, 1e-9).features(np.array([[1e305], [math.nan], [math.inf]]))).all()


@pytest.mark.parametrize("value", [1e-12, 1e-3, 1.0, 1e4, 2.5e6, 1e12, 1e300])
@pytest.mark.parametrize("weights", [[1.0], [6.9e-6, 1.6e-6], [2.0] * 131, [0.3, 1e-6], [1e-6] * 40])
def test_no_statistic_is_so_far_out_that_its_chance_cannot_be_told(value: float, weights: list[float]) -> None:
    assert 0.0 <= tail(value, np.array(weights)) <= 1.0
