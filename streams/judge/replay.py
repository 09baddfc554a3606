"""The judge alone: arrays straight to the detectors, without Kafka, events or figures.

It builds each pane's evidence for all panes at once and feeds the very trackers that `processor` uses, so that what a
budget of false alarms does on ten thousand permutations of a stream can be tried in minutes.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from schemas.control import Reference
from schemas.verdict import Verdict
from streams.judge.bounds import DAY_MS, JudgeBounds
from streams.judge.evidence import Evidence
from streams.judge.watch import Watch
from streams.judge.watched import QUALITY, Stream
from streams.measure.ledger import BUCKETS, FEATURE, SCORE, SCORE_BINS
from streams.measure.reference import Numeric, cuts
from streams.measure.scale import bins, score_edges

Ints = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Alarm:
    """One alarm: the pane that raised it, and its evidence."""

    stream: str
    detector: str
    pane_ms: int
    evidence: Verdict


@dataclass(slots=True)
class Replayed:
    """What a replay gave. `expected` bounds the expected number of false alarms if nothing had changed."""

    panes: int = 0
    expected: float = 0.0
    alarms: list[Alarm] = field(default_factory=list)
    last: dict[str, Verdict] = field(default_factory=dict)


def replay(
    reference: Reference,
    bounds: JudgeBounds,
    *,
    at_ms: ArrayLike,
    scores: ArrayLike,
    labels: ArrayLike,
    buckets: ArrayLike,
    pane_ms: int = 60_000,
    threshold: float = 0.5,
    features: Mapping[str, ArrayLike] | None = None,
    traffic: bool = True,
    part: float = 1.0,
) -> Replayed:
    """Judge a labelled binary stream, every label matured.

    All columns have one length; `buckets` are the subjects' hash buckets (`streams.measure.reading.bucket`), `labels` 0
    or 1. `traffic` False watches the error rate only. `part` is the reference's (`shares.reference_part`). Raises
    `ValueError` when columns differ in length.
    """
    at = np.asarray(at_ms, dtype=np.int64)
    p, y = np.asarray(scores, dtype=np.float64), np.asarray(labels, dtype=np.int64)
    home = np.asarray(buckets, dtype=np.int64)
    given = {"at_ms": at.size, "scores": p.size, "labels": y.size, "buckets": home.size}
    given |= {name: np.size(column) for name, column in (features or {}).items()}
    if len(set(given.values())) != 1:
        raise ValueError(f"columns must have one length, got {given}")
    watch = Watch(reference, bounds, part=part)
    starts, pane = np.unique(at // pane_ms * pane_ms, return_inverse=True)
    done = Replayed(panes=int(starts.size))
    for stream in watch.streams:
        panes: Iterator[Evidence]
        if stream.name == QUALITY:
            panes = _rates(starts, pane, home, (p >= threshold) != (y == 1), pane_ms)
        elif traffic and stream.histogram is not None:
            cells = _cells(reference, stream, p, features or {})
            if cells is None:
                continue
            group, width = stream.histogram.groups[cells], stream.histogram.reference.size
            panes = _histograms(starts, pane, home, group, width, pane_ms)
        else:
            continue
        days = pane_ms / DAY_MS
        done.expected += starts.size * days * stream.share / bounds.alarm_days
        for evidence in panes:
            for index, detector in enumerate(bounds.detectors):
                verdict = watch.update(stream, index, evidence, days)
                done.last[stream.name] = verdict
                if verdict.outcome == "fail":
                    done.alarms.append(Alarm(stream.name, detector.kind, evidence.from_ms, verdict))
    done.alarms.sort(key=lambda alarm: (alarm.pane_ms, alarm.stream))
    return done


def _rates(starts: Ints, pane: Ints, home: Ints, wrong: NDArray[np.bool_], pane_ms: int) -> Iterator[Evidence]:
    shape = (starts.size, BUCKETS)
    flat = pane * BUCKETS + home
    sizes = np.bincount(flat, minlength=starts.size * BUCKETS).reshape(shape)
    hits = np.bincount(flat[wrong], minlength=starts.size * BUCKETS).reshape(shape)
    for i, start in enumerate(starts.tolist()):
        n, s = sizes[i].astype(np.float64), hits[i].astype(np.float64)
        yield Evidence(start, start + pane_ms, np.array([s.sum()]), float(n.sum()), n, s)


def _histograms(starts: Ints, pane: Ints, home: Ints, group: Ints, cells: int, pane_ms: int) -> Iterator[Evidence]:
    counts = np.bincount(pane * cells + group, minlength=starts.size * cells).reshape(starts.size, cells)
    sizes = np.bincount(pane * BUCKETS + home, minlength=starts.size * BUCKETS).reshape(starts.size, BUCKETS)
    for i, start in enumerate(starts.tolist()):
        yield Evidence(start, start + pane_ms, counts[i], int(counts[i].sum()), sizes[i])


def _cells(reference: Reference, stream: Stream, scores: Any, features: Mapping[str, ArrayLike]) -> Ints | None:
    """Give each row's cell in the ledger's vector of this stream; None when its column was not given."""
    if stream.name == SCORE:
        outside = np.where(np.isnan(scores), SCORE_BINS, np.where(scores < 0, SCORE_BINS + 1, SCORE_BINS + 2))
        inside = (scores >= 0) & (scores <= 1)
        return np.where(inside, bins(score_edges(), scores), outside).astype(np.int64)
    name = stream.name.removeprefix(FEATURE)
    if name not in features:
        return None
    cut = cuts(reference)[name]
    if not isinstance(cut, Numeric):
        return np.array([cut.cell(value) for value in np.asarray(features[name], dtype=object)], dtype=np.int64)
    values = np.asarray(features[name], dtype=np.float64)
    inner = len(cut.edges) + 1
    below, above = values < cut.least, values > cut.greatest
    outer = np.where(np.isnan(values), inner, np.where(below, inner + 1, inner + 2))
    return np.where(np.isnan(values) | below | above, outer, bins(cut.edges, values)).astype(np.int64)
