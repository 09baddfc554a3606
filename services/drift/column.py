"""A column as it is compared: which kind its type is, its numbers, its vectors, or how often each text occurs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from streams.judge.compare import Floats
from streams.judge.embeddings import Vectors


def kind_of(kind: pa.DataType) -> str:
    """Say how a type is compared; nothing for one that is not."""
    if pa.types.is_dictionary(kind):
        return kind_of(kind.value_type)
    if pa.types.is_null(kind):
        return "null"
    if pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_decimal(kind):
        return "number"
    if pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind):
        return "embedding" if kind_of(kind.value_type) in ("number", "null") else ""
    text = pa.types.is_string(kind) or pa.types.is_large_string(kind) or kind == pa.string_view()
    return "category" if text or pa.types.is_boolean(kind) else ""


def numbers(column: pa.ChunkedArray) -> Floats:
    """Give the values of a column of numbers, NaN for what is missing."""
    if pa.types.is_null(column.type):
        return np.full(len(column), np.nan)
    if pa.types.is_dictionary(column.type):
        column = column.cast(column.type.value_type)
    values = column.cast(pa.float64(), safe=False)
    found = np.empty(len(values), dtype=np.float64)
    start = 0
    for chunk in values.chunks:  # a null's place holds anything
        part = found[start : start + len(chunk)]
        if chunk.null_count:
            chunk = pc.if_else(chunk.is_valid(), chunk, float("nan"))
        part[:] = (
            np.frombuffer(chunk.buffers()[1], np.float64, chunk.offset + len(chunk))[chunk.offset :]
            if len(chunk)
            else 0
        )
        start += len(chunk)
    return found


def vectors(column: pa.Array) -> Vectors:
    """Give some rows of a column of lists of numbers."""
    if pa.types.is_null(column.type):
        return Vectors(np.full(len(column), -1, np.int64), np.zeros(0))
    lengths = pc.fill_null(pc.list_value_length(column).cast(pa.int64()), -1).to_numpy(zero_copy_only=False)
    return Vectors(np.asarray(lengths, np.int64), numbers(pa.chunked_array([pc.list_flatten(column)])))


def together(columns: Sequence[pa.Array]) -> Vectors:
    """Give some rows of several columns of numbers as one vector each."""
    rows = np.stack([numbers(pa.chunked_array([column])) for column in columns], axis=1)
    return Vectors(np.full(len(rows), rows.shape[1], np.int64), rows.ravel())


def texts(column: pa.ChunkedArray) -> list[str | None]:
    """Give the texts of a column, row by row; truth values are `true` and `false`."""
    if pa.types.is_null(column.type):
        return [None] * len(column)
    if pa.types.is_boolean(column.type):
        column = pc.if_else(column, "true", "false")
    if pa.types.is_dictionary(column.type):
        column = column.cast(column.type.value_type)
    found: list[str | None] = column.to_pylist()
    return found


def counts(column: pa.ChunkedArray) -> dict[str | None, int]:
    """Give how often each text occurs; truth values are `true` and `false`, None is what is missing."""
    if pa.types.is_null(column.type):
        return {None: len(column)}
    if pa.types.is_boolean(column.type):
        column = pc.if_else(column, "true", "false")
    if pa.types.is_dictionary(column.type):
        column = column.cast(column.type.value_type)
    found: list[dict[str, Any]] = pc.value_counts(column).to_pylist()
    return {row["values"]: row["counts"] for row in found}


SERIAL_LEAST = 100
"""So many rows at least, before a column of integers that are all different is taken for their numbers."""


def is_serial(column: pa.ChunkedArray) -> bool:
    """Say whether integers number the rows: each occurs once, and at least half of their range does.

    >>> is_serial(pa.chunked_array([[*range(500, 900)]])), is_serial(pa.chunked_array([[*range(0, 900, 3)]]))
    (True, False)
    """
    rows = len(column)
    if not pa.types.is_integer(column.type) or rows < SERIAL_LEAST or column.null_count:
        return False
    ends = pc.min_max(column).as_py()
    return bool(ends["max"] - ends["min"] < 2 * rows and pc.count_distinct(column).as_py() == rows)
