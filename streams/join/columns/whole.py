"""What concerns all records of a partition at once (compiled): another policy, and a snapshot that is loaded."""

from __future__ import annotations

from typing import Any

from streams.join.columns.arena import age, live_from
from streams.join.columns.cases import in_force
from streams.join.columns.ids import hash_of
from streams.join.columns.layout import (
    ARENA,
    CASE,
    FLAGS,
    HEAD,
    KIND,
    LINKED,
    MARKER,
    MODEL_OF,
    RETIRED,
    S_MODEL,
    SEGMENT_WORDS,
    SIZE,
    STUB,
    TABLE,
    TABLES,
    TABLES_USED,
    W_AT,
    W_DUE,
    W_NEXT,
    W_TEXTS,
    field,
    put,
    reg,
)
from streams.join.columns.table import insert
from streams.join.columns.wheel import link
from streams.runtime.compiled import compiled
from streams.runtime.native import i64

_POSITION = (1 << 40) - 1


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
    for segment in range(words // SEGMENT_WORDS):
        end = (segment + 1) * SEGMENT_WORDS
        position = live_from(m, segment * SEGMENT_WORDS, end)
        while position >= 0:
            at = arena + position * 8
            word = i64(at)
            kind = field(word, KIND, 3)
            if kind in (CASE, HEAD, MARKER, STUB):
                retired = field(word, FLAGS, 8) & RETIRED
                if not retired:
                    insert(m, hash_of(at), position)
                    if kind == CASE:
                        age(m, position, field(i64(at + W_AT * 8), 0, 48))
                if kind != MARKER:
                    link(m, position, field(i64(at + W_DUE * 8), 0, 48))
            position = live_from(m, position + field(word, SIZE, 20), end)
