"""Requests that are put away (compiled): `streams.join.stubs` for plain ones.

The oldest time of a case is known for each segment of the arena, so only segments that hold something old are walked.
What may go is unlinked from the wheel a bucket at a time, because a chain is walked from its beginning only; then each
leaves a stub, in the order of positions, so that the same is done after a snapshot has been loaded.
"""

from __future__ import annotations

from typing import Any

from streams.join.columns.arena import allocate_for, free, free_heard, life_of, live_from, touch
from streams.join.columns.ids import hash_of, id_of, packed_of, size_of_id
from streams.join.columns.layout import (
    AHEAD,
    ARENA,
    C_PROVISIONAL,
    C_VOID,
    CASE,
    CASES,
    CLASS,
    COUNTERS,
    EVENT_ID,
    FLAGS,
    GRACE,
    HEAD_WORDS,
    JOINED,
    KIND,
    LEAVING,
    MARKERS,
    MODEL_OF,
    OLDEST,
    OPEN,
    P_NEGATIVE,
    P_PROVISIONAL,
    P_REACH,
    P_WAIT,
    PACKED,
    POLICIES,
    POLICY_WORDS,
    RETIRED,
    REVISION,
    S_CONTENT,
    S_MODEL,
    SEGMENT_WORDS,
    SEGMENTS,
    SIZE,
    STUB,
    STUBS,
    UNLABELLED,
    W_APPEND,
    W_AT,
    W_CONTENT,
    W_DUE,
    W_HEARD,
    W_HEARD_APPEND,
    W_HEARD_NEXT,
    W_KEY,
    W_NEXT,
    W_TEXTS,
    field,
    put,
    reg,
    with_field,
)
from streams.join.columns.settle import policy_of
from streams.join.columns.table import remove, replace
from streams.join.columns.wheel import NEVER, link, unlink
from streams.runtime.compiled import compiled
from streams.runtime.native import copy, i64, put64

_LONGEST_MS = 48 * 86_400_000
"""What is due later lies in a bucket of the wheel that is not its own."""


@compiled
def due_away(m: int, at: int, clock_ms: int) -> int:
    """Give when a case or stub has to be looked at once it is put away: see `stubs.Stub.next_due_ms`."""
    policy = policy_of(m, at)
    place = field(i64(at), CLASS, 4)
    at_ms = field(i64(at + W_AT * 8), 0, 48)
    deadline_ms = at_ms + i64(policy + P_WAIT * 8)
    if place == C_PROVISIONAL or (place == OPEN and i64(policy + P_NEGATIVE * 8)):
        early_ms = i64(policy + P_PROVISIONAL * 8)
        if early_ms >= 0 and clock_ms < at_ms + early_ms:
            return at_ms + early_ms - reg(m, AHEAD)
        return deadline_ms - reg(m, AHEAD)
    if place == OPEN:
        return deadline_ms
    return at_ms + i64(policy + P_REACH * 8) + reg(m, GRACE) + 1


@compiled
def _may_leave(m: int, at: int, cut_ms: int, clock_ms: int) -> bool:
    """Whether a case may be put away: see `streams.join.away.leaving`."""
    if field(i64(at + W_APPEND * 8), 0, 48) >= cut_ms:
        return False
    at_ms = field(i64(at + W_AT * 8), 0, 48)
    policy = policy_of(m, at)
    deadline_ms = at_ms + i64(policy + P_WAIT * 8)
    if cut_ms < deadline_ms <= clock_ms:
        return False
    early_ms = i64(policy + P_PROVISIONAL * 8)
    if early_ms >= 0 and cut_ms < at_ms + early_ms <= clock_ms:
        return False
    due_ms = due_away(m, at, clock_ms)
    if due_ms <= clock_ms or field(i64(at + W_DUE * 8), 0, 48) > clock_ms + _LONGEST_MS:
        return False
    arena = reg(m, ARENA)
    position = field(i64(at + W_HEARD * 8), 0, 40) - 1
    while position >= 0:
        heard = arena + position * 8
        if not field(i64(heard), FLAGS, 8) & JOINED or i64(heard + W_HEARD_APPEND * 8) >= cut_ms:
            return False
        position = field(i64(heard + W_HEARD_NEXT * 8), 0, 40) - 1
    return True


@compiled
def _find_old(m: int, found: Any, cut_ms: int, clock_ms: int) -> int:
    """List the cases that may be put away, by position, and mark them; gives how many."""
    arena = reg(m, ARENA)
    n = 0
    for segment in range(reg(m, SEGMENTS)):
        oldest = reg(m, OLDEST) + segment * 8
        if i64(oldest) == 0 or i64(oldest) >= cut_ms:
            continue
        least = NEVER
        end = (segment + 1) * SEGMENT_WORDS
        position = live_from(m, segment * SEGMENT_WORDS, end)
        while position >= 0:
            at = arena + position * 8
            word = i64(at)
            if field(word, KIND, 3) == CASE and not field(word, FLAGS, 8) & RETIRED:
                at_ms = field(i64(at + W_AT * 8), 0, 48)
                if at_ms < cut_ms and _may_leave(m, at, cut_ms, clock_ms):
                    put64(at, with_field(word, FLAGS, 8, field(word, FLAGS, 8) | LEAVING))
                    found[n] = position
                    n += 1
                elif at_ms < least:
                    least = at_ms
            position = live_from(m, position + field(word, SIZE, 20), end)
        put64(oldest, 0 if least == NEVER else (least if least > 0 else 1))
    return n


@compiled
def put_away(m: int, found: Any, cut_ms: int, clock_ms: int) -> int:
    """Put away the cases that may go at a cut; gives how many. `found` has room for all of them."""
    arena = reg(m, ARENA)
    n = _find_old(m, found, cut_ms, clock_ms)
    for k in range(n):
        at = arena + found[k] * 8
        if field(i64(at), FLAGS, 8) & LEAVING:
            unlink(m, field(i64(at + W_DUE * 8), 0, 48))
    for k in range(n):
        _leave(m, found[k], clock_ms)
    return n


@compiled
def _leave(m: int, position: int, clock_ms: int) -> None:
    arena = reg(m, ARENA)
    at = arena + position * 8
    word = i64(at)
    content = i64(at + (W_CONTENT if field(word, FLAGS, 8) & EVENT_ID else W_KEY) * 8)
    model = i64(reg(m, MODEL_OF) + field(i64(at + W_TEXTS * 8), 0, 20) * 8)
    due_ms = due_away(m, at, clock_ms)
    policy = field(i64(at + W_DUE * 8), 48, 16)
    at_ms = field(i64(at + W_AT * 8), 0, 48)
    stub = _stub(m, id_of(at), size_of_id(at), packed_of(at), policy, at_ms, model, content)
    there = arena + stub * 8
    told = with_field(i64(there), CLASS, 4, field(word, CLASS, 4))
    put64(there, with_field(told, REVISION, 20, field(word, REVISION, 20)))
    replace(m, hash_of(at), position, stub)
    link(m, stub, due_ms)
    free_heard(m, at)
    flags = field(word, FLAGS, 8)
    if flags & LEAVING:  # its chain was not the one of its moment: the wheel frees it when it comes by
        put64(at, with_field(word, FLAGS, 8, (flags & ~LEAVING) | RETIRED))
        touch(m, position)
    else:
        free(m, position)
    put(m, CASES, reg(m, CASES) - 1)


@compiled
def _stub(m: int, request: int, size: int, packed: int, policy: int, at_ms: int, model: int, content: int) -> int:
    """Make a stub that is neither in the table nor in the wheel; gives its position."""
    words = HEAD_WORDS + (size + 7) // 8
    reach_ms = i64(reg(m, POLICIES) + policy * (POLICY_WORDS * 8) + P_REACH * 8)
    position = allocate_for(m, words, life_of(reach_ms))
    at = reg(m, ARENA) + position * 8
    put64(at, (words << SIZE) | (STUB << KIND) | (packed * PACKED << FLAGS))
    put64(at + W_DUE * 8, policy << 48)
    put64(at + W_NEXT * 8, model << S_MODEL)
    put64(at + S_CONTENT * 8, content)
    put64(at + W_AT * 8, at_ms | (size << 48))
    copy(at + HEAD_WORDS * 8, request, size)
    put(m, STUBS, reg(m, STUBS) + 1)
    return position


@compiled
def stow(
    m: int, marker: int, due_ms: int, policy: int, at_ms: int, model: int, content: int, place: int, revision: int
) -> None:
    """Leave a stub in place of a marker: a request of the objects has been put away."""
    at = reg(m, ARENA) + marker * 8
    stub = _stub(m, id_of(at), size_of_id(at), packed_of(at), policy, at_ms, model, content)
    there = reg(m, ARENA) + stub * 8
    put64(there, with_field(with_field(i64(there), CLASS, 4, place), REVISION, 20, revision))
    replace(m, hash_of(at), marker, stub)
    free(m, marker)
    put(m, MARKERS, reg(m, MARKERS) - 1)
    link(m, stub, due_ms)


@compiled
def look(m: int, position: int, clock_ms: int) -> bool:
    """Look at a stub that is due and in no chain. True: its request has to be asked for."""
    at = reg(m, ARENA) + position * 8
    word = i64(at)
    place = field(word, CLASS, 4)
    policy = policy_of(m, at)
    at_ms = field(i64(at + W_AT * 8), 0, 48)
    if place == C_PROVISIONAL or (place == OPEN and i64(policy + P_NEGATIVE * 8)):
        return True
    if place == OPEN and clock_ms >= at_ms + i64(policy + P_WAIT * 8):
        counters = reg(m, COUNTERS)
        said = C_VOID if field(word, REVISION, 20) else UNLABELLED
        put64(counters + OPEN * 8, i64(counters + OPEN * 8) - 1)
        put64(counters + said * 8, i64(counters + said * 8) + 1)
        put64(at, with_field(word, CLASS, 4, said))
        touch(m, position)
    if clock_ms > at_ms + i64(policy + P_REACH * 8) + reg(m, GRACE):
        remove(m, hash_of(at), position)
        free(m, position)
        put(m, STUBS, reg(m, STUBS) - 1)
    else:
        link(m, position, due_away(m, at, clock_ms))
    return False
