"""References, predictions and closed panes of many numeric features, made without learning from rows."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtri

from schemas.control import Reference
from streams.measure.ledger import BUCKET_ROWS, BUCKETS, FEATURE, SCORE, SCORE_BINS, Ledger, N

Ints = NDArray[np.int64]

BINS = 20
"""Inner cells of a feature; three more are missing, below and above its range."""


def reference(features: int, rows: int = 100_000) -> Reference:
    """Give a reference of `features` standard normal columns, `rows` rows each, in cells of equal weight, and a score.

    >>> made = reference(2)
    >>> sorted(made.counts), len(made.edges["x00001"]), sum(made.counts["score"])
    (['feature:x00000', 'feature:x00001', 'score'], 19, 100000)
    """
    names = [f"x{k:05d}" for k in range(features)]
    edges = ndtri(np.arange(1, BINS) / BINS).tolist()
    counts = {FEATURE + name: [rows // BINS] * BINS + [0, 0, 0] for name in names}
    score = [0] * (SCORE_BINS + 3)
    score[SCORE_BINS // 2 - 500 : SCORE_BINS // 2 + 500] = [rows // 1000] * 1000
    return Reference(
        id="ref-made",
        model="m",
        version="1",
        n=rows,
        edges=dict.fromkeys(names, edges),
        ranges={name: [-4.5, 4.5] for name in names},
        counts=counts | {SCORE: score},
        base_rate=0.5,
        error_rate=0.1,
        error_n=rows,
    )


def pane(features: int, rows: int, seed: int) -> Ledger:
    """Give one closed pane of such features in which nothing has changed: `rows` rows of 64 equal subject buckets."""
    draw = np.random.default_rng(seed)
    cells = {FEATURE + f"x{k:05d}": _sparse(counts) for k, counts in enumerate(_counts(draw, features, rows))}
    cells[SCORE] = _sparse(draw.multinomial(rows, [1 / 1000] * 1000), SCORE_BINS // 2 - 500)
    cells[N] = {0: rows}
    cells[BUCKET_ROWS] = _sparse(draw.multinomial(rows, [1 / BUCKETS] * BUCKETS))
    return Ledger(cells)


def _counts(draw: np.random.Generator, features: int, rows: int) -> Ints:
    return draw.multinomial(rows, [1 / BINS] * BINS, size=features)


def _sparse(counts: Ints, offset: int = 0) -> dict[int, int]:
    return {int(cell) + offset: int(counts[cell]) for cell in np.flatnonzero(counts)}
