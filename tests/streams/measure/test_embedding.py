"""Embeddings in whole numbers: the same bits in any batch, tables rounded alike everywhere, what is refused."""

from __future__ import annotations

import hashlib
import math
from collections import Counter
from statistics import NormalDist

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from schemas.control import EmbeddingReference, Reference
from schemas.event import decode
from schemas.inputs import Prediction
from streams.measure.embedding import (
    FREQUENCIES,
    MOST_DIMENSION,
    SCALE,
    EmbeddingCut,
    Vector,
    directions,
    embedding_fault,
    learn_embedding,
    longest,
    tables,
)
from streams.measure.ledger import EMBEDDING, EMBEDDING_ROWS, VECTORS_HELD
from streams.measure.reference import fault, learn
from tests.streams.measure.naive import _embedding

number = st.one_of(
    st.floats(-20, 20), st.sampled_from([0.0, -0.0, 1e-300, 767.9, 768.1, 1e12, -1e308, 1.7e308]), st.integers(-3, 3)
)
GIVEN = EmbeddingReference(
    dimension=3, bandwidth=1.5, centre=[0.25, -1.0, 0.0], seed=3, frequencies=5, sums=[0] * 10, rows=[0] * 4
)


def added(found: dict[str, dict[int, int]]) -> dict[tuple[str, int], int]:
    return {(name, index): n for name, cells in found.items() for index, n in cells.items() if n}


@given(st.lists(st.one_of(st.none(), st.lists(number, max_size=4), st.lists(number, min_size=3, max_size=3))))
def test_any_batch_counts_what_the_twin_counts_one_by_one(vectors: list[Vector]) -> None:
    expected: Counter[tuple[str, int]] = Counter()
    for vector in vectors:
        _embedding(expected, GIVEN, vector)
    cut = EmbeddingCut.of(GIVEN)
    assert added(cut.count(vectors)) == {at: n for at, n in expected.items() if n}
    alone: Counter[tuple[str, int]] = Counter()
    for vector in reversed(vectors):
        alone.update(cut.count([vector])[EMBEDDING])  # type: ignore[arg-type]
    assert {i: n for i, n in alone.items() if n} == {i: n for i, n in cut.count(vectors)[EMBEDDING].items() if n}  # type: ignore[comparison-overlap]


def test_the_largest_angles_are_whole_numbers_that_doubles_hold() -> None:
    """At the most numbers a vector, at the far end: a matrix product in any order gives Python's own integers."""
    cut = EmbeddingCut(MOST_DIMENSION, 1.0, (0.0,) * MOST_DIMENSION, 1, 2)
    frequencies = directions(MOST_DIMENSION, 2, 1)
    row = np.sign(frequencies[:, 0]) * 512.0
    whole = [int(x) * 65536 for x in row.tolist()]
    exact = [sum(x * int(w) for x, w in zip(whole, frequencies[:, j].tolist(), strict=True)) for j in range(2)]
    assert 2**47 < exact[0] < 2**53
    found, near = cut.features(row[None, :])
    assert near.all()
    steps = [((turned + 2**17) >> 18) % 4096 for turned in exact]
    assert found[0, :2].tolist() == [round(math.cos(2 * math.pi * step / 4096) * SCALE) for step in steps]


def test_no_rounding_of_the_tables_is_so_close_that_a_machine_could_take_it_otherwise() -> None:
    law = NormalDist()
    raw = [law.inv_cdf((k + 0.5) / 4096) / (2 * math.pi) * 2**14 for k in range(4096)]
    raw += [math.cos(2 * math.pi * k / 4096) * SCALE for k in range(4096)]
    assert min(abs(abs(x - math.floor(x)) - 0.5) for x in raw) > 1e-6
    held = b"".join(np.asarray(table, dtype="<i8").tobytes() for table in tables())
    assert hashlib.sha256(held).hexdigest() == "6bb6d5a6932a7c8a279559e11cfa0ebde37896bf7ce920fe365daa2b629cb519"
    assert (
        hashlib.sha256(directions(7, 5, 11).astype("<i8").tobytes()).hexdigest()
        == "7ad8a81e54441eabfc65a42ede5f4c2eb2002f99988bf89b6ba91e591ca97c6d"
    )


def test_the_kernel_is_the_gaussian_one() -> None:
    draw = np.random.default_rng(5)
    rows = draw.normal(size=(400, 6))
    cut = EmbeddingCut(6, 2.5, (0.0,) * 6, 2, 256)
    found, _ = cut.features(rows)
    features = found / SCALE / math.sqrt(256)
    squared = ((rows[:, None, :] - rows[None, :, :]) ** 2).sum(axis=2)
    gap = features @ features.T - np.exp(-squared / (2 * 2.5**2))
    assert abs(float(gap.mean())) < 0.03
    assert float(np.sqrt((gap**2).mean())) < 1.2 / math.sqrt(2 * 256)
    assert np.sqrt((features**2).sum(axis=1)).max() <= longest() < 1.001


def test_a_reference_is_learnt_the_same_whatever_else_is_in_the_column() -> None:
    draw = np.random.default_rng(1)
    rows: list[Vector] = draw.normal(100.0, 2.0, size=(3_000, 8)).tolist()
    one = learn_embedding(rows)
    assert one is not None
    assert (one.dimension, one.frequencies, one.rows) == (8, FREQUENCIES, [3_000, 0, 0, 0])
    assert one.bandwidth == pytest.approx(2.0 * math.sqrt(8), rel=0.15)
    assert max(abs(centre - 100.0) for centre in one.centre) < 0.5
    assert not embedding_fault(one)
    # A feature's variance is at most 1; that of all is 1 less the squared length of their mean.
    mean = np.array(one.sums) / 3_000 / SCALE / math.sqrt(FREQUENCIES)
    assert sum(one.spectrum) == pytest.approx(1 - float(mean @ mean), rel=2e-3)
    assert learn_embedding([np.array(row) for row in rows]) == one
    odd = [*rows, None, [], [1.0], [math.nan] * 8, [1e200] + [0.0] * 7]
    other = learn_embedding(odd)
    assert other is not None
    assert other.rows == [3_000, 3, 1, 1]
    assert EmbeddingCut.of(other).count(odd)[EMBEDDING] == dict(enumerate(other.sums))
    assert learn("m", "1", {}, [None] * 3_000, [None] * 3_000, at_ms=0, embeddings=rows).embedding == one


@pytest.mark.parametrize(
    ("vectors", "held"),
    [([[2.0, 2.0]] * 40, 40), ([[0.0]], 1), ([[5.0], [6.0, 7.0], [8.0, 9.0]], 2), ([[1e308, -1e308]] * 3, None)],
)
def test_odd_references(vectors: list[Vector], held: int | None) -> None:
    """Constant vectors, a single one, several lengths; and numbers that have no width."""
    found = learn_embedding(vectors)
    assert (None if found is None else found.rows[VECTORS_HELD]) == held
    if found is not None:
        assert not embedding_fault(found)


def test_nothing_to_compare_is_no_reference() -> None:
    told: tuple[list[Vector], ...] = ([], [None, []], [[math.nan]], [[0.0] * (MOST_DIMENSION + 1)])
    for vectors in told:
        assert learn_embedding(vectors) is None


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"dimension": 0, "centre": []}, "embeddings of 0 numbers"),
        ({"dimension": 5_000}, "expected 1 to 4096"),
        ({"frequencies": 10_000}, "10000 frequencies"),
        ({"centre": [0.0]}, "expected 3 finite numbers"),
        ({"centre": [0.0, math.nan, 0.0]}, "expected 3 finite numbers"),
        ({"bandwidth": 0.0}, "bandwidth"),
        ({"bandwidth": 5e-324}, "bandwidth"),
        ({"rows": [1, 2]}, "rows of embeddings"),
        ({"sums": [1] * 10}, "sums of embeddings"),
        ({"sums": [0] * 9}, "sums of embeddings"),
        ({"spectrum": [-1.0]}, "spectrum"),
    ],
)
def test_a_reference_that_cannot_be_says_what_is_wrong(change: dict[str, object], said: str) -> None:
    assert not embedding_fault(GIVEN)
    wrong = replace(GIVEN, **change)
    assert said in embedding_fault(wrong)
    assert fault(Reference(id="r", model="m", version="1", n=1, embedding=wrong)) == embedding_fault(wrong)


def test_what_is_counted_says_what_each_row_was() -> None:
    found = EmbeddingCut.of(GIVEN).count([[0, 0, 0], None, [], [1.0], [1e9, 0.0, 0.0], [1.0, 2.0, 3.0]])
    assert found[EMBEDDING_ROWS] == {0: 2, 1: 2, 2: 1, 3: 1}


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ('"features": {"a": [1.0]}', r"got `array` - at `\$.features"),
        ('"embedding": 3', r"got `int` - at `\$.embedding`"),
        ('"embedding": [1, null]', r"got `null` - at `\$.embedding\[1\]`"),
        ('"embedding": ["a"]', r"got `str` - at `\$.embedding\[0\]`"),
        ('"embedding": [1e999]', "out of range"),
        ('"embedding": [NaN]', "malformed"),
    ],
)
def test_what_is_no_vector_is_refused_where_it_comes_in_and_names_its_field(fields: str, said: str) -> None:
    with pytest.raises(msgspec.DecodeError, match=said):
        decode(f'{{"request_id": "r", "at_ms": 1, "model": "m", {fields}}}', Prediction)
