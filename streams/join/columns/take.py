"""Records into the columns (compiled): admission and merging of the plain ones; others are left for the object path.

The rules are those of `streams.join.admission`, but nothing is ever refused here: what does not pass is left, and there
it is refused with its reason.
"""

from __future__ import annotations

from streams.join.columns.fields import FIELD_COUNTS, ID, ID_AT, is_name, size_of, start_of
from streams.join.columns.hear import hear
from streams.join.columns.ids import hash_read, pack_id
from streams.join.columns.layout import (
    FIELDS_LABEL,
    FIELDS_PREDICTION,
    FIELDS_SIGNAL,
    LEFT,
    LEFT_BITS,
    OUT_END,
    OUT_FILL,
    RECORD,
    SCRATCH,
    SLOW,
    SLOW_N,
    SPANS,
    UNSURE,
    put,
    reg,
)
from streams.join.columns.predict import predict
from streams.join.columns.scan import scan
from streams.join.columns.table import bring_near, bring_place_near
from streams.runtime.compiled import compiled
from streams.runtime.native import i64, put64

AHEAD = 8
"""How many records ahead what they will meet is brought near."""
_AHEAD_AT = ID_AT + 64
"""Where in the scratch their hashes lie, and behind them a packed key."""
ROOM = 1 << 17
"""Bytes that one record's revision surely has room in: `MOST_WORDS` twice, and the fixed texts."""


@compiled
def _foresee(m: int, records: int, k: int) -> None:
    record = records + k * (RECORD * 8)
    foresee(m, k, i64(record + 16), i64(record + 24))


@compiled
def foresee(m: int, k: int, key: int, size: int) -> None:
    """Guess from a key under which hash the request of record number `k` will be looked up; bring the place near."""
    h = 0
    if 0 < size <= 128:
        kept = reg(m, SCRATCH) + _AHEAD_AT + 2 * AHEAD * 8
        h = hash_read(key, size, kept, pack_id(key, size, kept))
        bring_place_near(m, h)
    put64(reg(m, SCRATCH) + _AHEAD_AT + (k & (2 * AHEAD - 1)) * 8, h)


@compiled
def foreseen(m: int, k: int) -> None:
    """Bring near what stands at the place that was brought near for record number `k`."""
    bring_near(m, i64(reg(m, SCRATCH) + _AHEAD_AT + (k & (2 * AHEAD - 1)) * 8))


@compiled
def take(m: int, records: int, first: int, count_: int, topic: int, label_name: int) -> int:
    """Take records from number `first` on: predictions (`topic` 0), labels (1) or signals (2).

    Gives the number of the next record: less than `count_` when the room for output is used up, and behind a record
    whose request is not known (`UNSURE`): whoever calls finds out, and calls `leave`. Records left for the object path
    are listed in `SLOW`.
    """
    fields = reg(m, FIELDS_PREDICTION)
    if topic == 1:
        fields = reg(m, FIELDS_LABEL)
    elif topic == 2:
        fields = reg(m, FIELDS_SIGNAL)
    fields_n = FIELD_COUNTS[topic]
    k = first
    while k < first + AHEAD and k < count_:
        _foresee(m, records, k)
        k += 1
    k = first
    while k < count_:
        if reg(m, OUT_END) - reg(m, OUT_FILL) < ROOM:
            break
        if k + AHEAD < count_:
            _foresee(m, records, k + AHEAD)
        if k + AHEAD // 2 < count_:
            foreseen(m, k + AHEAD // 2)
        record = records + k * (RECORD * 8)
        start = i64(record)
        packed = 0
        known = scan(start, start + i64(record + 8), fields, fields_n, reg(m, SPANS)) and is_name(m, ID, 1)
        taken = False
        h = 0
        if known:
            kept = reg(m, SCRATCH) + ID_AT
            packed = pack_id(start_of(m, ID), size_of(m, ID), kept)
            h = hash_read(start_of(m, ID), size_of(m, ID), kept, packed)
            if not reg(m, SLOW_N) or not is_left(m, h):
                if topic == 0:
                    taken = predict(m, record, h, packed)
                else:
                    taken = hear(m, record, h, packed, topic == 1, label_name)
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
def is_left(m: int, h: int) -> bool:
    """Whether an earlier record of a request has been left."""
    bit = h & ((1 << LEFT_BITS) - 1)
    return (i64(reg(m, LEFT) + (bit >> 6) * 8) >> (bit & 63)) & 1 == 1


@compiled
def leave(m: int, h: int) -> None:
    """Note that later records of a request are left too."""
    bit = h & ((1 << LEFT_BITS) - 1)
    at = reg(m, LEFT) + (bit >> 6) * 8
    put64(at, i64(at) | (1 << (bit & 63)))
