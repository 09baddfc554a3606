"""Texts that come again and again (models, names, sources), each by its number (compiled)."""

from __future__ import annotations

from streams.join.columns.layout import (
    MOST_TEXTS,
    TEXT,
    TEXT_AT,
    TEXT_FILL,
    TEXT_SLOT,
    TEXT_SLOTS,
    TEXTS_USED,
    put,
    reg,
)
from streams.runtime.compiled import compiled
from streams.runtime.native import copy, i64, put64, same, xxh64


@compiled
def text(m: int, start: int, size: int, most: int) -> int:
    """Give the number of a text, a new one if need be; -1 when there are `most` already."""
    place = xxh64(start, size, 2) & (TEXT_SLOTS - 1)
    slots = reg(m, TEXT_SLOT)
    at = reg(m, TEXT_AT)
    base = reg(m, TEXT)
    while True:
        known = i64(slots + place * 8) - 1
        if known < 0:
            break
        begin = i64(at + known * 8)
        if i64(at + known * 8 + 8) - begin == size and same(base + begin, start, size):
            return known
        place = (place + 1) & (TEXT_SLOTS - 1)
    known = reg(m, TEXTS_USED)
    if known >= most or known >= MOST_TEXTS:
        return -1
    fill = reg(m, TEXT_FILL)
    copy(base + fill, start, size)
    put64(at + known * 8, fill)
    put64(at + known * 8 + 8, fill + size)
    put64(slots + place * 8, known + 1)
    put(m, TEXTS_USED, known + 1)
    put(m, TEXT_FILL, fill + size)
    return known
