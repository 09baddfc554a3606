"""How well two samples are told apart by scores of held-out rows: AUC, its interval, its law when nothing differs.

A classifier learns, on all folds but one, which table a row comes from, and scores the rows of that fold. Under no
difference those scores say nothing about the table, whatever was learnt, so each fold's AUC has the law of Mann and
Whitney (mean ½, variance (N+1)/12nm less what ties take). The folds are told by their mean. They are scored apart and
never pooled: scores of two fits are on two scales, and a pooled AUC of quiet tables lies below ½. That the folds share
training rows makes their AUCs depend on each other; `tests/services/drift/test_classifier.py` measures how often quiet
tables are rejected all the same.

The interval is that of DeLong, DeLong and Clarke-Pearson (1988, Biometrics 44), fold by fold.

**Size.** Where a share t of the rows is other (total variation), no score has an AUC above 1 − (1−t)²/2: a concave
ROC curve whose greatest height above the diagonal is t lies within such a polygon. So at least 1 − √(2(1−AUC)) of the
rows would have to be others.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

import msgspec
import numpy as np
from numpy.typing import NDArray

from streams.judge.compare import Verdict

Floats = NDArray[np.float64]

Z = 1.959963984540054


class Fold(msgspec.Struct, frozen=True):
    """One fold: its AUC, the variance of that (DeLong), and its variance were there no difference."""

    auc: float
    variance: float
    null_variance: float


class Separated(msgspec.Struct, kw_only=True):
    """What a classifier makes of two tables. `n`, `m`: rows of each that it saw; `telling`: (column, AUC lost without).

    `auc`, its 95 % interval and `p` (one-sided: above ½) are NaN where too few rows allow none; `differ` is the lower
    bound of the share of rows that differ.
    """

    n: int
    m: int
    folds: int
    auc: float = math.nan
    low: float = math.nan
    high: float = math.nan
    p: float = math.nan
    differ: float = math.nan
    verdict: Verdict = "unclear"
    sentence: str = ""
    telling: list[tuple[str, float]] = []
    kind: Literal["hist_gradient_boosting"] = "hist_gradient_boosting"


def fold_of(reference: Floats, current: Floats) -> Fold:
    """Give one fold from the scores of its rows; a higher score says "current". Two rows a side at least.

    >>> fold_of(np.array([0.1, 0.2]), np.array([0.2, 0.9])).auc
    0.875
    """
    n, m = len(reference), len(current)
    a, c = np.sort(reference), np.sort(current)
    above = (np.searchsorted(a, current, "left") + np.searchsorted(a, current, "right")) / (2 * n)
    below = 1 - (np.searchsorted(c, reference, "left") + np.searchsorted(c, reference, "right")) / (2 * m)
    total = n + m
    _, counts = np.unique(np.concatenate((a, c)), return_counts=True)
    ties = float(np.sum(counts.astype(np.float64) ** 3 - counts)) / (total * (total - 1))
    return Fold(
        auc=float(above.mean()),
        variance=float(above.var(ddof=1) / m + below.var(ddof=1) / n),
        null_variance=(total + 1 - ties) / (12 * n * m),
    )


def rows_that_differ(auc: float) -> float:
    """Give the least share of rows that differ when an AUC is reached; 0 at ½ and below.

    >>> [round(rows_that_differ(auc), 3) for auc in (0.4, 0.5, 0.55, 0.875, 1.0)]
    [0.0, 0.0, 0.051, 0.5, 1.0]
    """
    return max(1 - math.sqrt(2 * (1 - min(auc, 1.0))), 0.0) if auc == auc else math.nan


def separated(folds: Sequence[Fold], n: int, m: int, *, alpha: float, least: float) -> Separated:
    """Put folds together, and say what they mean: `drift`, `slight`, `steady` or `unclear`, as of a column."""
    from scipy.special import log_ndtr

    k = len(folds)
    auc = sum(one.auc for one in folds) / k
    error = math.sqrt(sum(one.variance for one in folds)) / k
    null = math.sqrt(sum(one.null_variance for one in folds)) / k
    p = 1.0 if null == 0 else float(np.exp(log_ndtr(-(auc - 0.5) / null)))
    low, high = max(auc - Z * error, 0.0), min(auc + Z * error, 1.0)
    found = Separated(n=n, m=m, folds=k, auc=auc, low=low, high=high, p=p, differ=rows_that_differ(auc))
    told = f"AUC {auc:.3f} ({low:.3f} to {high:.3f})"
    if p <= alpha:
        found.verdict = "drift" if found.differ >= least else "slight"
        found.sentence = f"{told}: at least {found.differ:.1%} of the rows differ"
    elif rows_that_differ(high) < least:
        found.verdict = "steady"
        found.sentence = f"{told}: what it could tell apart is at most {rows_that_differ(high):.1%} of the rows"
    else:
        found.sentence = f"too few rows: {told} is not above chance, but {rows_that_differ(high):.1%} may differ"
    return found
