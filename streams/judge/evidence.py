"""What a detector is given: the null that a reference allows, and what a closed pane shows of one stream or of many."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


@dataclass(frozen=True)
class Null:
    """What the reference allows. `sets` is a 0/1 matrix (witness, cell), `limits` the bound of each witness's share."""

    stream: str
    sets: Ints
    limits: Floats
    names: tuple[str, ...]

    @classmethod
    def of_rate(cls, stream: str, limit: float) -> Null:
        """Give the null "the rate is at most `limit`": one cell (the hits), one witness."""
        return cls(stream, np.ones((1, 1), dtype=np.int64), np.array([limit]), (stream,))


@dataclass(frozen=True)
class Evidence:
    """What one closed pane shows: counts per cell, rows in all, and how they fall into units.

    `sizes` holds the rows of each subject bucket (zeros are ignored; empty when nobody counted them, then the pane is
    one unit); `unit_hits` the hits of each bucket when they are known, which needs a null of one cell. Rows may be
    weights.
    """

    from_ms: int
    to_ms: int
    counts: Floats | Ints
    rows: float
    sizes: Floats | Ints
    unit_hits: Floats | Ints | None = None


@dataclass(frozen=True)
class Evidences:
    """The evidence of several streams with the same cells in one pane: `counts` (stream, cell) and `rows` (stream).

    `sizes` and `unit_hits` are (stream, bucket); `sizes` may have one row that holds for all.
    """

    from_ms: int
    to_ms: int
    counts: Floats
    rows: Floats
    sizes: Floats
    unit_hits: Floats | None = None

    @classmethod
    def of(cls, panes: Sequence[Evidence]) -> Evidences:
        """Put evidence of one pane and one shape together; without `unit_hits` in the first there are none."""
        first = panes[0]

        def stacked(rows: Sequence[Floats | Ints]) -> Floats:
            return np.array(rows, dtype=np.float64).reshape(len(panes), -1)

        hits = None
        if first.unit_hits is not None:
            hits = stacked([pane.unit_hits for pane in panes if pane.unit_hits is not None])
        return cls(
            first.from_ms,
            first.to_ms,
            stacked([pane.counts for pane in panes]),
            np.array([pane.rows for pane in panes], dtype=np.float64),
            stacked([pane.sizes for pane in panes]),
            hits,
        )

    def __getitem__(self, row: int) -> Evidence:
        """Give the evidence of one stream."""
        return Evidence(
            self.from_ms,
            self.to_ms,
            self.counts[row],
            float(self.rows[row]),
            self.sizes[row if len(self.sizes) > 1 else 0],
            None if self.unit_hits is None else self.unit_hits[row],
        )
