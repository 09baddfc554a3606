"""What is due when: chains of records in the buckets of a wheel (compiled)."""

from __future__ import annotations

from streams.join.columns.arena import touch
from streams.join.columns.layout import (
    ARENA,
    BUCKET,
    BUCKET_BITS,
    FIRST_DUE,
    FLAGS,
    HEADS,
    LEAVING,
    LINKED,
    RETIRED,
    W_DUE,
    W_NEXT,
    WHEEL,
    field,
    put,
    reg,
    with_field,
)
from streams.runtime.compiled import compiled
from streams.runtime.native import i64, put64

NEVER = 1 << 62


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
