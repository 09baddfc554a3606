"""Records into the columns (compiled): admission and merging of the plain ones; others are left for the object path.

The rules are those of `streams.join.admission`, but nothing is ever refused here: what does not pass is left, and there
it is refused with its reason.
"""

from __future__ import annotations

from streams.join.columns.layout import (
    ARENA,
    BOOK,
    BOOK_COUNT,
    BOOK_START,
    C_JOINED,
    CASE,
    CASE_WORDS,
    CASES,
    CLASS,
    COUNTERS,
    DIFFERING,
    DUPLICATE,
    EARLY,
    EVENT_ID,
    FIELDS_LABEL,
    FIELDS_PREDICTION,
    FIELDS_SIGNAL,
    FLAGS,
    GRACE,
    H_DUPLICATE,
    HEAD,
    HEAD_WORDS,
    HEADS_N,
    HEARD_N,
    HEARD_WORDS,
    IDENTITY_OF,
    JOINED,
    KEEP,
    KIND,
    LABEL,
    LABEL_COUNTERS,
    LEFT,
    LEFT_BITS,
    LONG,
    MARKER,
    MODEL_OF,
    MOST_BYTES,
    MOST_HEARD,
    MOST_WORDS,
    NEW,
    OUT_END,
    OUT_FILL,
    P_CARRY,
    P_PLAIN,
    P_PROVISIONAL,
    P_REACH,
    P_WAIT,
    PACKED,
    PARKED,
    PARTITION,
    PARTITIONS,
    POLICIES,
    POLICY_WORDS,
    RECORD,
    RETIRED,
    RETRACTS,
    SCRATCH,
    SEEN,
    SHARED_TEXTS,
    SIGNAL,
    SIGNAL_COUNTERS,
    SIZE,
    SKEW,
    SLOW,
    SLOW_N,
    SPANS,
    STUB,
    TAKEN_TEXTS,
    UNSURE,
    VALUED,
    W_APPEND,
    W_AT,
    W_CONTENT,
    W_DUE,
    W_HEARD,
    W_HEARD_APPEND,
    W_HEARD_AT,
    W_HEARD_CONTENT,
    W_HEARD_KEY,
    W_HEARD_NEXT,
    W_KEY,
    W_NAMES,
    W_NEXT,
    W_OFFSET,
    W_REST,
    W_SAID,
    W_TEXTS,
    W_VALUE,
    field,
    put,
    reg,
    with_field,
)
from streams.join.columns.met import meet
from streams.join.columns.scan import (
    ABSENT,
    END,
    ESCAPED,
    FALSE,
    FLOAT,
    INTEGER,
    NULL,
    NUMBERS,
    SCALARS,
    SPAN,
    START,
    STRING,
    STRINGS,
    TRUE,
    TYPE,
    scan,
)
from streams.join.columns.scan import MEMBERS as COUNT
from streams.join.columns.settle import DONE, counts, policy_of, settle
from streams.join.columns.store import (
    age,
    allocate,
    allocate_for,
    bring_near,
    bring_place_near,
    find,
    free,
    insert,
    life_of,
    link,
    pack_id,
    replace,
    text,
    touch,
)
from streams.runtime.compiled import compiled
from streams.runtime.native import copy, i64, partition_of, put8, put64, put_double, same, u8, xxh64

PREDICTION_FIELDS = (
    "request_id",
    "at_ms",
    "model",
    "event_id",
    "version",
    "deployment",
    "role",
    "app_version",
    "score",
    "prediction",
    "outputs",
    "items",
    "features",
    "embedding",
    "slices",
    "subject",
    "experiments",
    "action",
    "propensity",
    "threshold",
    "latency_ms",
)
(
    ID,
    AT,
    MODEL,
    EVENT,
    VERSION,
    DEPLOYMENT,
    ROLE,
    APP_VERSION,
    SCORE,
    PREDICTION,
    OUTPUTS,
    ITEMS,
    FEATURES,
    EMBEDDING,
    SLICES,
    SUBJECT,
    EXPERIMENTS,
    ACTION,
    PROPENSITY,
    THRESHOLD,
    LATENCY,
) = range(21)
LABEL_FIELDS = ("request_id", "at_ms", "model", "event_id", "label", "name", "item", "source", "confidence", "op")
LABEL_, NAME, ITEM, SOURCE, CONFIDENCE, OP = range(4, 10)
SIGNAL_FIELDS = ("request_id", "at_ms", "model", "event_id", "signal", "value", "item")
SIGNAL_, VALUE, S_ITEM = range(4, 7)

_MAX_MS = 253_402_300_799_999
_LAST_MS = 1 << 47
"""The year 6429: with it, and a policy's waits, every moment fits 48 bits."""
_AHEAD_MS = 30_000
"""A policy is heard of a minute before it takes effect. A prediction from further ahead than this may yet be
resolved by one that carries features, so what has some keeps them: in the object path."""
ID_AT = 100 << 10
"""Where in the scratch a packed request id lies."""
_AHEAD = 8
"""How many records ahead what they will meet is brought near."""
_AHEAD_AT = ID_AT + 64
"""Where in the scratch their hashes lie, and behind them a packed key."""
_ROOM = 1 << 17
"""Bytes that one record's revision surely has room in: `MOST_WORDS` twice, and the fixed texts."""


@compiled
def _type(m: int, k: int) -> int:
    return i64(reg(m, SPANS) + k * SPAN + TYPE)


@compiled
def _from(m: int, k: int) -> int:
    return i64(reg(m, SPANS) + k * SPAN + START)


@compiled
def _size(m: int, k: int) -> int:
    """Give the length of a field's text; 0 for one that is absent or null."""
    span = reg(m, SPANS) + k * SPAN
    kind = i64(span + TYPE)
    return 0 if kind in (ABSENT, NULL) else i64(span + END) - i64(span + START)


@compiled
def _name(m: int, k: int, least: int) -> bool:
    """Whether a field is a string of at most 128 bytes without escapes (or absent, when `least` is 0)."""
    kind = _type(m, k)
    if kind == ABSENT:
        return least == 0
    return kind == STRING and least <= _size(m, k) <= 128


@compiled
def _nullable(m: int, k: int) -> bool:
    kind = _type(m, k)
    return kind in (ABSENT, NULL)


@compiled
def _numeric(m: int, k: int) -> bool:
    """Whether a field is a number, null or absent."""
    kind = _type(m, k)
    return kind in (INTEGER, FLOAT, NULL, ABSENT)


@compiled
def _share(m: int, k: int) -> bool:
    """Whether a field is surely a number in [0, 1] (written 0, 1, 0.…, 1.0), null or absent."""
    if _nullable(m, k):
        return True
    if not _numeric(m, k):
        return False
    at = _from(m, k)
    size = _size(m, k)
    if size > 200:
        return False
    for i in range(size):
        c = u8(at + i)
        if c == 101 or c == 69 or c == 45:
            return False
    if u8(at) == 48:
        return True
    return u8(at) == 49 and (size == 1 or (size == 3 and u8(at + 2) == 48))


@compiled
def _objects(m: int, k: int, strings_only: bool) -> bool:
    kind = _type(m, k)
    return kind in (ABSENT, STRINGS) or (kind == SCALARS and not strings_only)


@compiled
def _integer(m: int, k: int) -> int:
    """Give a field's integer in [0, the end of 9999]; -1 for anything else."""
    if _type(m, k) != INTEGER:
        return -1
    at = _from(m, k)
    value = 0
    for i in range(_size(m, k)):
        c = u8(at + i) - 48
        if c < 0:
            return -1
        value = value * 10 + c
    return value if value <= _MAX_MS else -1


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
def _append(out: int, m: int, k: int, quoted: bool) -> int:
    """Write a field as `,"name":value`, if it is given."""
    size = _size(m, k)
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
    copy(out, _from(m, k), size)
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
    if _size(m, ROLE) == 6:
        out = _append(out, m, ROLE, True)
    out = _append(out, m, APP_VERSION, True)
    known = text(m, scratch + 1, out - scratch - 1, TAKEN_TEXTS)
    if known < 0:
        return -1
    if i64(reg(m, IDENTITY_OF) + known * 8) == 0:
        model = text(m, _from(m, MODEL), _size(m, MODEL), TAKEN_TEXTS)
        copy(scratch, _from(m, MODEL), _size(m, MODEL))
        put8(scratch + _size(m, MODEL), 0)
        out = scratch + _size(m, MODEL) + 1
        copy(out, _from(m, DEPLOYMENT), _size(m, DEPLOYMENT))
        identity = text(m, scratch, out + _size(m, DEPLOYMENT) - scratch, TAKEN_TEXTS)
        if model < 0 or identity < 0:
            return -1
        put64(reg(m, MODEL_OF) + known * 8, model)
        put64(reg(m, IDENTITY_OF) + known * 8, identity + 1)
    return known


@compiled
def _admitted(m: int, record: int) -> bool:
    """What every record must pass: no headers, not large, its own partition, a clock that may be right."""
    size = i64(record + 8)
    if i64(record + 48) or size < 0 or (size + i64(record + 24)) * 4 > reg(m, MOST_BYTES):
        return False
    if not (_name(m, ID, 1) and _name(m, MODEL, 0)):
        return False
    kind = _type(m, EVENT)
    if kind not in (ABSENT, STRING) or _size(m, EVENT) > 4096:
        return False
    at_ms = _integer(m, AT)
    append_ms = i64(record + 40)
    if at_ms < 0 or at_ms > append_ms + reg(m, SKEW) or at_ms > _LAST_MS or append_ms < 0 or append_ms > _LAST_MS:
        return False
    return partition_of(_from(m, ID), _size(m, ID), reg(m, PARTITIONS)) == reg(m, PARTITION)


@compiled
def _other_key(m: int, record: int) -> int:
    """1 when the record's key is not the request id."""
    size = _size(m, ID)
    return 0 if i64(record + 24) == size and same(i64(record + 16), _from(m, ID), size) else 1


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
def _prediction(m: int, record: int, h: int, packed: int) -> bool:
    """Take a prediction that has been scanned. False: left for the object path. `h`: the request id's hash."""
    start = i64(record)
    size = i64(record + 8)
    if not _admitted(m, record):
        return False
    if not (_name(m, MODEL, 1) and _name(m, VERSION, 0) and _name(m, DEPLOYMENT, 0) and _name(m, APP_VERSION, 0)):
        return False
    role = _size(m, ROLE)
    if _type(m, ROLE) != ABSENT and not (
        _type(m, ROLE) == STRING
        and (
            (role == 7 and i64(_from(m, ROLE)) & 0xFFFFFFFFFFFFFF == 0x7972616D697270)
            or (role == 6 and i64(_from(m, ROLE)) & 0xFFFFFFFFFFFF == 0x776F64616873)
        )
    ):
        return False
    if not (_numeric(m, SCORE) and _numeric(m, THRESHOLD) and _numeric(m, LATENCY) and _share(m, PROPENSITY)):
        return False
    if not (_nullable(m, OUTPUTS) and _nullable(m, ITEMS)):
        return False
    if not (_nullable(m, EMBEDDING) or (_type(m, EMBEDDING) == NUMBERS and not reg(m, KEEP))):
        return False
    kind = _type(m, PREDICTION)
    if kind in (SCALARS, STRINGS, NUMBERS) or kind > STRINGS:
        return False
    if not (_objects(m, FEATURES, False) and _objects(m, SLICES, False) and _objects(m, EXPERIMENTS, True)):
        return False
    if _type(m, EXPERIMENTS) != ABSENT and (
        i64(reg(m, SPANS) + EXPERIMENTS * SPAN + COUNT) > 64 or _size(m, EXPERIMENTS) > 130
    ):
        return False
    kind = _type(m, SUBJECT)
    if kind not in (ABSENT, STRING, ESCAPED) or _size(m, SUBJECT) > 256:
        return False
    kind = _type(m, ACTION)
    if kind not in (ABSENT, STRING, ESCAPED, NULL) or _size(m, ACTION) > 1024:
        return False
    if kind != ABSENT and kind != NULL and _size(m, ACTION) == 0:
        return False
    if _size(m, LATENCY) > 200 or (_size(m, LATENCY) and u8(_from(m, LATENCY)) == 45):
        return False
    if _size(m, SCORE) > 64 or _size(m, THRESHOLD) > 64 or _size(m, PREDICTION) > 8192 or _size(m, SLICES) > 4096:
        return False
    at_ms = _integer(m, AT)
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

    request = reg(m, SCRATCH) + ID_AT if packed else _from(m, ID)
    id_n = 16 if packed else _size(m, ID)
    content = xxh64(start, size, 1)
    event_n = _size(m, EVENT)
    key = xxh64(_from(m, EVENT), event_n, 0) if event_n else content
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
            put(m, DIFFERING, reg(m, DIFFERING) + _other_key(m, record))
            return True
        heard = field(i64(at + W_HEARD * 8), 0, 40)
        heard_n = field(i64(at), HEARD_N, 8)

    # The texts of the prediction: shared, or in the record itself.
    scratch = reg(m, SCRATCH) + 128
    out = _append(scratch, m, THRESHOLD, False)
    if _size(m, SLICES) > 2:
        out = _append(out, m, SLICES, False)
    if _size(m, EXPERIMENTS) > 2:
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
        features = _size(m, FEATURES)
        if features == 2:
            features = 0
    elif _size(m, FEATURES) > 2 and at_ms > append_ms + _AHEAD_MS:
        return False
    latency = _size(m, LATENCY) if reg(m, KEEP) else 0
    quotes = 2 if _type(m, PREDICTION) == STRING or _type(m, PREDICTION) == ESCAPED else 0
    given = 0 if _nullable(m, PREDICTION) else _size(m, PREDICTION) + quotes
    flags = (EVENT_ID if event_n else 0) | (LONG if more or features else 0) | packed * PACKED
    words = CASE_WORDS + (1 if event_n else 0) + (1 if more or features else 0)
    size_n = id_n + _size(m, SCORE) + given + _size(m, SUBJECT) + _size(m, PROPENSITY) + latency + more + features
    total = words + (size_n + 7) // 8
    if total > MOST_WORDS:
        return False

    life = life_of(i64(policy + P_REACH * 8))
    if heard and life:
        heard = _rehouse(m, heard, life)
    position = allocate_for(m, total, life)
    age(m, position, at_ms)
    at = arena + position * 8
    put64(at, (total << SIZE) | (CASE << KIND) | (flags << FLAGS) | (NEW << CLASS) | (heard_n << HEARD_N))
    put64(at + W_DUE * 8, number << 48)
    put64(at + W_NEXT * 8, (latency << 40) | (_size(m, PROPENSITY) << 48))
    put64(at + W_HEARD * 8, heard)
    put64(at + W_AT * 8, at_ms | (id_n << 48))
    put64(at + W_APPEND * 8, append_ms | (_size(m, SUBJECT) << 48))
    put64(at + W_KEY * 8, key)
    put64(at + W_TEXTS * 8, who | (shared << 20) | (_size(m, SCORE) << 40))
    put64(at + W_SAID * 8, given << 40)
    if event_n:
        put64(at + W_CONTENT * 8, content)
    if more or features:
        put64(at + (words - 1) * 8, more | (features << 24))
    to = at + words * 8
    copy(to, request, id_n)
    to += id_n
    copy(to, _from(m, SCORE), _size(m, SCORE))
    to += _size(m, SCORE)
    copy(to, _from(m, PREDICTION) - quotes // 2, given)
    to += given
    copy(to, _from(m, SUBJECT), _size(m, SUBJECT))
    to += _size(m, SUBJECT)
    copy(to, _from(m, PROPENSITY), _size(m, PROPENSITY))
    to += _size(m, PROPENSITY)
    copy(to, _from(m, LATENCY), latency)
    to += latency
    copy(to, scratch, more)
    to += more
    copy(to, _from(m, FEATURES), features)

    if known >= 0:
        replace(m, h, known, position)
        retire(m, known)
        put(m, HEADS_N, reg(m, HEADS_N) - 1)
        _reclass(m, at, policy)
    else:
        insert(m, h, position)
    put(m, CASES, reg(m, CASES) + 1)
    put(m, DIFFERING, reg(m, DIFFERING) + _other_key(m, record))
    settle(m, position, reg(m, SEEN))
    link(m, position, next_due(m, at, reg(m, SEEN)))
    return True


@compiled
def _rehouse(m: int, first: int, life: int) -> int:
    """Move what was heard before its prediction to where that will live. Takes and gives the first's position + 1."""
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
def _reclass(m: int, at: int, policy: int) -> None:
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


@compiled
def _label_fits(m: int) -> bool:
    kind = _type(m, LABEL_)
    retracts = False
    if _type(m, OP) != ABSENT:
        size = _size(m, OP)
        if _type(m, OP) != STRING:
            return False
        if size == 7 and i64(_from(m, OP)) & 0xFFFFFFFFFFFFFF == 0x74636172746572:
            retracts = True
        elif size != 6 or i64(_from(m, OP)) & 0xFFFFFFFFFFFF != 0x747265737361:
            return False
    if kind == ABSENT:
        if not retracts:
            return False
    elif kind not in (STRING, ESCAPED, INTEGER, FLOAT, TRUE, FALSE):
        return False
    if _size(m, LABEL_) > 8192:
        return False
    source = _type(m, SOURCE)
    if source not in (ABSENT, STRING) or _size(m, SOURCE) > 1024:
        return False
    return (
        _name(m, NAME, 0)
        and (_type(m, NAME) == ABSENT or _size(m, NAME) > 0)
        and _nullable(m, ITEM)
        and _type(m, CONFIDENCE) != NULL
        and _share(m, CONFIDENCE)
        and _size(m, CONFIDENCE) <= 200
    )


@compiled
def _heard(m: int, record: int, h: int, packed: int, labels: bool, label_name: int) -> bool:
    """Take a label or signal that has been scanned. False: left for the object path.

    `h`: the request id's hash; `label_name`: the address of the text `label`.
    """
    start = i64(record)
    size = i64(record + 8)
    model_type = _type(m, MODEL)
    if model_type == NULL:
        put64(reg(m, SPANS) + MODEL * SPAN + TYPE, ABSENT)
    if not _admitted(m, record):
        return False
    if labels:
        if not _label_fits(m):
            return False
    elif not (_name(m, SIGNAL_, 1) and _numeric(m, VALUE) and _nullable(m, S_ITEM)):
        return False
    model = -1
    if model_type == STRING:
        model = text(m, _from(m, MODEL), _size(m, MODEL), TAKEN_TEXTS)
        if model < 0:
            return False
    source = 0
    if not labels:
        name = text(m, _from(m, SIGNAL_), _size(m, SIGNAL_), TAKEN_TEXTS)
    else:
        source = text(m, _from(m, SOURCE), _size(m, SOURCE), TAKEN_TEXTS)
        if _type(m, NAME) == ABSENT:
            name = text(m, label_name, 5, TAKEN_TEXTS)
        else:
            name = text(m, _from(m, NAME), _size(m, NAME), TAKEN_TEXTS)
    if name < 0 or source < 0:
        return False
    value = 0
    flags = 0
    if not labels:
        if _size(m, VALUE) and not _decimal(m, VALUE):
            return False
        if _size(m, VALUE):
            flags |= VALUED
            value = i64(reg(m, SCRATCH) + 120)

    request = reg(m, SCRATCH) + ID_AT if packed else _from(m, ID)
    id_n = 16 if packed else _size(m, ID)
    other_key = _other_key(m, record)
    if other_key:
        return False  # a dead letter would have to give the key back
    content = xxh64(start, size, 1)
    event_n = _size(m, EVENT)
    key = xxh64(_from(m, EVENT), event_n, 0) if event_n else content
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
        if _type(m, OP) == STRING and _size(m, OP) == 7:
            flags |= RETRACTS
        quotes = 1 if _type(m, LABEL_) == STRING or _type(m, LABEL_) == ESCAPED else 0
        label_n = _size(m, LABEL_) + 2 * quotes if _type(m, LABEL_) != ABSENT else 0
        value = (HEARD_WORDS * 8 + _from(m, LABEL_) - quotes - start) | (label_n << 32) if label_n else 0
        confidence = _size(m, CONFIDENCE)
        if confidence == 1 and u8(_from(m, CONFIDENCE)) == 49:
            confidence = 0
        if confidence == 3 and u8(_from(m, CONFIDENCE)) == 49:
            confidence = 0
        offset = HEARD_WORDS * 8 + _from(m, CONFIDENCE) - start if confidence else 0
        put64(new + W_REST * 8, size | (offset << 32) | (confidence << 56))
    else:
        put64(new + W_REST * 8, size)
    put64(new + W_HEARD_AT * 8, _integer(m, AT))
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


@compiled
def _decimal(m: int, k: int) -> bool:
    """Put the double of a number that is exactly m × 10^e, |m| < 2^53, |e| ≤ 22, into the scratch (Clinger 1990)."""
    at = _from(m, k)
    size = _size(m, k)
    value = 0
    scale = 0
    point = False
    negative = False
    digits = 0
    for i in range(size):
        c = u8(at + i)
        if c == 45:
            negative = True
        elif c == 46:
            point = True
        elif 48 <= c <= 57:
            value = value * 10 + c - 48
            digits += 1
            if point:
                scale += 1
        else:
            return False
        if digits > 15:
            return False
    power = 1.0
    for _ in range(scale):
        power *= 10.0
    number = value / power
    put_double(reg(m, SCRATCH) + 120, -number if negative else number)
    return True


@compiled
def _foresee(m: int, records: int, k: int) -> None:
    """Guess from a record's key under which hash its request will be looked up, and bring the place near."""
    record = records + k * (RECORD * 8)
    key = i64(record + 16)
    size = i64(record + 24)
    h = 0
    if 0 < size <= 128:
        kept = reg(m, SCRATCH) + _AHEAD_AT + 2 * _AHEAD * 8
        h = xxh64(kept, 16, 1) if pack_id(key, size, kept) else xxh64(key, size, 0)
        bring_place_near(m, h)
    put64(reg(m, SCRATCH) + _AHEAD_AT + (k & (2 * _AHEAD - 1)) * 8, h)


@compiled
def take(m: int, records: int, first: int, count_: int, topic: int, label_name: int) -> int:
    """Take records from number `first` on: predictions (`topic` 0), labels (1) or signals (2).

    Gives the number of the next record: less than `count_` when the room for output is used up, and behind a record
    whose request is not known (`UNSURE`): whoever calls finds out, and calls `leave`. Records left for the object path
    are listed in `SLOW`.
    """
    fields = reg(m, FIELDS_PREDICTION)
    fields_n = 21
    if topic == 1:
        fields = reg(m, FIELDS_LABEL)
        fields_n = 10
    elif topic == 2:
        fields = reg(m, FIELDS_SIGNAL)
        fields_n = 7
    k = first
    while k < first + _AHEAD and k < count_:
        _foresee(m, records, k)
        k += 1
    k = first
    while k < count_:
        if reg(m, OUT_END) - reg(m, OUT_FILL) < _ROOM:
            break
        if k + _AHEAD < count_:
            _foresee(m, records, k + _AHEAD)
        if k + _AHEAD // 2 < count_:
            bring_near(m, i64(reg(m, SCRATCH) + _AHEAD_AT + ((k + _AHEAD // 2) & (2 * _AHEAD - 1)) * 8))
        record = records + k * (RECORD * 8)
        start = i64(record)
        packed = 0
        known = scan(start, start + i64(record + 8), fields, fields_n, reg(m, SPANS)) and _name(m, ID, 1)
        taken = False
        h = 0
        if known:
            kept = reg(m, SCRATCH) + ID_AT
            packed = pack_id(_from(m, ID), _size(m, ID), kept)
            h = xxh64(kept, 16, 1) if packed else xxh64(_from(m, ID), _size(m, ID), 0)
            if not reg(m, SLOW_N) or not _is_left(m, h):
                if topic == 0:
                    taken = _prediction(m, record, h, packed)
                else:
                    taken = _heard(m, record, h, packed, topic == 1, label_name)
        k += 1
        if not taken:
            n = reg(m, SLOW_N)
            put64(reg(m, SLOW) + n * 8, k - 1)
            put(m, SLOW_N, n + 1)
            if not known:
                put(m, UNSURE, k)
                break
            leave(m, h)
    return k


@compiled
def _is_left(m: int, h: int) -> bool:
    bit = h & ((1 << LEFT_BITS) - 1)
    return (i64(reg(m, LEFT) + (bit >> 6) * 8) >> (bit & 63)) & 1 == 1


@compiled
def leave(m: int, h: int) -> None:
    """Note that later records of a request are left too."""
    bit = h & ((1 << LEFT_BITS) - 1)
    at = reg(m, LEFT) + (bit >> 6) * 8
    put64(at, i64(at) | (1 << (bit & 63)))
