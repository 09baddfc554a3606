"""Labelled rows as columns, in the order of time: what a data set is once it is pinned, wherever it came from."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final, Self

import numpy as np
from numpy.typing import NDArray

from schemas.errors import WeirError

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

VALIDATED: Final = 0.15
HELD_OUT: Final = 0.2
LEAST_ROWS: Final = 200


class DatasetRefused(WeirError):
    """The rows cannot teach a model. The sentence says what is lacking and how much of it."""


@dataclass(frozen=True, slots=True)
class Rows:
    """n labelled predictions, sorted by (at_ms, request_id).

    `x` [n, features], NaN where a value is missing; `y` [n] 0 or 1; `weight` [n] ≥ 0; `labelled_at_ms` [n] when the
    label became true; `logged` [n] the score that was served (NaN: none), by `versions`, with its `thresholds`.
    """

    names: list[str]
    x: Floats
    y: Ints
    weight: Floats
    at_ms: Ints
    labelled_at_ms: Ints
    request_ids: list[str]
    subjects: list[str]
    logged: Floats
    thresholds: Floats
    versions: list[str]

    @classmethod
    def of(
        cls,
        features: Mapping[str, Sequence[Any] | NDArray[Any]],
        labels: Sequence[int] | NDArray[Any],
        at_ms: Sequence[int] | NDArray[Any],
        *,
        request_ids: Sequence[str] | None = None,
        subjects: Sequence[str] | None = None,
        weight: Sequence[float] | NDArray[Any] | None = None,
        labelled_at_ms: Sequence[int] | NDArray[Any] | None = None,
    ) -> Self:
        """Sort columns of one length into rows. Without `labelled_at_ms` a label is known when its row is.

        Raises `ValueError` when the columns differ in length or a label is not 0 or 1.
        """
        n = len(labels)
        ids = [f"row-{i:09d}" for i in range(n)] if request_ids is None else list(request_ids)
        given: dict[str, Any] = {
            "at_ms": np.asarray(at_ms, dtype=np.int64),
            "weight": np.ones(n) if weight is None else np.asarray(weight, dtype=np.float64),
            "labelled_at_ms": np.asarray(at_ms if labelled_at_ms is None else labelled_at_ms, dtype=np.int64),
        }
        table = {name: np.asarray(features[name], dtype=np.float64) for name in sorted(features)}
        who = ids if subjects is None else list(subjects)
        lengths = {
            name: len(column) for name, column in {**given, **table, "subjects": who, "request_ids": ids}.items()
        }
        if any(length != n for length in lengths.values()) or not table:
            raise ValueError(f"expected columns of {n} values, one a label, got {lengths}")
        y = np.asarray(labels)
        if not np.isin(y, (0, 1)).all():
            raise ValueError(f"labels must be 0 or 1, got {sorted(set(y.tolist()))[:5]}")
        x = np.column_stack(list(table.values()))
        x[~np.isfinite(x)] = np.nan
        rows = cls(
            names=list(table),
            x=x,
            y=y.astype(np.int64),
            request_ids=ids,
            subjects=who,
            logged=np.full(n, np.nan),
            thresholds=np.full(n, 0.5),
            versions=[""] * n,
            **given,
        )
        return rows.take(np.lexsort((np.array(ids, dtype=object).astype(str), given["at_ms"])))

    def __len__(self) -> int:
        return len(self.y)

    def take(self, which: Any) -> Self:
        """Give the rows with these indices (or in this slice), in that order."""
        index = np.arange(len(self))[which]
        plain = index.tolist()
        return replace(
            self,
            x=self.x[index],
            y=self.y[index],
            weight=self.weight[index],
            at_ms=self.at_ms[index],
            labelled_at_ms=self.labelled_at_ms[index],
            request_ids=[self.request_ids[i] for i in plain],
            subjects=[self.subjects[i] for i in plain],
            logged=self.logged[index],
            thresholds=self.thresholds[index],
            versions=[self.versions[i] for i in plain],
        )

    def features(self, i: int) -> dict[str, float]:
        """Give the features of one row by name, missing ones left out."""
        return {name: float(v) for name, v in zip(self.names, self.x[i], strict=True) if v == v}

    def column(self, name: str) -> list[float | None]:
        """Give one feature, None where it is missing."""
        return [None if v != v else v for v in self.x[:, self.names.index(name)].tolist()]

    def digest(self) -> str:
        """Give one SHA-256 over everything: two data sets with the same digest are the same data set."""
        found = hashlib.sha256(b"weir rows 1\n")
        words = [self.names, self.request_ids, self.subjects, self.versions]
        found.update(json.dumps(words, separators=(",", ":")).encode())
        for column in (self.x, self.y, self.weight, self.at_ms, self.labelled_at_ms, self.logged, self.thresholds):
            wide = column + 0.0 if column.dtype.kind == "f" else column  # one bit pattern for zero
            wide = np.where(np.isnan(wide), np.nan, wide) if column.dtype.kind == "f" else wide  # and one for missing
            found.update(np.ascontiguousarray(wide, dtype=column.dtype.newbyteorder("<")).tobytes())
        return found.hexdigest()


@dataclass(frozen=True, slots=True)
class Split:
    """Rows to fit on, to stop and choose by, and to judge by: each later than the one before, no moment in two."""

    fitted: Rows
    validated: Rows
    held_out: Rows
    before: Rows
    """Everything before the hold-out: fitted, then validated."""


def split(rows: Rows, validated: float = VALIDATED, held_out: float = HELD_OUT) -> Split:
    """Cut rows by time. Raises `DatasetRefused` when there are too few, or only one class somewhere."""
    n = len(rows)
    if n < LEAST_ROWS:
        raise DatasetRefused(
            f"{n} labelled rows, and a model needs at least {LEAST_ROWS}",
            fix="wait for more labels, or let the policy look further back (window_ms)",
        )
    first = _border(rows.at_ms, round(n * (1 - validated - held_out)))
    second = _border(rows.at_ms, round(n * (1 - held_out)))
    parts = Split(
        rows.take(slice(0, first)),
        rows.take(slice(first, second)),
        rows.take(slice(second, n)),
        rows.take(slice(0, second)),
    )
    for name in ("fitted", "validated", "held_out"):
        part: Rows = getattr(parts, name)
        positives = int(part.y[part.weight > 0].sum())
        if not 0 < positives < int((part.weight > 0).sum()):
            raise DatasetRefused(
                f"of {n} labelled rows the {len(part)} that are {name.replace('_', ' ')} have {positives} positives: "
                "both classes are needed in each part",
                fix="wait for more labels, or let the policy look further back (window_ms)",
            )
    return parts


def _border(at_ms: Ints, near: int) -> int:
    """Give the first index of the moment that `near` lies in, so that rows of one moment stay together."""
    return int(np.searchsorted(at_ms, at_ms[near])) if near < len(at_ms) else len(at_ms)
