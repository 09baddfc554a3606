"""What is due (compiled): early negatives, deadlines, evictions; and how a request changes over to the object path."""

from __future__ import annotations

from typing import Any

from streams.join.columns.arena import age, allocate_for, free, free_heard
from streams.join.columns.away import look
from streams.join.columns.cases import in_force, next_due, retire
from streams.join.columns.fields import ID_AT
from streams.join.columns.ids import hash_of, id_of, pack_id, packed_of, size_of_id
from streams.join.columns.layout import (
    ARENA,
    BUCKET,
    BUCKET_BITS,
    CASE,
    CASES,
    EARLY,
    FIRST_DUE,
    FLAGS,
    GRACE,
    HEAD,
    HEADS,
    HEADS_N,
    JOINED,
    KIND,
    LINKED,
    LIVES,
    MARKER,
    MARKER_WORDS,
    MARKERS,
    MODEL_OF,
    OUT_END,
    OUT_FILL,
    P_REACH,
    PACKED,
    RETIRED,
    S_MODEL,
    SCRATCH,
    SIZE,
    SLOW,
    SLOW_N,
    STUB,
    STUBS,
    TABLE,
    TABLES,
    TABLES_USED,
    W_AT,
    W_DUE,
    W_HEARD,
    W_HEARD_APPEND,
    W_HEARD_NEXT,
    W_NEXT,
    W_TEXTS,
    WHEEL,
    field,
    put,
    reg,
)
from streams.join.columns.settle import DONE, policy_of, settle
from streams.join.columns.table import find, insert, remove, replace
from streams.join.columns.take import ROOM, leave
from streams.join.columns.wheel import first_due, link
from streams.runtime.compiled import compiled
from streams.runtime.native import copy, i64, put64, xxh64

_POSITION = (1 << 40) - 1
_SPREAD = (1 << 22) - 1


@compiled
def gather(m: int, due: Any, clock_ms: int) -> int:
    """Take what is due at a clock off the wheel into `due`, in the order in which it fires. Gives how many.

    `due` has room for all that is linked. What is retired is freed in the order of positions, for the order in which
    segments become free has to be the same after a snapshot has been loaded, and that of a chain is not.
    """
    if reg(m, FIRST_DUE) > clock_ms:
        return 0
    arena = reg(m, ARENA)
    bucket = reg(m, BUCKET)
    last = clock_ms >> BUCKET_BITS
    if last < bucket:
        last = bucket
    put(m, BUCKET, last)
    if last - bucket >= WHEEL:
        bucket = last - WHEEL + 1
    n = 0
    retired = len(due)
    least = reg(m, FIRST_DUE)
    while bucket <= last:
        head = reg(m, HEADS) + (bucket & (WHEEL - 1)) * 8
        position = i64(head) - 1
        if position >= 0:
            put64(head, 0)
        while position >= 0:
            at = arena + position * 8
            after = field(i64(at + W_NEXT * 8), 0, 40) - 1
            due_ms = field(i64(at + W_DUE * 8), 0, 48)
            put(m, LINKED, reg(m, LINKED) - 1)
            if field(i64(at), FLAGS, 8) & RETIRED:
                retired -= 1
                due[retired] = position
            elif due_ms <= clock_ms:
                late = due_ms - least
                due[n] = ((late if late < _SPREAD else _SPREAD) << 40) | position
                n += 1
            else:
                link(m, position, due_ms)
            position = after
        bucket += 1
    put(m, FIRST_DUE, first_due(m))
    due[retired:].sort()
    for k in range(retired, len(due)):
        free(m, due[k])
    due[:n].sort()
    for k in range(n):
        due[k] &= _POSITION
    return n


@compiled
def fire(m: int, due: Any, first: int, count: int, clock_ms: int) -> int:
    """Visit what `gather` gave, from number `first` on; gives the number of the next, when room is used up.

    What the object path must visit is listed in `SLOW`, by position.
    """
    arena = reg(m, ARENA)
    k = first
    while k < count:
        if reg(m, OUT_END) - reg(m, OUT_FILL) < ROOM:
            break
        position = due[k]
        k += 1
        at = arena + position * 8
        kind = field(i64(at), KIND, 3)
        if kind == STUB and not look(m, position, clock_ms):
            continue
        if kind == CASE and settle(m, position, clock_ms) == DONE:
            evict_ms = field(i64(at + W_AT * 8), 0, 48) + i64(policy_of(m, at) + P_REACH * 8) + reg(m, GRACE) + 1
            if clock_ms < evict_ms:
                link(m, position, next_due(m, at, clock_ms))
                continue
            if _ended(m, at, clock_ms):
                _evict(m, position)
                continue
        n = reg(m, SLOW_N)
        put64(reg(m, SLOW) + n * 8, position)
        put(m, SLOW_N, n + 1)
    return k


@compiled
def _ended(m: int, at: int, clock_ms: int) -> bool:
    """Whether all that was heard of a case counted, and has ended."""
    arena = reg(m, ARENA)
    position = field(i64(at + W_HEARD * 8), 0, 40) - 1
    while position >= 0:
        heard = arena + position * 8
        if not field(i64(heard), FLAGS, 8) & JOINED:
            return False
        if i64(heard + W_HEARD_APPEND * 8) + reg(m, EARLY) + reg(m, GRACE) > clock_ms:
            return False
        position = field(i64(heard + W_HEARD_NEXT * 8), 0, 40) - 1
    return True


@compiled
def _evict(m: int, position: int) -> None:
    at = reg(m, ARENA) + position * 8
    remove(m, hash_of(at), position)
    free_heard(m, at)
    free(m, position)
    put(m, CASES, reg(m, CASES) - 1)


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


@compiled
def governed(m: int, due: Any, model: int) -> int:
    """Find the cases and stubs of a model for which another policy than theirs is in force now; gives how many."""
    arena = reg(m, ARENA)
    n = 0
    for place in range(reg(m, TABLES_USED) * TABLE):
        entry = i64(reg(m, TABLES) + place * 8)
        if entry == 0:
            continue
        position = (entry & _POSITION) - 1
        at = arena + position * 8
        kind = field(i64(at), KIND, 3)
        if kind != CASE and kind != STUB:
            continue
        whose = field(i64(at + W_NEXT * 8), S_MODEL, 20)
        if kind == CASE:
            whose = i64(reg(m, MODEL_OF) + field(i64(at + W_TEXTS * 8), 0, 20) * 8)
        if whose != model:
            continue
        at_ms = field(i64(at + W_AT * 8), 0, 48)
        if in_force(m, model, at_ms) != field(i64(at + W_DUE * 8), 48, 16):
            due[n] = position
            n += 1
    due[:n].sort()  # a table that was built anew has them in another order
    return n


@compiled
def rebuild(m: int, words: int) -> None:
    """Enter all live records of an arena of `words` words into table and wheel, which are empty."""
    arena = reg(m, ARENA)
    put(m, LINKED, 0)
    segment_words = 1 << 15
    for segment in range(words // segment_words):
        position = segment * segment_words
        end = position + segment_words
        while position < end:
            at = arena + position * 8
            word = i64(at)
            size = field(word, SIZE, 20)
            if size == 0:
                break
            kind = field(word, KIND, 3)
            if not (word >> 23) & 1 and (kind in (CASE, HEAD, MARKER, STUB)):
                retired = field(word, FLAGS, 8) & RETIRED
                if not retired:
                    insert(m, hash_of(at), position)
                    if kind == CASE:
                        age(m, position, field(i64(at + W_AT * 8), 0, 48))
                if kind != MARKER:
                    link(m, position, field(i64(at + W_DUE * 8), 0, 48))
            position += size
