"""An envelope's columns as compiled code wants them: addresses, and how a cell becomes text."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from streams.join.columns.fields import LABEL_FIELDS, PREDICTION_FIELDS, SIGNAL_FIELDS
from streams.join.columns.scan import PAD, is_plain
from streams.runtime.envelopes import is_text, offsets_of
from streams.runtime.native import Words, address, padded
from streams.runtime.rows import INTEGER, JSON, QUOTED, Cells, Envelope

_FIELDS = {"predictions": PREDICTION_FIELDS, "labels": LABEL_FIELDS, "signals": SIGNAL_FIELDS}

# Words of a plan's row, one for each column. `BEYOND`: from a cell that begins later, `SHORT` bytes may not be read.
# `IN`: it is a member of an object, and `LAST`: the last one.
(
    KIND,
    FIELD,
    TEXT,
    TEXT_N,
    OFFSETS,
    WIDTH,
    DATA,
    VALID,
    CODES,
    MEMBER,
    OPENING,
    OPENING_N,
    BEYOND,
    WORDS,
) = range(14)
IN, LAST = 1, 2
IS_QUOTED, IS_JSON, IS_INTEGER = 0, 1, 2
_KINDS = {QUOTED: IS_QUOTED, JSON: IS_JSON, INTEGER: IS_INTEGER}
SHORT = 32
_CACHED_BYTES = 1024
"""A longer text is not kept: thousands of them would be gigabytes."""


@dataclass(frozen=True, slots=True)
class Plan:
    """An envelope's columns by address, which one has the request ids, and the room that all texts may need.

    `kept` are the arrays behind.
    """

    rows: Words
    ids: int
    room: int
    kept: list[Any]

    @classmethod
    def of(cls, envelope: Envelope, topic: str) -> Plan | None:
        """Make it. None where the texts had better be scanned: without plain request ids, or for odd names."""
        columns, fields = envelope.columns, _FIELDS[topic]
        rows: Words = np.zeros((len(columns), WORDS), dtype=np.int64)
        kept: list[Any] = []
        bound, ids = 0, -1
        for k, cells in enumerate(columns):
            label, opening = cells.label, cells.opening
            if b"\\" in label:
                return None
            for word, text in ((TEXT, label), (OPENING, opening)):
                enter = _entered if len(text) <= _CACHED_BYTES else _entered.__wrapped__
                body, rows[k, word] = enter(text)
                rows[k, word + 1] = len(text)
                kept.append(body)
            rows[k, FIELD] = fields.index(cells.name) if cells.name in fields else -1
            if cells.member is not None:
                last = k + 1 == len(columns) or columns[k + 1].name != cells.name
                rows[k, MEMBER] = IN | LAST * last
            bound += _point_to(cells, rows[k], kept) + envelope.count * (len(label) + len(opening) + 4)
            if cells.name == "request_id" and rows[k, KIND] == IS_QUOTED:
                ids = k
        return None if ids < 0 else cls(rows, ids, bound + 2 * envelope.count + SHORT + PAD, kept)


@lru_cache(maxsize=4096)
def _entered(text: bytes) -> tuple[NDArray[np.uint8], int]:
    """Give a text with room behind it, and its address: the same names come with every envelope."""
    body = padded(text)
    return body, address(body)


def _point_to(cells: Cells, row: Words, kept: list[Any]) -> int:
    """Fill a column's row. Gives how many bytes its texts have at most."""
    array, count = cells.array, len(cells.array)
    if array.null_count:
        kept.append(_valid(array))
        row[VALID] = address(kept[-1])
    row[KIND] = _KINDS[cells.kind]
    if cells.kind == INTEGER:
        kept.append(_values(array, np.int64))
        row[DATA] = address(kept[-1])
        return 21 * count
    coded = pa.types.is_dictionary(array.type)
    words = array.dictionary if coded else array
    if is_text(words.type) and (cells.kind == JSON or _needs_no_escapes(words)):
        offsets, data = offsets_of(words), words.buffers()[2]
        kept += [offsets, array]
        row[OFFSETS], row[DATA] = address(offsets), 0 if data is None else data.address
        row[WIDTH] = offsets.itemsize
        row[BEYOND] = row[DATA] + (0 if data is None else data.size) - SHORT
        if not coded:
            return int(offsets[-1] - offsets[0])
        kept.append(_values(array.indices, np.int32))
        row[CODES] = address(kept[-1])
        return count * int(np.diff(offsets).max(initial=0))
    texts = [text or b"" for text in cells.texts()]
    body = padded(b"".join(texts))
    ends: Words = np.zeros(count + 1, dtype=np.int64)
    np.cumsum(np.fromiter(map(len, texts), dtype=np.int64, count=count), out=ends[1:])
    row[KIND], row[OFFSETS], row[DATA], row[WIDTH] = IS_JSON, address(ends), address(body), 8
    kept += [ends, body]
    return int(ends[-1])


def _values(array: pa.Array, kind: type[np.int32 | np.int64]) -> NDArray[Any]:
    """Give an array's values as they lie; a null's is anything. `to_numpy` and `fill_null` import pandas: seconds."""
    if not len(array):
        return np.zeros(1, dtype=kind)
    return np.frombuffer(array.buffers()[1], kind, array.offset + len(array))[array.offset :]


def _valid(array: pa.Array) -> NDArray[np.uint8]:
    """Give a byte for each value: whether it is there."""
    bits = np.frombuffer(array.buffers()[0], dtype=np.uint8)
    return np.unpackbits(bits, count=array.offset + len(array), bitorder="little")[array.offset :]


def _needs_no_escapes(words: pa.Array) -> bool:
    data = words.buffers()[2]
    return data is None or bool(is_plain(data.address, data.size))
