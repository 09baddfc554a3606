"""How raw values are read before they are counted: a label as binary, a value as text, a subject as a bucket.

Each rule has one line in SQL over the JSON; values are JSON values, so `true` is no number and `"1"` is a string.
"""

from __future__ import annotations

from typing import Final

from xxhash import xxh3_64_intdigest

from schemas.event import LabelValue, Scalar
from schemas.inputs import Prediction
from streams.measure.ledger import BUCKETS, OTHER

_EXACT: Final = 2**53
_LONGEST: Final = 64
_FAR: Final = 2.0**100


def binary(value: LabelValue | None) -> int | None:
    """Read a label or a prediction as 0 or 1; None when it is neither.

    >>> [binary(v) for v in (1, 1.0, True, "1", 0, False, "0", "yes", 2, None)]
    [1, 1, 1, 1, 0, 0, 0, None, None, None]
    """
    if isinstance(value, str):
        return 1 if value == "1" else 0 if value == "0" else None
    if value is None or isinstance(value, list):
        return None
    return 1 if value == 1 else 0 if value == 0 else None


def agrees(label: LabelValue | None, prediction: LabelValue | None) -> bool | None:
    """Compare a label with a prediction; None when they are not comparable (a fraction, different types).

    >>> agrees("cat", "dog"), agrees(3, 3.0), agrees(True, True), agrees(2.5, 2.5), agrees("1", 1)
    (False, True, True, None, None)
    >>> agrees(["a", "b"], ["b", "a", "a"]), agrees(["a"], "a")
    (True, None)
    """
    if isinstance(label, list) and isinstance(prediction, list):
        return set(label) == set(prediction)
    if isinstance(label, str) and isinstance(prediction, str):
        return label == prediction
    if isinstance(label, bool) or isinstance(prediction, bool):
        return label == prediction if isinstance(label, bool) and isinstance(prediction, bool) else None
    if isinstance(label, int | float) and isinstance(prediction, int | float) and whole(label) and whole(prediction):
        return label == prediction
    return None


def class_name(label: str) -> str:
    """Give the name of the vector cell of a class: its text, or `~other` when that is longer than 64 bytes.

    >>> class_name("cat"), class_name("x" * 65)
    ('cat', '~other')
    """
    return label if len(label.encode()) <= _LONGEST else OTHER


def jaccard(label: list[float | str], prediction: list[float | str]) -> int:
    """Give the share in 1e-6 of the labels in either list that are in both, rounded half up; of two empty lists all.

    >>> jaccard(["a", "b"], ["b", "c"]), jaccard([], []), jaccard([], ["a"])
    (333333, 1000000, 0)
    """
    ours, theirs = set(label), set(prediction)
    every = len(ours | theirs)
    return (2_000_000 * len(ours & theirs) + every) // (2 * every) if every else 1_000_000


def number(value: LabelValue | None) -> float | None:
    """Read a label or an answer as the number of a regression; None for what is no plain number, or beyond 2¹⁰⁰.

    >>> [number(v) for v in (2, 0.5, -1e30, True, "2", 1e31, [1.0], None)]
    [2.0, 0.5, -1e+30, None, None, None, None, None]
    """
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    if isinstance(value, int) and value.bit_length() > 101:
        return None
    given = float(value)
    return given if -_FAR <= given <= _FAR else None


def answer(prediction: LabelValue | None, score: float | list[float] | None) -> float | None:
    """Give the number that a regression answered: `prediction`, or `score` where there is no `prediction`.

    >>> answer(3, 0.5), answer(None, 0.5), answer("3", 0.5)
    (3.0, 0.5, None)
    """
    if prediction is not None:
        return number(prediction)
    return None if isinstance(score, list) else number(score)


def whole(number: float) -> bool:
    """Say whether a number is an integer of at most 2⁵³ in size, where doubles are exact."""
    return -_EXACT <= number <= _EXACT and number == int(number)


def text(value: Scalar) -> str:
    """Give the text of a category or slice value: strings as they are, `true`, `false`, whole numbers without a point.

    Other numbers give their shortest decimal; null gives the empty text. Send strings where you can.

    >>> text("a"), text(True), text(3.0), text(0.5)
    ('a', 'true', '3', '0.5')
    """
    if isinstance(value, str):
        return value
    if value is None:
        return ""
    if isinstance(value, bool):
        return "true" if value else "false"
    return str(int(value)) if whole(value) else repr(value)


def bucket(subject: str, request_id: str) -> int:
    """Give the bucket (0…63) of a subject, or of the request when it has none."""
    return xxh3_64_intdigest((subject or request_id).encode()) % BUCKETS


def bucket_of(prediction: Prediction) -> int:
    """Give the bucket of a prediction."""
    return bucket(prediction.subject, prediction.request_id)
