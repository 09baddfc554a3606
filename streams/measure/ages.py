"""How old a prediction is when a label of it arrives: log-linear bins, counted in panes.

One bin for each of the first 16 ages, then 8 bins for each doubling (as HdrHistogram has them: within an eighth of the
age), up to `LIMIT` panes; the bin behind the last holds everything older.
"""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray

LIMIT: Final = 1536


def _edges() -> list[int]:
    edges = list(range(16))
    while edges[-1] < LIMIT:
        edges.append(edges[-1] + max(1, 1 << (edges[-1].bit_length() - 4)))
    return edges


EDGES: Final = np.array(_edges(), dtype=np.int64)
"""Bin k holds the ages in [EDGES[k], EDGES[k + 1]); the last edge is `LIMIT`.

>>> EDGES[14:19].tolist(), EDGES[-3:].tolist()
([14, 15, 16, 18, 20], [1280, 1408, 1536])
"""
BINS: Final = len(EDGES) - 1
OLDER: Final = BINS
"""The bin of what is older."""
BIN_OF: Final[NDArray[np.int64]] = np.searchsorted(EDGES, np.arange(LIMIT + 1), side="right") - 1
"""From an age to its bin; what is older than `LIMIT` is asked as `LIMIT`."""
