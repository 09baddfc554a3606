"""Where records live and how they are found: arena, table, wheel, texts (compiled; see `layout`)."""

from __future__ import annotations

from typing import Any

import numpy as np

from streams.join.columns.layout import (
    ARENA,
    BUCKET,
    BUCKET_BITS,
    CASE,
    COUNTS,
    DEAD,
    DEPTH,
    DEPTHS,
    DIRECTORY,
    DIRTY,
    FILL,
    FIRST_DUE,
    FLAGS,
    FREE,
    FREED,
    HEADS,
    HOURS_1,
    HOURS_2,
    HOURS_3,
    KIND,
    LEAVING,
    LINKED,
    LIVE,
    LIVES,
    MARKER,
    MARKER_WORDS,
    MOST_DEPTH,
    MOST_TEXTS,
    OLDEST,
    PACKED,
    RETIRED,
    SEGMENT_WORDS,
    SEGMENTS,
    TABLE,
    TABLE_FULL,
    TABLES,
    TABLES_USED,
    TEXT,
    TEXT_AT,
    TEXT_FILL,
    TEXT_SLOT,
    TEXT_SLOTS,
    TEXTS_USED,
    W_AT,
    W_DUE,
    W_HEARD,
    W_HEARD_NEXT,
    W_NEXT,
    WHEEL,
    field,
    put,
    reg,
    with_field,
)
from streams.runtime.compiled import compiled
from streams.runtime.native import copy, i64, prefetch, put8, put64, same, swapped, u8, u64, xxh64

NEVER = 1 << 62
_POSITION = (1 << 40) - 1
_FIELD = (1 << 23) - 1
_EACH = np.uint64(0x0101010101010101)


# Arena.


@compiled
def allocate(m: int, words: int) -> int:
    """Give the position of a new record of `words` words, at most a segment's, of the first life."""
    return allocate_for(m, words, 0)


@compiled
def allocate_for(m: int, words: int, life: int) -> int:
    """Give the position of a new record among those of a life."""
    here = FILL + 2 * life
    fill = reg(m, here)
    if fill + words > reg(m, here + 1):
        freed = reg(m, FREED)
        if freed:
            segment = i64(reg(m, FREE) + (freed - 1) * 8)
            put(m, FREED, freed - 1)
        else:
            segment = reg(m, SEGMENTS)
            put(m, SEGMENTS, segment + 1)
        last = (reg(m, here + 1) // SEGMENT_WORDS) - 1
        put(m, here + 1, (segment + 1) * SEGMENT_WORDS)
        if last >= 0:
            if fill < (last + 1) * SEGMENT_WORDS:
                put64(reg(m, ARENA) + fill * 8, 0)  # a size of 0 ends a segment
            if i64(reg(m, LIVE) + last * 8) == 0:
                _give_back(m, last)
        fill = segment * SEGMENT_WORDS
    put(m, here, fill + words)
    segment = fill // SEGMENT_WORDS
    live = reg(m, LIVE) + segment * 8
    put64(live, i64(live) + 1)
    put8(reg(m, DIRTY) + segment, 1)
    if fill + words < (segment + 1) * SEGMENT_WORDS:
        put64(reg(m, ARENA) + (fill + words) * 8, 0)
    return fill


@compiled
def life_of(reach_ms: int) -> int:
    """Give the life of what stays in state for so long."""
    return (reach_ms >= HOURS_1) + (reach_ms >= HOURS_2) + (reach_ms >= HOURS_3)


@compiled
def _is_filled(m: int, segment: int) -> bool:
    """Whether nothing more is put into a segment."""
    filled = True
    for life in range(LIVES):
        filled &= segment != reg(m, FILL + 2 * life + 1) // SEGMENT_WORDS - 1
    return filled


@compiled
def _give_back(m: int, segment: int) -> None:
    freed = reg(m, FREED)
    put8(reg(m, DIRTY) + segment, 1)
    put64(reg(m, OLDEST) + segment * 8, 0)
    put64(reg(m, FREE) + freed * 8, segment)
    put(m, FREED, freed + 1)


@compiled
def free(m: int, position: int) -> None:
    """Let a record go. Nothing may point to it any more."""
    segment = position // SEGMENT_WORDS
    at = reg(m, ARENA) + position * 8
    put64(at, with_field(i64(at), DEAD, 1, 1))
    put8(reg(m, DIRTY) + segment, 1)
    live = reg(m, LIVE) + segment * 8
    left = i64(live) - 1
    put64(live, left)
    if left == 0 and _is_filled(m, segment):
        _give_back(m, segment)


@compiled
def free_heard(m: int, at: int) -> None:
    """Let all that was heard of a request go."""
    arena = reg(m, ARENA)
    position = field(i64(at + W_HEARD * 8), 0, 40) - 1
    while position >= 0:
        after = field(i64(arena + position * 8 + W_HEARD_NEXT * 8), 0, 40) - 1
        free(m, position)
        position = after


@compiled
def touch(m: int, position: int) -> None:
    """Note that a record has been written."""
    put8(reg(m, DIRTY) + position // SEGMENT_WORDS, 1)


@compiled
def age(m: int, position: int, at_ms: int) -> None:
    """Note the time of a case in its segment: 0, or not later than the oldest in it."""
    oldest = reg(m, OLDEST) + position // SEGMENT_WORDS * 8
    known = i64(oldest)
    if known == 0 or at_ms < known:
        put64(oldest, at_ms if at_ms > 0 else 1)


# Table.


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


@compiled
def _table(m: int, h: int) -> int:
    depth = reg(m, DEPTH)
    place = (h >> (64 - depth)) & ((1 << depth) - 1) if depth else 0
    return i64(reg(m, DIRECTORY) + place * 8)


@compiled
def find(m: int, h: int, request: int, size: int, packed: int) -> int:
    """Give the position of a request's record, or -1. The id is as it would be kept."""
    base = reg(m, TABLES) + _table(m, h) * (TABLE * 8)
    wanted = h & _FIELD
    place = wanted & (TABLE - 1)
    while True:
        entry = i64(base + place * 8)
        if entry == 0:
            return -1
        if entry >> 40 == wanted:
            position = (entry & _POSITION) - 1
            at = reg(m, ARENA) + position * 8
            if size_of_id(at) == size and packed_of(at) == packed and same(id_of(at), request, size):
                return position
        place = (place + 1) & (TABLE - 1)


@compiled
def bring_place_near(m: int, h: int) -> None:
    """Let the processor load where in the table a hash is looked up."""
    prefetch(reg(m, TABLES) + _table(m, h) * (TABLE * 8) + (h & (TABLE - 1)) * 8)


@compiled
def bring_near(m: int, h: int) -> None:
    """Let the processor load the record that a hash will probably find."""
    entry = i64(reg(m, TABLES) + _table(m, h) * (TABLE * 8) + (h & (TABLE - 1)) * 8)
    if entry and entry >> 40 == h & _FIELD:
        at = reg(m, ARENA) + ((entry & _POSITION) - 1) * 8
        prefetch(at)
        prefetch(at + 64)


@compiled
def _place(base: int, h: int, position: int) -> None:
    wanted = h & _FIELD
    place = wanted & (TABLE - 1)
    while i64(base + place * 8) != 0:
        place = (place + 1) & (TABLE - 1)
    put64(base + place * 8, (wanted << 40) | (position + 1))


@compiled
def insert(m: int, h: int, position: int) -> None:
    """Enter a request that is not in the table. Splits a full table first."""
    table = _table(m, h)
    while i64(reg(m, COUNTS) + table * 8) >= TABLE_FULL and i64(reg(m, DEPTHS) + table * 8) < MOST_DEPTH:
        _split(m, table)
        table = _table(m, h)
    _place(reg(m, TABLES) + table * (TABLE * 8), h, position)
    count = reg(m, COUNTS) + table * 8
    put64(count, i64(count) + 1)


@compiled
def _split(m: int, table: int) -> None:
    local = i64(reg(m, DEPTHS) + table * 8)
    directory = reg(m, DIRECTORY)
    depth = reg(m, DEPTH)
    if local == depth:  # twice as long: each place becomes two
        place = (1 << depth) - 1
        while place >= 0:
            named = i64(directory + place * 8)
            put64(directory + (2 * place) * 8, named)
            put64(directory + (2 * place + 1) * 8, named)
            place -= 1
        depth += 1
        put(m, DEPTH, depth)
    other = reg(m, TABLES_USED)
    put(m, TABLES_USED, other + 1)
    put64(reg(m, DEPTHS) + table * 8, local + 1)
    put64(reg(m, DEPTHS) + other * 8, local + 1)
    bit = depth - local - 1
    for place in range(1 << depth):
        if i64(directory + place * 8) == table and (place >> bit) & 1:
            put64(directory + place * 8, other)
    base = reg(m, TABLES) + table * (TABLE * 8)
    fresh = reg(m, TABLES) + other * (TABLE * 8)
    moved = reg(m, TABLES) + reg(m, TABLES_USED) * (TABLE * 8)  # the next unused one: room to sort in
    copy(moved, base, TABLE * 8)
    kept = gone = 0
    for place in range(TABLE):
        put64(base + place * 8, 0)
    for place in range(TABLE):
        entry = i64(moved + place * 8)
        put64(moved + place * 8, 0)
        if entry:
            position = (entry & _POSITION) - 1
            at = reg(m, ARENA) + position * 8
            h = hash_of(at)
            if (h >> (63 - local)) & 1:
                _place(fresh, h, position)
                gone += 1
            else:
                _place(base, h, position)
                kept += 1
    put64(reg(m, COUNTS) + table * 8, kept)
    put64(reg(m, COUNTS) + other * 8, gone)


@compiled
def _entry(m: int, h: int, position: int) -> int:
    """Give the address of the entry of a request that is in the table."""
    base = reg(m, TABLES) + _table(m, h) * (TABLE * 8)
    wanted = ((h & _FIELD) << 40) | (position + 1)
    place = h & (TABLE - 1)
    while i64(base + place * 8) != wanted:
        place = (place + 1) & (TABLE - 1)
    return base + place * 8


@compiled
def replace(m: int, h: int, position: int, by: int) -> None:
    """Let another record stand for a request."""
    put64(_entry(m, h, position), ((h & _FIELD) << 40) | (by + 1))


@compiled
def remove(m: int, h: int, position: int) -> None:
    """Take a request out of the table; what was displaced by it moves back."""
    table = _table(m, h)
    base = reg(m, TABLES) + table * (TABLE * 8)
    hole = (_entry(m, h, position) - base) >> 3
    place = hole
    while True:
        place = (place + 1) & (TABLE - 1)
        entry = i64(base + place * 8)
        if entry == 0:
            break
        home = (entry >> 40) & (TABLE - 1)
        if ((place - home) & (TABLE - 1)) >= ((place - hole) & (TABLE - 1)):
            put64(base + hole * 8, entry)
            hole = place
    put64(base + hole * 8, 0)
    count = reg(m, COUNTS) + table * 8
    put64(count, i64(count) - 1)


# Wheel.


@compiled
def link(m: int, position: int, due_ms: int) -> None:
    """Enter a record, which is in no chain, to be visited at `due_ms`."""
    at = reg(m, ARENA) + position * 8
    put64(at + W_DUE * 8, with_field(i64(at + W_DUE * 8), 0, 48, due_ms))
    bucket = due_ms >> BUCKET_BITS
    now = reg(m, BUCKET)
    if bucket < now:
        bucket = now
    elif bucket > now + WHEEL - 2:
        bucket = now + WHEEL - 2
    head = reg(m, HEADS) + (bucket & (WHEEL - 1)) * 8
    put64(at + W_NEXT * 8, with_field(i64(at + W_NEXT * 8), 0, 40, i64(head)))
    put64(head, position + 1)
    put(m, LINKED, reg(m, LINKED) + 1)
    if due_ms < reg(m, FIRST_DUE):
        put(m, FIRST_DUE, due_ms)
    touch(m, position)


@compiled
def unlink(m: int, due_ms: int) -> None:
    """Take every record that is `LEAVING` out of the chain of a moment."""
    arena = reg(m, ARENA)
    before = reg(m, HEADS) + ((due_ms >> BUCKET_BITS) & (WHEEL - 1)) * 8
    position = i64(before) - 1
    kept = -1
    while position >= 0:
        at = arena + position * 8
        word = i64(at)
        after = field(i64(at + W_NEXT * 8), 0, 40)
        if field(word, FLAGS, 8) & LEAVING:
            put64(at, with_field(word, FLAGS, 8, field(word, FLAGS, 8) & ~LEAVING))
            put64(at + W_NEXT * 8, with_field(i64(at + W_NEXT * 8), 0, 40, 0))  # else it says how the chain lay
            put(m, LINKED, reg(m, LINKED) - 1)
            if kept < 0:
                put64(before, after)
            else:
                put64(arena + kept * 8 + W_NEXT * 8, with_field(i64(arena + kept * 8 + W_NEXT * 8), 0, 40, after))
                touch(m, kept)
        else:
            kept = position
        position = after - 1


@compiled
def first_due(m: int) -> int:
    """Find a moment that is not after the first due one; `NEVER` when none is. Looks about 18 hours ahead."""
    if reg(m, LINKED) == 0:
        return NEVER
    now = reg(m, BUCKET)
    bucket = now
    least = NEVER
    while bucket < now + 65_536:
        position = i64(reg(m, HEADS) + (bucket & (WHEEL - 1)) * 8) - 1
        while position >= 0:
            at = reg(m, ARENA) + position * 8
            due_ms = field(i64(at + W_DUE * 8), 0, 48)
            if due_ms < least and not field(i64(at), FLAGS, 8) & RETIRED:
                least = due_ms
            position = field(i64(at + W_NEXT * 8), 0, 40) - 1
        bucket += 1
        if least < bucket << BUCKET_BITS:  # else it waits for the wheel to come round, and others may be due before
            return least
    return bucket << BUCKET_BITS


# Texts.


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
