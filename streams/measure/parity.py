"""Training against serving, live: predictions that carry a frozen row's key, compared with it value by value. Pure.

A feature is reckoned twice, offline for training and online for serving, and where the two differ the model sees what
it was not trained on, though no distribution need move. So rows are frozen as they were at training (`ParitySet`), and
whenever a prediction of that version carries the key of one, its features and score are compared with the row's.

**The key** has one or several names. `request_id` and `subject` are the prediction's own; any other name is that of a
feature, or of a slice where the prediction has no such feature. Values are compared by their text (`reading.text`). A
prediction without one of them, or whose key is no frozen row's, is not compared.

**What agrees** is as in two tables (`streams.judge.parity`): two integers exactly; other numbers within absolute +
relative · max(abs(a), abs(b)); texts and booleans where they are the same; null, NaN and absence are one. Values of two
types differ. A row's features are compared, and its score where it has one; what the prediction has besides is not.

**What is counted**, in `parity:rows`, `parity:score` and `parity:feature:NAME`: rows compared, rows that differ, those
whose value is missing on one side only; and at `FIRST` + i how often it was the i-th frozen row that differed, which is
how an alarm can name examples though only sums are kept. All are counts of standing predictions, so they merge and
retract.

The first set of a version stands, as its reference does, and counts predictions from its `at_ms` on, until `until_ms`
where it has one. Both depend on the prediction alone, so what was added can be taken away.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Final

from schemas.control import ParityRow, ParitySet
from schemas.event import Scalar, encode
from schemas.inputs import Prediction
from streams.measure.ledger import FEATURE, PARITY
from streams.measure.reading import text

ROWS: Final = PARITY + "rows"
SCORE: Final = PARITY + "score"
OF_FEATURE: Final = PARITY + FEATURE
COMPARED, DIFFER, GONE, NEW, FIRST = 0, 1, 2, 3, 4
MOST_ROWS: Final = 1_000
MOST_FEATURES: Final = 500
MOST_BYTES: Final = 500_000
MOST_NAME: Final = 100
"""A feature's name is part of a stream's."""
OWN: Final = ("request_id", "subject")


@dataclass(frozen=True)
class ParityCut:
    """How predictions are compared with the rows of a set without `parity_fault`."""

    given: ParitySet

    @cached_property
    def place(self) -> dict[tuple[str, ...], int]:
        """The place of each row by its key."""
        return {tuple(row.key): at for at, row in enumerate(self.given.rows)}

    def row_of(self, prediction: Prediction) -> int | None:
        """Give the place of the row that a prediction is compared with."""
        at_ms, given = prediction.at_ms, self.given
        if at_ms < given.at_ms or (given.until_ms and at_ms >= given.until_ms):
            return None
        key = [key_value(prediction, name) for name in given.key]
        return None if None in key else self.place.get(tuple(one for one in key if one is not None))

    def cells(self, prediction: Prediction) -> Iterator[tuple[str, int]]:
        """Give the cells (vector, index) to which a prediction adds one; none where it has no row."""
        at = self.row_of(prediction)
        if at is None:
            return
        row, differs = self.given.rows[at], False
        compared: list[tuple[str, Scalar, Scalar | list[float]]] = [
            (OF_FEATURE + name, value, prediction.features.get(name)) for name, value in row.features.items()
        ]
        if row.score is not None:
            compared.append((SCORE, row.score, prediction.score))
        for name, before, now in compared:
            yield name, COMPARED
            if not self.agrees(before, now):
                differs = True
                yield name, DIFFER
                yield name, FIRST + at
                if absent(before) or absent(now):
                    yield name, NEW if absent(before) else GONE
        yield ROWS, COMPARED
        if differs:
            yield ROWS, DIFFER
            yield ROWS, FIRST + at

    def agrees(self, a: Scalar, b: Scalar | list[float]) -> bool:
        """Say whether two values agree.

        >>> cut = ParityCut(ParitySet(id="p", model="m", version="1", key=["k"], rows=[], relative=1e-3))
        >>> cut.agrees(1.0, 1.0005), cut.agrees(1, 2), cut.agrees("a", "a"), cut.agrees(None, 0.0), cut.agrees(1, True)
        (True, False, True, False, False)
        """
        if absent(a) or absent(b):
            return absent(a) and absent(b)
        if isinstance(a, bool | str) or isinstance(b, bool | str | list):
            return type(a) is type(b) and a == b
        if a is None or b is None or a == b:
            return True
        if isinstance(a, int) and isinstance(b, int):
            return False
        try:
            one, other = float(a), float(b)
        except OverflowError:
            return False
        room = self.given.absolute + self.given.relative * max(abs(one), abs(other))
        return math.isfinite(one) and math.isfinite(other) and abs(one - other) <= room


def key_value(prediction: Prediction, name: str) -> str | None:
    """Give the text of one part of a prediction's key; None where it lacks it."""
    if name in OWN:
        return (prediction.request_id if name == OWN[0] else prediction.subject) or None
    value = prediction.features[name] if name in prediction.features else prediction.slices.get(name)
    return None if absent(value) else text(value)


def absent(value: Scalar | list[float]) -> bool:
    """Say whether a value is missing: null, or not a number."""
    return value is None or (isinstance(value, float) and value != value)


def streams_of(given: ParitySet) -> list[str]:
    """Give the names of a set's vectors: rows, the score where a row has one, features ascending."""
    features = sorted({name for row in given.rows for name in row.features})
    score = [SCORE] if any(row.score is not None for row in given.rows) else []
    return [ROWS, *score, *(OF_FEATURE + name for name in features)]


def parity_fault(given: ParitySet) -> str:
    """Say what makes a set unusable; empty when nothing does.

    >>> parity_fault(ParitySet(id="p", model="m", version="1", key=[], rows=[]))
    'parity rows need a key'
    """
    if not given.key or len(set(given.key)) < len(given.key):
        return "parity rows need a key" if not given.key else "a name of the parity rows' key is there twice"
    if not 1 <= len(given.rows) <= MOST_ROWS:
        return f"{len(given.rows)} parity rows: expected 1 to {MOST_ROWS}"
    if any(len(row.key) != len(given.key) for row in given.rows):
        return f"a parity row's key: expected {len(given.key)} texts"
    if len({tuple(row.key) for row in given.rows}) < len(given.rows):
        return "two parity rows have one key"
    names = {name for row in given.rows for name in row.features}
    if len(names) > MOST_FEATURES or any(len(name) > MOST_NAME for name in names):
        return f"features of parity rows: expected at most {MOST_FEATURES}, of at most {MOST_NAME} characters each"
    if not names and all(row.score is None for row in given.rows):
        return "parity rows with neither features nor scores"
    size = len(encode(given))
    if size > MOST_BYTES:
        return f"parity rows of {size:,} bytes: expected at most {MOST_BYTES:,}; take fewer rows or features"
    bounds = (given.relative, given.absolute)
    if not all(math.isfinite(bound) and bound >= 0 for bound in bounds):
        return "tolerances of parity rows: expected finite numbers of at least 0"
    return ""


def named(given: ParitySet, row: ParityRow) -> str:
    """Give a row's key as an example shows it.

    >>> given = ParitySet(id="p", model="m", version="1", key=["user", "day"], rows=[])
    >>> named(given, ParityRow(key=["u7", "3"]))
    'user u7, day 3'
    """
    return ", ".join(f"{name} {value}" for name, value in zip(given.key, row.key, strict=True))


def differing(cells: Mapping[int, int]) -> list[int]:
    """Give the places of the frozen rows that differ, those that did most often first.

    >>> differing({COMPARED: 9, DIFFER: 4, FIRST + 2: 1, FIRST + 7: 3})
    [7, 2]
    """
    found = [at - FIRST for at, count in cells.items() if at >= FIRST and count > 0]
    return sorted(found, key=lambda at: (-cells[at + FIRST], at))
