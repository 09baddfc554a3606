"""Distances of samples and their p-values against SciPy, and their rate under no drift (seeded; errors stated)."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from streams.judge.samples import adjusted, homogeneity, ks_of, ks_p_value, spread, wasserstein

numbers = st.floats(-1e6, 1e6) | st.integers(-3, 3).map(float)
samples = st.lists(numbers, min_size=1, max_size=40).map(lambda drawn: np.sort(np.array(drawn)))


@pytest.mark.filterwarnings("ignore:divide by zero")  # in scipy, for one value each
@given(samples, samples)
def test_distances_equal_scipy(reference: np.ndarray, current: np.ndarray) -> None:
    assert ks_of(reference, current) == pytest.approx(stats.ks_2samp(reference, current, method="asymp").statistic)
    assert wasserstein(reference, current) == pytest.approx(
        float(stats.wasserstein_distance(reference, current)), rel=1e-9, abs=1e-6
    )


@given(st.integers(2, 30).flatmap(lambda k: st.tuples(*[st.lists(st.integers(20, 500), min_size=k, max_size=k)] * 2)))
def test_homogeneity_equals_scipy(pair: tuple[list[int], list[int]]) -> None:
    chi2, dof, p = homogeneity(*pair)
    peer = stats.chi2_contingency(np.vstack(pair), correction=False)
    expected = np.minimum(*stats.contingency.expected_freq(np.vstack(pair)))
    if expected.min() >= 5:
        assert chi2 == pytest.approx(float(peer.statistic), abs=1e-9)
        assert p == pytest.approx(float(peer.pvalue), abs=1e-12)
        assert dof == peer.dof


@given(st.lists(st.floats(0, 1), min_size=1, max_size=50))
def test_adjusted_equals_scipy(p_values: list[float]) -> None:
    assert adjusted(p_values).tolist() == pytest.approx(stats.false_discovery_control(p_values).tolist())


def test_edges() -> None:
    empty, one = np.array([]), np.array([3.0])
    assert math.isnan(ks_of(empty, one))
    assert math.isnan(ks_p_value(math.nan, 0, 1))
    assert math.isnan(wasserstein(one, empty))
    assert ks_of(one, one) == wasserstein(one, one) == spread(one) == 0.0
    assert homogeneity([0, 0], [1, 2])[1] == 0
    assert math.isnan(homogeneity([0, 0], [1, 2])[2])
    assert homogeneity([1, 0], [0, 1]) == (0.0, 0, 1.0)  # too few to tell anything
    assert spread(np.array([0.0] * 9 + [1.0])) == pytest.approx(0.3)
    huge = np.array([-1e308, 1e308])
    assert ks_of(huge, huge) == 0.0


@pytest.mark.parametrize(("n", "m"), [(300, 300), (2000, 200)])
def test_quiet_windows_are_refused_as_often_as_promised(n: int, m: int) -> None:
    """2,000 windows at 5 %: outside [3.5 %, 6.5 %] with probability below 0.3 % for an exact test."""
    draw = np.random.default_rng(7)
    refused = [0, 0]
    law = np.array([0.4, 0.3, 0.15, 0.1, 0.05])
    for _ in range(2000):
        reference, current = np.sort(draw.normal(size=n)), np.sort(draw.normal(size=m))
        refused[0] += ks_p_value(ks_of(reference, current), n, m) <= 0.05
        refused[1] += homogeneity(draw.multinomial(n, law), draw.multinomial(m, law))[2] <= 0.05
    assert all(70 <= count <= 130 for count in refused), refused
