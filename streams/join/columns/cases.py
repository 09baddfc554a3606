"""A case between two events (compiled): its policy, its next moment, what counts for it, its classes."""

from __future__ import annotations

from streams.join.columns.arena import touch
from streams.join.columns.layout import (
    ARENA,
    BOOK,
    BOOK_COUNT,
    BOOK_START,
    C_JOINED,
    COUNTERS,
    FLAGS,
    GRACE,
    JOINED,
    KIND,
    LABEL,
    LABEL_COUNTERS,
    P_PROVISIONAL,
    P_REACH,
    P_WAIT,
    PARKED,
    RETIRED,
    SIGNAL_COUNTERS,
    W_AT,
    W_HEARD,
    W_HEARD_NEXT,
    field,
    reg,
    with_field,
)
from streams.join.columns.met import meet
from streams.join.columns.settle import counts, policy_of
from streams.runtime.compiled import compiled
from streams.runtime.native import i64, put64


@compiled
def in_force(m: int, model: int, at_ms: int) -> int:
    """Give the number of the policy that resolves a prediction. Rows of the book: from when on, policy."""
    start = i64(reg(m, BOOK_START) + model * 8)
    k = i64(reg(m, BOOK_COUNT) + model * 8) - 1
    book = reg(m, BOOK)
    while k >= 0:
        row = book + (start + k) * 16
        if i64(row) <= at_ms:
            return i64(row + 8)
        k -= 1
    return 0


@compiled
def next_due(m: int, at: int, clock_ms: int) -> int:
    """Give the next moment at which a case that was resolved at `clock_ms` needs a visit."""
    policy = policy_of(m, at)
    at_ms = field(i64(at + W_AT * 8), 0, 48)
    deadline_ms = at_ms + i64(policy + P_WAIT * 8)
    early_ms = i64(policy + P_PROVISIONAL * 8)
    if early_ms >= 0 and clock_ms < at_ms + early_ms:
        return at_ms + early_ms
    if clock_ms < deadline_ms:
        return deadline_ms
    return at_ms + i64(policy + P_REACH * 8) + reg(m, GRACE) + 1


@compiled
def count(m: int, counter: int, by: int) -> None:
    """Move a counter."""
    at = reg(m, COUNTERS) + counter * 8
    put64(at, i64(at) + by)


@compiled
def retire(m: int, position: int) -> None:
    """Take a case or head out of use; it leaves memory when the wheel comes by."""
    at = reg(m, ARENA) + position * 8
    word = i64(at)
    put64(at, with_field(word, FLAGS, 8, field(word, FLAGS, 8) | RETIRED))
    touch(m, position)


@compiled
def reclass(m: int, at: int, policy: int) -> None:
    """What was parked may count now."""
    arena = reg(m, ARENA)
    position = field(i64(at + W_HEARD * 8), 0, 40) - 1
    while position >= 0:
        heard = arena + position * 8
        word = i64(heard)
        if counts(m, at, policy, heard):
            put64(heard, with_field(word, FLAGS, 8, field(word, FLAGS, 8) | JOINED))
            touch(m, position)
            meet(m, at, heard)
            first = LABEL_COUNTERS if field(word, KIND, 3) == LABEL else SIGNAL_COUNTERS
            count(m, first + PARKED, -1)
            count(m, first + C_JOINED, 1)
        position = field(i64(heard + W_HEARD_NEXT * 8), 0, 40) - 1
