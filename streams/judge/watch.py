"""Which streams of a deployment are watched, with which null, and what a closed pane shows of each.

Watched are the whole (no slice) of each primary deployment whose version has a reference: `quality:error` on matured
labels, `score`, `feature:NAME`, `embedding` (`clouds`) and `parity:…` (`frozen_rows`) on traffic. A slice has no
reference of its own and may be harder by nature, and a shadow's drift hurts nobody: both have figures, not alarms.
Without a reference nothing is watched ("learning").

Streams whose nulls have the same sets (most numeric features; each by its share alone, the error rate) are a group:
their counts are gathered, judged and compared with the reference as one array. A stream with a season is one by
itself, and so are the embeddings.

**Changed settings.** A tracker's state belongs to the sets and the detector's settings that it was kept under. Where a
snapshot has another's (`cells` or `bets` were changed) the tracker begins anew: M = 0 is where the supermartingale of
`detectors` may always begin, so the budget holds, and evidence so far is lost. For the budget's period afterwards the
stream's sentences say since when there is evidence.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from itertools import chain

import numpy as np
from msgspec import structs
from numpy.typing import NDArray

from schemas.control import ParitySet, Reference
from schemas.verdict import Verdict
from streams.judge.bounds import JudgeBounds
from streams.judge.clouds import Witnesses
from streams.judge.distances import all_distances
from streams.judge.evidence import Evidence, Evidences, Floats
from streams.judge.frozen_rows import compared, differences, examples
from streams.judge.panes import Kind
from streams.judge.season import Season
from streams.judge.trackers import Plain, Trackers, Verdicts
from streams.judge.watched import QUALITY, Histogram, Stream, watched
from streams.measure.ledger import (
    BUCKET_AGREEMENT,
    BUCKET_CONFUSION,
    BUCKET_ROWS,
    BUCKETS,
    DIFFERS,
    FN,
    FP,
    PARITY,
    SCORE,
    Ledger,
)

ANEW, SHAPE = "~anew", "shape"
"""In a dump: since when trackers have begun anew (−1: with the next pane), and what a tracker's state belongs to."""
MILLI = 1000.0
Again = Callable[[Evidence, float, list[float] | None], Verdict]
"""A detector that judges what is past: it takes a pane, the days it may spend, its limits (None: the null's)."""
Ints = NDArray[np.int64]


@dataclass(frozen=True)
class Group:
    """Streams of one shape: their places in the watch's list, their parts of the budget, their trackers by detector.

    `reference` holds the reference's counts (stream, cell), without rows for a stream that is no histogram. `witnesses`
    are those of a cloud; `frozen` streams compare with frozen rows.
    """

    kind: Kind
    places: Ints
    shares: NDArray[np.float64]
    reference: Ints
    trackers: list[Trackers]
    season: Season | None = None
    witnesses: Witnesses | None = None
    frozen: bool = False


@dataclass(frozen=True)
class Judged:
    """What a pane led to in one group: the streams (places in the watch's list) and, by detector, the verdicts."""

    places: Ints
    verdicts: list[Verdicts]

    @staticmethod
    def in_order(judged: list[Judged]) -> Iterator[tuple[int, int, Verdict]]:
        """Give (place of the stream, index of the detector, verdict), ascending."""
        found = ((place, at, group) for group in judged for at, place in enumerate(group.places.tolist()))
        for place, at, group in sorted(found, key=lambda one: one[0]):
            for index, verdicts in enumerate(group.verdicts):
                yield place, index, verdicts.verdict(at)


class Gather:
    """Counts of many histograms at once: one index from (vector, cell) to (histogram, group of cells)."""

    def __init__(self, histograms: list[Histogram]) -> None:
        self.names = [histogram.vector for histogram in histograms]
        widths = np.array([histogram.reference.size for histogram in histograms], dtype=np.int64)
        sizes = np.array([histogram.groups.size for histogram in histograms], dtype=np.int64)
        self.total = int(widths.sum())
        self.starts, self.sizes = np.cumsum(sizes) - sizes, sizes
        offsets = np.repeat(np.cumsum(widths) - widths, sizes)
        self.index = np.concatenate([histogram.groups for histogram in histograms]) + offsets

    def counts(self, ledger: Ledger) -> NDArray[np.float64]:
        """Give a ledger's counts by group, the histograms one after the other; cells they do not know are left out."""
        empty: dict[int, int] = {}
        vectors = [ledger.cells.get(name, empty) for name in self.names]
        lengths = np.fromiter(map(len, vectors), dtype=np.int64, count=len(vectors))
        filled = int(lengths.sum())
        cells = np.fromiter(chain.from_iterable(vectors), dtype=np.int64, count=filled)
        values = np.fromiter(chain.from_iterable(map(dict.values, vectors)), dtype=np.float64, count=filled)
        known = cells < np.repeat(self.sizes, lengths)
        if not known.all():  # counted in the bins of another reference of this version: not ours to read
            cells, values = cells[known], values[known]
            sized = zip(self.sizes.tolist(), vectors, strict=True)
            lengths = np.array([sum(cell < size for cell in vector) for size, vector in sized], dtype=np.int64)
        index = self.index[np.repeat(self.starts, lengths) + cells]
        return np.bincount(index, values, minlength=self.total).astype(np.float64, copy=False)


@dataclass
class Watch:
    """The detectors of one deployment's version.

    `part` is its reference's part of `reference_delta` (`shares`), `parity` the version's frozen rows. `anew` says
    since when trackers that were begun anew have evidence.
    """

    reference: Reference
    bounds: JudgeBounds
    streams: list[Stream] = field(default_factory=list)
    groups: list[Group] = field(default_factory=list)
    anew: dict[str, int] = field(default_factory=dict)
    part: float = 1.0
    parity: ParitySet | None = None

    def __post_init__(self) -> None:
        delta = self.bounds.reference_delta * self.part
        self.streams = list(watched(self.reference, self.bounds, delta, self.parity))
        self.groups = list(_groups(self.streams, self.bounds, self.reference.model, delta))
        self._found = {
            int(place): (group, row) for group in self.groups for row, place in enumerate(group.places.tolist())
        }
        self._place = {stream.name: place for place, stream in enumerate(self.streams)}
        self._histograms = [group for group in self.groups if group.reference.size]
        every = (self.streams[place].histogram for group in self._histograms for place in group.places.tolist())
        self._gather = Gather([histogram for histogram in every if histogram is not None]) if self._histograms else None

    def load(self, states: dict[str, Plain]) -> list[str]:
        """Take up what `dump` gave; states of streams or detectors that are no more are dropped.

        Gives the trackers (`stream|index:kind`) that begin anew, because their state is of other sets or settings.
        """
        begun = []
        self.anew = dict(states.get(ANEW, {}))
        for key, group, index, row in self._trackers():
            state = dict(states.get(key, {}))
            shape = state.pop(SHAPE, None)
            try:
                if shape not in (None, self._shape(key, index)):
                    raise ValueError(f"expected a state of shape {self._shape(key, index)}, got {shape}")
                if state:
                    group.trackers[index].load(row, state)
            except ValueError:  # also what was kept before shapes were: its length tells
                group.trackers[index].load(row, {})
                self.anew[key] = -1
                begun.append(key)
        for key, season in self._seasons():
            season.load(states.get(key, {}))
        for key, witnesses in self._witnesses():
            witnesses.load(states.get(key, {}))
        return begun

    def _shape(self, key: str, index: int) -> str:
        return self.bounds.detectors[index].shape(self.streams[self._place[key.partition("|")[0]]].null)

    def noted(self, place: int, index: int, verdict: Verdict, start: int) -> Verdict:
        """Say in a verdict on the pane that begins at `start` since when there is evidence, where it began anew."""
        key = f"{self.streams[place].name}|{index}:{self.bounds.detectors[index].kind}"
        since = self.anew.get(key)
        if since is None:
            return verdict
        if since < 0:
            since = self.anew[key] = start
        if start - since >= self.bounds.period_ms:
            del self.anew[key]
            return verdict
        at = datetime.fromtimestamp(since / 1000, UTC)
        note = f"began anew on {at:%Y-%m-%d %H:%M} UTC, because settings had changed"
        return structs.replace(verdict, sentence=f"{verdict.sentence}; {note}")

    def dump(self) -> dict[str, Plain]:
        """Give trackers, seasons and witnesses as plain data, by stream, without those that stand at the start."""
        found: list[tuple[str, Plain]] = [(ANEW, dict(sorted(self.anew.items())))]
        for key, group, index, row in self._trackers():
            plain = group.trackers[index].dump(row)
            found.append((key, {**plain, SHAPE: self._shape(key, index)} if plain else {}))
        found += [(key, season.dump()) for key, season in self._seasons()]
        found += [(key, witnesses.dump()) for key, witnesses in self._witnesses()]
        return dict(sorted((key, plain) for key, plain in found if plain))

    def _trackers(self) -> Iterator[tuple[str, Group, int, int]]:
        for index, detector in enumerate(self.bounds.detectors):
            for place, (group, row) in self._found.items():
                yield f"{self.streams[place].name}|{index}:{detector.kind}", group, index, row

    def _seasons(self) -> Iterator[tuple[str, Season]]:
        for group in self.groups:
            if group.season is not None:
                yield f"{self.streams[int(group.places[0])].name}|season", group.season

    def _witnesses(self) -> Iterator[tuple[str, Witnesses]]:
        for group in self.groups:
            if group.witnesses is not None:
                yield f"{self.streams[int(group.places[0])].name}|witnesses", group.witnesses

    def has(self, name: str) -> bool:
        """Say whether a stream is watched."""
        return name in self._place

    def stream(self, name: str) -> Stream:
        """Give a stream by its name."""
        return self.streams[self._place[name]]

    def before(self, name: str) -> list[Plain]:
        """Give what each detector knows of a stream now, as plain data; empty: nothing yet."""
        group, row = self._found[self._place[name]]
        return [trackers.dump(row) for trackers in group.trackers]

    def resume(self, name: str, index: int, before: Plain) -> Again | None:
        """Give a detector of its own that goes on from `before`, or None where that is another detector's."""
        if index >= len(self.bounds.detectors):
            return None
        many = self.bounds.detectors[index].many([self.stream(name).null], self.bounds.alarm_days)
        try:
            many.load(0, before)
        except ValueError:
            return None
        row = np.zeros(1, dtype=np.int64)

        def judge(pane: Evidence, days: float, limits: list[float] | None) -> Verdict:
            allowed = None if limits is None else np.array([limits], dtype=np.float64)
            return many.update(row, Evidences.of([pane]), np.array([days]), allowed).verdict(0)

        return judge

    def limits(self, stream: Stream, start: int) -> Floats | None:
        """Give the limits by which the stream's pane that begins at `start` is judged, None for its null's."""
        season = self._found[self._place[stream.name]][0].season
        return None if season is None else season.limits(start)

    def judge(self, kind: Kind, ledger: Ledger, start: int, end: int, days: float) -> list[Judged]:
        """Let all detectors see one closed pane, which may spend `days`; streams without rows in it are left out."""
        found = []
        for group, panes in self._evidence(kind, ledger, start, end):
            rows = np.flatnonzero(panes.rows > 0)
            if not rows.size:
                continue
            if rows.size < panes.rows.size:
                panes = _only(panes, rows)
            spent = days * group.shares[rows] / self.bounds.parts
            limits = None if group.season is None else group.season.limits(start)[None, :]
            verdicts = [trackers.update(rows, panes, spent, limits) for trackers in group.trackers]
            if group.season is not None:
                budgeted = [detector.budgeted for detector in self.bounds.detectors]
                verdicts = group.season.judged(panes[0], list(zip(verdicts, budgeted, strict=True)))
            found.append(Judged(group.places[rows], verdicts))
        found += self._clouds(kind, ledger, start, end, days)
        return [*found, *self._frozen(kind, ledger, start, end, days)]

    def _frozen(self, kind: Kind, ledger: Ledger, start: int, end: int, days: float) -> Iterator[Judged]:
        """Judge how predictions compare with frozen rows."""
        for group in self.groups:
            if group.kind == kind and group.frozen:
                names = [self.streams[place].name for place in group.places.tolist()]
                rows, panes = compared(names, ledger, start, end)
                if rows.size:
                    spent = days * group.shares[rows] / self.bounds.parts
                    said = [trackers.update(rows, panes, spent) for trackers in group.trackers]
                    yield Judged(group.places[rows], said)

    def _clouds(self, kind: Kind, ledger: Ledger, start: int, end: int, days: float) -> Iterator[Judged]:
        """Judge the embeddings by the witnesses of the panes before, and only then let this one choose the next."""
        row = np.zeros(1, dtype=np.int64)
        for group in self.groups:
            seen = group.witnesses.pane(ledger, start, end) if group.witnesses and group.kind == kind else None
            if group.witnesses is None or seen is None:
                continue
            panes, limits = Evidences.of([seen[0]]), seen[1][None, :]
            spent = days * group.shares / self.bounds.parts
            yield Judged(group.places, [trackers.update(row, panes, spent, limits) for trackers in group.trackers])
            group.witnesses.learn(ledger)

    def evidence(self, stream: Stream, ledger: Ledger, start: int, end: int) -> Evidence | None:
        """Give what a pane shows of one stream by itself, None without rows.

        Of a cloud it is what the witnesses show that the panes before have chosen.
        """
        if stream.cloud is not None:
            witnesses = self._found[self._place[stream.name]][0].witnesses
            seen = None if witnesses is None else witnesses.pane(ledger, start, end)
            return None if seen is None else seen[0]
        if stream.name.startswith(PARITY):
            places, panes = compared([stream.name], ledger, start, end)
            return panes[0] if places.size else None
        histogram = stream.histogram
        if histogram is None:
            return labelled(ledger, start, end)
        width = histogram.groups.size
        vector = {cell: max(count, 0) for cell, count in ledger.cells.get(histogram.vector, {}).items() if cell < width}
        cells = np.fromiter(vector, dtype=np.int64, count=len(vector))
        values = np.fromiter(vector.values(), dtype=np.float64, count=len(vector))
        counts = np.bincount(histogram.groups[cells], values, minlength=histogram.reference.size).astype(np.float64)
        rows = float(counts.sum())
        if rows <= 0:
            return None
        sizes = np.array(ledger.dense(BUCKET_ROWS, BUCKETS), dtype=np.float64)
        return Evidence(start, end, counts, rows, sizes if sizes.sum() == rows else np.zeros(0))

    def update(self, stream: Stream, index: int, pane: Evidence, days: float) -> Verdict:
        """Let one detector see one pane of one stream, which may spend this stream's part of `days`."""
        group, row = self._found[self._place[stream.name]]
        spent = np.array([days * stream.share / self.bounds.parts])
        limits = None if group.season is None else group.season.limits(pane.from_ms)[None, :]
        said: Verdicts = group.trackers[index].update(np.array([row]), Evidences.of([pane]), spent, limits)
        if group.season is not None:
            budgeted = self.bounds.detectors[index].budgeted
            (said,) = group.season.judged(pane, [(said, budgeted)], learns=index == 0)
        return said.verdict(0)

    def distances(self, kind: Kind, window: Ledger) -> dict[int, dict[str, float]]:
        """Give the distances of a window to the reference by place, each beside its 95 % quantile under no drift."""
        found: dict[int, dict[str, float]] = {}
        for group, counts in self._counts(kind, window):
            # A cell below 0 lacks deltas (a reference that came after what it counts): such a row has no distance.
            rows = np.flatnonzero((counts.sum(axis=1) > 0) & (counts >= 0).all(axis=1))
            if rows.size:
                columns = all_distances(group.reference[rows], counts[rows])
                values = zip(*(column.tolist() for column in columns.values()), strict=True)
                names = list(columns)
                for place, row in zip(group.places[rows].tolist(), values, strict=True):
                    found[place] = dict(zip(names, row, strict=True))
        for group in self.groups:
            far = group.witnesses.cloud.distances(window) if group.witnesses and group.kind == kind else {}
            if far:
                found[int(group.places[0])] = far
            for place in group.places.tolist() if group.frozen and group.kind == kind else ():
                apart = differences(self.streams[place].name, window)
                found |= {place: apart} if apart else {}
        return found

    def exampled(self, place: int, verdict: Verdict, window: Ledger) -> Verdict:
        """Name in an alarm about frozen rows those that differ in the window."""
        name = self.streams[place].name
        if self.parity is None or verdict.outcome != "fail" or not name.startswith(PARITY):
            return verdict
        return structs.replace(verdict, sentence=f"{verdict.sentence}; {examples(self.parity, name, window)}")

    def _counts(self, kind: Kind, ledger: Ledger) -> Iterator[tuple[Group, NDArray[np.float64]]]:
        if self._gather is None or not any(group.kind == kind for group in self._histograms):
            return
        flat, start = self._gather.counts(ledger), 0
        for group in self._histograms:
            yield group, flat[start : start + group.reference.size].reshape(group.reference.shape)
            start += group.reference.size

    def _evidence(self, kind: Kind, ledger: Ledger, start: int, end: int) -> Iterator[tuple[Group, Evidences]]:
        if kind == "labels":
            pane = labelled(ledger, start, end)
            yield from ((group, Evidences.of([pane])) for group in self.groups if group.kind == kind and pane)
            return
        sizes = np.array(ledger.dense(BUCKET_ROWS, BUCKETS), dtype=np.float64)[None, :]
        held = sizes.sum()
        for group, found in self._counts(kind, ledger):
            counts = np.maximum(found, 0.0)
            rows = counts.sum(axis=1)
            # Every row has a score cell; features are counted from the reference on, so fewer at first: then one unit.
            known = rows == held
            yield (
                group,
                Evidences(start, end, counts, rows, sizes if known.all() else np.where(known[:, None], sizes, 0.0)),
            )


def labelled(ledger: Ledger, start: int, end: int) -> Evidence | None:
    """Give what a pane shows of the error rate, None without a label."""
    confusion = np.array(ledger.dense(BUCKET_CONFUSION, BUCKETS * 4), dtype=np.float64).reshape(BUCKETS, 4) / MILLI
    agreement = np.array(ledger.dense(BUCKET_AGREEMENT, BUCKETS * 2), dtype=np.float64).reshape(BUCKETS, 2) / MILLI
    # What lacks deltas (a judge that began in the middle) may be below 0, and no bet can be made on that.
    confusion, agreement = np.maximum(confusion, 0.0), np.maximum(agreement, 0.0)
    sizes = confusion.sum(axis=1) + agreement.sum(axis=1)
    hits = confusion[:, FP] + confusion[:, FN] + agreement[:, DIFFERS]
    weight = float(sizes.sum())
    if weight <= 0:
        return None
    return Evidence(start, end, np.array([float(hits.sum())]), weight, sizes, hits)


def _only(panes: Evidences, rows: Ints) -> Evidences:
    sizes = panes.sizes if len(panes.sizes) == 1 else panes.sizes[rows]
    return Evidences(panes.from_ms, panes.to_ms, panes.counts[rows], panes.rows[rows], sizes)


def _groups(streams: list[Stream], bounds: JudgeBounds, model: str, delta: float) -> Iterator[Group]:
    alike: dict[tuple[Kind, tuple[int, ...], bytes, str], list[int]] = {}
    for place, stream in enumerate(streams):
        sets = stream.null.sets
        seasonal = bounds.season != "none" and stream.name in (QUALITY, SCORE)
        apart = PARITY if stream.name.startswith(PARITY) else ""
        if seasonal or stream.cloud is not None:
            apart = stream.name
        alike.setdefault((stream.kind, sets.shape, sets.tobytes(), apart), []).append(place)
    for (kind, *_), places in alike.items():
        first = streams[places[0]]
        seasonal = bounds.season != "none" and first.name in (QUALITY, SCORE)
        counts = [histogram.reference for place in places if (histogram := streams[place].histogram) is not None]
        nulls = [streams[place].null for place in places]
        yield Group(
            kind,
            np.array(places, dtype=np.int64),
            np.array([streams[place].share for place in places]),
            np.array(counts, dtype=np.int64).reshape(len(counts), -1) if counts else np.zeros((0, 0), dtype=np.int64),
            [detector.many(nulls, bounds.alarm_days) for detector in bounds.detectors],
            _season(first, bounds, model, delta) if seasonal else None,
            None if first.cloud is None else Witnesses(first.cloud, first.null),
            first.name.startswith(PARITY),
        )


def _season(stream: Stream, bounds: JudgeBounds, model: str, delta: float) -> Season:
    return Season(
        stream.null,
        zone=bounds.zone(model),
        epsilon=bounds.epsilon_error if stream.kind == "labels" else bounds.epsilon_share,
        tail=Season.tail_of(delta * stream.share, bounds.period_ms, len(stream.null.names)),
    )
