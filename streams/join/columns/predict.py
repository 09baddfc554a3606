"""Predictions into the columns (compiled): a case of its own, or a duplicate. Others are left for the object path."""

from __future__ import annotations

from streams.join.columns.arena import age, allocate_for, life_of, rehouse
from streams.join.columns.cases import count, in_force, next_due, reclass, retire
from streams.join.columns.fields import (
    ACTION,
    APP_VERSION,
    AT,
    DEPLOYMENT,
    EMBEDDING,
    EVENT,
    EXPERIMENTS,
    FEATURES,
    ID,
    ID_AT,
    ITEMS,
    LATENCY,
    MODEL,
    OUTPUTS,
    PREDICTION,
    PROPENSITY,
    ROLE,
    SCORE,
    SLICES,
    SUBJECT,
    THRESHOLD,
    VERSION,
    integer_of,
    is_admitted,
    is_name,
    is_null,
    is_number,
    is_object,
    is_share,
    other_key,
    size_of,
    start_of,
    type_of,
)
from streams.join.columns.layout import (
    ARENA,
    CASE,
    CASE_WORDS,
    CASES,
    CLASS,
    DIFFERING,
    DUPLICATE,
    EVENT_ID,
    FIELDS_PREDICTION,
    FLAGS,
    HEADS_N,
    HEARD_N,
    IDENTITY_OF,
    KEEP,
    KEPT,
    KIND,
    LONG,
    MARKER,
    MODEL_OF,
    MOST_WORDS,
    NEW,
    P_CARRY,
    P_PLAIN,
    P_REACH,
    PACKED,
    POLICIES,
    POLICY_WORDS,
    SCRATCH,
    SEEN,
    SHARED_TEXTS,
    SIZE,
    SKEW,
    SPANS,
    STUB,
    TAKEN_TEXTS,
    W_APPEND,
    W_AT,
    W_CONTENT,
    W_DUE,
    W_HEARD,
    W_KEY,
    W_NEXT,
    W_SAID,
    W_TEXTS,
    field,
    put,
    reg,
)
from streams.join.columns.scan import ABSENT, ESCAPED, NULL, NUMBERS, SCALARS, SPAN, STRING, STRINGS
from streams.join.columns.scan import MEMBERS as COUNT
from streams.join.columns.settle import settle
from streams.join.columns.table import find, insert, replace
from streams.join.columns.texts import text
from streams.join.columns.wheel import link
from streams.runtime.compiled import compiled
from streams.runtime.native import copy, i64, put8, put64, u8, xxh64

_AHEAD_MS = 30_000
"""A policy is heard of a minute before it takes effect. A prediction from further ahead than this may yet be
resolved by one that carries features, so what has some keeps them: in the object path."""


@compiled
def _append(out: int, m: int, k: int, quoted: bool) -> int:
    """Write a field as `,"name":value`, if it is given."""
    size = size_of(m, k)
    if size == 0:
        return out
    names = reg(m, FIELDS_PREDICTION) + 65 * 8
    length = i64(names + k * 16 + 8)
    put8(out, 44)
    put8(out + 1, 34)
    copy(out + 2, i64(names + k * 16), length)
    out += length + 2
    put8(out, 34)
    put8(out + 1, 58)
    out += 2
    if quoted:
        put8(out, 34)
        out += 1
    copy(out, start_of(m, k), size)
    out += size
    if quoted:
        put8(out, 34)
        out += 1
    return out


@compiled
def _identity(m: int) -> int:
    """Give the number of the prediction's repeated texts (who answered), or -1."""
    scratch = reg(m, SCRATCH) + 128
    out = _append(scratch, m, MODEL, True)
    out = _append(out, m, DEPLOYMENT, True)
    out = _append(out, m, VERSION, True)
    if size_of(m, ROLE) == 6:
        out = _append(out, m, ROLE, True)
    out = _append(out, m, APP_VERSION, True)
    known = text(m, scratch + 1, out - scratch - 1, TAKEN_TEXTS)
    if known < 0:
        return -1
    if i64(reg(m, IDENTITY_OF) + known * 8) == 0:
        model = text(m, start_of(m, MODEL), size_of(m, MODEL), TAKEN_TEXTS)
        copy(scratch, start_of(m, MODEL), size_of(m, MODEL))
        put8(scratch + size_of(m, MODEL), 0)
        out = scratch + size_of(m, MODEL) + 1
        copy(out, start_of(m, DEPLOYMENT), size_of(m, DEPLOYMENT))
        identity = text(m, scratch, out + size_of(m, DEPLOYMENT) - scratch, TAKEN_TEXTS)
        if model < 0 or identity < 0:
            return -1
        put64(reg(m, MODEL_OF) + known * 8, model)
        put64(reg(m, IDENTITY_OF) + known * 8, identity + 1)
    return known


@compiled
def predict(m: int, record: int, h: int, packed: int) -> bool:
    """Take a prediction that has been scanned. False: left for the object path. `h`: the request id's hash."""
    start = i64(record)
    size = i64(record + 8)
    if not is_admitted(m, record):
        return False
    if not (
        is_name(m, MODEL, 1) and is_name(m, VERSION, 0) and is_name(m, DEPLOYMENT, 0) and is_name(m, APP_VERSION, 0)
    ):
        return False
    role = size_of(m, ROLE)
    if type_of(m, ROLE) != ABSENT and not (
        type_of(m, ROLE) == STRING
        and (
            (role == 7 and i64(start_of(m, ROLE)) & 0xFFFFFFFFFFFFFF == 0x7972616D697270)
            or (role == 6 and i64(start_of(m, ROLE)) & 0xFFFFFFFFFFFF == 0x776F64616873)
        )
    ):
        return False
    if not (is_number(m, SCORE) and is_number(m, THRESHOLD) and is_number(m, LATENCY) and is_share(m, PROPENSITY)):
        return False
    if not (is_null(m, OUTPUTS) and is_null(m, ITEMS)):
        return False
    if not (is_null(m, EMBEDDING) or (type_of(m, EMBEDDING) == NUMBERS and not reg(m, KEEP))):
        return False
    kind = type_of(m, PREDICTION)
    if kind in (SCALARS, STRINGS, NUMBERS) or kind > STRINGS:
        return False
    if not (is_object(m, FEATURES, False) and is_object(m, SLICES, False) and is_object(m, EXPERIMENTS, True)):
        return False
    if type_of(m, EXPERIMENTS) != ABSENT and (
        i64(reg(m, SPANS) + EXPERIMENTS * SPAN + COUNT) > 64 or size_of(m, EXPERIMENTS) > 130
    ):
        return False
    kind = type_of(m, SUBJECT)
    if kind not in (ABSENT, STRING, ESCAPED) or size_of(m, SUBJECT) > 256:
        return False
    kind = type_of(m, ACTION)
    if kind not in (ABSENT, STRING, ESCAPED, NULL) or size_of(m, ACTION) > 1024:
        return False
    if kind != ABSENT and kind != NULL and size_of(m, ACTION) == 0:
        return False
    if size_of(m, LATENCY) > 200 or (size_of(m, LATENCY) and u8(start_of(m, LATENCY)) == 45):
        return False
    if (
        size_of(m, SCORE) > 64
        or size_of(m, THRESHOLD) > 64
        or size_of(m, PREDICTION) > 8192
        or size_of(m, SLICES) > 4096
    ):
        return False
    at_ms = integer_of(m, AT)
    append_ms = i64(record + 40)
    if at_ms < append_ms - reg(m, SKEW):
        return False
    who = _identity(m)
    if who < 0:
        return False
    model = i64(reg(m, MODEL_OF) + who * 8)
    number = in_force(m, model, at_ms)
    policy = reg(m, POLICIES) + number * (POLICY_WORDS * 8)
    if not i64(policy + P_PLAIN * 8) or append_ms > at_ms + i64(policy + P_REACH * 8):
        return False

    request = reg(m, SCRATCH) + ID_AT if packed else start_of(m, ID)
    id_n = 16 if packed else size_of(m, ID)
    content = xxh64(start, size, 1)
    event_n = size_of(m, EVENT)
    key = xxh64(start_of(m, EVENT), event_n, 0) if event_n else content
    arena = reg(m, ARENA)
    known = find(m, h, request, id_n, packed)
    heard = 0
    heard_n = 0
    if known >= 0:
        at = arena + known * 8
        kind = field(i64(at), KIND, 3)
        if kind in (MARKER, STUB):
            return False
        if kind == CASE:
            other = field(i64(at + W_TEXTS * 8), 0, 20)
            if i64(reg(m, IDENTITY_OF) + other * 8) != i64(reg(m, IDENTITY_OF) + who * 8):
                return False
            held = i64(at + (W_CONTENT if field(i64(at), FLAGS, 8) & EVENT_ID else W_KEY) * 8)
            if i64(at + W_KEY * 8) != key or held != content or append_ms < field(i64(at + W_APPEND * 8), 0, 48):
                return False
            count(m, DUPLICATE, 1)
            put(m, DIFFERING, reg(m, DIFFERING) + other_key(m, record))
            return True
        if field(i64(at), FLAGS, 8) & KEPT:
            return False
        heard = field(i64(at + W_HEARD * 8), 0, 40)
        heard_n = field(i64(at), HEARD_N, 8)

    # The texts of the prediction: shared, or in the record itself.
    scratch = reg(m, SCRATCH) + 128
    out = _append(scratch, m, THRESHOLD, False)
    if size_of(m, SLICES) > 2:
        out = _append(out, m, SLICES, False)
    if size_of(m, EXPERIMENTS) > 2:
        out = _append(out, m, EXPERIMENTS, False)
    out = _append(out, m, ACTION, True)
    more = out - scratch
    shared = 0
    if more:
        shared = text(m, scratch, more, SHARED_TEXTS) + 1
        if shared:
            more = 0
    features = 0
    if i64(policy + P_CARRY * 8) or reg(m, KEEP):
        features = size_of(m, FEATURES)
        if features == 2:
            features = 0
    elif size_of(m, FEATURES) > 2 and at_ms > append_ms + _AHEAD_MS:
        return False
    latency = size_of(m, LATENCY) if reg(m, KEEP) else 0
    quotes = 2 if type_of(m, PREDICTION) == STRING or type_of(m, PREDICTION) == ESCAPED else 0
    given = 0 if is_null(m, PREDICTION) else size_of(m, PREDICTION) + quotes
    flags = (EVENT_ID if event_n else 0) | (LONG if more or features else 0) | packed * PACKED
    words = CASE_WORDS + (1 if event_n else 0) + (1 if more or features else 0)
    size_n = id_n + size_of(m, SCORE) + given + size_of(m, SUBJECT) + size_of(m, PROPENSITY) + latency + more + features
    total = words + (size_n + 7) // 8
    if total > MOST_WORDS:
        return False

    life = life_of(i64(policy + P_REACH * 8))
    if heard and life:
        heard = rehouse(m, heard, life)
    position = allocate_for(m, total, life)
    age(m, position, at_ms)
    at = arena + position * 8
    put64(at, (total << SIZE) | (CASE << KIND) | (flags << FLAGS) | (NEW << CLASS) | (heard_n << HEARD_N))
    put64(at + W_DUE * 8, number << 48)
    put64(at + W_NEXT * 8, (latency << 40) | (size_of(m, PROPENSITY) << 48))
    put64(at + W_HEARD * 8, heard)
    put64(at + W_AT * 8, at_ms | (id_n << 48))
    put64(at + W_APPEND * 8, append_ms | (size_of(m, SUBJECT) << 48))
    put64(at + W_KEY * 8, key)
    put64(at + W_TEXTS * 8, who | (shared << 20) | (size_of(m, SCORE) << 40))
    put64(at + W_SAID * 8, given << 40)
    if event_n:
        put64(at + W_CONTENT * 8, content)
    if more or features:
        put64(at + (words - 1) * 8, more | (features << 24))
    to = at + words * 8
    copy(to, request, id_n)
    to += id_n
    copy(to, start_of(m, SCORE), size_of(m, SCORE))
    to += size_of(m, SCORE)
    copy(to, start_of(m, PREDICTION) - quotes // 2, given)
    to += given
    copy(to, start_of(m, SUBJECT), size_of(m, SUBJECT))
    to += size_of(m, SUBJECT)
    copy(to, start_of(m, PROPENSITY), size_of(m, PROPENSITY))
    to += size_of(m, PROPENSITY)
    copy(to, start_of(m, LATENCY), latency)
    to += latency
    copy(to, scratch, more)
    to += more
    copy(to, start_of(m, FEATURES), features)

    if known >= 0:
        replace(m, h, known, position)
        retire(m, known)
        put(m, HEADS_N, reg(m, HEADS_N) - 1)
        reclass(m, at, policy)
    else:
        insert(m, h, position)
    put(m, CASES, reg(m, CASES) + 1)
    put(m, DIFFERING, reg(m, DIFFERING) + other_key(m, record))
    settle(m, position, reg(m, SEEN))
    link(m, position, next_due(m, at, reg(m, SEEN)))
    return True
