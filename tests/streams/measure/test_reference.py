"""References: what is learnt from columns, and the bins it defines."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from schemas.control import Reference
from schemas.event import decode, encode
from streams.measure.reference import cuts, learn, quantile_edges

numbers = st.lists(st.sampled_from([-1.5, 0.0, 0.0, 0.0, 1.0, 2.0, 2.5, 3.0, 7.0]) | st.floats(-5, 5), min_size=1)


@settings(max_examples=150, deadline=None)
@given(numbers, st.integers(2, 12))
def test_edges_are_quantiles_and_atoms_stand_alone(values: list[float], count: int) -> None:
    ordered = sorted(values)
    edges = quantile_edges(np.array(values), count)
    n = len(values)
    quantiles = {ordered[max(0, -(-i * n // count) - 1)] for i in range(1, count)} - {ordered[0]}
    assert quantiles <= set(edges)
    assert edges == sorted(set(edges))
    assert set(edges) <= set(values) - {ordered[0]}
    cells = [sum(edge <= value for edge in edges) for value in values]
    assert set(cells) == set(range(len(edges) + 1)), "no inner cell is empty in the reference"
    for atom in {value for value in values if values.count(value) * count > n}:
        mine = {cell for cell, value in zip(cells, values, strict=True) if value == atom}
        assert {value for cell, value in zip(cells, values, strict=True) if cell in mine} == {atom}


@given(st.lists(st.integers(-4, 4).map(float) | st.floats(-1e9, 1e9), min_size=1, max_size=120), st.integers(2, 30))
def test_edges_equal_those_of_looking_at_each_value(values: list[float], count: int) -> None:
    array = np.array(values)
    edges = set(np.quantile(array, np.arange(1, count) / count, method="inverted_cdf").tolist())
    distinct, times = np.unique(array, return_counts=True)
    for place in np.flatnonzero(times * count > len(values)).tolist():
        edges |= set(distinct[place : place + 2].tolist())
    assert quantile_edges(array, count) == sorted(edge for edge in edges if edge > distinct[0])


def learnt(rows: int = 1_000, seed: int = 0) -> tuple[Reference, dict[str, list[Any]]]:
    rng = np.random.default_rng(seed)
    features: dict[str, list[Any]] = {
        "price": rng.normal(size=rows).tolist(),
        "clicks": rng.poisson(0.3, rows).tolist(),
        "plan": rng.choice(["free", "pro"], rows).tolist(),
        "seen": rng.choice([True, False], rows).tolist(),
        "constant": [3.0] * rows,
        "empty": [None] * rows,
    }
    features["price"][:10] = [None] * 10
    scores = rng.random(rows)
    reference = learn("m", "7", features, scores.tolist(), (rng.random(rows) < scores).astype(int).tolist(), at_ms=5)
    return reference, features


def test_counts_are_those_of_binning_the_rows_again() -> None:
    reference, features = learnt()
    bins = cuts(reference)
    assert set(bins) == set(features)
    for name, cut in bins.items():
        again = [0] * cut.size
        for value in features[name]:
            again[cut.cell(value)] += 1
        assert reference.counts[f"feature:{name}"] == again
    assert reference.counts["feature:price"][-3:] == [10, 0, 0]
    assert reference.categories == {"empty": [], "plan": ["free", "pro"], "seen": ["false", "true"]}
    assert reference.edges["constant"] == []
    assert reference.edges["clicks"][:2] == [1.0, 2.0]
    assert sum(reference.counts["score"]) == 1_000


def test_it_tells_error_and_base_rate_of_the_rows() -> None:
    reference = learn("m", "1", {}, [0.9, 0.9, 0.1, None], [1, 0, 0, 1], at_ms=0)
    assert (reference.error_rate, reference.error_n, reference.base_rate) == (1 / 3, 3, 1 / 3)
    assert reference.counts["score"][-3:] == [1, 0, 0]
    unlabelled = learn("m", "1", {}, [0.9], [None], at_ms=0)
    assert (unlabelled.error_rate, unlabelled.error_n, unlabelled.base_rate) == (None, 0, None)


def test_the_id_names_the_content() -> None:
    one, _ = learnt()
    again, _ = learnt()
    other, _ = learnt(seed=1)
    assert one == again
    assert one.id != other.id
    assert decode(encode(one), Reference) == one


def test_values_outside_the_reference_have_their_cells() -> None:
    reference = learn("m", "1", {"x": [1.0, 2.0, 3.0, 4.0], "c": ["a", "b", "a", "a"]}, [None] * 4, [None] * 4, at_ms=0)
    x, c = cuts(reference)["x"], cuts(reference)["c"]
    inner = len(reference.edges["x"]) + 1
    assert [x.cell(v) for v in (None, "text", 0.5, 4.5)] == [inner, inner, inner + 1, inner + 2]
    assert [x.cell(v) for v in (1.0, 4.0)] == [0, inner - 1]
    assert [c.cell(v) for v in ("a", "b", None, "new")] == [0, 1, 2, 3]


def test_columns_of_two_lengths_are_refused() -> None:
    with pytest.raises(ValueError, match="one length"):
        learn("m", "1", {"x": [1.0]}, [0.5, 0.5], [1, 0], at_ms=0)


def test_edges_without_a_range_are_refused() -> None:
    with pytest.raises(ValueError, match="no entry in `ranges`"):
        cuts(Reference(id="r", model="m", version="1", n=1, edges={"x": [1.0]}))
