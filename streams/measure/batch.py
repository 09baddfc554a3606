"""Features and embeddings of a whole step counted at once: the same integers as value by value (`cells.cells`).

Predictions of one pane and one reference are collected; then each numeric feature is a column that is sorted, and the
edges are sought in it in place of each value among the edges. A value that a double does not hold exactly (an integer
of 2⁵³ or more), a string, a category: such a column is counted value by value, by the same rules.
"""

from __future__ import annotations

import math
from array import array
from collections.abc import Iterable, Mapping, Sequence
from itertools import chain
from operator import itemgetter
from typing import Final

import numpy as np
from numpy.typing import NDArray

from schemas.event import Scalar
from streams.measure.embedding import EmbeddingCut
from streams.measure.embedding import Vector as Embedding
from streams.measure.ledger import FEATURE
from streams.measure.reference import Cut, Numeric

Features = Mapping[str, Scalar]
Vector = dict[int, int]
Floats = NDArray[np.float64]

FEW: Final = 12
"""So few predictions are counted value by value sooner."""
EXACT: Final = 2.0**53


class FeatureBatch:
    """What predictions add to their panes' `feature:*` vectors, held back until `flush`."""

    def __init__(self) -> None:
        self._held: list[tuple[Mapping[str, Vector], Mapping[str, Cut], int, list[Features]]] = []
        self._place: dict[tuple[int, int, int], list[Features]] = {}

    def add(self, pane: Mapping[str, Vector], known: Mapping[str, Cut], features: Features, sign: int) -> None:
        """Hold one prediction's features for a pane, whose vectors appear when they are asked for."""
        key = (id(pane), id(known), sign)
        rows = self._place.get(key)
        if rows is None:
            rows = self._place[key] = []
            self._held.append((pane, known, sign, rows))
        rows.append(features)

    def flush(self) -> None:
        """Add all that is held."""
        for pane, known, sign, rows in self._held:
            for name, cells in counts(known, rows):
                vector = pane[FEATURE + name]
                for cell, count in cells:
                    vector[cell] = vector.get(cell, 0) + sign * count
        self._held.clear()
        self._place.clear()


class EmbeddingBatch:
    """What predictions add to their panes' `embedding` vectors, held back until `flush`."""

    def __init__(self) -> None:
        self._held: dict[tuple[int, int, int], tuple[Mapping[str, Vector], EmbeddingCut, int, list[Embedding]]] = {}

    def add(self, pane: Mapping[str, Vector], cut: EmbeddingCut, embedding: Embedding, sign: int) -> None:
        """Hold one prediction's embedding for a pane, whose vectors appear when they are asked for."""
        key = (id(pane), id(cut), sign)
        if key not in self._held:
            self._held[key] = (pane, cut, sign, [])
        self._held[key][3].append(embedding)

    def flush(self) -> None:
        """Add all that is held."""
        for pane, cut, sign, rows in self._held.values():
            for name, cells in cut.count(rows).items():
                vector = pane[name]
                for cell, count in cells.items():
                    vector[cell] = vector.get(cell, 0) + sign * count
        self._held.clear()


def counts(known: Mapping[str, Cut], rows: Sequence[Features]) -> Iterable[tuple[str, Iterable[tuple[int, int]]]]:
    """Give for each feature of a reference its cells and how many rows fall into each.

    >>> cut = Numeric((1.0, 2.0), 0.0, 3.0)
    >>> rows = [{"x": 0.5}, {"x": 1.0}, {"x": 9}, {}, {"x": "1.5"}, {"x": True}]
    >>> [(name, sorted(cells)) for name, cells in counts({"x": cut}, rows)]
    [('x', [(0, 1), (1, 2), (3, 2), (5, 1)])]
    """
    names = [name for name, cut in known.items() if isinstance(cut, Numeric)] if len(rows) >= FEW else []
    columns = _columns(names, rows)
    for name, cut in known.items():
        column = columns.get(name)
        if column is None or not isinstance(cut, Numeric):
            yield name, _one_by_one(cut, [row.get(name) for row in rows])
        else:
            yield name, _sought(cut, *column)


def _columns(names: Sequence[str], rows: Sequence[Features]) -> dict[str, tuple[Floats, int]]:
    """Give the columns that doubles hold, each sorted, missing values last, and how many there are; not the others."""
    if len(names) > 1:
        try:
            flat = array("d", list(chain.from_iterable(map(itemgetter(*names), rows))))
        except (KeyError, TypeError, OverflowError):
            pass  # something is absent, null or a string: column by column
        else:
            return _sorted(names, np.frombuffer(flat, dtype=np.float64).reshape(len(rows), len(names)).T)
    found: dict[str, tuple[Floats, int]] = {}
    for name in names:
        values = [row.get(name) for row in rows]
        try:
            column = array("d", [math.nan if value is None else value for value in values])  # type: ignore[type-var]
        except (TypeError, OverflowError):
            continue
        found |= _sorted([name], np.array(column)[None, :])
    return found


def _sorted(names: Sequence[str], table: Floats) -> dict[str, tuple[Floats, int]]:
    """Sort columns (column, row), without those that have values so large that an integer may have been rounded."""
    ordered = np.sort(table, axis=1)
    missing = np.isnan(ordered).sum(axis=1)
    last = ordered[np.arange(len(names)), ordered.shape[1] - 1 - missing]
    exact = (missing == ordered.shape[1]) | ((ordered[:, 0] > -EXACT) & (last < EXACT))
    told = zip(names, ordered, missing.tolist(), exact.tolist(), strict=True)
    return {name: (column, gone) for name, column, gone, held in told if held}


def _sought(cut: Numeric, ordered: Floats, missing: int) -> list[tuple[int, int]]:
    """Count a sorted column: what lies left of an edge, less what lies left of the edge before."""
    present = len(ordered) - missing
    *left, below = ordered.searchsorted((*cut.edges, cut.least)).tolist()
    above = int(ordered[:present].searchsorted(cut.greatest, side="right"))
    found, before = [], below
    for cell, place in enumerate((*left, above)):
        place = min(max(place, below), above)
        if place > before:
            found.append((cell, place - before))
            before = place
    inner = len(cut.edges) + 1
    outer = ((inner, missing), (inner + 1, below), (inner + 2, present - above))
    return found + [(cell, count) for cell, count in outer if count]


def _one_by_one(cut: Cut, column: Sequence[Scalar]) -> list[tuple[int, int]]:
    found: dict[int, int] = {}
    for value in column:
        cell = cut.cell(value)
        found[cell] = found.get(cell, 0) + 1
    return list(found.items())
