"""Labels and signals into the columns (compiled): heard events, in a chain from their request."""

from __future__ import annotations

from streams.join.columns.arena import allocate, allocate_for, free, life_of, touch
from streams.join.columns.cases import count
from streams.join.columns.fields import (
    AT,
    CONFIDENCE,
    EVENT,
    ID,
    ID_AT,
    ITEM,
    LABEL_,
    MODEL,
    NAME,
    OP,
    S_ITEM,
    SIGNAL_,
    SOURCE,
    VALUE,
    integer_of,
    is_admitted,
    is_name,
    is_null,
    is_number,
    is_share,
    other_key,
    put_decimal,
    size_of,
    start_of,
    type_of,
)
from streams.join.columns.layout import (
    ARENA,
    C_JOINED,
    CASE,
    EARLY,
    FLAGS,
    GRACE,
    H_DUPLICATE,
    HEAD,
    HEAD_WORDS,
    HEADS_N,
    HEARD_N,
    HEARD_WORDS,
    JOINED,
    KIND,
    LABEL,
    LABEL_COUNTERS,
    MARKER,
    MOST_HEARD,
    MOST_WORDS,
    P_REACH,
    PACKED,
    PARKED,
    RETRACTS,
    SCRATCH,
    SEEN,
    SIGNAL,
    SIGNAL_COUNTERS,
    SIZE,
    SPANS,
    STUB,
    TAKEN_TEXTS,
    VALUED,
    W_AT,
    W_DUE,
    W_HEARD,
    W_HEARD_APPEND,
    W_HEARD_AT,
    W_HEARD_CONTENT,
    W_HEARD_KEY,
    W_HEARD_NEXT,
    W_NAMES,
    W_NEXT,
    W_OFFSET,
    W_REST,
    W_VALUE,
    field,
    put,
    reg,
    with_field,
)
from streams.join.columns.met import meet
from streams.join.columns.scan import ABSENT, ESCAPED, FALSE, FLOAT, INTEGER, NULL, SPAN, STRING, TRUE, TYPE
from streams.join.columns.settle import DONE, counts, policy_of, settle
from streams.join.columns.table import find, insert
from streams.join.columns.texts import text
from streams.join.columns.wheel import link
from streams.runtime.compiled import compiled
from streams.runtime.native import copy, i64, put64, u8, xxh64


@compiled
def _label_fits(m: int) -> bool:
    kind = type_of(m, LABEL_)
    retracts = False
    if type_of(m, OP) != ABSENT:
        size = size_of(m, OP)
        if type_of(m, OP) != STRING:
            return False
        if size == 7 and i64(start_of(m, OP)) & 0xFFFFFFFFFFFFFF == 0x74636172746572:
            retracts = True
        elif size != 6 or i64(start_of(m, OP)) & 0xFFFFFFFFFFFF != 0x747265737361:
            return False
    if kind == ABSENT:
        if not retracts:
            return False
    elif kind not in (STRING, ESCAPED, INTEGER, FLOAT, TRUE, FALSE):
        return False
    if size_of(m, LABEL_) > 8192:
        return False
    source = type_of(m, SOURCE)
    if source not in (ABSENT, STRING) or size_of(m, SOURCE) > 1024:
        return False
    return (
        is_name(m, NAME, 0)
        and (type_of(m, NAME) == ABSENT or size_of(m, NAME) > 0)
        and is_null(m, ITEM)
        and type_of(m, CONFIDENCE) != NULL
        and is_share(m, CONFIDENCE)
        and size_of(m, CONFIDENCE) <= 200
    )


@compiled
def hear(m: int, record: int, h: int, packed: int, labels: bool, label_name: int) -> bool:
    """Take a label or signal that has been scanned. False: left for the object path.

    `h`: the request id's hash; `label_name`: the address of the text `label`.
    """
    start = i64(record)
    size = i64(record + 8)
    model_type = type_of(m, MODEL)
    if model_type == NULL:
        put64(reg(m, SPANS) + MODEL * SPAN + TYPE, ABSENT)
    if not is_admitted(m, record):
        return False
    if labels:
        if not _label_fits(m):
            return False
    elif not (is_name(m, SIGNAL_, 1) and is_number(m, VALUE) and is_null(m, S_ITEM)):
        return False
    model = -1
    if model_type == STRING:
        model = text(m, start_of(m, MODEL), size_of(m, MODEL), TAKEN_TEXTS)
        if model < 0:
            return False
    source = 0
    if not labels:
        name = text(m, start_of(m, SIGNAL_), size_of(m, SIGNAL_), TAKEN_TEXTS)
    else:
        source = text(m, start_of(m, SOURCE), size_of(m, SOURCE), TAKEN_TEXTS)
        if type_of(m, NAME) == ABSENT:
            name = text(m, label_name, 5, TAKEN_TEXTS)
        else:
            name = text(m, start_of(m, NAME), size_of(m, NAME), TAKEN_TEXTS)
    if name < 0 or source < 0:
        return False
    value = 0
    flags = 0
    if not labels:
        if size_of(m, VALUE) and not put_decimal(m, VALUE):
            return False
        if size_of(m, VALUE):
            flags |= VALUED
            value = i64(reg(m, SCRATCH) + 120)

    request = reg(m, SCRATCH) + ID_AT if packed else start_of(m, ID)
    id_n = 16 if packed else size_of(m, ID)
    if other_key(m, record):
        return False  # a dead letter would have to give the key back
    content = xxh64(start, size, 1)
    event_n = size_of(m, EVENT)
    key = xxh64(start_of(m, EVENT), event_n, 0) if event_n else content
    append_ms = i64(record + 40)
    arena = reg(m, ARENA)
    kind = LABEL if labels else SIGNAL
    counters = LABEL_COUNTERS if labels else SIGNAL_COUNTERS
    known = find(m, h, request, id_n, packed)
    if known >= 0:
        at = arena + known * 8
        word = i64(at)
        held_as = field(word, KIND, 3)
        if held_as in (MARKER, STUB) or field(word, HEARD_N, 8) >= MOST_HEARD:
            return False
        position = field(i64(at + W_HEARD * 8), 0, 40) - 1
        while position >= 0:
            held = arena + position * 8
            if i64(held + W_HEARD_KEY * 8) == key and field(i64(held), KIND, 3) == kind:
                if i64(held + W_HEARD_CONTENT * 8) != content or append_ms < i64(held + W_HEARD_APPEND * 8):
                    return False
                count(m, counters + H_DUPLICATE, 1)
                return True
            position = field(i64(held + W_HEARD_NEXT * 8), 0, 40) - 1
        early_ms = append_ms + reg(m, EARLY) + reg(m, GRACE)
        if field(word, KIND, 3) == HEAD and early_ms < field(i64(at + W_DUE * 8), 0, 48):
            return False
    total = HEARD_WORDS + (size + 7) // 8
    if total > MOST_WORDS:
        return False

    life = 0
    if known >= 0 and field(i64(arena + known * 8), KIND, 3) == CASE:
        life = life_of(i64(policy_of(m, arena + known * 8) + P_REACH * 8))
    position = allocate_for(m, total, life)
    new = arena + position * 8
    if labels:
        if type_of(m, OP) == STRING and size_of(m, OP) == 7:
            flags |= RETRACTS
        quotes = 1 if type_of(m, LABEL_) == STRING or type_of(m, LABEL_) == ESCAPED else 0
        label_n = size_of(m, LABEL_) + 2 * quotes if type_of(m, LABEL_) != ABSENT else 0
        value = (HEARD_WORDS * 8 + start_of(m, LABEL_) - quotes - start) | (label_n << 32) if label_n else 0
        confidence = size_of(m, CONFIDENCE)
        if confidence == 1 and u8(start_of(m, CONFIDENCE)) == 49:
            confidence = 0
        if confidence == 3 and u8(start_of(m, CONFIDENCE)) == 49:
            confidence = 0
        offset = HEARD_WORDS * 8 + start_of(m, CONFIDENCE) - start if confidence else 0
        put64(new + W_REST * 8, size | (offset << 32) | (confidence << 56))
    else:
        put64(new + W_REST * 8, size)
    put64(new + W_HEARD_AT * 8, integer_of(m, AT))
    put64(new + W_HEARD_APPEND * 8, append_ms)
    put64(new + W_OFFSET * 8, i64(record + 32))
    put64(new + W_HEARD_KEY * 8, key)
    put64(new + W_HEARD_CONTENT * 8, content)
    put64(new + W_NAMES * 8, name | (source << 20) | ((model + 1) << 40))
    put64(new + W_VALUE * 8, value)
    copy(new + HEARD_WORDS * 8, start, size)
    base = (total << SIZE) | (kind << KIND)

    if known < 0:
        put64(new, base | (flags << FLAGS))
        put64(new + W_HEARD_NEXT * 8, 0)
        words = HEAD_WORDS + (id_n + 7) // 8
        known = allocate(m, words)
        at = arena + known * 8
        put64(at, (words << SIZE) | (HEAD << KIND) | (packed * PACKED << FLAGS) | (1 << HEARD_N))
        put64(at + W_DUE * 8, 0)
        put64(at + W_NEXT * 8, 0)
        put64(at + W_HEARD * 8, position + 1)
        put64(at + W_AT * 8, id_n << 48)
        copy(at + HEAD_WORDS * 8, request, id_n)
        insert(m, h, known)
        put(m, HEADS_N, reg(m, HEADS_N) + 1)
        link(m, known, append_ms + reg(m, EARLY) + reg(m, GRACE))
        count(m, counters + PARKED, 1)
        return True
    at = arena + known * 8
    put64(new, base | (flags << FLAGS))
    put64(new + W_HEARD_NEXT * 8, field(i64(at + W_HEARD * 8), 0, 40))
    word = i64(at)
    said = i64(at + W_HEARD * 8)
    put64(at, with_field(word, HEARD_N, 8, field(word, HEARD_N, 8) + 1))
    put64(at + W_HEARD * 8, with_field(said, 0, 40, position + 1))
    touch(m, known)
    if field(word, KIND, 3) == HEAD or not counts(m, at, policy_of(m, at), new):
        count(m, counters + PARKED, 1)
        return True
    put64(new, base | ((flags | JOINED) << FLAGS))
    if settle(m, known, reg(m, SEEN)) != DONE:
        put64(at, word)
        put64(at + W_HEARD * 8, said)
        free(m, position)
        return False
    count(m, counters + C_JOINED, 1)
    meet(m, at, new)
    return True
