"""Records as the compiled path takes them: where each value and key lies in memory."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from streams.join.columns.layout import RECORD
from streams.runtime.native import Words, address
from streams.runtime.processor import Records

_PAD = bytes(16)


class Packed:
    """A table of `RECORD` words a record, and the bytes that it points to."""

    def __init__(self, table: Words, kept: object) -> None:
        self.table = table
        self.kept = kept
        self.address = address(table)

    def __len__(self) -> int:
        return len(self.table)


def pack(records: Records) -> Packed:
    """Lay the values and keys of records out one after the other."""
    count = len(records)
    values = [value or b"" for value in records.values]
    keys = [key or b"" for key in records.keys]
    body: NDArray[np.uint8] = np.frombuffer(b"".join([*values, *keys, _PAD]), dtype=np.uint8)
    sizes = np.fromiter(map(len, [*values, *keys]), dtype=np.int64, count=2 * count)
    starts = address(body) + np.cumsum(sizes) - sizes
    table: Words = np.zeros((count, RECORD), dtype=np.int64)
    table[:, 0] = starts[:count]
    table[:, 1] = sizes[:count]
    table[:, 2] = starts[count:]
    table[:, 3] = sizes[count:]
    table[:, 4] = records.offsets
    table[:, 5] = records.append_ms
    for index in records.headers:
        table[index, 6] = 1
    for index, value in enumerate(records.values) if None in records.values else ():
        if value is None:
            table[index, 1] = -1
    return Packed(table, body)
