"""A JSON object's known fields as spans of its bytes: what the join needs of an event, without making objects.

`scan` reads one object, checks that the whole of it is JSON (RFC 8259), and notes for each known field where its value
lies and of what type it is. Whatever it is not sure of gives False, and the record is read by the full decoder instead
(`streams.join.admission`), which then says what is wrong, if anything is: escapes in names, repeated fields, numbers
that may not fit, deep nesting. So `scan` may be narrow, but what it accepts the decoder accepts too, with the same
meaning.

Inside, a position and what was found there travel in one number (`position << 8 | found`), because compiled code
returns one number most cheaply; -1 means doubt.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from streams.runtime.compiled import compiled
from streams.runtime.native import Words, address, i64, put64, same, u8, u64

ABSENT, STRING, ESCAPED, INTEGER, FLOAT, TRUE, FALSE, NULL, SCALARS, STRINGS, NUMBERS, OTHER = range(12)
"""Types of a value. `ESCAPED`: a string with escapes; its span is the text as it came. `SCALARS`: an object whose
values are scalars; `STRINGS`: one whose values are strings (an empty object too); `NUMBERS`: an array of numbers (or
an empty one). The span of a string leaves the quotes out."""

START, END, TYPE, MEMBERS = 0, 8, 16, 24
SPAN = 32
"""Offsets into a span, and its size, in bytes."""

PAD = 8
"""Bytes that must be readable behind the data, because whole words are read."""

_DEPTH = 60
_DIGITS = 18
_WIDE = 128
"""Set in what was found: there are bytes beyond ASCII."""

_ONES = np.uint64(0x0101010101010101)
_HIGHS = np.uint64(0x8080808080808080)
_QUOTES = np.uint64(0x2222222222222222)
_SLASHES = np.uint64(0x5C5C5C5C5C5C5C5C)
_SPACES = np.uint64(0x2020202020202020)


class Fields:
    """The known fields of a kind of event, as a table that finds a name by its length and two of its letters.

    `memory` holds: the factor; 64 places (field or -1); per field its name's address and length.
    """

    def __init__(self, names: tuple[str, ...]) -> None:
        self.names = names
        self._text: NDArray[np.uint8] = np.frombuffer("".join(names).encode() + bytes(PAD), dtype=np.uint8)
        self.memory: Words = np.full(1 + 64 + 2 * len(names), -1, dtype=np.int64)
        start = address(self._text)
        for index, name in enumerate(names):
            self.memory[65 + 2 * index : 67 + 2 * index] = start, len(name)
            start += len(name)
        for factor in range(1, 10_000):
            places = [(len(name) * factor + ord(name[0]) * 7 + ord(name[-1])) & 63 for name in names]
            if len(set(places)) == len(names):
                break
        self.memory[0] = factor
        for index, place in enumerate(places):
            self.memory[1 + place] = index
        self.address = address(self.memory)


@compiled
def _blank(i: int, end: int) -> int:
    while i < end:
        c = u8(i)
        if c > 32 or (c != 32 and c != 10 and c != 13 and c != 9):
            break
        i += 1
    return i


@compiled
def _odd(word: Any) -> Any:
    """Set the high bit of a byte that is a quote, a backslash or a control character, or behind one that is."""
    quote = word ^ _QUOTES
    slash = word ^ _SLASHES
    return ((quote - _ONES) & ~quote) | ((slash - _ONES) & ~slash) | ((word - _SPACES) & ~word)


@compiled
def is_plain(start: int, size: int) -> bool:
    """Whether bytes hold no quote, backslash or control character."""
    i = 0
    while i + 8 <= size:
        if (_odd(u64(start + i)) & _HIGHS) != np.uint64(0):
            return False
        i += 8
    while i < size:
        c = u8(start + i)
        if c < 32 or c == 34 or c == 92:
            return False
        i += 1
    return True


@compiled
def _string(i: int, end: int) -> int:
    """From behind the opening quote to the closing one."""
    found = STRING
    while i < end:
        word = u64(i)
        if ((_odd(word) | word) & _HIGHS) == np.uint64(0):
            i += 8
            continue
        stop = i + 8
        while i < stop:
            if i >= end:
                return -1
            c = u8(i)
            if c == 34:
                return i << 8 | found
            if c < 32:
                return -1
            if c == 92:
                found = (found & _WIDE) | ESCAPED
                e = u8(i + 1)
                if e == 117:
                    if i + 6 > end:
                        return -1
                    for k in range(i + 2, i + 6):
                        x = u8(k)
                        if not (48 <= x <= 57 or 97 <= x <= 102 or 65 <= x <= 70):
                            return -1
                    if u8(i + 2) == 68 or u8(i + 2) == 100:  # D…: it may be half a surrogate pair
                        return -1
                    i += 6
                elif e == 34 or e == 92 or e == 47 or e == 98 or e == 102 or e == 110 or e == 114 or e == 116:
                    i += 2
                else:
                    return -1
                continue
            if c >= 128:
                found |= _WIDE
            i += 1
    return -1


@compiled
def _number(i: int, end: int) -> int:
    """To the position behind a number."""
    if u8(i) == 45:
        i += 1
    first = i
    while i < end and 48 <= u8(i) <= 57:
        i += 1
    digits = i - first
    if digits == 0 or digits > _DIGITS or (u8(first) == 48 and digits > 1):
        return -1
    found = INTEGER
    if i < end and u8(i) == 46:
        i += 1
        first = i
        while i < end and 48 <= u8(i) <= 57:
            i += 1
        if i == first or i - first > 40:
            return -1
        found = FLOAT
    if i < end and (u8(i) == 101 or u8(i) == 69):
        i += 1
        if i < end and (u8(i) == 43 or u8(i) == 45):
            i += 1
        first = i
        while i < end and 48 <= u8(i) <= 57:
            i += 1
        if i == first or i - first > 2:
            return -1
        found = FLOAT
    return i << 8 | found


@compiled
def scalar(i: int, end: int) -> int:
    """To the position behind a scalar; a string's is that behind its closing quote."""
    c = u8(i)
    if c == 34:
        got = _string(i + 1, end)
        return got if got < 0 else got + 256
    if c == 45 or 48 <= c <= 57:
        return _number(i, end)
    if i + 4 <= end:
        four = i64(i) & 0xFFFFFFFF
        if four == 0x65757274:  # true
            return (i + 4) << 8 | TRUE
        if four == 0x6C6C756E:  # null
            return (i + 4) << 8 | NULL
        if four == 0x736C6166 and i + 5 <= end and u8(i + 4) == 101:  # false
            return (i + 5) << 8 | FALSE
    return -1


@compiled
def container(i: int, end: int, members_at: int) -> int:
    """To the position behind an object or array; the number of members of the outermost goes to `members_at`."""
    objects = 0  # a bit per depth: whether it is an object
    depth = 0
    members = 0
    wide = 0
    scalars = strings = numbers = True
    outermost = u8(i) == 123
    opening = True
    while True:
        if opening:
            depth += 1
            if depth > _DEPTH:
                return -1
            objects = (objects << 1) | (1 if u8(i) == 123 else 0)
            i = _blank(i + 1, end)
            if i >= end:
                return -1
            opening = False
            if u8(i) == (125 if objects & 1 else 93):
                i += 1
                depth -= 1
                objects >>= 1
                if depth == 0:
                    break
                i = _blank(i, end)
                opening = True  # as behind a value
        else:
            opening = True
        if opening:  # behind a value: more members, or the end of some containers
            opening = False
            if i >= end:
                return -1
            c = u8(i)
            if c == 44:
                i = _blank(i + 1, end)
            elif c == (125 if objects & 1 else 93):
                i += 1
                depth -= 1
                objects >>= 1
                if depth == 0:
                    break
                i = _blank(i, end)
                continue
            else:
                return -1
        if i >= end:
            return -1
        if objects & 1:
            if u8(i) != 34:
                return -1
            got = _string(i + 1, end)
            if got < 0:
                return -1
            wide |= got & _WIDE
            i = _blank((got >> 8) + 1, end)
            if i >= end or u8(i) != 58:
                return -1
            i = _blank(i + 1, end)
            if i >= end:
                return -1
        if depth == 1:
            members += 1
        c = u8(i)
        if c == 123 or c == 91:
            opening = True
            scalars = strings = numbers = False
            continue
        got = scalar(i, end)
        if got < 0:
            return -1
        found = got & 127
        wide |= got & _WIDE
        if found != STRING and found != ESCAPED:
            strings = False
        if found != INTEGER and found != FLOAT:
            numbers = False
        i = _blank(got >> 8, end)
    put64(members_at, members)
    found = OTHER
    if outermost:
        if strings:
            found = STRINGS
        elif scalars:
            found = SCALARS
    elif numbers:
        found = NUMBERS
    return i << 8 | wide | found


@compiled
def utf8(i: int, end: int) -> bool:
    """Whether bytes are UTF-8: no overlong forms, no surrogates, nothing beyond U+10FFFF."""
    while i < end:
        c = u8(i)
        if c < 128:
            i += 1
            continue
        if 194 <= c <= 223:
            more = 1
        elif 224 <= c <= 239:
            more = 2
        elif 240 <= c <= 244:
            more = 3
        else:
            return False
        if i + more >= end:
            return False
        second = u8(i + 1)
        if (c == 224 and second < 160) or (c == 237 and second > 159):
            return False
        if (c == 240 and second < 144) or (c == 244 and second > 143):
            return False
        for k in range(i + 1, i + 1 + more):
            if u8(k) < 128 or u8(k) > 191:
                return False
        i += more + 1
    return True


@compiled
def scan(start: int, end: int, fields: int, count: int, spans: int) -> bool:
    """Note the span of each of `count` known fields of an object at `spans`. False: in doubt."""
    for k in range(count):
        put64(spans + k * SPAN + TYPE, ABSENT)
    factor = i64(fields)
    names = fields + 65 * 8
    wide = 0
    i = _blank(start, end)
    if i >= end or u8(i) != 123:
        return False
    i = _blank(i + 1, end)
    while True:
        if i >= end or u8(i) != 34:
            return False
        name = i + 1
        got = _string(name, end)
        if got < 0 or got & 127 != STRING:
            return False
        wide |= got & _WIDE
        i = got >> 8
        size = i - name
        field = -1
        if size > 0:
            field = i64(fields + 8 + ((size * factor + u8(name) * 7 + u8(i - 1)) & 63) * 8)
            if field >= 0 and (i64(names + field * 16 + 8) != size or not same(name, i64(names + field * 16), size)):
                field = -1
        i = _blank(i + 1, end)
        if i >= end or u8(i) != 58:
            return False
        i = _blank(i + 1, end)
        if i >= end:
            return False
        value = i
        span = spans + (field if field >= 0 else count) * SPAN
        c = u8(i)
        got = container(i, end, span + MEMBERS) if c == 123 or c == 91 else scalar(i, end)
        if got < 0:
            return False
        found = got & 127
        wide |= got & _WIDE
        i = got >> 8
        if field >= 0:
            if i64(span + TYPE) != ABSENT:
                return False
            quoted = 1 if found in (STRING, ESCAPED) else 0
            put64(span + START, value + quoted)
            put64(span + END, i - quoted)
            put64(span + TYPE, found)
        i = _blank(i, end)
        if i >= end:
            return False
        c = u8(i)
        if c == 44:
            i = _blank(i + 1, end)
            continue
        if c != 125 or _blank(i + 1, end) != end:
            return False
        return wide == 0 or utf8(start, end)
