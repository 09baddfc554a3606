"""The streams that a reference, and frozen rows, give the judge to watch: their nulls, their parts of the budget."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from schemas.control import ParitySet, Reference
from streams.judge.bounds import JudgeBounds
from streams.judge.clouds import Cloud, cloud, cloud_null
from streams.judge.evidence import Null
from streams.judge.frozen_rows import rows_null
from streams.judge.nulls import coarsen, error_null, share_null
from streams.judge.panes import Kind
from streams.measure.ledger import EMBEDDING, FEATURE, SCORE
from streams.measure.parity import streams_of
from streams.measure.scale import score_edges

QUALITY = "quality:error"
Ints = NDArray[np.int64]


@dataclass(frozen=True)
class Histogram:
    """A stream of counts: the ledger's vector, the group of each of its cells, the reference's counts by group."""

    vector: str
    groups: Ints
    reference: Ints


@dataclass(frozen=True)
class Stream:
    """One watched stream: its null, its part of a pane's budget and, for traffic, its histogram or its cloud."""

    name: str
    kind: Kind
    null: Null
    share: float
    histogram: Histogram | None = None
    cloud: Cloud | None = None


def watched(reference: Reference, bounds: JudgeBounds, delta: float, parity: ParitySet | None) -> Iterator[Stream]:
    """Give the streams of a version, each with its null and its part of the budget.

    `delta` is the probability with which any of the reference's rates may lie outside its radius.
    """
    if reference.error_rate is not None and reference.error_n > 0:
        null = error_null(
            QUALITY,
            reference.error_rate,
            reference.error_n,
            delta=delta * bounds.quality_share,
            epsilon=bounds.epsilon_error,
        )
        yield Stream(QUALITY, "labels", null, bounds.quality_share)
    features = [
        name
        for name in sorted({*reference.edges, *reference.categories})
        if sum(reference.counts.get(FEATURE + name, []))
    ]
    embedding = reference.embedding if reference.embedding and sum(reference.embedding.rows) else None
    # Each feature, the embedding and all frozen rows together have an equal part of the rest.
    parts = len(features) + (embedding is not None) + (parity is not None)
    rest = max(1.0 - bounds.quality_share - bounds.score_share, 0.0) / max(parts, 1)
    score = reference.counts.get(SCORE, [])
    if sum(score):
        # The cells after the inner ones are: no number, below 0, above 1.
        ends = [0.0, *score_edges(), 1.0]
        yield _traffic(SCORE, score, ends, True, bounds.score_share, bounds, delta)
    for name in features:
        counts = reference.counts[FEATURE + name]
        numeric = name in reference.edges
        least, greatest = reference.ranges[name] if numeric else (0.0, 0.0)
        inner = [least, *reference.edges[name], greatest] if numeric else reference.categories[name]
        yield _traffic(FEATURE + name, counts, inner, numeric, rest, bounds, delta)
    if embedding is not None:
        law = {"delta": delta * rest, "epsilon": bounds.epsilon_share}
        null = cloud_null(EMBEDDING, embedding, **law)
        yield Stream(EMBEDDING, "traffic", null, rest, cloud=cloud(embedding, **law))
    if parity is not None:
        names = streams_of(parity)
        for name in names:
            yield Stream(name, "traffic", rows_null(name, parity.limit), rest / len(names))


def _traffic(
    name: str,
    counts: list[int],
    inside: Sequence[float] | Sequence[str],
    ordered: bool,
    share: float,
    bounds: JudgeBounds,
    delta: float,
) -> Stream:
    """Group the inner cells, keep the others, and put below-range first and above-range last in the order.

    `inside` holds the ends of the inner cells where they are ordered, else their categories.
    """
    full, inner = np.array(counts, dtype=np.int64), len(inside) - 1 if ordered else len(inside)
    grouped = coarsen(full[:inner], bounds.cells) if ordered else np.arange(inner, dtype=np.int64)
    count = int(grouped.max()) + 1 if inner else 0
    groups = np.concatenate([grouped, np.arange(count, count + full.size - inner)])
    by_group = np.bincount(groups, weights=full, minlength=count + full.size - inner).astype(np.int64)
    if ordered:
        # Distances read cells in order: below, inner, above, missing.
        order = [count + 1, *range(count), count + 2, count]
        firsts = np.flatnonzero(np.diff(grouped, prepend=-1)).tolist()
        spans = [f"[{inside[one]:.4g}, {inside[after]:.4g})" for one, after in pairwise([*firsts, inner])]
        names = ["below its range", *spans, "above its range", "missing"]
        place = np.empty(len(order), dtype=np.int64)
        place[order] = np.arange(len(order))
        groups, by_group = place[groups], by_group[order]
        line: Any = np.arange(count + 2)
    else:
        names = [*map(repr, inside), "missing", "unseen"]
        line = None
    null = share_null(name, by_group, names, ordered=line, delta=delta * share, epsilon=bounds.epsilon_share)
    return Stream(name, "traffic", null, share, Histogram(name, groups, by_group))
