"""What every threshold would have given: precision, recall and cost, from the same score bins as AUC."""

from __future__ import annotations

from math import inf
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from streams.measure import ledger as names
from streams.measure.ledger import SCORE_BINS, SLICE_SCORE_BINS, Ledger
from streams.measure.scale import score_edges

Floats = NDArray[np.float64]
_MILLI: Final = 1_000


class Thresholds(NamedTuple):
    """Arrays by threshold, ascending. An outcome is taken for positive when its score is at least the threshold.

    The thresholds are the feet of the score bins, then infinity, at which nothing is positive. `tp` and the others are
    weights in outcomes. `precision` is NaN where nothing is predicted positive, `recall` where nothing is positive.
    `cost` is the mean per outcome. `best` is the place of the least cost, the lowest threshold among equals.
    """

    threshold: Floats
    tp: Floats
    fp: Floats
    fn: Floats
    tn: Floats
    precision: Floats
    recall: Floats
    cost: Floats
    best: int


def thresholds(
    ledger: Ledger, cost_fp: float = 1.0, cost_fn: float = 1.0, *, sliced: bool = False
) -> Thresholds | None:
    """Give what each threshold would have given over the binary tasks of a ledger; None when it has none.

    `cost_fp` is what a false positive costs and `cost_fn` what a false negative does, in any one unit; what is right
    costs nothing. `sliced` says that the ledger is a slice's, with 512 bins. Of a calibrated model the best threshold
    is near cost_fp / (cost_fp + cost_fn). The best of a sample looks better than it is: judge it on another window.

    >>> counts = {"score.pos": {1200: 3000, 900: 1000}, "score.neg": {900: 4000, 200: 2000}}
    >>> found = thresholds(Ledger(counts))
    >>> found.best, round(float(found.threshold[found.best]), 3), float(found.recall[found.best])
    (901, 0.128, 0.75)
    >>> thresholds(Ledger(counts), cost_fn=10.0).best
    201
    >>> thresholds(Ledger()) is None
    True
    """
    size = SLICE_SCORE_BINS if sliced else SCORE_BINS
    positives, negatives = (
        np.array(ledger.dense(name, size), dtype=np.float64) / _MILLI for name in (names.SCORE_POS, names.SCORE_NEG)
    )
    total = float(positives.sum() + negatives.sum())
    if total <= 0:
        return None
    fold = SCORE_BINS // size
    feet = np.array([0.0, *score_edges()[fold - 1 :: fold], inf])
    fn, tn = (np.concatenate(([0.0], np.cumsum(side))) for side in (positives, negatives))
    tp, fp = fn[-1] - fn, tn[-1] - tn
    with np.errstate(invalid="ignore"):
        precision, recall = tp / (tp + fp), tp / (tp + fn)
    cost = (cost_fp * fp + cost_fn * fn) / total
    return Thresholds(feet, tp, fp, fn, tn, precision, recall, cost, int(np.argmin(cost)))
