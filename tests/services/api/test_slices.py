"""Slices, worst first: no slice is called worse where none is, small ones do not top the list, the worst one does."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import t as student

from services.api.slices import worst_first
from services.api.store import Row


def row(values: np.ndarray, name: str = "") -> Row:
    """Give the figure of bucket means with its 95 % interval."""
    n = len(values)
    half = float(student.ppf(0.975, n - 1) * values.std(ddof=1) / np.sqrt(n)) if n > 1 else None
    mean = float(values.mean())
    ends = (None, None) if half is None else (mean - half, mean + half)
    return {"slice": name, "value": mean, "low": ends[0], "high": ends[1], "n": n, "subjects": n}


def test_of_slices_that_are_alike_hardly_any_is_called_worse() -> None:
    """600 runs of 30 slices of 3 to 64 buckets: at least one called worse in at most 5 % plus four standard errors."""
    rng = np.random.default_rng(3)
    wrong = 0
    for _ in range(600):
        parts = [rng.normal(0.8, 0.1, size) for size in rng.integers(3, 65, 30)]
        whole = row(np.concatenate(parts))
        said = worst_first(whole, [row(part, f"c={at}") for at, part in enumerate(parts)], "higher")
        wrong += any(one["worse"] for one in said)
    assert wrong / 600 <= 0.05 + 4 * np.sqrt(0.05 * 0.95 / 600)


@pytest.mark.parametrize("better", ["higher", "lower"])
def test_a_slice_that_is_much_worse_stands_before_a_tiny_one_that_looks_worse_still(better: str) -> None:
    rng = np.random.default_rng(4)
    sign = 1 if better == "higher" else -1
    whole = row(sign * rng.normal(0.9, 0.02, 64))
    bad = row(sign * rng.normal(0.7, 0.02, 64), "c=bad")
    tiny = row(sign * np.array([0.1, 0.9]), "c=tiny")
    fine = row(sign * rng.normal(0.9, 0.02, 64), "c=fine")
    alone = row(sign * np.array([0.0]), "c=alone")
    said = worst_first(whole, [alone, fine, tiny, bad], better)
    assert said[0]["slice"] == "c=bad"
    assert [one["slice"] for one in said if one["worse"]] == ["c=bad"]
    assert said[-1]["slice"] == "c=alone"
    assert said[-1]["gap_low"] is None


@given(
    st.lists(
        st.tuples(st.one_of(st.none(), st.floats(0, 1)), st.one_of(st.none(), st.floats(0, 0.5)), st.integers(0, 64)),
        max_size=12,
    ),
    st.sampled_from(["higher", "lower", "zero", "neither"]),
)
def test_any_rows_are_ordered_and_none_is_lost(
    given_: list[tuple[float | None, float | None, int]], better: str
) -> None:
    rows: list[Row] = []
    for at, (value, half, subjects) in enumerate(given_):
        known = value is not None and half is not None
        low, high = (value - half, value + half) if known else (None, None)  # type: ignore[operator]
        rows.append({"slice": f"c={at:02}", "value": value, "low": low, "high": high, "n": 1, "subjects": subjects})
    whole: Row = {"value": 0.5, "low": 0.4, "high": 0.6, "n": 100, "subjects": 64}
    said = worst_first(whole, rows, better)
    assert sorted(one["slice"] for one in said) == [one["slice"] for one in rows]
    bounds = [one["gap_low"] for one in said if one["gap_low"] is not None]
    assert bounds == sorted(bounds, reverse=True)
    assert all(one["gap_low"] <= one["gap"] for one in said if one["gap_low"] is not None)
    assert said == worst_first(whole, rows[::-1], better)
    assert worst_first({**whole, "value": None}, rows, better) == worst_first({**whole, "value": None}, rows, better)


def test_of_a_bias_the_size_counts_to_either_side() -> None:
    rng = np.random.default_rng(6)
    whole = row(rng.normal(0.0, 0.02, 64))
    parts = [row(rng.normal(mean, 0.02, 64), f"c={mean}") for mean in (-0.5, 0.0, 0.3)]
    said = worst_first(whole, parts, "zero")
    assert [(one["slice"], one["worse"]) for one in said] == [("c=-0.5", True), ("c=0.3", True), ("c=0.0", False)]
    assert all(one["gap"] is None for one in worst_first(whole, parts, "neither"))
