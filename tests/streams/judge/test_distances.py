"""Distances against SciPy and brute force; their null quantiles against simulation."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats
from scipy.spatial.distance import jensenshannon

from streams.judge.distances import (
    hellinger,
    jensen_shannon,
    kolmogorov_smirnov,
    ks_quantile,
    null_quantiles,
    psi,
    total_variation,
)

histograms = st.integers(2, 12).flatmap(
    lambda size: st.tuples(
        *(st.lists(st.integers(0, 500), min_size=size, max_size=size).filter(lambda c: sum(c) > 0) for _ in range(2))
    )
)


@given(histograms)
def test_distances_equal_scipy(pair: tuple[list[int], list[int]]) -> None:
    a, c = (np.array(side, dtype=float) for side in pair)
    p, q = a / a.sum(), c / c.sum()
    assert float(jensen_shannon(a, c)) == pytest.approx(float(jensenshannon(p, q, base=2)), abs=1e-7)
    assert float(hellinger(a, c)) == pytest.approx(math.sqrt(max(1 - np.sqrt(p * q).sum(), 0)), abs=1e-12)
    assert float(total_variation(a, c)) == pytest.approx(max(sum(q[b] - p[b] for b in range(p.size) if q[b] > p[b]), 0))
    used = (a > 0) | (c > 0)
    cells = used.sum()
    smooth_a = (a[used] + 0.5) / (a.sum() + cells / 2)
    smooth_c = (c[used] + 0.5) / (c.sum() + cells / 2)
    identity = stats.entropy(smooth_a, smooth_c) + stats.entropy(smooth_c, smooth_a)
    assert float(psi(a, c)) == pytest.approx(float(identity), abs=1e-12)


@given(histograms)
def test_ks_of_cells_is_the_ks_of_cell_numbers_and_the_bound_holds(pair: tuple[list[int], list[int]]) -> None:
    rng = np.random.default_rng(1)
    raw = [np.repeat(np.arange(len(side)), side) + rng.random(sum(side)) for side in pair]
    d, bound = kolmogorov_smirnov(*pair)
    cells = [np.floor(values) for values in raw]
    assert float(d) == pytest.approx(stats.ks_2samp(*cells, method="asymp").statistic)
    exact = stats.ks_2samp(*raw, method="asymp").statistic
    assert float(d) - 1e-12 <= exact <= float(d) + float(bound) + 1e-12


def test_leading_axes_are_streams() -> None:
    rng = np.random.default_rng(2)
    a, c = rng.integers(0, 50, (7, 9)), rng.integers(0, 50, (7, 9))
    assert psi(a, c).tolist() == [float(psi(x, y)) for x, y in zip(a, c, strict=True)]
    assert kolmogorov_smirnov(a[0], c)[0].shape == (7,)


def test_a_cell_empty_on_both_sides_changes_nothing() -> None:
    assert float(psi([30, 70, 0], [40, 60, 0])) == float(psi([30, 70], [40, 60]))


def test_a_negative_cell_is_refused() -> None:
    with pytest.raises(ValueError, match="missing deltas"):
        psi([1, 2], [-1, 3])


@pytest.mark.parametrize("n", [5, 20, 500, 5_000])
def test_ks_quantile_is_close_to_the_exact_one(n: int) -> None:
    # equal sizes 2n give an effective size of n
    assert ks_quantile(2 * n, 2 * n) == pytest.approx(float(stats.kstwo.ppf(0.95, n)), rel=3e-3)


def test_null_quantiles_are_exceeded_in_five_percent_of_quiet_windows() -> None:
    # 4,000 windows: the standard error of 5 % is 0.35 points, so ±1.5 points fails wrongly less than once in 10^4 runs.
    rng = np.random.default_rng(3)
    shares = np.linspace(1, 2, 10) / np.linspace(1, 2, 10).sum()
    a, c = rng.multinomial(2_000, shares, 4_000), rng.multinomial(1_000, shares, 4_000)
    limits = [null_quantiles(x, y) for x, y in zip(a, c, strict=True)]
    found = {"psi": psi(a, c), "js": jensen_shannon(a, c), "hellinger": hellinger(a, c), "tv": total_variation(a, c)}
    for name, values in found.items():
        above = np.mean([value > limit[name] for value, limit in zip(values, limits, strict=True)])
        assert 0.035 < above < 0.065, (name, above)
    # Cells blunt KS: never above 5 %.
    assert np.mean([d > limit["ks"] for d, limit in zip(kolmogorov_smirnov(a, c)[0], limits, strict=True)]) < 0.05


def test_empty_sides_have_no_quantile() -> None:
    assert all(math.isnan(value) for value in null_quantiles([0, 0], [1, 2]).values())
