"""The same rows by two paths: in which features training and serving give a row another value.

A feature of a key is reckoned twice, offline for training and online for serving. Where the two differ the model sees
what it was not trained on, and no distribution need show it: two columns with one histogram may agree in no row. So
values are compared one by one. These are all rows and no sample: there is no p-value, and one row is a finding.

| kind | agree |
|---|---|
| integers in both tables | both missing, or the same |
| numbers | both missing (null or NaN), the same, or abs(a−b) ≤ absolute + relative · max(abs(a), abs(b)) |
| texts, truth values, times | both missing, or the same |
| embeddings | both missing, or of one length and all numbers agree as numbers |
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Flags = NDArray[np.bool_]

RELATIVE, ABSOLUTE = 1e-6, 0.0
"""Tolerances: a float32 beside its float64 differs by up to 6e-8 of itself."""
EXAMPLES = 3


class Parity(msgspec.Struct, kw_only=True):
    """One feature over the rows that both paths have.

    `differ`: rows with another value on the two sides, those with a value on one side only (`missing_reference`,
    `missing_current`) among them; `largest`: the greatest difference of two finite numbers; `examples`: (key,
    reference, current) of the first ones, as text; `changed`: the two types where they cannot be compared.
    """

    name: str
    rows: int = 0
    differ: int = 0
    missing_reference: int = 0
    missing_current: int = 0
    largest: float | None = None
    examples: list[tuple[str, str, str]] = []
    changed: str = ""

    @property
    def share(self) -> float:
        """Give the share of rows that differ; 1 where the types do, 0 without rows."""
        if self.changed:
            return 1.0
        return self.differ / self.rows if self.rows else 0.0

    def add(
        self,
        off: Flags,
        there: tuple[Flags, Flags],
        by: Floats | None,
        show: Callable[[int], tuple[str, object, object]],
    ) -> None:
        """Take up some rows: whether they differ, whether each side has a value, by how much numbers differ.

        `show` gives (key, reference, current) of a row by its place among these.
        """
        a, c = there
        self.rows += len(off)
        self.differ += int(off.sum())
        self.missing_reference += int((~a & c).sum())
        self.missing_current += int((a & ~c).sum())
        for place in np.flatnonzero(off)[: max(EXAMPLES - len(self.examples), 0)].tolist():
            key, *values = show(place)
            texts = [shown(value) if side[place] else "missing" for value, side in zip(values, there, strict=True)]
            self.examples.append((key, texts[0], texts[1]))
        if by is not None and np.isfinite(by).any():
            self.largest = max(self.largest or 0.0, float(by[np.isfinite(by)].max()))


def numbers_differ(a: Floats, c: Floats, relative: float, absolute: float) -> tuple[Flags, Floats]:
    """Say where two arrays of numbers differ, NaN being missing, and by how much (NaN where one is missing).

    >>> off, by = numbers_differ(np.array([1.0, np.nan, 2.0, np.nan]), np.array([1.0, np.nan, 2.5, 1.0]), 1e-6, 0.0)
    >>> off.tolist(), by.tolist()
    ([False, False, True, True], [0.0, nan, 0.5, nan])
    """
    with np.errstate(invalid="ignore", over="ignore"):
        same = a == c  # an infinite value and itself, too
        by = np.where(same, 0.0, np.abs(a - c))
        room = absolute + relative * np.maximum(np.abs(a), np.abs(c))
        near = same | (np.isfinite(a) & np.isfinite(c) & (by <= room)) | (np.isnan(a) & np.isnan(c))
    return np.asarray(~near, dtype=np.bool_), np.asarray(by, dtype=np.float64)


def shown(value: object) -> str:
    """Give a value as an example shows it; long ones are cut."""
    text = repr(value) if isinstance(value, float) else str(value)
    return text if len(text) <= 60 else f"{text[:59]}…"


def worst_first(found: Sequence[Parity]) -> list[Parity]:
    """Give features by the share of rows in which they differ, the greatest first."""
    return sorted(found, key=lambda one: (-one.share, one.name))


def as_plain(one: Parity) -> dict[str, Any]:
    """Give a feature as plain data."""
    plain = msgspec.structs.asdict(one)
    plain["share"] = one.share
    plain["examples"] = [{"key": key, "reference": a, "current": c} for key, a, c in one.examples]
    return plain
