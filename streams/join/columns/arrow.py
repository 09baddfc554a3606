"""Events of an envelope into the columns (compiled): texts and spans straight from Arrow's buffers.

`take_rows` does for the events of an envelope what `take.take` does for records, but for two things: it writes each
event's text first (`schemas.envelope`), and knows while writing what `scan` would find in it. Where it is not sure
(a cell that may be no JSON), it stops, and the event is written by `Envelope.texts` and scanned. So an event is taken
here, or left to the object path, exactly when the same text would be that came as a record of its own.
"""

from __future__ import annotations

import threading

from streams.join.columns.fields import (
    FIELD_COUNTS,
    ID,
    ID_AT,
    is_name,
    size_of,
    start_of,
)
from streams.join.columns.hear import hear
from streams.join.columns.ids import hash_read, pack_id
from streams.join.columns.layout import OUT_END, OUT_FILL, RECORD, SCRATCH, SLOW, SLOW_N, SPANS, put, reg
from streams.join.columns.plan import (
    BEYOND,
    CODES,
    DATA,
    FIELD,
    IS_INTEGER,
    IS_QUOTED,
    KIND,
    LAST,
    MEMBER,
    OFFSETS,
    OPENING,
    OPENING_N,
    SHORT,
    TEXT,
    TEXT_N,
    VALID,
    WIDTH,
    WORDS,
)
from streams.join.columns.predict import predict
from streams.join.columns.scan import ABSENT, END, MEMBERS, SPAN, START, STRING, TYPE, container, is_plain, scalar
from streams.join.columns.scan import INTEGER as WHOLE
from streams.join.columns.take import AHEAD, foresee, foreseen, is_left, leave
from streams.join.columns.take import ROOM as OUT_ROOM
from streams.runtime.compiled import compiled
from streams.runtime.native import (
    address,
    copy,
    i64,
    put8,
    put64,
    release,
    reserve,
    u8,
    u32,
    write_int,
)

_DIGITS = 10**18
_ROOM_BYTES, _ROOM_KEPT = 1 << 36, 64 << 20


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


def warm(m: int) -> None:
    """Compile what is compiled here."""
    at = ROOM.address
    is_plain(at, 0)
    take_rows(m, at, 0, at, at, at, 0, 0, 0, 0, 0)


@compiled
def _copy_cell(out: int, cell: int, size: int, beyond: int) -> None:
    """Write a text that is mostly short: 32 bytes whose number is known beforehand are cheaper, where they are there.

    They are in a cell that begins at `beyond` or before.
    """
    if size <= SHORT and cell <= beyond:
        copy(out, cell, SHORT)
    else:
        copy(out, cell, size)


@compiled
def _short(out: int, start: int, size: int) -> int:
    """Write one of our own texts, behind which there is room; gives its end."""
    _copy_cell(out, start, size, start)
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
def _cell(row: int, k: int) -> tuple[int, int]:
    """Give where the text of event number `k` in a column lies, and its length."""
    codes = i64(row + CODES * 8)
    width = i64(row + WIDTH * 8)
    place = i64(row + OFFSETS * 8) + (u32(codes + k * 4) if codes else k) * width
    first = i64(place) if width == 8 else u32(place)
    size = (i64(place + 8) if width == 8 else u32(place + 4)) - first
    return i64(row + DATA * 8) + first, size


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
        row = plan + c * (WORDS * 8)
        member = i64(row + MEMBER * 8)
        field = i64(row + FIELD * 8)
        valid = i64(row + VALID * 8)
        if valid == 0 or u8(valid + k):
            if member and not opened:
                if out != begin + 1:
                    put8(out, 44)
                    out += 1
                out = _short(out, i64(row + OPENING * 8), i64(row + OPENING_N * 8))
                opened = out - 1
            elif out != begin + 1:
                put8(out, 44)
                out += 1
            out = _short(out, i64(row + TEXT * 8), i64(row + TEXT_N * 8))
            kind = i64(row + KIND * 8)
            start = out
            if kind == IS_INTEGER:
                value = i64(i64(row + DATA * 8) + k * 8)
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
                cell, size = _cell(row, k)
                if kind == IS_QUOTED:
                    put8(out, 34)
                    _copy_cell(out + 1, cell, size, i64(row + BEYOND * 8))
                    out += size + 2
                    put8(out - 1, 34)
                    if not member and field >= 0:
                        _span(m, field, start + 1, out - 1, STRING)
                else:
                    _copy_cell(out, cell, size, i64(row + BEYOND * 8))
                    out += size
                    put64(out, 0)  # so that nothing behind it is taken for more of it
                    if not _span_of(m, -1 if member else field, start, out):
                        return -1
        if opened and member & LAST:
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
    valid = i64(ids + VALID * 8)
    if valid and not u8(valid + k):
        foresee(m, k, 0, 0)
        return
    key, size = _cell(ids, k)
    foresee(m, k, key, size)


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
    fields_n = FIELD_COUNTS[topic]
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
        h = hash_read(id_at, id_n, kept, packed)
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
