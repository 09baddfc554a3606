"""Events of an envelope into the columns (compiled): texts and spans straight from Arrow's buffers.

`take_rows` does for the events of an envelope what `take.take` does for records, but for two things: it writes each
event's text first (`schemas.envelope`), and knows while writing what `scan` would find in it. Where it is not sure
(a cell that may be no JSON), it stops, and the event is written by `Envelope.texts` and scanned. So an event is taken
here, or left to the object path, exactly when the same text would be that came as a record of its own.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import pyarrow as pa
from numba import types
from numpy.typing import NDArray

from streams.join.columns.fields import (
    ID,
    ID_AT,
    LABEL_FIELDS,
    PREDICTION_FIELDS,
    SIGNAL_FIELDS,
    is_name,
    size_of,
    start_of,
)
from streams.join.columns.hear import hear
from streams.join.columns.layout import OUT_END, OUT_FILL, RECORD, SCRATCH, SLOW, SLOW_N, SPANS, put, reg
from streams.join.columns.predict import predict
from streams.join.columns.scan import ABSENT, END, MEMBERS, PAD, SPAN, START, STRING, TYPE, container, scalar
from streams.join.columns.scan import INTEGER as WHOLE
from streams.join.columns.store import pack_id
from streams.join.columns.take import AHEAD, foresee, foreseen, is_left, leave
from streams.join.columns.take import ROOM as OUT_ROOM
from streams.runtime.compiled import compiled
from streams.runtime.envelopes import INTEGER, JSON, QUOTED, Cells, Envelope, is_text, offsets_of, padded
from streams.runtime.native import (
    Words,
    _load,
    address,
    copy,
    i64,
    put8,
    put64,
    release,
    reserve,
    u8,
    u64,
    write_int,
    xxh64,
)

_FIELDS = {"predictions": PREDICTION_FIELDS, "labels": LABEL_FIELDS, "signals": SIGNAL_FIELDS}

# Words of a plan's row, one for each column. `_IN`: it is a member of an object, and `_LAST`: the last one.
(
    _KIND,
    _FIELD,
    _TEXT,
    _TEXT_N,
    _OFFSETS,
    _WIDTH,
    _DATA,
    _VALID,
    _CODES,
    _MEMBER,
    _OPENING,
    _OPENING_N,
    _WORDS,
) = range(13)
_IN, _LAST = 1, 2
_IS_QUOTED, _IS_JSON, _IS_INTEGER = 0, 1, 2
_KINDS = {QUOTED: _IS_QUOTED, JSON: _IS_JSON, INTEGER: _IS_INTEGER}
_DIGITS = 10**18
_ROOM_BYTES, _ROOM_KEPT = 1 << 36, 64 << 20
_SHORT = 32

_u32: Any = _load(32, types.int64)
_ONES = np.uint64(0x0101010101010101)
_HIGHS = np.uint64(0x8080808080808080)
_QUOTES = np.uint64(0x2222222222222222)
_SLASHES = np.uint64(0x5C5C5C5C5C5C5C5C)
_SPACES = np.uint64(0x2020202020202020)


@dataclass(frozen=True, slots=True)
class Plan:
    """An envelope's columns by address, which one has the request ids, and the room that all texts may need.

    `kept` are the arrays behind.
    """

    rows: Words
    ids: int
    room: int
    kept: list[Any]

    @classmethod
    def of(cls, envelope: Envelope, topic: str) -> Plan | None:
        """Make it. None where the texts had better be scanned: without plain request ids, or for odd names."""
        columns, fields = envelope.columns, _FIELDS[topic]
        rows: Words = np.zeros((len(columns), _WORDS), dtype=np.int64)
        kept: list[Any] = []
        bound, ids = 0, -1
        for k, cells in enumerate(columns):
            label, opening = cells.label, cells.opening
            if b"\\" in label:
                return None
            for word, text in ((_TEXT, label), (_OPENING, opening)):
                body, rows[k, word] = _entered(text)
                rows[k, word + 1] = len(text)
                kept.append(body)
            rows[k, _FIELD] = fields.index(cells.name) if cells.name in fields else -1
            if cells.member is not None:
                last = k + 1 == len(columns) or columns[k + 1].name != cells.name
                rows[k, _MEMBER] = _IN | _LAST * last
            bound += _point_to(cells, rows[k], kept) + envelope.count * (len(label) + len(opening) + 4)
            if cells.name == "request_id" and rows[k, _KIND] == _IS_QUOTED:
                ids = k
        return None if ids < 0 else cls(rows, ids, bound + 2 * envelope.count + _SHORT + PAD, kept)


@lru_cache(maxsize=4096)
def _entered(text: bytes) -> tuple[NDArray[np.uint8], int]:
    """Give a text with room behind it, and its address: the same names come with every envelope."""
    body = padded(text)
    return body, address(body)


def _point_to(cells: Cells, row: Words, kept: list[Any]) -> int:
    """Fill a column's row. Gives how many bytes its texts have at most."""
    array, count = cells.array, len(cells.array)
    if array.null_count:
        kept.append(_valid(array))
        row[_VALID] = address(kept[-1])
    row[_KIND] = _KINDS[cells.kind]
    if cells.kind == INTEGER:
        kept.append(_values(array, np.int64))
        row[_DATA] = address(kept[-1])
        return 21 * count
    coded = pa.types.is_dictionary(array.type)
    words = array.dictionary if coded else array
    if is_text(words.type) and (cells.kind == JSON or _needs_no_escapes(words)):
        offsets, data = offsets_of(words), words.buffers()[2]
        kept += [offsets, array]
        row[_OFFSETS], row[_DATA] = address(offsets), 0 if data is None else data.address
        row[_WIDTH] = offsets.itemsize
        if not coded:
            return int(offsets[-1] - offsets[0])
        kept.append(_values(array.indices.fill_null(0) if array.null_count else array.indices, np.int32))
        row[_CODES] = address(kept[-1])
        return count * int(np.diff(offsets).max(initial=0))
    texts = [text or b"" for text in cells.texts()]
    body = padded(b"".join(texts))
    ends: Words = np.zeros(count + 1, dtype=np.int64)
    np.cumsum(np.fromiter(map(len, texts), dtype=np.int64, count=count), out=ends[1:])
    row[_KIND], row[_OFFSETS], row[_DATA], row[_WIDTH] = _IS_JSON, address(ends), address(body), 8
    kept += [ends, body]
    return int(ends[-1])


def _values(array: pa.Array, kind: type[np.int32 | np.int64]) -> NDArray[Any]:
    """Give an array's values as they lie, nulls too. `to_numpy` would import pandas in the midst of a step."""
    if not len(array):
        return np.zeros(1, dtype=kind)
    return np.frombuffer(array.buffers()[1], dtype=kind)[array.offset : array.offset + len(array)]


def _valid(array: pa.Array) -> NDArray[np.uint8]:
    """Give a byte for each value: whether it is there."""
    bits = np.frombuffer(array.buffers()[0], dtype=np.uint8)
    return np.unpackbits(bits, count=array.offset + len(array), bitorder="little")[array.offset :]


def _needs_no_escapes(words: pa.Array) -> bool:
    data = words.buffers()[2]
    return data is None or bool(_is_plain(data.address, data.size))


@compiled
def _is_plain(start: int, size: int) -> bool:
    """Whether bytes hold no quote, backslash or control character."""
    i = 0
    while i + 8 <= size:
        word = u64(start + i)
        quote = word ^ _QUOTES
        slash = word ^ _SLASHES
        odd = ((quote - _ONES) & ~quote) | ((slash - _ONES) & ~slash) | ((word - _SPACES) & ~word)
        if (odd & _HIGHS) != np.uint64(0):
            return False  # or a byte behind one that is; never the other way round
        i += 8
    while i < size:
        c = u8(start + i)
        if c < 32 or c == 34 or c == 92:
            return False
        i += 1
    return True


class Room(threading.local):
    """Where the texts of a call's envelopes lie, one for each thread; word 0 says where the next one begins.

    The same pages serve every call: fresh ones would cost as much as writing the texts.
    """

    def __init__(self) -> None:
        self.words = reserve(_ROOM_BYTES)
        self.address = address(self.words)
        self.clear()

    def clear(self) -> None:
        """Forget the texts. Whoever needs one has copied it."""
        if self.words[0] > self.address + _ROOM_KEPT:
            release(self.words, 1 << 9, len(self.words) - (1 << 9))
        self.words[0] = self.address + 8

    def has(self, size: int) -> bool:
        """Whether so many bytes more have room."""
        return int(self.words[0]) + size < self.address + _ROOM_BYTES


ROOM = Room()


@compiled
def _short(out: int, start: int, size: int) -> int:
    """Write a text that is mostly short: 32 bytes whose number is known beforehand are cheaper."""
    if size <= _SHORT:
        copy(out, start, _SHORT)
    else:
        copy(out, start, size)
    return out + size


@compiled
def _span(m: int, k: int, start: int, end: int, kind: int) -> None:
    span = reg(m, SPANS) + k * SPAN
    put64(span + START, start)
    put64(span + END, end)
    put64(span + TYPE, kind)


@compiled
def _span_of(m: int, k: int, start: int, end: int) -> bool:
    """Note the value in [start, end) as that of a field (-1: of none), if it is one whole JSON value for sure."""
    if start == end:
        return False
    c = u8(start)
    span = reg(m, SPANS) + (k if k >= 0 else 30) * SPAN
    got = container(start, end, span + MEMBERS) if c == 123 or c == 91 else scalar(start, end)
    if got < 0 or got >> 8 != end:
        return False
    if k >= 0:
        quoted = 1 if c == 34 else 0
        _span(m, k, start + quoted, end - quoted, got & 127)
    return True


@compiled
def _write(m: int, plan: int, columns: int, k: int, fields_n: int, out: int) -> int:
    """Write the text of event number `k` at `out` and note the spans of its fields; gives its end, or -1 in doubt."""
    spans = reg(m, SPANS)
    for field in range(fields_n):
        put64(spans + field * SPAN + TYPE, ABSENT)
    begin = out
    put8(out, 123)
    out += 1
    opened = 0
    for c in range(columns):
        row = plan + c * (_WORDS * 8)
        member = i64(row + _MEMBER * 8)
        field = i64(row + _FIELD * 8)
        valid = i64(row + _VALID * 8)
        if valid == 0 or u8(valid + k):
            if member and not opened:
                if out != begin + 1:
                    put8(out, 44)
                    out += 1
                out = _short(out, i64(row + _OPENING * 8), i64(row + _OPENING_N * 8))
                opened = out - 1
            elif out != begin + 1:
                put8(out, 44)
                out += 1
            out = _short(out, i64(row + _TEXT * 8), i64(row + _TEXT_N * 8))
            kind = i64(row + _KIND * 8)
            start = out
            if kind == _IS_INTEGER:
                value = i64(i64(row + _DATA * 8) + k * 8)
                if value < 0:
                    put8(out, 45)
                    out += 1
                    value = -value
                if value < 0 or value >= _DIGITS:
                    return -1
                out = write_int(out, value)
                if not member and field >= 0:
                    _span(m, field, start, out, WHOLE)
            else:
                codes = i64(row + _CODES * 8)
                width = i64(row + _WIDTH * 8)
                place = i64(row + _OFFSETS * 8) + (_u32(codes + k * 4) if codes else k) * width
                first = i64(place) if width == 8 else _u32(place)
                size = (i64(place + 8) if width == 8 else _u32(place + 4)) - first
                if kind == _IS_QUOTED:
                    put8(out, 34)
                    copy(out + 1, i64(row + _DATA * 8) + first, size)
                    out += size + 2
                    put8(out - 1, 34)
                    if not member and field >= 0:
                        _span(m, field, start + 1, out - 1, STRING)
                else:
                    copy(out, i64(row + _DATA * 8) + first, size)
                    out += size
                    put64(out, 0)  # so that nothing behind it is taken for more of it
                    if not _span_of(m, -1 if member else field, start, out):
                        return -1
        if opened and member & _LAST:
            put8(out, 125)
            out += 1
            if not _span_of(m, field, opened, out):
                return -1
            opened = 0
    put8(out, 125)
    return out + 1


@compiled
def _foresee(m: int, ids: int, k: int) -> None:
    """Do for event number `k` what `foresee` does; `ids` is the row of the column with the request ids."""
    codes = i64(ids + _CODES * 8)
    width = i64(ids + _WIDTH * 8)
    place = i64(ids + _OFFSETS * 8) + (_u32(codes + k * 4) if codes else k) * width
    first = i64(place) if width == 8 else _u32(place)
    size = (i64(place + 8) if width == 8 else _u32(place + 4)) - first
    foresee(m, k, i64(ids + _DATA * 8) + first, size)


@compiled
def take_rows(
    m: int,
    plan: int,
    columns: int,
    ids: int,
    room: int,
    table: int,
    first: int,
    done: int,
    last: int,
    topic: int,
    label_name: int,
) -> int:
    """Take the events at rows [done, last) of a table, of an envelope whose first one is at row `first`.

    `ids` is the row of the plan with the request ids. A text is written over the one before, unless that event is left
    for the object path, which is the only one to read texts later. Gives the number of the next row, less than `last`
    when the room for output is used up; or -1 - the number of a row that must be scanned.
    """
    fields_n = 21 if topic == 0 else 10 if topic == 1 else 7
    k = done
    while k < done + AHEAD and k < last:
        _foresee(m, ids, k - first)
        k += 1
    k = done
    while k < last:
        if reg(m, OUT_END) - reg(m, OUT_FILL) < OUT_ROOM:
            break
        if k + AHEAD < last:
            _foresee(m, ids, k + AHEAD - first)
        if k + AHEAD // 2 < last:
            foreseen(m, k + AHEAD // 2 - first)
        record = table + k * (RECORD * 8)
        out = i64(room)
        end = _write(m, plan, columns, k - first, fields_n, out)
        if end < 0 or not is_name(m, ID, 1):
            return -1 - k
        put64(record, out)
        put64(record + 8, end - out)
        id_at = start_of(m, ID)
        id_n = size_of(m, ID)
        put64(record + 16, id_at)
        put64(record + 24, id_n)
        kept = reg(m, SCRATCH) + ID_AT
        packed = pack_id(id_at, id_n, kept)
        h = xxh64(kept, 16, 1) if packed else xxh64(id_at, id_n, 0)
        taken = False
        if not reg(m, SLOW_N) or not is_left(m, h):
            taken = predict(m, record, h, packed) if topic == 0 else hear(m, record, h, packed, topic == 1, label_name)
        if not taken:
            put64(room, end)
            n = reg(m, SLOW_N)
            put64(reg(m, SLOW) + n * 8, k)
            put(m, SLOW_N, n + 1)
            leave(m, h)
        k += 1
    return k
