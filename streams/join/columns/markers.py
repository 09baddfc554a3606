"""How a request changes over to the object path and back (compiled): a marker says that it lives there."""

from __future__ import annotations

from streams.join.columns.arena import allocate_for, free, free_heard
from streams.join.columns.cases import retire
from streams.join.columns.fields import ID_AT
from streams.join.columns.ids import hash_of, id_of, pack_id, packed_of, size_of_id
from streams.join.columns.layout import (
    ARENA,
    CASE,
    CASES,
    FLAGS,
    HEAD,
    HEADS_N,
    KIND,
    LIVES,
    MARKER,
    MARKER_WORDS,
    MARKERS,
    PACKED,
    SCRATCH,
    SIZE,
    STUB,
    STUBS,
    field,
    put,
    reg,
)
from streams.join.columns.table import find, insert, remove, replace
from streams.join.columns.take import leave
from streams.runtime.compiled import compiled
from streams.runtime.native import copy, i64, put64, xxh64


@compiled
def surrender(m: int, position: int, linked: bool) -> None:
    """Leave a marker in place of a case, head or stub that has become objects. `linked`: the wheel still knows it."""
    arena = reg(m, ARENA)
    at = arena + position * 8
    size = size_of_id(at)
    words = MARKER_WORDS + (size + 7) // 8
    marker = allocate_for(m, words, LIVES - 1)  # how long it stays is not known here
    there = arena + marker * 8
    put64(there, (words << SIZE) | (MARKER << KIND) | (packed_of(at) * PACKED << FLAGS))
    put64(there + 8, size)
    copy(there + MARKER_WORDS * 8, id_of(at), size)
    replace(m, hash_of(at), position, marker)
    put(m, MARKERS, reg(m, MARKERS) + 1)
    kind = field(i64(at), KIND, 3)
    counter = CASES if kind == CASE else HEADS_N if kind == HEAD else STUBS
    put(m, counter, reg(m, counter) - 1)
    if kind != STUB:
        free_heard(m, at)
    if linked:
        retire(m, position)
    else:
        free(m, position)


@compiled
def _as_kept(m: int, request: int, size: int) -> int:
    """Give where a request id lies as it would be kept: packed, if it can be."""
    kept = reg(m, SCRATCH) + ID_AT
    return kept if pack_id(request, size, kept) else request


@compiled
def look_up(m: int, request: int, size: int) -> int:
    """Give the position of a request's record of any kind, or -1."""
    kept = _as_kept(m, request, size)
    packed = 1 if kept != request else 0
    size = 16 if packed else size
    return find(m, xxh64(kept, size, packed), kept, size, packed)


@compiled
def leave_request(m: int, request: int, size: int) -> None:
    """Leave what follows about a request to the object path, for the rest of the call."""
    kept = _as_kept(m, request, size)
    if kept != request:
        leave(m, xxh64(kept, 16, 1))
    else:
        leave(m, xxh64(request, size, 0))


@compiled
def mark(m: int, request: int, size: int) -> None:
    """Note that a request, new here, lives in the object path."""
    kept = _as_kept(m, request, size)
    packed = 1 if kept != request else 0
    size = 16 if packed else size
    words = MARKER_WORDS + (size + 7) // 8
    marker = allocate_for(m, words, LIVES - 1)
    there = reg(m, ARENA) + marker * 8
    put64(there, (words << SIZE) | (MARKER << KIND) | (packed * PACKED << FLAGS))
    put64(there + 8, size)
    copy(there + MARKER_WORDS * 8, kept, size)
    insert(m, xxh64(kept, size, packed), marker)
    put(m, MARKERS, reg(m, MARKERS) + 1)


@compiled
def forget(m: int, request: int, size: int) -> None:
    """Take a marker away: the request has left the object path."""
    position = look_up(m, request, size)
    if position >= 0 and field(i64(reg(m, ARENA) + position * 8), KIND, 3) == MARKER:
        remove(m, hash_of(reg(m, ARENA) + position * 8), position)
        free(m, position)
        put(m, MARKERS, reg(m, MARKERS) - 1)
