"""Request ids as records keep them: a UUID in its usual form takes 16 bytes (compiled)."""

from __future__ import annotations

from typing import Any

import numpy as np

from streams.join.columns.layout import (
    CASE,
    FLAGS,
    KIND,
    MARKER,
    MARKER_WORDS,
    PACKED,
    W_AT,
    field,
)
from streams.runtime.compiled import compiled
from streams.runtime.native import i64, put8, put64, swapped, u8, u64, xxh64

_EACH = np.uint64(0x0101010101010101)


@compiled
def id_of(at: int) -> int:
    """Give where a record's request id begins."""
    kind = field(i64(at), KIND, 3)
    if kind == MARKER:
        return at + MARKER_WORDS * 8
    if kind == CASE:
        flags = field(i64(at), 24, 8)
        return at + (9 + (flags & 1) + ((flags >> 1) & 1)) * 8
    return at + 5 * 8


@compiled
def size_of_id(at: int) -> int:
    if field(i64(at), KIND, 3) == MARKER:
        return i64(at + 8)
    return field(i64(at + W_AT * 8), 48, 8)


@compiled
def packed_of(at: int) -> int:
    """1 when a record keeps its request id packed."""
    return (i64(at) >> FLAGS) // PACKED & 1


@compiled
def hash_of(at: int) -> int:
    """Give the hash under which a record is found."""
    return xxh64(id_of(at), size_of_id(at), packed_of(at))


@compiled
def pack_id(start: int, size: int, to: int) -> int:
    """Write a UUID in its usual form (36 characters, lower case) as 16 bytes; 0, and nothing, for another id."""
    if size != 36 or u8(start + 8) != 45 or u8(start + 13) != 45 or u8(start + 18) != 45 or u8(start + 23) != 45:
        return 0
    low = np.uint64(0xFFFFFFFF)
    half = np.uint64(32)
    a = _nibbles(u64(start))
    b = _nibbles((u64(start + 9) & low) | (u64(start + 14) << half))
    c = _nibbles((u64(start + 19) & low) | (u64(start + 24) << half))
    d = _nibbles(u64(start + 28))
    if a < 0 or b < 0 or c < 0 or d < 0:
        return 0
    put64(to, (a << 32) | b)
    put64(to + 8, (c << 32) | d)
    return 1


@compiled
def hash_read(start: int, size: int, kept: int, packed: int) -> int:
    """Give the hash of an id as it was read; `kept` is where `pack_id` has written it, if it has."""
    return xxh64(kept, 16, 1) if packed else xxh64(start, size, 0)


@compiled
def _nibbles(word: Any) -> int:
    """Give the number that eight hexadecimal digits (lower case) of a word say; -1 when they are none.

    All at once: a letter has bit 6, and the low half of `a` is 1. What is written back must be what was read.
    """
    letters = (word >> np.uint64(6)) & _EACH
    value = (word & (np.uint64(15) * _EACH)) + letters * np.uint64(9)
    tens = ((value + np.uint64(6) * _EACH) >> np.uint64(4)) & _EACH
    if value & (np.uint64(0xF0) * _EACH) or value + np.uint64(48) * _EACH + tens * np.uint64(39) != word:
        return -1
    value = swapped(value)
    value = (value | value >> np.uint64(4)) & np.uint64(0x00FF00FF00FF00FF)
    value = (value | value >> np.uint64(8)) & np.uint64(0x0000FFFF0000FFFF)
    return np.int64((value | value >> np.uint64(16)) & np.uint64(0xFFFFFFFF))  # type: ignore[return-value]


@compiled
def unpack_id(start: int, to: int) -> None:
    """Write the 36 characters of a packed id."""
    for half in range(2):
        word = i64(start + 8 * half)
        for k in range(16):
            digit = (word >> (60 - 4 * k)) & 15
            place = half * 16 + k
            dashes = (place >= 8) + (place >= 12) + (place >= 16) + (place >= 20)
            put8(to + place + dashes, digit + (48 if digit < 10 else 87))
    put8(to + 8, 45)
    put8(to + 13, 45)
    put8(to + 18, 45)
    put8(to + 23, 45)
