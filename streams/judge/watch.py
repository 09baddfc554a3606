"""Which streams of a deployment are watched, with which null, and what a closed pane shows of each.

Watched are the whole (no slice) of each primary deployment whose version has a reference: `quality:error` on matured
labels, `score` and `feature:NAME` on traffic. A slice has no reference of its own and may be harder by nature, and a
shadow's drift hurts nobody: both have figures, not alarms. Without a reference nothing is watched ("learning").
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from schemas.control import Reference
from schemas.verdict import Verdict
from streams.judge.bounds import JudgeBounds
from streams.judge.detectors import Evidence, Null, Plain, Tracker
from streams.judge.distances import (
    hellinger,
    jensen_shannon,
    kolmogorov_smirnov,
    null_quantiles,
    psi,
    total_variation,
)
from streams.judge.nulls import coarsen, error_null, share_null
from streams.judge.panes import Kind
from streams.measure.ledger import (
    AGREEMENT,
    BUCKET_AGREEMENT,
    BUCKET_CONFUSION,
    BUCKET_ROWS,
    BUCKETS,
    CONFUSION,
    DIFFERS,
    FEATURE,
    FN,
    FP,
    SCORE,
    SCORE_BINS,
    Ledger,
)

QUALITY = "quality:error"
MILLI = 1000.0
Ints = NDArray[np.int64]


@dataclass(frozen=True)
class Histogram:
    """A stream of counts: the ledger's vector, the group of each of its cells, the reference's counts by group."""

    vector: str
    groups: Ints
    reference: Ints

    def counts(self, ledger: Ledger) -> Ints:
        """Give a ledger's counts by group."""
        found = np.zeros(self.reference.size, dtype=np.int64)
        for cell, count in ledger.cells.get(self.vector, {}).items():
            found[self.groups[cell]] += count
        return found


@dataclass(frozen=True)
class Stream:
    """One watched stream: its null, its part of a pane's budget and, for traffic, its histogram."""

    name: str
    kind: Kind
    null: Null
    share: float
    histogram: Histogram | None = None


@dataclass
class Watch:
    """The detectors of one deployment's version."""

    reference: Reference
    bounds: JudgeBounds
    streams: list[Stream] = field(default_factory=list)
    trackers: dict[tuple[str, str], Tracker] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.streams = list(_streams(self.reference, self.bounds))

    def tracker(self, stream: Stream, index: int) -> Tracker:
        """Give the running state of one detector on one stream."""
        detector = self.bounds.detectors[index]
        at = (stream.name, f"{index}:{detector.kind}")
        if at not in self.trackers:
            self.trackers[at] = detector.start(stream.null, self.bounds.alarm_days)
        return self.trackers[at]

    def load(self, states: dict[str, Plain]) -> None:
        """Take up what `dump` gave; states of streams or detectors that are no more are dropped."""
        for stream in self.streams:
            for index, detector in enumerate(self.bounds.detectors):
                state = states.get(f"{stream.name}|{index}:{detector.kind}")
                if state is not None:
                    self.trackers[stream.name, f"{index}:{detector.kind}"] = detector.load(
                        stream.null, self.bounds.alarm_days, state
                    )

    def dump(self) -> dict[str, Plain]:
        """Give the trackers as plain data."""
        return {f"{name}|{kind}": tracker.dump() for (name, kind), tracker in sorted(self.trackers.items())}

    def judge(self, stream: Stream, index: int, ledger: Ledger, start: int, end: int, days: float) -> Verdict | None:
        """Let one detector see one closed pane; None when the pane has no rows for it."""
        pane = evidence(stream, ledger, start, end)
        if pane is None:
            return None
        return self.update(stream, index, pane, days)

    def update(self, stream: Stream, index: int, pane: Evidence, days: float) -> Verdict:
        """Let one detector see one pane, which may spend this stream's part of `days`."""
        budgeted = max(sum(detector.budgeted for detector in self.bounds.detectors), 1)
        return self.tracker(stream, index).update(pane, days * stream.share / budgeted)


def evidence(stream: Stream, ledger: Ledger, start: int, end: int) -> Evidence | None:
    """Give what a pane shows of a stream, None without rows."""
    if stream.histogram is not None:
        counts = stream.histogram.counts(ledger)
        rows = int(counts.sum())
        sizes = np.array(ledger.dense(BUCKET_ROWS, BUCKETS), dtype=np.int64)
        # Every row has a score cell; features are counted from the reference on, so fewer at first: then one unit.
        return Evidence(start, end, counts, rows, sizes if sizes.sum() == rows else sizes * 0) if rows > 0 else None
    confusion = np.array(ledger.dense(BUCKET_CONFUSION, BUCKETS * 4), dtype=np.float64).reshape(BUCKETS, 4) / MILLI
    agreement = np.array(ledger.dense(BUCKET_AGREEMENT, BUCKETS * 2), dtype=np.float64).reshape(BUCKETS, 2) / MILLI
    sizes = confusion.sum(axis=1) + agreement.sum(axis=1)
    hits = confusion[:, FP] + confusion[:, FN] + agreement[:, DIFFERS]
    weight = float(sizes.sum())
    if weight <= 0:
        return None
    errors = ledger.get(CONFUSION, FP) + ledger.get(CONFUSION, FN) + ledger.get(AGREEMENT, DIFFERS)
    return Evidence(start, end, np.array([errors / MILLI]), weight, sizes, hits)


def distances(stream: Stream, window: Ledger) -> dict[str, float]:
    """Give the distances of a window to the reference, each beside its 95 % quantile under no drift (`…_q95`)."""
    if stream.histogram is None:
        return {}
    a, c = stream.histogram.reference, stream.histogram.counts(window)
    if a.sum() == 0 or c.sum() <= 0:
        return {}
    ks, bound = kolmogorov_smirnov(a, c)
    found = {
        "psi": float(psi(a, c)),
        "js": float(jensen_shannon(a, c)),
        "hellinger": float(hellinger(a, c)),
        "tv": float(total_variation(a, c)),
        "ks": float(ks),
        "ks_bound": float(bound),
    }
    found |= {f"{name}_q95": quantile for name, quantile in null_quantiles(a, c).items() if not math.isnan(quantile)}
    return found


def _streams(reference: Reference, bounds: JudgeBounds) -> Iterator[Stream]:
    delta = bounds.reference_delta
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
    rest = max(1.0 - bounds.quality_share - bounds.score_share, 0.0)
    score = reference.counts.get(SCORE, [])
    if sum(score):
        # The cells after the inner ones are: no number, below 0, above 1.
        yield _traffic(SCORE, score, SCORE_BINS, True, bounds.score_share, bounds)
    for name in features:
        counts = reference.counts[FEATURE + name]
        numeric = name in reference.edges
        inner = len(reference.edges[name]) + 1 if numeric else len(reference.categories[name])
        yield _traffic(FEATURE + name, counts, inner, numeric, rest / len(features), bounds)


def _traffic(name: str, counts: list[int], inner: int, ordered: bool, share: float, bounds: JudgeBounds) -> Stream:
    """Group the inner cells, keep the others, and put below-range first and above-range last in the order."""
    full = np.array(counts, dtype=np.int64)
    grouped = coarsen(full[:inner], bounds.cells) if ordered else np.arange(inner, dtype=np.int64)
    count = int(grouped.max()) + 1 if inner else 0
    groups = np.concatenate([grouped, np.arange(count, count + full.size - inner)])
    by_group = np.bincount(groups, weights=full, minlength=count + full.size - inner).astype(np.int64)
    if ordered:
        # Distances read cells in order: below, inner, above, missing.
        order = [count + 1, *range(count), count + 2, count]
        names = ["below its range", *(f"cell {i}" for i in range(count)), "above its range", "missing"]
        place = np.empty(len(order), dtype=np.int64)
        place[order] = np.arange(len(order))
        groups, by_group = place[groups], by_group[order]
        line: Any = np.arange(count + 2)
    else:
        names = [*(f"category {i}" for i in range(inner)), "missing", "unseen"]
        line = None
    null = share_null(
        name, by_group, names, ordered=line, delta=bounds.reference_delta * share, epsilon=bounds.epsilon_share
    )
    return Stream(name, "traffic", null, share, Histogram(name, groups, by_group))
