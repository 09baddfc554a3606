"""`feedback` as bytes, straight from a case's record (compiled).

The texts of the prediction are those that came: a number is written as the app wrote it. Everything else is as
`streams.join.revise` has it, with the prediction's repeated texts together at the front.
"""

from __future__ import annotations

import numpy as np

from streams.join.columns.ids import unpack_id
from streams.join.columns.layout import (
    ARENA,
    CHANGE,
    CHANGES,
    CLOCK,
    EVENT_ID,
    EXPLICIT,
    FLAGS,
    LONG,
    NONE,
    OUT,
    OUT_END,
    OUT_FILL,
    OUT_N,
    OUT_SPANS,
    P_CARRY,
    P_FAKE,
    P_FAKE_N,
    P_NAME_TEXT,
    P_NAME_TEXT_N,
    P_TEXT,
    P_TEXT_N,
    PACKED,
    PIECES,
    PROVISIONAL,
    TEXT,
    TEXT_AT,
    TIMEOUT,
    W_APPEND,
    W_AT,
    W_NEXT,
    W_SAID,
    W_TEXTS,
    field,
    put,
    reg,
)
from streams.runtime.compiled import compiled
from streams.runtime.native import Words, copy, i64, put8, put64, write_int

_TEXTS = (
    '{"request_id":"',
    '",',
    ',"revision":',
    ',"status":"provisional"',
    ',"status":"final"',
    ',"status":"void"',
    ',"label":',
    ',"label_kind":"explicit"',
    ',"label_kind":"implicit"',
    ',"label_kind":"timeout"',
    ',"weight":',
    ',"p_fake_negative":',
    ',"was":',
    "}",
    ',"score":',
    ',"prediction":',
    ',"subject":"',
    '"',
    ',"propensity":',
    ',"features":',
    ',"predicted_at_ms":',
    ',"labelled_at_ms":',
    ',"joined_at_ms":',
    ",",
    '","at_ms":',
    ',"latency_ms":',
)
(
    OPEN_,
    AFTER_ID,
    REVISION_,
    STATUS_,
    _,
    _,
    LABEL_,
    KIND_,
    _,
    _,
    WEIGHT_,
    FAKE_,
    WAS_,
    CLOSE_,
    SCORE_,
    PREDICTION_,
    SUBJECT_,
    QUOTE_,
    PROPENSITY_,
    FEATURES_,
    PREDICTED_,
    LABELLED_,
    JOINED_,
    COMMA_,
    AT_,
    LATENCY_,
) = range(len(_TEXTS))
_PIECE = 40
RECITED = 1 << 16
"""Bytes that any prediction kept here has room in, as an event."""


def pieces() -> Words:
    """Give the fixed texts as `PIECES` wants them: each its length and 32 bytes."""
    rows = b"".join(len(text).to_bytes(8, "little") + text.encode().ljust(32) for text in _TEXTS)
    return np.frombuffer(rows, dtype=np.int64).copy()


@compiled
def _say(m: int, out: int, piece: int) -> int:
    at = reg(m, PIECES) + piece * _PIECE
    copy(out, at + 8, 32)  # more than its length: cheaper than a length that is not known beforehand
    return out + i64(at)


@compiled
def _put(out: int, start: int, size: int) -> int:
    copy(out, start, size)
    return out + size


@compiled
def _known(m: int, out: int, number: int) -> int:
    """Write a shared text."""
    at = reg(m, TEXT_AT) + number * 8
    begin = i64(at)
    return _put(out, reg(m, TEXT) + begin, i64(at + 8) - begin)


@compiled
def _outcome(m: int, out: int, kind: int, status: int, label: int) -> int:
    """Write status, label and kind."""
    out = _say(m, out, STATUS_ + status)
    if kind != NONE:
        out = _put(_say(m, out, LABEL_), i64(label), i64(label + 8))
        out = _say(m, out, KIND_ + kind - EXPLICIT)
        if i64(label + 24):
            out = _put(_say(m, out, WEIGHT_), i64(label + 16), i64(label + 24))
    return out


@compiled
def revise(
    m: int,
    at: int,
    policy: int,
    revision: int,
    kind: int,
    status: int,
    label: int,
    labelled_ms: int,
    said_kind: int,
    said_status: int,
    said: int,
) -> None:
    """Write a revision of the case at the address `at`. `label` and `said` are spans of `settle`."""
    flags = field(i64(at), FLAGS, 8)
    words = 9 + (flags & EVENT_ID) + (1 if flags & LONG else 0)
    next_ = i64(at + W_NEXT * 8)
    texts = i64(at + W_TEXTS * 8)
    id_n = field(i64(at + W_AT * 8), 48, 8)
    score_n = field(texts, 40, 16)
    prediction_n = field(i64(at + W_SAID * 8), 40, 16)
    subject_n = field(i64(at + W_APPEND * 8), 48, 16)
    propensity_n = field(next_, 48, 8)
    begin = out = reg(m, OUT_FILL)
    start = at + words * 8

    out = _say(m, out, OPEN_)
    key = out
    if flags & PACKED:
        unpack_id(start, out)
        out += 36
    else:
        out = _put(out, start, id_n)
    key_n = out - key
    start += id_n
    out = _say(m, out, AFTER_ID)
    out = _known(m, out, field(texts, 0, 20))
    out = _put(out, i64(policy + P_NAME_TEXT * 8), i64(policy + P_NAME_TEXT_N * 8))
    out = write_int(_say(m, out, REVISION_), revision)
    out = _outcome(m, out, kind, status, label)
    if kind == TIMEOUT and status == PROVISIONAL and i64(policy + P_FAKE_N * 8):
        out = _put(_say(m, out, FAKE_), i64(policy + P_FAKE * 8), i64(policy + P_FAKE_N * 8))
    if revision > 1:
        brace = _say(m, out, WAS_)
        out = _outcome(m, brace, said_kind, said_status, said)
        put8(brace, 123)  # where its first comma was
        out = _say(m, out, CLOSE_)
    out = _put(out, i64(policy + P_TEXT * 8), i64(policy + P_TEXT_N * 8))
    if score_n:
        out = _put(_say(m, out, SCORE_), start, score_n)
        start += score_n
    if prediction_n:
        out = _put(_say(m, out, PREDICTION_), start, prediction_n)
        start += prediction_n
    if subject_n:
        out = _say(m, _put(_say(m, out, SUBJECT_), start, subject_n), QUOTE_)
        start += subject_n
    if propensity_n:
        out = _put(_say(m, out, PROPENSITY_), start, propensity_n)
        start += propensity_n
    start += field(next_, 40, 8)
    more = field(texts, 20, 20)
    if more:
        out = _known(m, out, more - 1)
    if flags & LONG:
        lengths = i64(at + (words - 1) * 8)
        more = field(lengths, 0, 24)
        out = _put(out, start, more)
        start += more
        features_n = field(lengths, 24, 32)
        if features_n and i64(policy + P_CARRY * 8):
            out = _put(_say(m, out, FEATURES_), start, features_n)
    out = write_int(_say(m, out, PREDICTED_), field(i64(at + W_AT * 8), 0, 48))
    if labelled_ms >= 0:
        out = write_int(_say(m, out, LABELLED_), labelled_ms)
    out = write_int(_say(m, out, JOINED_), reg(m, CLOCK))
    out = _say(m, out, CLOSE_)
    put8(out, 10)  # so that rows side by side are lines already

    n = reg(m, OUT_N)
    spans = reg(m, OUT_SPANS) + n * 32
    put64(spans, key)
    put64(spans + 8, key_n)
    put64(spans + 16, begin)
    put64(spans + 24, out - begin)
    put(m, OUT_N, n + 1)
    put(m, OUT_FILL, out + 1)


@compiled
def recite(m: int, position: int, out: int, whole: int) -> int:
    """Write what is kept of a prediction as the event that it came as; its features and latency only when `whole`."""
    at = reg(m, ARENA) + position * 8
    flags = field(i64(at), FLAGS, 8)
    words = 9 + (flags & EVENT_ID) + (1 if flags & LONG else 0)
    next_ = i64(at + W_NEXT * 8)
    texts = i64(at + W_TEXTS * 8)
    start = at + words * 8
    out = _say(m, out, OPEN_)
    size = field(i64(at + W_AT * 8), 48, 8)
    if flags & PACKED:
        unpack_id(start, out)
        out += 36
    else:
        out = _put(out, start, size)
    start += size
    out = write_int(_say(m, out, AT_), field(i64(at + W_AT * 8), 0, 48))
    out = _known(m, _say(m, out, COMMA_), field(texts, 0, 20))
    size = field(texts, 40, 16)
    if size:
        out = _put(_say(m, out, SCORE_), start, size)
        start += size
    size = field(i64(at + W_SAID * 8), 40, 16)
    if size:
        out = _put(_say(m, out, PREDICTION_), start, size)
        start += size
    size = field(i64(at + W_APPEND * 8), 48, 16)
    if size:
        out = _say(m, _put(_say(m, out, SUBJECT_), start, size), QUOTE_)
        start += size
    size = field(next_, 48, 8)
    if size:
        out = _put(_say(m, out, PROPENSITY_), start, size)
        start += size
    size = field(next_, 40, 8)
    if size and whole:
        out = _put(_say(m, out, LATENCY_), start, size)
    start += size
    size = field(texts, 20, 20)
    if size:
        out = _known(m, out, size - 1)
    if flags & LONG:
        lengths = i64(at + (words - 1) * 8)
        size = field(lengths, 0, 24)
        out = _put(out, start, size)
        start += size
        size = field(lengths, 24, 32)
        if size and whole:
            out = _put(_say(m, out, FEATURES_), start, size)
    return _say(m, out, CLOSE_)


@compiled
def recite_changes(m: int, first: int, count: int) -> int:
    """Write the predictions of changes from number `first` on, and where each ends at `OUT_SPANS`; gives the next.

    One that was counted before is written without its features: they count once.
    """
    out = reg(m, OUT)
    spans = reg(m, OUT_SPANS)
    k = first
    while k < count and reg(m, OUT_END) - out >= RECITED:
        change = reg(m, CHANGES) + k * (CHANGE * 8)
        out = recite(m, i64(change), out, 1 - i64(change + 8))
        put64(spans + (k - first) * 8, out - reg(m, OUT))
        k += 1
    return k
