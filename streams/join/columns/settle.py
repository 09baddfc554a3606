"""What is known of a case, and the revision that says so (compiled): `resolve` and `revise` for plain cases.

`settle` decides first and writes afterwards, so that it may give a case up (`DOUBT`) to the object path untouched:
labels that are written differently and may yet be equal (`1` and `1.0`) are compared there.
"""

from __future__ import annotations

import numpy as np

from streams.join.columns.arena import touch
from streams.join.columns.layout import (
    ARENA,
    C_FINAL,
    C_PROVISIONAL,
    C_VOID,
    CHAINED,
    CHANGE,
    CHANGES,
    CHANGES_N,
    CLASS,
    COUNTERS,
    EARLY,
    EXPLICIT,
    FINAL,
    FLAGS,
    IMPLICIT,
    KIND,
    LABEL,
    MODEL_OF,
    NEW,
    NONE,
    OPEN,
    P_EXPOSURE,
    P_HORIZON,
    P_LABEL,
    P_LABEL_N,
    P_NAME,
    P_NEGATIVE,
    P_PRECEDENCE,
    P_PRECEDENCE_N,
    P_PROVISIONAL,
    P_REACH,
    P_RULES,
    P_RULES_N,
    P_WAIT,
    POLICIES,
    POLICY_WORDS,
    PRECEDENCE,
    PROVISIONAL,
    R_COMPARE,
    R_LABEL,
    R_LABEL_N,
    R_SIGNAL,
    R_VALUE,
    R_WEIGHT,
    R_WEIGHT_N,
    R_WITHIN,
    RETRACTS,
    REVISION,
    RULE_WORDS,
    RULES,
    SCRATCH,
    SKEW,
    TIMEOUT,
    UNLABELLED,
    VALUED,
    VOID,
    W_APPEND,
    W_AT,
    W_DUE,
    W_HEARD,
    W_HEARD_APPEND,
    W_HEARD_AT,
    W_HEARD_KEY,
    W_HEARD_NEXT,
    W_NAMES,
    W_REST,
    W_SAID,
    W_TEXTS,
    W_VALUE,
    field,
    put,
    reg,
    with_field,
)
from streams.join.columns.render import revise
from streams.runtime.compiled import compiled
from streams.runtime.native import as_float, i64, put64, same, u8

DONE, DOUBT = 0, 1
_LAST_REVISION = 1 << 19
_FAR = 1 << 40


@compiled
def policy_of(m: int, at: int) -> int:
    """Give the address of a case's policy."""
    return reg(m, POLICIES) + field(i64(at + W_DUE * 8), 48, 16) * (POLICY_WORDS * 8)


@compiled
def counts(m: int, at: int, policy: int, heard: int) -> bool:
    """Whether a label or signal counts for a case."""
    names = i64(heard + W_NAMES * 8)
    word = i64(heard)
    model = field(names, 40, 20) - 1
    if model >= 0 and model != i64(reg(m, MODEL_OF) + field(i64(at + W_TEXTS * 8), 0, 20) * 8):
        return False
    at_ms = field(i64(at + W_AT * 8), 0, 48)
    reach_ms = at_ms + i64(policy + P_REACH * 8)
    last_ms = at_ms + i64(policy + P_HORIZON * 8)
    if field(word, KIND, 3) == LABEL:
        if field(names, 0, 20) != i64(policy + P_NAME * 8):
            return False
        if field(word, FLAGS, 8) & RETRACTS:
            last_ms = reach_ms
    true_ms = i64(heard + W_HEARD_AT * 8)
    if true_ms < at_ms - reg(m, SKEW) or true_ms > last_ms:
        return False
    append_ms = i64(heard + W_HEARD_APPEND * 8)
    return append_ms <= reach_ms and field(i64(at + W_APPEND * 8), 0, 48) <= append_ms + reg(m, EARLY)


@compiled
def _later(one: int, other: int) -> bool:
    """Whether a heard event has the greater (at_ms, key)."""
    a = i64(one + W_HEARD_AT * 8)
    b = i64(other + W_HEARD_AT * 8)
    if a != b:
        return a > b
    return np.uint64(i64(one + W_HEARD_KEY * 8)) > np.uint64(i64(other + W_HEARD_KEY * 8))  # type: ignore[return-value]


@compiled
def _speaks(m: int, at: int, policy: int) -> int:
    """Give the position of the label that is in force, or -1."""
    arena = reg(m, ARENA)
    precedence = reg(m, PRECEDENCE) + i64(policy + P_PRECEDENCE * 8) * 8
    listed = i64(policy + P_PRECEDENCE_N * 8)
    best = -1
    best_rank = _FAR
    position = field(i64(at + W_HEARD * 8), 0, 40) - 1
    first = position
    while position >= 0:
        heard = arena + position * 8
        word = i64(heard)
        if field(word, KIND, 3) == LABEL and not field(word, FLAGS, 8) & RETRACTS and counts(m, at, policy, heard):
            source = field(i64(heard + W_NAMES * 8), 20, 20)
            last = True
            other = first
            while other >= 0 and last:
                rival = arena + other * 8
                if (
                    other != position
                    and field(i64(rival), KIND, 3) == LABEL
                    and field(i64(rival + W_NAMES * 8), 20, 20) == source
                    and _later(rival, heard)
                    and counts(m, at, policy, rival)
                ):
                    last = False
                other = field(i64(rival + W_HEARD_NEXT * 8), 0, 40) - 1
            if last:
                rank = _FAR - 1
                for k in range(listed):
                    if i64(precedence + k * 8) == source:
                        rank = k
                        break
                if rank < best_rank or (rank == best_rank and _later(heard, arena + best * 8)):
                    best = position
                    best_rank = rank
        position = field(i64(heard + W_HEARD_NEXT * 8), 0, 40) - 1
    return best


@compiled
def _compares(rule: int, heard: int) -> bool:
    compare = i64(rule + R_COMPARE * 8)
    if compare == 0:
        return True
    if not field(i64(heard), FLAGS, 8) & VALUED or compare < 0:
        return False
    value = as_float(i64(heard + W_VALUE * 8))
    asked = as_float(i64(rule + R_VALUE * 8))
    if compare == 1:
        return value < asked
    if compare == 2:
        return value <= asked
    if compare == 3:
        return value > asked
    if compare == 4:
        return value >= asked
    return value == asked


@compiled
def _implied(m: int, at: int, policy: int, rule: int) -> int:
    """Give the position of the earliest signal that a rule of attribution is met by, or -1."""
    arena = reg(m, ARENA)
    best = -1
    until_ms = field(i64(at + W_AT * 8), 0, 48) + i64(rule + R_WITHIN * 8)
    position = field(i64(at + W_HEARD * 8), 0, 40) - 1
    while position >= 0:
        heard = arena + position * 8
        if (
            field(i64(heard), KIND, 3) != LABEL
            and field(i64(heard + W_NAMES * 8), 0, 20) == i64(rule + R_SIGNAL * 8)
            and i64(heard + W_HEARD_AT * 8) <= until_ms
            and _compares(rule, heard)
            and counts(m, at, policy, heard)
            and (best < 0 or _later(arena + best * 8, heard))
        ):
            best = position
        position = field(i64(heard + W_HEARD_NEXT * 8), 0, 40) - 1
    return best


@compiled
def _exposed(m: int, at: int, policy: int) -> bool:
    arena = reg(m, ARENA)
    position = field(i64(at + W_HEARD * 8), 0, 40) - 1
    while position >= 0:
        heard = arena + position * 8
        if (
            field(i64(heard), KIND, 3) != LABEL
            and field(i64(heard + W_NAMES * 8), 0, 20) == i64(policy + P_EXPOSURE * 8)
            and counts(m, at, policy, heard)
        ):
            return True
        position = field(i64(heard + W_HEARD_NEXT * 8), 0, 40) - 1
    return False


@compiled
def _label(m: int, policy: int, kind: int, rule: int, position: int, span: int) -> None:
    """Note address and length of an outcome's label, then of its weight (length 0: it is 1), at `span`."""
    if kind == EXPLICIT:
        heard = reg(m, ARENA) + position * 8
        value = i64(heard + W_VALUE * 8)
        rest = i64(heard + W_REST * 8)
        put64(span, heard + field(value, 0, 32))
        put64(span + 8, field(value, 32, 32))
        put64(span + 16, heard + field(rest, 32, 24))
        put64(span + 24, field(rest, 56, 8))
    elif kind == IMPLICIT:
        row = reg(m, RULES) + (i64(policy + P_RULES * 8) + rule) * (RULE_WORDS * 8)
        put64(span, i64(row + R_LABEL * 8))
        put64(span + 8, i64(row + R_LABEL_N * 8))
        put64(span + 16, i64(row + R_WEIGHT * 8))
        put64(span + 24, i64(row + R_WEIGHT_N * 8))
    elif kind == TIMEOUT:
        put64(span, i64(policy + P_LABEL * 8))
        put64(span + 8, i64(policy + P_LABEL_N * 8))
        put64(span + 24, 0)
    else:
        put64(span + 8, 0)
        put64(span + 24, 0)


@compiled
def _plain(at: int, size: int) -> int:
    """Say what a label is by its text: 1 a string without escapes, 2 a truth value, 3 an integer as one writes it."""
    first = u8(at)
    if first == 34:
        for k in range(at + 1, at + size - 1):
            if u8(k) == 92:
                return 0
        return 1
    if first == 116 or first == 102:
        return 2
    if first == 45:
        return 0
    for k in range(at, at + size):
        if not 48 <= u8(k) <= 57:
            return 0
    return 3


@compiled
def _differs(span: int, other: int) -> int:
    """Compare two texts: 0 equal, 1 different values, 2 in doubt."""
    size = i64(span + 8)
    size_other = i64(other + 8)
    if size == size_other and same(i64(span), i64(other), size):
        return 0
    if size == 0 or size_other == 0:
        return 1
    one = _plain(i64(span), size)
    two = _plain(i64(other), size_other)
    return 1 if one and two else 2


@compiled
def settle(m: int, position: int, clock_ms: int) -> int:
    """Resolve a case at a clock; render the revision, count, note the change. `DOUBT`: nothing was done."""
    arena = reg(m, ARENA)
    at = arena + position * 8
    policy = policy_of(m, at)
    at_ms = field(i64(at + W_AT * 8), 0, 48)
    deadline_ms = at_ms + i64(policy + P_WAIT * 8)
    kind = NONE
    status = VOID
    rule = 0
    said_by = -1
    if i64(at + W_HEARD * 8) & ((1 << 40) - 1):
        said_by = _speaks(m, at, policy)
        if said_by >= 0:
            kind = EXPLICIT
            status = FINAL
        else:
            rules = reg(m, RULES) + i64(policy + P_RULES * 8) * (RULE_WORDS * 8)
            for k in range(i64(policy + P_RULES_N * 8)):
                said_by = _implied(m, at, policy, rules + k * (RULE_WORDS * 8))
                if said_by >= 0:
                    kind = IMPLICIT
                    rule = k
                    status = FINAL if clock_ms >= deadline_ms else PROVISIONAL
                    break
    if kind == NONE and i64(policy + P_NEGATIVE * 8):
        early_ms = i64(policy + P_PROVISIONAL * 8)
        from_ms = deadline_ms if early_ms < 0 else at_ms + early_ms
        if clock_ms >= from_ms and (i64(policy + P_EXPOSURE * 8) < 0 or _exposed(m, at, policy)):
            kind = TIMEOUT
            status = FINAL if clock_ms >= deadline_ms else PROVISIONAL

    word = i64(at)
    revision = field(word, REVISION, 20)
    said = i64(at + W_HEARD * 8)
    said_kind = field(said, 40, 2)
    said_status = field(said, 42, 2)
    counted = field(said, 44, 2)
    said_rule = field(said, 46, 8)
    said_ref = field(i64(at + W_SAID * 8), 0, 40) - 1
    now = reg(m, SCRATCH)
    before = now + 32
    revised = False
    if kind != NONE or said_kind != NONE:
        _label(m, policy, kind, rule, said_by, now)
        _label(m, policy, said_kind, said_rule, said_ref, before)
        differs = _differs(now, before)
        if differs == 2:
            return DOUBT
        revised = differs == 1 or kind != said_kind
        if not revised and kind != NONE:
            weight = _differs(now + 16, before + 16)
            if weight and (i64(now + 24) or i64(before + 24)):
                return DOUBT
    if revised and revision >= _LAST_REVISION:
        return DOUBT

    first = field(word, CLASS, 4) == NEW
    if revised:
        labelled_ms = -1
        if kind in (EXPLICIT, IMPLICIT):
            labelled_ms = i64(arena + said_by * 8 + W_HEARD_AT * 8)
        revise(m, at, policy, revision + 1, kind, status, now, labelled_ms, said_kind, said_status, before)
    if reg(m, CHAINED) and (revised or first or (kind != NONE and status != counted)):
        _note_change(m, position, first, word, said, said_ref, revised, revision, kind, status, rule, said_by)
    if revised:
        revision += 1
        word = with_field(word, REVISION, 20, revision)
        said = with_field(with_field(said, 40, 2, kind), 42, 2, status)
        said = with_field(said, 46, 8, rule)
        put64(at + W_SAID * 8, with_field(i64(at + W_SAID * 8), 0, 40, said_by + 1))
    if kind != NONE:
        said = with_field(said, 44, 2, status)
        place = C_FINAL if status == FINAL else C_PROVISIONAL
    elif clock_ms < deadline_ms:
        place = OPEN
    else:
        place = C_VOID if revision else UNLABELLED
    put64(at + W_HEARD * 8, said)
    was = field(word, CLASS, 4)
    if place != was:
        counters = reg(m, COUNTERS)
        put64(counters + place * 8, i64(counters + place * 8) + 1)
        if not first:
            put64(counters + was * 8, i64(counters + was * 8) - 1)
        word = with_field(word, CLASS, 4, place)
    put64(at, word)
    touch(m, position)
    return DONE


@compiled
def _note_change(
    m: int,
    position: int,
    first: bool,
    word: int,
    said: int,
    said_ref: int,
    revised: bool,
    revision: int,
    kind: int,
    status: int,
    rule: int,
    said_by: int,
) -> None:
    n = reg(m, CHANGES_N)
    change = reg(m, CHANGES) + n * (CHANGE * 8)
    put(m, CHANGES_N, n + 1)
    said_kind = field(said, 40, 2)
    said_rule = field(said, 46, 8)
    put64(change, position)
    put64(change + 8, 0 if first else 1)
    put64(change + 16, said_kind | field(said, 44, 2) << 2 | said_rule << 8)
    put64(change + 24, said_ref)
    put64(change + 32, revision)
    if revised:
        put64(change + 40, kind | status << 2 | rule << 8)
        put64(change + 48, said_by)
        put64(change + 56, revision + 1)
    else:  # what is counted stays what the last revision said, but for its status
        put64(change + 40, said_kind | status << 2 | said_rule << 8)
        put64(change + 48, said_ref)
        put64(change + 56, revision)
