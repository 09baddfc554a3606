"""Records of one input of one partition, side by side: what a fetch gives, what a batch holds.

They come packed, as addresses into memory that Kafka's client or an envelope owns, and compiled code reads them there.
Columns of Python objects are made of them only when somebody asks.
"""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

Headers = Sequence[tuple[str, bytes | None]]


PACKED_WORDS = 7
"""Words of a row of `Packed`: address of the value, its length (-1: none), the same of the key, position, append_ms,
and whether the record has headers."""

_INDEX_SHIFT = 44
"""A position in one number: the offset, and above it the index in an envelope. That of a record is its offset."""


def position(offset: int, index: int) -> int:
    """Give the position of an event as one number.

    >>> position(41, 0), place_of(position(41, 7))
    (41, (41, 7))
    """
    return offset | index << _INDEX_SHIFT


def place_of(position: int) -> tuple[int, int]:
    """Give offset and index of a position: places compare as the log has them, positions do not."""
    return position & ((1 << _INDEX_SHIFT) - 1), position >> _INDEX_SHIFT


@dataclass(slots=True)
class Packed:
    """Records side by side: `table` has a row for each, `kept` is what keeps the memory that its addresses point into.

    Eight bytes behind each value may be read. `unwritten` are stretches of rows whose values and keys do not exist yet:
    (first, last + 1, what makes them; see `streams.runtime.envelopes`).
    """

    table: NDArray[np.int64]
    kept: list[Any]
    headers: dict[int, Headers] = field(default_factory=dict)
    unwritten: list[tuple[int, int, Any]] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self.table)

    @property
    def size(self) -> int:
        """How many bytes keys and values have."""
        return int(self.table[:, 1:4:2].clip(0).sum())


class Records:
    """Records of one input of one partition, column by column, in offset order. All columns have equal length.

    `append_ms` is the Kafka timestamp. `headers` is sparse (index → headers), because most records have none, and so is
    `indexes`, because most come alone. Records may come packed; the columns are made of them when somebody asks.
    """

    __slots__ = ("_append_ms", "_headers", "_indexes", "_keys", "_offsets", "_packed", "_values")

    def __init__(
        self,
        offsets: list[int] | None = None,
        append_ms: list[int] | None = None,
        keys: list[bytes | None] | None = None,
        values: list[bytes | None] | None = None,
        headers: dict[int, Headers] | None = None,
        indexes: dict[int, int] | None = None,
    ) -> None:
        self._offsets = offsets if offsets is not None else []
        self._append_ms = append_ms if append_ms is not None else []
        self._keys = keys if keys is not None else []
        self._values = values if values is not None else []
        self._headers = headers if headers is not None else {}
        self._indexes = indexes if indexes is not None else {}
        self._packed: list[Packed] = []

    def __len__(self) -> int:
        return len(self._offsets) + sum(map(len, self._packed))

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Records) and self._columns() == other._columns()

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        return f"Records({', '.join(map(repr, self._columns()))})"

    @property
    def offsets(self) -> list[int]:
        """Offsets, ascending."""
        self._unpack()
        return self._offsets

    @property
    def append_ms(self) -> list[int]:
        """Kafka timestamps."""
        self._unpack()
        return self._append_ms

    @property
    def keys(self) -> list[bytes | None]:
        """Kafka keys."""
        self._unpack()
        return self._keys

    @property
    def values(self) -> list[bytes | None]:
        """Values as they came."""
        self._unpack()
        return self._values

    @property
    def headers(self) -> dict[int, Headers]:
        """Headers of the records that have some."""
        self._unpack()
        return self._headers

    @property
    def indexes(self) -> dict[int, int]:
        """Index in its envelope, of each event that is not its first."""
        self._unpack()
        return self._indexes

    def position(self, index: int) -> int:
        """Give the position of one of them (`position`)."""
        self._unpack()
        return position(self._offsets[index], self._indexes.get(index, 0))

    def beside(self) -> dict[int, Headers]:
        """Give the headers without unpacking anything."""
        if not self._packed:
            return self._headers
        found, start = dict(self._headers), len(self._offsets)
        for chunk in self._packed:
            found |= {start + index: headers for index, headers in chunk.headers.items()}
            start += len(chunk)
        return found

    @property
    def last_ms(self) -> int | None:
        """The Kafka timestamp of the last record."""
        if self._packed:
            return int(self._packed[-1].table[-1, 5])
        return self._append_ms[-1] if self._append_ms else None

    def append(
        self,
        offset: int,
        append_ms: int,
        key: bytes | None,
        value: bytes | None,
        headers: Headers | None = None,
        index: int = 0,
    ) -> None:
        """Add one record at the end."""
        self._unpack()
        if headers:
            self._headers[len(self._offsets)] = headers
        if index:
            self._indexes[len(self._offsets)] = index
        self._offsets.append(offset)
        self._append_ms.append(append_ms)
        self._keys.append(key)
        self._values.append(value)

    def extend(self, packed: Packed) -> None:
        """Add packed records at the end."""
        if len(packed):
            self._packed.append(packed)

    def packed(self) -> Packed:
        """Give all of them packed."""
        chunks = self._packed if not self._offsets else [self._pack(), *self._packed]
        if len(chunks) == 1:
            return chunks[0]
        if not chunks:
            return Packed(np.zeros((0, PACKED_WORDS), dtype=np.int64), [])
        headers: dict[int, Headers] = {}
        start = 0
        for chunk in chunks:
            headers |= {start + index: found for index, found in chunk.headers.items()}
            start += len(chunk)
        return Packed(
            np.concatenate([chunk.table for chunk in chunks]),
            [body for chunk in chunks for body in chunk.kept],
            headers,
        )

    def select(self, indices: Sequence[int]) -> Records:
        """Give some of the records, in the order of `indices`, which ascend."""
        if not self._packed:
            return Records(
                [self._offsets[index] for index in indices],
                [self._append_ms[index] for index in indices],
                [self._keys[index] for index in indices],
                [self._values[index] for index in indices],
                {place: self._headers[index] for place, index in enumerate(indices) if index in self._headers},
                {place: self._indexes[index] for place, index in enumerate(indices) if index in self._indexes},
            )
        packed = self.packed()
        chosen = Packed(packed.table[np.asarray(indices, dtype=np.int64)], packed.kept)
        chosen.headers = {
            place: packed.headers[index] for place, index in enumerate(indices) if index in packed.headers
        }
        records = Records()
        records.extend(chosen)
        return records

    def _columns(self) -> tuple[object, ...]:
        self._unpack()
        return self._offsets, self._append_ms, self._keys, self._values, self._headers, self._indexes

    def _pack(self) -> Packed:
        count = len(self._offsets)
        parts = [body or b"" for body in (*self._values, *self._keys)]
        body: NDArray[np.uint8] = np.frombuffer(b"".join([*parts, bytes(16)]), dtype=np.uint8)
        sizes = np.fromiter(map(len, parts), dtype=np.int64, count=2 * count)
        starts = body.ctypes.data + np.cumsum(sizes) - sizes
        table: NDArray[np.int64] = np.zeros((count, PACKED_WORDS), dtype=np.int64)
        table[:, 0], table[:, 2] = starts[:count], starts[count:]
        table[:, 1], table[:, 3] = sizes[:count], sizes[count:]
        table[:, 4], table[:, 5] = self._offsets, self._append_ms
        table[list(self._headers), 6] = 1
        table[list(self._indexes), 4] |= np.fromiter(self._indexes.values(), np.int64) << _INDEX_SHIFT
        for word, bodies in ((1, self._values), (3, self._keys)):
            if None in bodies:
                table[[index for index, one in enumerate(bodies) if one is None], word] = -1
        return Packed(table, [body], dict(self._headers))

    def _unpack(self) -> None:
        if not self._packed:
            return
        chunks, self._packed = self._packed, []
        for chunk in chunks:
            first = len(self._offsets)
            self._headers |= {first + index: found for index, found in chunk.headers.items()}
            for value, size, key, key_size, place, append_ms, _ in chunk.table.tolist():
                offset, index = place_of(place)
                if index:
                    self._indexes[len(self._offsets)] = index
                self._offsets.append(offset)
                self._append_ms.append(append_ms)
                self._keys.append(None if key_size < 0 else ctypes.string_at(key, key_size))
                self._values.append(None if size < 0 else ctypes.string_at(value, size))
