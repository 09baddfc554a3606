"""What a labelled outcome counts by its tasks: binary, agreement, regression. `ledger` says which apply and why.

Each task gives (vector, index, amount) cells; the amounts carry the sign, so that the same function takes back.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable
from typing import NamedTuple

from schemas.event import LabelValue
from schemas.inputs import Prediction
from streams.measure.ledger import (
    AGREEMENT,
    AGREES,
    BRIER,
    BUCKET_AGREEMENT,
    BUCKET_BRIER,
    BUCKET_CONFUSION,
    BUCKET_ERROR_OVER,
    BUCKET_ERROR_SQUARE,
    BUCKET_ERROR_UNDER,
    BUCKET_JACCARD,
    BUCKET_LOG_LOSS,
    BUCKET_N,
    BUCKET_REGRESSION,
    BUCKET_SCORE_BINS,
    BUCKET_SCORE_NEG,
    BUCKET_SCORE_POS,
    BUCKET_VALUE,
    BUCKET_VALUE_SUM,
    CALIBRATION,
    CLASS,
    CONFUSION,
    COUNT,
    DIFFERS,
    ERROR_OVER,
    ERROR_SIZE,
    ERROR_SQUARE,
    ERROR_UNDER,
    EXPECTED,
    FN,
    FP,
    HELD,
    JACCARD,
    LABEL_SQUARE,
    LABEL_SUM,
    LISTED,
    LOG_LOSS,
    MEASURED,
    NAMED,
    OBSERVED,
    REGRESSED,
    REGRESSION,
    RIGHT,
    SCORE_BINS,
    SCORE_NEG,
    SCORE_POS,
    SCORED,
    SETS,
    SHARED,
    SPIEGELHALTER,
    SPREAD,
    TN,
    TP,
    UNMEASURABLE,
    UNREADABLE,
    VALUE,
    VALUE_SUM,
    WEIGHT,
    WIDE_LEVELS,
    WRONG,
)
from streams.measure.reading import agrees, answer, binary, bucket_of, class_name, jaccard, number
from streams.measure.scale import (
    brier,
    calibration_bin,
    grain,
    log_loss,
    score_edges,
    size_bin,
    split,
    split_wide,
    spread,
    twist,
)

Cell = tuple[str, int, int]
Classes = Callable[[str, str], str]
"""Gives the name under which a model's class is counted."""

_BUCKET_FOLD = SCORE_BINS // BUCKET_SCORE_BINS
_LIMB = (1 << 24) - 1


class Told(NamedTuple):
    """Cells of the whole and of slices, those of the whole alone, and where the weight goes by score bin."""

    cells: list[Cell]
    whole: list[Cell]
    binned: tuple[str, int] | None = None


def tasks(prediction: Prediction, label: LabelValue, sign: int, weight: int, named: Classes | None = None) -> Told:
    """Give what a label counts for a prediction; `weight` is in milli-weights and has the sign."""
    score, y, bucket = prediction.score, binary(label), bucket_of(prediction)
    if y is not None and isinstance(score, float | int) and 0.0 <= score <= 1.0:
        return _binary(prediction, score, y, bucket, sign, weight)
    told = Told([], [])
    right = agrees(label, prediction.prediction)
    truth, answered = number(label), answer(prediction.prediction, score)
    if truth is not None and answered is not None:
        _regression(told, truth, answered, bucket, sign, weight)
    if right is not None:
        _agreement(told, label, prediction, right, bucket, sign, weight, named)
    told.cells.append((BUCKET_N, bucket, sign) if told.cells else (MEASURED, UNMEASURABLE, sign))
    return told


def amounts(prediction: Prediction, label: LabelValue, sign: int, weight: int) -> Told:
    """Give what a label counts that is an amount: nothing that depends on what was predicted."""
    value, home = number(label), bucket_of(prediction)
    if value is None:
        return Told([(MEASURED, UNMEASURABLE, sign)], [])
    signed = weight if value > 0 else -weight
    (level, mantissa), (wide, coarse) = split(abs(value)), split_wide(abs(value))
    cells = [
        (VALUE, COUNT, sign),
        (VALUE, WEIGHT, weight),
        (VALUE_SUM, level, signed * mantissa),
        (BUCKET_VALUE, home, weight),
        (BUCKET_VALUE_SUM, home * WIDE_LEVELS + wide, signed * coarse),
    ]
    return Told(cells, [])


def predicted_class(prediction: Prediction, score: float) -> int | None:
    """Give the class that was predicted in the binary task; None when `prediction` is given and not binary."""
    if prediction.prediction is not None:
        return binary(prediction.prediction)
    return 1 if score >= (0.5 if prediction.threshold is None else prediction.threshold) else 0


def _binary(prediction: Prediction, score: float, y: int, bucket: int, sign: int, weight: int) -> Told:
    place, q = bisect_right(score_edges(), score), grain(score)
    losses, briers = weight * log_loss(score, y), weight * brier(score, y)
    variance, at = spread(q), calibration_bin(q) * 4
    coarse = bucket * BUCKET_SCORE_BINS + place // _BUCKET_FOLD
    found = [
        (MEASURED, SCORED, sign),
        (LOG_LOSS, 0, losses),
        (BRIER, 0, briers),
        (CALIBRATION, at + HELD, weight),
        (CALIBRATION, at + EXPECTED, weight * q),
        (CALIBRATION, at + OBSERVED, weight * y),
        (CALIBRATION, at + SPREAD, weight * variance),
        (SPIEGELHALTER, 0, weight * twist(variance)),
        (BUCKET_N, bucket, sign),
        (BUCKET_LOG_LOSS, bucket, losses),
        (BUCKET_BRIER, bucket, briers),
        (BUCKET_SCORE_POS if y else BUCKET_SCORE_NEG, coarse, weight),
    ]
    decided = predicted_class(prediction, score)
    if decided is None:
        found.append((MEASURED, UNREADABLE, sign))
    else:
        cell = (TP if decided else FN) if y else (FP if decided else TN)
        found += [
            (MEASURED, RIGHT if decided == y else WRONG, sign),
            (CONFUSION, cell, weight),
            (BUCKET_CONFUSION, bucket * 4 + cell, weight),
        ]
    return Told(found, [], (SCORE_POS if y else SCORE_NEG, place))


def _agreement(
    told: Told,
    label: LabelValue,
    prediction: Prediction,
    right: bool,
    bucket: int,
    sign: int,
    weight: int,
    named: Classes | None,
) -> None:
    said, cell = prediction.prediction, AGREES if right else DIFFERS
    told.cells.append((MEASURED, RIGHT if right else WRONG, sign))
    told.cells.append((AGREEMENT, cell, weight))
    told.cells.append((BUCKET_AGREEMENT, bucket * 2 + cell, weight))
    if isinstance(label, str) and isinstance(said, str):
        true, guess = (named(prediction.model, one) if named else class_name(one) for one in (label, said))
        told.cells.append((MEASURED, NAMED, sign))
        told.cells.append((CLASS + true, TP if right else FN, weight))
        if not right:
            told.cells.append((CLASS + guess, FP, weight))
    elif isinstance(label, list) and isinstance(said, list):
        shared = weight * jaccard(label, said)
        told.cells.append((MEASURED, LISTED, sign))
        for name, home in ((JACCARD, 0), (BUCKET_JACCARD, bucket * 2)):
            told.cells.append((name, home + SHARED, shared))
            told.cells.append((name, home + SETS, weight))


def _regression(told: Told, truth: float, answered: float, bucket: int, sign: int, weight: int) -> None:
    error = answered - truth
    over, size = error > 0, abs(error)
    level, mantissa = split(size)
    wide, coarse = split_wide(size)
    wide_square, coarse_square = split_wide(size * size)
    home = bucket * WIDE_LEVELS
    told.cells.append((MEASURED, REGRESSED, sign))
    told.cells.append((REGRESSION, 0, weight))
    told.cells.append((ERROR_OVER if over else ERROR_UNDER, level, weight * mantissa))
    _square(told.cells, ERROR_SQUARE, level, mantissa, weight)
    told.cells.append((BUCKET_REGRESSION, bucket, weight))
    told.cells.append((BUCKET_ERROR_OVER if over else BUCKET_ERROR_UNDER, home + wide, weight * coarse))
    told.cells.append((BUCKET_ERROR_SQUARE, home + wide_square, weight * coarse_square))
    told.whole.append((ERROR_SIZE, size_bin(size), weight))
    level, mantissa = split(abs(truth))
    told.whole.append((LABEL_SUM, level, weight * (mantissa if truth > 0 else -mantissa)))
    _square(told.whole, LABEL_SQUARE, level, mantissa, weight)


def _square(cells: list[Cell], name: str, level: int, mantissa: int, weight: int) -> None:
    square = mantissa * mantissa
    cells.append((name, level * 2, weight * (square & _LIMB)))
    cells.append((name, level * 2 + 1, weight * (square >> 24)))
