"""Quality without labels: what the scores themselves say, as far as they were calibrated (CBPE).

A calibrated score is the chance of a positive, so of the predictions in a score bin with chance c, n of them, k decided
as positive and r as negative, k·c are expected to be true positives, k(1 − c) false ones, r·c false negatives,
r(1 − c) true ones: *expected counts*, from which every figure that needs no more than the confusion matrix and the
score bins follows (confidence-based performance estimation: NannyML's definition, whose published figures a test
compares).

**Calibration** is isotonic, positives over all by score, learnt from the reference's labelled rows. NannyML fits it
over raw scores and leaves it out where it does not lower the calibration error; here it is fitted over the 2,048 logit
bins, always: pooled neighbours cost a well calibrated score nothing but noise of the size of the reference's own.

**What it assumes**: the chance of a positive *given the score* is that of the reference. Traffic may change (covariate
shift), the concept may not. Where it does, the estimate stays and the realised figure leaves it: the difference is told
when labels land, and the intervals (`conformal`) widen by it.
"""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import ArrayLike, NDArray

from schemas.control import Reference
from streams.measure.ledger import (
    CONFUSION,
    SCORE,
    SCORE_BINS,
    SCORE_CHOSEN,
    SCORE_NEG,
    SCORE_POS,
    SCORE_UNDECIDED,
    Ledger,
    N,
)

Floats = NDArray[np.float64]

MILLI: Final = 1_000
LEAST_LABELS: Final = 200
"""Fewer labelled rows than this calibrate nothing."""


def isotonic(hits: ArrayLike, rows: ArrayLike) -> Floats:
    """Give the nondecreasing chances that fit `hits` of `rows` in each bin best; empty bins lie between neighbours.

    >>> isotonic([0, 3, 2, 0, 4], [4, 4, 4, 0, 4]).tolist()
    [0.0, 0.625, 0.625, 0.8125, 1.0]
    """
    from scipy.optimize import isotonic_regression  # heavy, and only wanted where there is a reference

    s, n = np.asarray(hits, dtype=np.float64), np.asarray(rows, dtype=np.float64)
    filled = np.flatnonzero(n > 0)
    if not filled.size:
        raise ValueError("expected at least one bin with rows")
    fitted = isotonic_regression(s[filled] / n[filled], weights=n[filled]).x
    return np.asarray(np.interp(np.arange(n.size), filled, fitted), dtype=np.float64)


def calibration(reference: Reference) -> Floats | None:
    """Give the chance of a positive in each score bin; None where the reference has no labels by score."""
    hits, rows = np.zeros(SCORE_BINS), np.zeros(SCORE_BINS)
    for at in range(0, len(reference.calibration) - 2, 3):
        cell, negatives, positives = reference.calibration[at : at + 3]
        if 0 <= cell < SCORE_BINS:
            hits[cell], rows[cell] = positives, negatives + positives
    return isotonic(hits, rows) if rows.sum() >= LEAST_LABELS else None


def expected(chances: Floats, traffic: Ledger) -> Ledger | None:
    """Give the cells that traffic would have if its labels were as their chances say; None without a readable score.

    Rows whose score is no number in [0, 1] are left out; those whose `prediction` is neither 0 nor 1 (a text beside a
    score) decided nothing: like the realised ones they are in the score bins and in no confusion cell. Reads `score`,
    `score.chosen` and `score.undecided`; counts are rounded to thousandths of a row.

    >>> chances = np.full(SCORE_BINS, 0.25)
    >>> expected(chances, Ledger({"score": {3: 8, 9: 4}, "score.chosen": {9: 4}})).cells["confusion"]
    {0: 1000, 1: 3000, 2: 2000, 3: 6000}
    """
    scores = traffic.cells.get(SCORE, {})
    bins = np.array(sorted(cell for cell in scores if 0 <= cell < SCORE_BINS), dtype=np.int64)
    rows = np.array([scores[int(cell)] for cell in bins], dtype=np.float64)
    if rows.sum() <= 0:
        return None
    chosen, undecided = (
        np.array([vector.get(int(cell), 0) for cell in bins], dtype=np.float64)
        for vector in (traffic.cells.get(name, {}) for name in (SCORE_CHOSEN, SCORE_UNDECIDED))
    )
    refused = rows - chosen - undecided
    chance = chances[bins]
    hits = rows * chance
    # Rounded bin by bin, to millionths, and then summed as integers: the same on every machine.
    by_cell = (chosen * chance, chosen * (1 - chance), refused * chance, refused * (1 - chance))
    cells = [(int(np.rint(one * 1e6).astype(np.int64).sum()) + 500) // 1_000 for one in by_cell]
    found = Ledger({N: {0: int(rows.sum())}})
    found.add_pairs(CONFUSION, enumerate(cells))
    for name, by_bin in ((SCORE_POS, hits), (SCORE_NEG, rows - hits)):
        found.add_pairs(name, zip(bins.tolist(), np.rint(by_bin * MILLI).astype(np.int64).tolist(), strict=True))
    return found
