"""The same cells from columns: what a trainer or a report counts over arrays, as fast as NumPy goes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from schemas.event import LabelValue
from streams.measure import ledger as names
from streams.measure.ledger import (
    BUCKET_SCORE_BINS,
    BUCKETS,
    CALIBRATION_BINS,
    LEVELS,
    SCORE_BINS,
    SIZE_BINS,
    WIDE_LEVELS,
    Ledger,
)
from streams.measure.reading import agrees, binary, bucket, class_name, jaccard, number
from streams.measure.scale import (
    Floats,
    Ints,
    bins,
    briers,
    grains,
    log_losses,
    score_edges,
    size_bins,
    splits,
    splits_wide,
    spreads,
)

Column = Sequence[Any] | NDArray[Any]

NEITHER = -1


def ledger_of(
    scores: Column,
    labels: Column,
    subjects: Sequence[str],
    weights: Column | None = None,
    predictions: Column | None = None,
    *,
    threshold: float = 0.5,
) -> Ledger:
    """Count columns of equal length into one ledger, as explicit labels.

    Equal, integer for integer, to the sum of `cells.cells` over the rows, but for features, latency, delay and
    `missing`, which are of live traffic. None or NaN is no score, no label, no prediction.
    Raises `ValueError` when the columns differ in length.

    >>> ledger_of([0.9, 0.2, 0.7], [1, 0, 0], ["a", "b", "a"]).cells["confusion"]
    {0: 1000, 1: 1000, 3: 1000}
    """
    n = len(scores)
    given = {"scores": scores, "labels": labels, "subjects": subjects, "weights": weights, "predictions": predictions}
    lengths = {name: len(column) for name, column in given.items() if column is not None}
    if len(set(lengths.values())) > 1:
        raise ValueError(f"columns must have one length, got {lengths}")
    p = _numbers(scores)
    milli = np.full(n, 1000) if weights is None else _milli(np.asarray(weights, dtype=np.float64))
    said = _given(labels)
    y = _binary(labels)
    decided = (p >= threshold).astype(np.int64)
    if predictions is not None:
        decided = np.where(_given(predictions), _binary(predictions), decided)
    of = {subject: bucket(subject, "") for subject in set(subjects)}
    home = np.array([of[subject] for subject in subjects], dtype=np.int64)

    ledger = Ledger()
    _put(ledger, names.N, np.zeros(n, np.int64), np.ones(n, np.int64), 1)
    _put(ledger, names.BUCKET_ROWS, home, np.ones(n, np.int64), BUCKETS)
    inside = (p >= 0.0) & (p <= 1.0)
    bin_of = bins(score_edges(), p)
    cell = np.where(inside, bin_of, np.where(p < 0, SCORE_BINS + 1, np.where(p > 1, SCORE_BINS + 2, SCORE_BINS)))
    _put(ledger, names.SCORE, cell, np.ones(n, np.int64), SCORE_BINS + 3)
    chosen = inside & (decided == 1)
    _put(ledger, names.SCORE_CHOSEN, bin_of[chosen], np.ones(int(chosen.sum()), np.int64), SCORE_BINS)
    neither = inside & (decided == NEITHER)
    _put(ledger, names.SCORE_UNDECIDED, bin_of[neither], np.ones(int(neither.sum()), np.int64), SCORE_BINS)
    heard = int(said.sum())
    ledger.add({names.LABELLED: {names.COUNT: heard, names.WEIGHT: int(milli[said].sum())}})
    ledger.add({names.KINDS: {names.EXPLICIT: heard}})

    task = inside & (y != NEITHER)
    _binary_task(ledger, p[task], y[task], decided[task], milli[task], home[task], bin_of[task])
    answers = (
        _figures(scores)
        if predictions is None
        else np.where(_given(predictions), _figures(predictions), _figures(scores))
    )
    truths = _figures(labels)
    regressed = said & ~task & ~np.isnan(truths) & ~np.isnan(answers)
    _regression(ledger, truths[regressed], answers[regressed], milli[regressed], home[regressed])
    rest = [] if predictions is None else np.flatnonzero(said & ~task).tolist()
    alike = {i: agrees(_plain(labels[i]), _plain(predictions[i])) for i in rest} if predictions is not None else {}
    for i, right in alike.items():
        if right is not None:
            which, weight, where = (names.AGREES if right else names.DIFFERS), int(milli[i]), int(home[i])
            ledger.add(
                {
                    names.MEASURED: {names.RIGHT if right else names.WRONG: 1},
                    names.AGREEMENT: {which: weight},
                    names.BUCKET_N: {where: int(not regressed[i])},
                    names.BUCKET_AGREEMENT: {where * 2 + which: weight},
                }
            )
            _named(ledger, _plain(labels[i]), _plain(predictions[i]), weight, where)  # type: ignore[index]
    compared = sum(right is not None for i, right in alike.items() if not regressed[i])
    ledger.add({names.MEASURED: {names.UNMEASURABLE: int((said & ~task & ~regressed).sum()) - compared}})
    return ledger


def _binary_task(ledger: Ledger, p: Floats, y: Ints, decided: Ints, milli: Ints, home: Ints, bin_of: Ints) -> None:
    one = np.ones(len(p), np.int64)
    zero = np.zeros(len(p), np.int64)
    losses, squares = milli * log_losses(p, y), milli * briers(p, y)
    _put(ledger, names.MEASURED, zero + names.SCORED, one, 8)
    _put(ledger, names.LOG_LOSS, zero, losses, 1)
    _put(ledger, names.BRIER, zero, squares, 1)
    _put(ledger, names.BUCKET_N, home, one, BUCKETS)
    _put(ledger, names.BUCKET_LOG_LOSS, home, losses, BUCKETS)
    _put(ledger, names.BUCKET_BRIER, home, squares, BUCKETS)
    q = grains(p)
    variances, at = spreads(q), np.minimum(q * CALIBRATION_BINS >> 21, CALIBRATION_BINS - 1) * 4
    twists = (variances * (1_000_000 - 4 * variances) + 500_000) // 1_000_000
    for which, value in ((names.HELD, 1), (names.EXPECTED, q), (names.OBSERVED, y), (names.SPREAD, variances)):
        _put(ledger, names.CALIBRATION, at + which, milli * value, CALIBRATION_BINS * 4)
    _put(ledger, names.SPIEGELHALTER, zero, milli * twists, 1)
    coarse = home * BUCKET_SCORE_BINS + bin_of // (SCORE_BINS // BUCKET_SCORE_BINS)
    for label, whole, bucketed in (
        (1, names.SCORE_POS, names.BUCKET_SCORE_POS),
        (0, names.SCORE_NEG, names.BUCKET_SCORE_NEG),
    ):
        mine = y == label
        _put(ledger, whole, bin_of[mine], milli[mine], SCORE_BINS)
        _put(ledger, bucketed, coarse[mine], milli[mine], BUCKETS * BUCKET_SCORE_BINS)
    read = decided != NEITHER
    hit = decided == y
    cell = np.where(y == 1, np.where(decided == 1, names.TP, names.FN), np.where(decided == 1, names.FP, names.TN))
    right = np.where(read, np.where(hit, names.RIGHT, names.WRONG), names.UNREADABLE)
    _put(ledger, names.MEASURED, right, one, 8)
    _put(ledger, names.CONFUSION, cell[read], milli[read], 4)
    _put(ledger, names.BUCKET_CONFUSION, (home * 4 + cell)[read], milli[read], BUCKETS * 4)


def _regression(ledger: Ledger, truths: Floats, answers: Floats, milli: Ints, home: Ints) -> None:
    one, zero = np.ones(len(truths), np.int64), np.zeros(len(truths), np.int64)
    errors = answers - truths
    sizes, over = np.abs(errors), errors > 0
    level, mantissa = splits(sizes)
    wide, coarse = splits_wide(sizes)
    wide_square, coarse_square = splits_wide(sizes * sizes)
    places = home * WIDE_LEVELS
    _put(ledger, names.MEASURED, zero + names.REGRESSED, one, 8)
    _put(ledger, names.REGRESSION, zero, milli, 1)
    _put(ledger, names.BUCKET_N, home, one, BUCKETS)
    _put(ledger, names.BUCKET_REGRESSION, home, milli, BUCKETS)
    for mine, whole, bucketed in (
        (over, names.ERROR_OVER, names.BUCKET_ERROR_OVER),
        (~over, names.ERROR_UNDER, names.BUCKET_ERROR_UNDER),
    ):
        _put(ledger, whole, level[mine], (milli * mantissa)[mine], LEVELS)
        _put(ledger, bucketed, (places + wide)[mine], (milli * coarse)[mine], BUCKETS * WIDE_LEVELS)
    _put_square(ledger, names.ERROR_SQUARE, level, mantissa, milli)
    _put(ledger, names.BUCKET_ERROR_SQUARE, places + wide_square, milli * coarse_square, BUCKETS * WIDE_LEVELS)
    _put(ledger, names.ERROR_SIZE, size_bins(sizes), milli, SIZE_BINS)
    level, mantissa = splits(np.abs(truths))
    _put(ledger, names.LABEL_SUM, level, milli * mantissa * np.where(truths > 0, 1, -1), LEVELS)
    _put_square(ledger, names.LABEL_SQUARE, level, mantissa, milli)


def _named(ledger: Ledger, label: LabelValue | None, said: LabelValue | None, weight: int, home: int) -> None:
    if isinstance(label, str) and isinstance(said, str):
        true, guess = names.CLASS + class_name(label), names.CLASS + class_name(said)
        ledger.add({names.MEASURED: {names.NAMED: 1}})
        ledger.add({true: {names.TP if label == said else names.FN: weight}})
        ledger.add({guess: {names.FP: 0 if label == said else weight}})
    elif isinstance(label, list) and isinstance(said, list):
        shared = weight * jaccard(label, said)
        ledger.add({names.MEASURED: {names.LISTED: 1}, names.JACCARD: {names.SHARED: shared, names.SETS: weight}})
        ledger.add({names.BUCKET_JACCARD: {home * 2 + names.SHARED: shared, home * 2 + names.SETS: weight}})


def _put_square(ledger: Ledger, name: str, level: Ints, mantissa: Ints, milli: Ints) -> None:
    square = mantissa * mantissa
    _put(ledger, name, level * 2, milli * (square & ((1 << 24) - 1)), LEVELS * 2)
    _put(ledger, name, level * 2 + 1, milli * (square >> 24), LEVELS * 2)


def _put(ledger: Ledger, name: str, index: Ints, values: Ints, size: int) -> None:
    full = np.zeros(size, dtype=np.int64)
    np.add.at(full, index, values)
    filled = np.flatnonzero(full)
    ledger.add_pairs(name, zip(filled.tolist(), full[filled].tolist(), strict=True))


def _milli(weights: Floats) -> Ints:
    whole: Ints = np.floor(weights * 1000.0 + 0.5).astype(np.int64)
    return whole


def _numbers(column: Column) -> Floats:
    if isinstance(column, np.ndarray) and column.dtype.kind in "biuf":
        return column.astype(np.float64)
    return np.array([np.nan if value is None or isinstance(value, list) else value for value in column], np.float64)


def _figures(column: Column) -> Floats:
    """Give plain numbers as a regression reads them, NaN for everything else."""
    if isinstance(column, np.ndarray) and column.dtype.kind in "iuf":
        found = column.astype(np.float64)
        return np.where(np.abs(found) <= 2.0**100, found, np.nan)
    read = (number(_plain(value)) for value in column)
    return np.array([np.nan if value is None else value for value in read], dtype=np.float64)


def _given(column: Column) -> NDArray[np.bool_]:
    if isinstance(column, np.ndarray) and column.dtype.kind in "biuf":
        return ~np.isnan(column.astype(np.float64))
    return np.array([value is not None and value == value for value in column], dtype=bool)


def _binary(column: Column) -> Ints:
    if isinstance(column, np.ndarray) and column.dtype.kind in "biuf":
        return np.where(column == 1, 1, np.where(column == 0, 0, NEITHER)).astype(np.int64)
    read = (binary(_plain(value)) for value in column)
    return np.array([NEITHER if value is None else value for value in read], dtype=np.int64)


def _plain(value: Any) -> LabelValue | None:
    """Give a NumPy scalar as Python's, and NaN as None."""
    plain: LabelValue | None = value.item() if isinstance(value, np.generic) else value
    return None if plain != plain else plain
