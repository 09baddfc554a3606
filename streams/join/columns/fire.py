"""What is due (compiled): early negatives, deadlines, evictions."""

from __future__ import annotations

from typing import Any

from streams.join.columns.arena import allocate, free, rehouse, touch
from streams.join.columns.away import look
from streams.join.columns.cases import next_due
from streams.join.columns.ids import hash_of, id_of, packed_of, size_of_id
from streams.join.columns.layout import (
    ARENA,
    BUCKET,
    BUCKET_BITS,
    CASE,
    CASES,
    CHANGES_N,
    EARLY,
    FIRST_DUE,
    FLAGS,
    GRACE,
    HEAD,
    HEAD_WORDS,
    HEADS,
    HEADS_N,
    HEARD_N,
    JOINED,
    KEPT,
    KIND,
    LINKED,
    OUT_END,
    OUT_FILL,
    P_REACH,
    PACKED,
    RETIRED,
    SIZE,
    SLOW,
    SLOW_N,
    STUB,
    W_AT,
    W_DUE,
    W_HEARD,
    W_HEARD_APPEND,
    W_HEARD_NEXT,
    W_NEXT,
    WHEEL,
    field,
    put,
    reg,
    with_field,
)
from streams.join.columns.settle import DONE, policy_of, settle
from streams.join.columns.table import remove, replace
from streams.join.columns.take import ROOM
from streams.join.columns.wheel import NEVER, first_due, link
from streams.runtime.compiled import compiled
from streams.runtime.native import copy, i64, put64

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
    """Visit what `gather` gave, from number `first` on.

    Gives the number of the next, when room is used up, or what was noted has to be told before that one may leave.

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
        changes = reg(m, CHANGES_N)
        if kind == STUB and not look(m, position, clock_ms):
            continue
        if kind == CASE and settle(m, position, clock_ms) == DONE:
            evict_ms = field(i64(at + W_AT * 8), 0, 48) + i64(policy_of(m, at) + P_REACH * 8) + reg(m, GRACE) + 1
            if clock_ms < evict_ms:
                link(m, position, next_due(m, at, clock_ms))
                continue
            if reg(m, CHANGES_N) != changes:
                return k - 1  # what it says is read from the records that leave
            if _all_counted(m, at):
                _evict(m, position, clock_ms)
                continue
        if kind == HEAD and _all_counted(m, at):
            _go_on(m, position, clock_ms)
            continue
        n = reg(m, SLOW_N)
        put64(reg(m, SLOW) + n * 8, position)
        put(m, SLOW_N, n + 1)
    return k


@compiled
def _all_counted(m: int, at: int) -> bool:
    """Whether all that was heard of a case or head counted, so that none of it becomes a dead letter."""
    arena = reg(m, ARENA)
    position = field(i64(at + W_HEARD * 8), 0, 40) - 1
    while position >= 0:
        heard = arena + position * 8
        if not field(i64(heard), FLAGS, 8) & JOINED:
            return False
        position = field(i64(heard + W_HEARD_NEXT * 8), 0, 40) - 1
    return True


@compiled
def _evict(m: int, position: int, clock_ms: int) -> None:
    """Let a case leave. What was heard of it and has not ended stays, with a head, for it may come again."""
    at = reg(m, ARENA) + position * 8
    h = hash_of(at)
    put(m, CASES, reg(m, CASES) - 1)
    ends_ms = _end_heard(m, position, clock_ms)
    if ends_ms == NEVER:
        remove(m, h, position)
    else:
        heard = rehouse(m, field(i64(at + W_HEARD * 8), 0, 40), 0)
        head = _head(m, at, heard)
        replace(m, h, position, head)
        link(m, head, ends_ms)
    free(m, position)


@compiled
def _head(m: int, at: int, heard: int) -> int:
    """Make the head that stands for a case that leaves; `heard` is the position + 1 of what stays of it."""
    size = size_of_id(at)
    words = HEAD_WORDS + (size + 7) // 8
    position = allocate(m, words)
    there = reg(m, ARENA) + position * 8
    flags = packed_of(at) * PACKED | KEPT
    put64(there, (words << SIZE) | (HEAD << KIND) | (flags << FLAGS) | (field(i64(at), HEARD_N, 8) << HEARD_N))
    put64(there + W_DUE * 8, 0)
    put64(there + W_NEXT * 8, 0)
    put64(there + W_HEARD * 8, heard)
    put64(there + W_AT * 8, size << 48)
    copy(there + HEAD_WORDS * 8, id_of(at), size)
    put(m, HEADS_N, reg(m, HEADS_N) + 1)
    return position


@compiled
def _go_on(m: int, position: int, clock_ms: int) -> None:
    """Let a head whose predictions have left wait for what has not ended, or leave."""
    ends_ms = _end_heard(m, position, clock_ms)
    if ends_ms != NEVER:
        link(m, position, ends_ms)
        return
    remove(m, hash_of(reg(m, ARENA) + position * 8), position)
    free(m, position)
    put(m, HEADS_N, reg(m, HEADS_N) - 1)


@compiled
def _end_heard(m: int, holder: int, clock_ms: int) -> int:
    """Let go what has ended of what a record holds; gives when the next ends, `NEVER` when nothing is left."""
    arena = reg(m, ARENA)
    at = arena + holder * 8
    word = W_HEARD
    next_ms = NEVER
    position = field(i64(at + W_HEARD * 8), 0, 40) - 1
    while position >= 0:
        heard = arena + position * 8
        after = field(i64(heard + W_HEARD_NEXT * 8), 0, 40)
        ends_ms = i64(heard + W_HEARD_APPEND * 8) + reg(m, EARLY) + reg(m, GRACE)
        if ends_ms > clock_ms:
            next_ms = min(next_ms, ends_ms)
            holder = position
            word = W_HEARD_NEXT
        else:
            before = arena + holder * 8 + word * 8
            put64(before, with_field(i64(before), 0, 40, after))
            touch(m, holder)
            put64(at, with_field(i64(at), HEARD_N, 8, field(i64(at), HEARD_N, 8) - 1))
            free(m, position)
        position = after - 1
    return next_ms
