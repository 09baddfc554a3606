"""How requests are found: open addressing, in tables of one size that split when they are full (compiled).

A directory names the table of each beginning of a hash (extendible hashing), so nothing ever stalls to grow as a whole.
"""

from __future__ import annotations

from streams.join.columns.ids import hash_of, id_of, packed_of, size_of_id
from streams.join.columns.layout import (
    ARENA,
    COUNTS,
    DEPTH,
    DEPTHS,
    DIRECTORY,
    MOST_DEPTH,
    TABLE,
    TABLE_FULL,
    TABLES,
    TABLES_USED,
    put,
    reg,
)
from streams.runtime.compiled import compiled
from streams.runtime.native import copy, i64, prefetch, put64, same

_POSITION = (1 << 40) - 1
_FIELD = (1 << 23) - 1


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
