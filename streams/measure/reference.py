"""A reference: the frozen distributions of a model version, how they are learnt, and the bins they define.

Edges of a numeric feature are the reference's own quantiles i / B (`inverted_cdf`: values that occurred), each once;
those not above the least value are dropped, because below it lies the cell "below range". A value that occurs more
often than 1 / B of the time (an atom: zero clicks, a default) gets a cell of its own, which ends at the next value that
occurred; so no inner cell is empty in the reference. A value equal to an edge goes right. Beside the B or so inner
cells there are always three: missing (absent, null or not a number), below and above the range of the reference. A
categorical feature keeps its most frequent values.

The id is a hash of the content, so the same rows give the same reference with the same id everywhere.
"""

from __future__ import annotations

import hashlib
from bisect import bisect_right
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Final

import numpy as np
from msgspec.structs import replace

from schemas.control import Reference
from schemas.event import LabelValue, Scalar, encode
from streams.measure.embedding import Vector, embedding_fault, learn_embedding
from streams.measure.ledger import FEATURE, RIGHT, SCORE, SCORE_BINS, SCORE_NEG, SCORE_POS, WRONG, Ledger
from streams.measure.reading import text
from streams.measure.scale import Floats, bins
from streams.measure.tally import ledger_of

BINS: Final = 20
CATEGORIES: Final = 100


@dataclass(frozen=True, slots=True)
class Numeric:
    """The cells of a numeric feature: len(edges) + 1 inner ones, then missing, below, above."""

    edges: tuple[float, ...]
    least: float
    greatest: float

    def cell(self, value: Scalar) -> int:
        """Give the cell of a value; booleans count as 0 and 1, strings as missing."""
        inner = len(self.edges) + 1
        if value is None or isinstance(value, str) or value != value:
            return inner
        if value < self.least:
            return inner + 1
        if value > self.greatest:
            return inner + 2
        return bisect_right(self.edges, value)

    @property
    def size(self) -> int:
        """The number of cells."""
        return len(self.edges) + 4


@dataclass(frozen=True, slots=True)
class Categorical:
    """The cells of a categorical feature: one a category, then missing, then unseen."""

    index: Mapping[str, int]

    def cell(self, value: Scalar) -> int:
        """Give the cell of a value, compared by its text (see `reading.text`)."""
        known = len(self.index)
        return known if value is None else self.index.get(text(value), known + 1)

    @property
    def size(self) -> int:
        """The number of cells."""
        return len(self.index) + 2


Cut = Numeric | Categorical


def cuts(reference: Reference) -> dict[str, Cut]:
    """Give the bins of every feature of a reference, by name, names ascending.

    Raises `ValueError` when a feature has edges but no range.
    """
    found: dict[str, Cut] = {}
    for name in sorted({*reference.edges, *reference.categories}):
        if name in reference.edges:
            if name not in reference.ranges:
                raise ValueError(f"reference {reference.id!r}: feature {name!r} has edges but no entry in `ranges`")
            least, greatest = reference.ranges[name]
            found[name] = Numeric(tuple(reference.edges[name]), least, greatest)
        else:
            found[name] = Categorical({value: i for i, value in enumerate(reference.categories[name])})
    return found


def fault(reference: Reference) -> str:
    """Say what makes a reference unusable; empty when nothing does.

    Whoever hears references asks this first, so that all take the same one: what is wrong stays in `control` for ever.

    >>> fault(Reference(id="r", model="m", version="1", n=1, edges={"x": [2.0, 1.0]}, ranges={"x": [0.0, 3.0]}))
    "edges of 'x' do not ascend"
    """
    sizes = {SCORE: SCORE_BINS + 3}
    for name, edges in reference.edges.items():
        if len(reference.ranges.get(name, ())) != 2:
            return f"feature {name!r} has edges but no entry in `ranges`"
        if any(not a < b for a, b in pairwise(edges)) or any(edge != edge for edge in edges):
            return f"edges of {name!r} do not ascend"
        sizes[FEATURE + name] = len(edges) + 4
    for name, values in reference.categories.items():
        if len(set(values)) < len(values):
            return f"a category of {name!r} is there twice"
        sizes.setdefault(FEATURE + name, len(values) + 2)
    for name, counts in reference.counts.items():
        if name in sizes and counts and (len(counts) != sizes[name] or min(counts) < 0):
            return f"counts of {name!r}: expected {sizes[name]} numbers of at least 0"
    if reference.error_rate is not None and not 0.0 <= reference.error_rate <= 1.0:
        return f"an error rate of {reference.error_rate}"
    if (
        reference.error_n < 0
        or reference.n < 0
        or len(reference.calibration) % 3
        or min(reference.calibration, default=0) < 0
    ):
        return "`n`, `error_n` and `calibration` count rows"
    return "" if reference.embedding is None else embedding_fault(reference.embedding)


def quantile_edges(values: Floats, count: int = BINS) -> list[float]:
    """Give the interior edges for values without NaN: quantiles, each once, atoms apart.

    >>> quantile_edges(np.array([0.0, 0.0, 0.0, 1.0, 2.0, 3.0, 4.0, 5.0]), 4)
    [1.0, 3.0]
    >>> quantile_edges(np.array([7.0, 7.0]))
    []
    """
    return edges_of(np.sort(values), count)


def edges_of(ordered: Floats, count: int = BINS) -> list[float]:
    """Give what `quantile_edges` gives for values that are sorted, without looking at each.

    An atom covers more than n / count places, so it is found at one of those that lie n / count apart.
    """
    n = len(ordered)
    if n == 0:
        return []
    places = np.ceil(n * (np.arange(1, count) / count) - 1).astype(np.int64)  # `inverted_cdf`, as numpy reckons it
    edges = set(ordered[np.maximum(places, 0)].tolist())
    for value in np.unique(ordered[np.arange(count) * n // count]).tolist():
        first, after = np.searchsorted(ordered, value, side="left"), np.searchsorted(ordered, value, side="right")
        if (after - first) * count > n:
            edges.add(value)
            if after < n:
                edges.add(float(ordered[after]))
    return sorted(edge for edge in edges if edge > ordered[0])


def learn(
    model: str,
    version: str,
    features: Mapping[str, Sequence[Scalar]],
    scores: Sequence[float | None],
    labels: Sequence[LabelValue | None],
    *,
    at_ms: int,
    learnt_from: str = "training",
    predictions: Sequence[LabelValue | None] | None = None,
    threshold: float = 0.5,
    count: int = BINS,
    embeddings: Sequence[Vector] | None = None,
) -> Reference:
    """Freeze the reference of a model version from columns of equal length.

    `scores` and `labels` should come from rows that the model was not fitted on: they give the error rate and the
    score's distribution. `embeddings` are the vectors of the rows, or of some of them (`embedding.learn_embedding`).
    Raises `ValueError` when columns differ in length or there are no rows.
    """
    n = len(scores)
    lengths = {"scores": n, "labels": len(labels)} | {name: len(column) for name, column in features.items()}
    if n == 0 or len(set(lengths.values())) != 1:
        raise ValueError(f"a reference needs columns of one length ≥ 1, got {lengths}")
    edges: dict[str, list[float]] = {}
    ranges: dict[str, list[float]] = {}
    categories: dict[str, list[str]] = {}
    counts: dict[str, list[int]] = {}
    for name in sorted(features):
        column = features[name]
        present = [value for value in column if value is not None and value == value]
        cut: Cut
        if present and not any(isinstance(value, str | bool) for value in present):
            numbers = np.array(present, dtype=np.float64)
            edges[name] = quantile_edges(numbers, count)
            ranges[name] = [float(numbers.min()), float(numbers.max())]
            cut = Numeric(tuple(edges[name]), *ranges[name])
        else:
            seen = Counter(text(value) for value in present)
            categories[name] = sorted(sorted(seen, key=lambda value: (-seen[value], value))[:CATEGORIES])
            cut = Categorical({value: i for i, value in enumerate(categories[name])})
        counts[FEATURE + name] = _count(cut, column)
    ledger = ledger_of(scores, labels, [""] * n, predictions=predictions, threshold=threshold)
    counts[SCORE] = ledger.dense(SCORE, SCORE_BINS + 3)
    positives, negatives = ledger.total(SCORE_POS), ledger.total(SCORE_NEG)
    right, wrong = ledger.get("measured", RIGHT), ledger.get("measured", WRONG)
    reference = Reference(
        id="unnamed",
        model=model,
        version=version,
        learnt_from=learnt_from,
        n=n,
        edges=edges,
        ranges=ranges,
        categories=categories,
        counts=counts,
        calibration=_calibration(ledger),
        base_rate=positives / (positives + negatives) if positives + negatives else None,
        error_rate=wrong / (right + wrong) if right + wrong else None,
        error_n=right + wrong,
        embedding=None if embeddings is None else learn_embedding(embeddings),
        at_ms=at_ms,
    )
    return replace(reference, id="ref-" + hashlib.sha256(encode(reference)).hexdigest()[:20])


def _calibration(ledger: Ledger) -> list[int]:
    """Give [bin, negatives, positives, …] of the bins that hold labelled rows."""
    negatives, positives = ledger.cells.get(SCORE_NEG, {}), ledger.cells.get(SCORE_POS, {})
    return [
        count
        for cell in sorted({*negatives, *positives})
        for count in (cell, negatives.get(cell, 0) // 1_000, positives.get(cell, 0) // 1_000)
    ]


def _count(cut: Cut, column: Sequence[Scalar]) -> list[int]:
    full = [0] * cut.size
    if isinstance(cut, Numeric) and not any(isinstance(value, str) for value in column):
        values = np.array([np.nan if value is None else value for value in column], dtype=np.float64)
        inner = len(cut.edges) + 1
        missing, below, above = np.isnan(values), values < cut.least, values > cut.greatest
        index = np.where(
            missing, inner, np.where(below, inner + 1, np.where(above, inner + 2, bins(cut.edges, values)))
        )
        return [int(c) for c in np.bincount(index, minlength=cut.size)]
    for value in column:
        full[cut.cell(value)] += 1
    return full
