"""A column of embeddings in two tables: one verdict by maximum mean discrepancy, from streams of rows.

Each row is one of three things, and each has features of length 1 that say so: a vector (its random Fourier features),
`missing` (no list, an empty one, or one with a null, NaN or infinite number inside, or numbers too large for an angle),
or of `another length` than most vectors of the reference. Two rows that are not the same kind of thing have nothing in
common (kernel 0), two that are missing have everything (1). So one number sees a moved cloud of vectors, a changed
spread, a new dependence of coordinates, and an encoder that began to answer nothing.

Held at once are a batch of rows, `SAMPLE` rows of the reference (the bandwidth is theirs), and the sums. The reference
is read twice: what the features are is only known once it has been seen.

The `cells`, which the report draws, count rows by their distance, in bandwidths, from the centre of the reference's
sample; the verdict is not theirs.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from streams.judge.compare import Cell, Compared
from streams.judge.mmd import FeatureSums, first_bound, mmd2, null_weights, quantile, rows_that_differ, statistic, tail
from streams.measure.fourier import Fourier, median_bandwidth
from streams.measure.reference import edges_of

Floats = NDArray[np.float64]

SAMPLE = 1_000
"""So many rows of the reference, evenly spread over it, give the bandwidth, up to twice as many."""
LEAST_ROWS = 50
"""With fewer rows on a side the law of the statistic is not yet its own, and no p-value is told."""
DISTANCES = 20
SEED = 0


@dataclass(frozen=True)
class Vectors:
    """Some rows of a column of lists. `lengths`: −1 where there is no list; `values`: all numbers, NaN for null."""

    lengths: NDArray[np.int64]
    values: Floats

    def of(self, dimension: int) -> Floats:
        """Give the rows of this length: (rows, dimension)."""
        chosen = self.lengths == dimension
        if not dimension or not chosen.any():
            return np.zeros((0, dimension))
        if int(chosen.sum()) * dimension == len(self.values):
            return self.values.reshape(-1, dimension)
        mask = np.repeat(chosen, np.maximum(self.lengths, 0))
        return np.asarray(self.values[mask].reshape(-1, dimension), dtype=np.float64)


Read = Callable[[], Iterable[Vectors]]
"""Reads a column from its beginning, some rows at a time."""


@dataclass
class _Side:
    """What is kept of one table."""

    sums: FeatureSums
    missing: int
    odd: int
    far: NDArray[np.int64]
    total: Floats
    squares: Floats

    @property
    def n(self) -> int:
        return self.sums.n

    @property
    def there(self) -> int:
        return self.n - self.missing - self.odd


@dataclass(frozen=True)
class _Frame:
    """What both tables are seen through: features, and for the picture distances from the reference's centre.

    Distances are in bandwidths.
    """

    dimension: int
    fourier: Fourier | None
    centre: Floats
    edges: tuple[float, ...]
    least: float
    greatest: float

    def cells(self, off: Floats) -> NDArray[np.int64]:
        """Count rows by their distance from the centre: nearer than any, the inner cells, farther than any."""
        away = np.sqrt((off**2).sum(axis=1))
        bounds = [self.least, *self.edges, np.nextafter(self.greatest, np.inf)]
        return np.bincount(np.searchsorted(bounds, away, side="right"), minlength=len(bounds) + 1).astype(np.int64)


def compare_embeddings(
    name: str, rows: int, reference: Read, current: Read, *, seed: int = SEED, least_rows: int = LEAST_ROWS
) -> Compared:
    """Compare two columns of lists of numbers. `rows`: how many the reference has; `seed` chooses the frequencies."""
    frame = _frame(rows, reference, current, seed)
    a, c = (_sides(read(), frame) for read in (reference, current))
    weights = null_weights(a.sums, c.sums)
    squared = mmd2(a.sums, c.sums)
    enough = min(a.n, c.n) >= least_rows
    noise = 1 / max(a.n, 1) + 1 / max(c.n, 1)
    found = Compared(
        name=name,
        kind="embedding",
        n=a.n,
        m=c.n,
        missing_n=a.missing,
        missing_m=c.missing,
        tv=rows_that_differ(a.sums, c.sums),
        chance_tv=first_bound(noise * (quantile(0.95, weights) - float(weights.sum()))) if enough else math.nan,
        psi=math.nan,
        js=math.nan,
        hellinger=math.nan,
        dof=len(weights),
        p=tail(statistic(a.sums, c.sums), weights) if enough else math.nan,
        mmd2=None if math.isnan(squared) else squared,
        dimension=frame.dimension,
        bandwidth=frame.fourier.bandwidth if frame.fourier else None,
        moved=_moved(a, c),
        cells=_cells(frame, a, c),
    )
    if not enough:
        found.moved = f"{min(a.n, c.n)} rows on a side; the law of MMD needs {least_rows}"
    return found


def _frame(rows: int, reference: Read, current: Read, seed: int) -> _Frame:
    """Look at both tables' lengths and a sample of the reference."""
    sample, lengths = _sample(reference(), max(rows // SAMPLE, 1))
    dimension = min((-count, length) for length, count in lengths.items())[1] if lengths else 0
    chosen = [row for row in sample if len(row) == dimension]
    held = np.array(chosen).reshape(len(chosen), dimension)
    held = held[np.isfinite(held).all(axis=1)] if len(held) else held
    if not dimension or not len(held):
        return _Frame(dimension, None, np.zeros(dimension), (), math.inf, -math.inf)
    width = median_bandwidth(held)
    if not width:  # a constant reference has no width: what it lies from tells how fine to look
        others, _ = _sample(current(), 1, SAMPLE)
        there = [row for row in others if len(row) == dimension and np.isfinite(row).all()]
        width = median_bandwidth(np.concatenate((held[:1], np.array(there).reshape(len(there), dimension)))) or 1.0
    centre = held.mean(axis=0)
    away = np.sort(np.sqrt((((held - centre) / width) ** 2).sum(axis=1)))
    edges = tuple(edges_of(away, DISTANCES))
    return _Frame(dimension, Fourier(dimension, width, seed), centre, edges, float(away[0]), float(away[-1]))


def _sample(batches: Iterable[Vectors], step: int, most: int = 0) -> tuple[list[Floats], Counter[int]]:
    """Give every `step`-th row that is a list (at most `most`, if any), and how often each length ≥ 1 occurs."""
    sample: list[Floats] = []
    lengths: Counter[int] = Counter()
    at = 0
    for batch in batches:
        whole = batch.lengths[batch.lengths > 0]
        for length, count in zip(*np.unique(whole, return_counts=True), strict=True):
            lengths[int(length)] += int(count)
        ends = np.cumsum(np.maximum(batch.lengths, 0))
        for row in range(-at % step, len(batch.lengths), step):
            if batch.lengths[row] > 0 and not (most and len(sample) >= most):
                sample.append(batch.values[ends[row] - batch.lengths[row] : ends[row]].copy())
        at += len(batch.lengths)
    return sample, lengths


def _sides(batches: Iterable[Vectors], frame: _Frame) -> _Side:
    """Sum the features of one table."""
    fourier = frame.fourier
    size = 2 * fourier.frequencies if fourier else 0
    cells = len(frame.edges) + 3
    side = _Side(
        FeatureSums(size + 2), 0, 0, np.zeros(cells, np.int64), np.zeros(frame.dimension), np.zeros(frame.dimension)
    )
    for batch in batches:
        rows = batch.of(frame.dimension)
        features = fourier.features(rows) if fourier else np.full((len(rows), 0), np.nan)
        usable = ~np.isnan(features).any(axis=1) if fourier else np.zeros(len(rows), bool)
        odd = int(np.count_nonzero((batch.lengths > 0) & (batch.lengths != frame.dimension)))
        missing = len(batch.lengths) - odd - int(usable.sum())
        full = np.zeros((len(batch.lengths), size + 2))
        full[: int(usable.sum()), :size] = features[usable]
        full[int(usable.sum()) :, size] = 1.0
        full[len(full) - odd :, size:] = 0.0, 1.0
        side.sums.add(full)
        side.missing, side.odd = side.missing + missing, side.odd + odd
        with np.errstate(over="ignore", invalid="ignore"):
            if fourier and usable.any():
                off = (rows[usable] - frame.centre) / fourier.bandwidth
                side.far += frame.cells(off)
                side.total += off.sum(axis=0)
                side.squares += (off**2).sum(axis=0)
    return side


def _moved(a: _Side, c: _Side) -> str:
    """Say what moved most: the share of rows without a vector, or the mean of a coordinate; else that none did."""
    if not a.n or not c.n:
        return ""
    for what, before, after in (("missing", a.missing, c.missing), ("of another length", a.odd, c.odd)):
        if abs(after / c.n - before / a.n) >= 0.01:
            return f"{what}: {before / a.n:.1%} → {after / c.n:.1%}"
    if min(a.there, c.there) < 2:
        return ""
    with np.errstate(all="ignore"):
        mean = [side.total / side.there for side in (a, c)]
        variance = [np.maximum(side.squares / side.there - at**2, 0.0) for side, at in zip((a, c), mean, strict=True)]
        error = np.sqrt(variance[0] / a.there + variance[1] / c.there)
        gap = mean[1] - mean[0]
        z = np.nan_to_num(np.where(gap == 0, 0.0, np.abs(gap) / error), nan=0.0)
        deviation = np.maximum(np.sqrt(variance[0]), 1e-300)
    from scipy.special import ndtri

    first = int(np.argmax(z))
    if z[first] < ndtri(1 - 0.05 / 2 / len(z)):
        return "no coordinate's mean: their spread, or how they go together"
    by, unit = (gap / deviation, "deviations") if deviation[first] > 1e-9 else (gap, "bandwidths")
    several = int(np.count_nonzero(z >= ndtri(1 - 0.05 / 2 / len(z))))
    return f"coordinate {first}, whose mean moves by {by[first]:+.2f} {unit}; {several} of {len(z)} coordinates move"


def _cells(frame: _Frame, a: _Side, c: _Side) -> list[Cell]:
    """Give the rows by their distance from the centre, and those without a vector."""
    inner = [frame.least, *frame.edges, frame.greatest]
    names = [f"nearer than {frame.least:.4g}"]
    names += [f"distance {low:.4g} to {high:.4g}" for low, high in pairwise(inner)]
    names += [f"farther than {frame.greatest:.4g}"]
    cells = [(name, int(n), int(m)) for name, n, m in zip(names, a.far, c.far, strict=True)] if a.far.any() else []
    cells += [("missing", a.missing, c.missing), ("another length", a.odd, c.odd)]
    return [cell for cell in cells if cell[1] or cell[2]]
