"""Where records live: segments of words, filled one after the other, given back whole (compiled; see `layout`)."""

from __future__ import annotations

from streams.join.columns.layout import (
    ARENA,
    DEAD,
    DIRTY,
    FILL,
    FREE,
    FREED,
    HOURS_1,
    HOURS_2,
    HOURS_3,
    LIVE,
    LIVES,
    OLDEST,
    SEGMENT_WORDS,
    SEGMENTS,
    SIZE,
    W_HEARD,
    W_HEARD_NEXT,
    field,
    put,
    reg,
    with_field,
)
from streams.runtime.compiled import compiled
from streams.runtime.native import copy, i64, put8, put64


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
def rehouse(m: int, first: int, life: int) -> int:
    """Move what was heard of a request to where a life is kept. Takes and gives the first's position + 1."""
    arena = reg(m, ARENA)
    position = first - 1
    moved = 0
    last = 0
    while position >= 0:
        at = arena + position * 8
        words = field(i64(at), SIZE, 20)
        new = allocate_for(m, words, life)
        there = arena + new * 8
        copy(there, at, words * 8)
        if last:
            put64(last + W_HEARD_NEXT * 8, new + 1)
        else:
            moved = new + 1
        last = there
        free(m, position)
        position = field(i64(there + W_HEARD_NEXT * 8), 0, 40) - 1
    return moved


@compiled
def live_from(m: int, position: int, end: int) -> int:
    """Give the first record at `position` or behind it that has not been freed, below the segment's end; -1: none."""
    arena = reg(m, ARENA)
    while position < end:
        word = i64(arena + position * 8)
        size = field(word, SIZE, 20)
        if size == 0:
            return -1
        if not (word >> DEAD) & 1:
            return position
        position += size
    return -1


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
