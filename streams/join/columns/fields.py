"""The fields of a record that has been scanned (compiled): what they hold, and whether the record may be taken."""

from __future__ import annotations

from streams.join.columns.layout import MOST_BYTES, PARTITION, PARTITIONS, SCRATCH, SKEW, SPANS, reg
from streams.join.columns.scan import ABSENT, END, FLOAT, INTEGER, NULL, SCALARS, SPAN, START, STRING, STRINGS, TYPE
from streams.runtime.compiled import compiled
from streams.runtime.native import i64, partition_of, put_double, same, u8

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
FIELD_COUNTS = len(PREDICTION_FIELDS), len(LABEL_FIELDS), len(SIGNAL_FIELDS)
"""By number of the topic."""

_MAX_MS = 253_402_300_799_999
LAST_MS = 1 << 47
"""The year 6429: with it, and a policy's waits, every moment fits 48 bits."""
ID_AT = 100 << 10
"""Where in the scratch a packed request id lies."""


@compiled
def type_of(m: int, k: int) -> int:
    return i64(reg(m, SPANS) + k * SPAN + TYPE)


@compiled
def start_of(m: int, k: int) -> int:
    return i64(reg(m, SPANS) + k * SPAN + START)


@compiled
def size_of(m: int, k: int) -> int:
    """Give the length of a field's text; 0 for one that is absent or null."""
    span = reg(m, SPANS) + k * SPAN
    kind = i64(span + TYPE)
    return 0 if kind in (ABSENT, NULL) else i64(span + END) - i64(span + START)


@compiled
def is_name(m: int, k: int, least: int) -> bool:
    """Whether a field is a string of at most 128 bytes without escapes (or absent, when `least` is 0)."""
    kind = type_of(m, k)
    if kind == ABSENT:
        return least == 0
    return kind == STRING and least <= size_of(m, k) <= 128


@compiled
def is_null(m: int, k: int) -> bool:
    kind = type_of(m, k)
    return kind in (ABSENT, NULL)


@compiled
def is_number(m: int, k: int) -> bool:
    """Whether a field is a number, null or absent."""
    kind = type_of(m, k)
    return kind in (INTEGER, FLOAT, NULL, ABSENT)


@compiled
def is_share(m: int, k: int) -> bool:
    """Whether a field is surely a number in [0, 1] (written 0, 1, 0.…, 1.0), null or absent."""
    if is_null(m, k):
        return True
    if not is_number(m, k):
        return False
    at = start_of(m, k)
    size = size_of(m, k)
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
def is_object(m: int, k: int, strings_only: bool) -> bool:
    kind = type_of(m, k)
    return kind in (ABSENT, STRINGS) or (kind == SCALARS and not strings_only)


@compiled
def integer_of(m: int, k: int) -> int:
    """Give a field's integer in [0, the end of 9999]; -1 for anything else."""
    if type_of(m, k) != INTEGER:
        return -1
    at = start_of(m, k)
    value = 0
    for i in range(size_of(m, k)):
        c = u8(at + i) - 48
        if c < 0:
            return -1
        value = value * 10 + c
    return value if value <= _MAX_MS else -1


@compiled
def put_decimal(m: int, k: int) -> bool:
    """Put the double of a number that is exactly m × 10^e, |m| < 2^53, |e| ≤ 22, into the scratch (Clinger 1990)."""
    at = start_of(m, k)
    size = size_of(m, k)
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
def is_admitted(m: int, record: int) -> bool:
    """What every record must pass: no headers, not large, its own partition, a clock that may be right."""
    size = i64(record + 8)
    if i64(record + 48) or size < 0 or (size + i64(record + 24)) * 4 > reg(m, MOST_BYTES):
        return False
    if not (is_name(m, ID, 1) and is_name(m, MODEL, 0)):
        return False
    kind = type_of(m, EVENT)
    if kind not in (ABSENT, STRING) or size_of(m, EVENT) > 4096:
        return False
    at_ms = integer_of(m, AT)
    append_ms = i64(record + 40)
    if at_ms < 0 or at_ms > append_ms + reg(m, SKEW) or at_ms > LAST_MS or append_ms < 0 or append_ms > LAST_MS:
        return False
    return partition_of(start_of(m, ID), size_of(m, ID), reg(m, PARTITIONS)) == reg(m, PARTITION)


@compiled
def other_key(m: int, record: int) -> int:
    """1 when the record's key is not the request id."""
    size = size_of(m, ID)
    return 0 if i64(record + 24) == size and same(i64(record + 16), start_of(m, ID), size) else 1
