"""Records whose envelopes have been unfolded: each event a record of its own, as everything behind here wants them.

One that cannot be read stays as it is, so that it can be said why.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from schemas.envelope import ARROW, CONTENT_TYPE, ROWS, content_type
from streams.runtime.envelopes import KINDS, read
from streams.runtime.native import Words, address, padded
from streams.runtime.records import PACKED_WORDS, Headers, Packed, Records, position
from streams.runtime.rows import Envelope, Lines, Unreadable

_MARKS = {**dict.fromkeys(KINDS, ARROW), "feedback": ROWS}


def refusal(topic: str, value: bytes | None) -> tuple[str, str]:
    """Say why an envelope cannot be read: reason and sentence."""
    try:
        read(topic, value)
    except Unreadable as error:
        return error.reason, str(error)
    return "bad_envelope", "an envelope where a single event is expected"


def unfold(topic: str, records: Records, *, written: bool = True) -> Records:
    """Give records with the events of each envelope in its place; the same records when there is none.

    One that cannot be read stays as it is. Unless they are to be `written`, the texts may be left to compiled code
    (`Packed.unwritten`). The key of an event is its request id.
    """
    beside = records.beside()
    if not beside or topic not in _MARKS:
        return records
    marked = [index for index, headers in beside.items() if content_type(headers) == _MARKS[topic]]
    if not marked:
        return records
    packed = records.packed()
    opened: dict[int, Envelope | Lines] = {}
    for index in marked:
        try:
            opened[index] = opened_by(topic, _value_of(packed, index))
        except Unreadable:
            continue
    if not opened:
        return records
    return _written(records, opened) if written else _unwritten(packed, opened)


def apart(
    topic: str, key: bytes | None, value: bytes | None, headers: Headers
) -> list[tuple[int, bytes | None, bytes | None, Headers]]:
    """Give what one record stands for: (index, key, value, headers) of each event of an envelope, or of itself."""
    found = unfold(topic, Records([0], [0], [key], [value], {0: headers} if headers else {}))
    return [
        (found.indexes.get(place, 0), name, text, found.headers.get(place, ()))
        for place, (name, text) in enumerate(zip(found.keys, found.values, strict=True))
    ]


def is_refused(topic: str, headers: Headers) -> bool:
    """Whether a record that `unfold` left is an envelope that nobody can read."""
    return topic in _MARKS and content_type(headers) == _MARKS[topic]


def opened_by(topic: str, value: pa.Buffer | None) -> Envelope | Lines:
    """Open an envelope of a topic. Raises `Unreadable`."""
    return read(topic, value) if topic in KINDS else Lines(None if value is None else value.to_pybytes())


def _value_of(packed: Packed, index: int) -> pa.Buffer | None:
    at, size = packed.table[index, :2].tolist()
    return None if size < 0 else pa.foreign_buffer(at, size, packed.kept)


def _written(records: Records, opened: dict[int, Envelope | Lines]) -> Records:
    found = Records()
    for place, (offset, append_ms, key, value) in enumerate(
        zip(records.offsets, records.append_ms, records.keys, records.values, strict=True)
    ):
        headers = records.headers.get(place)
        envelope = opened.get(place)
        if envelope is None:
            found.append(offset, append_ms, key, value, headers, records.indexes.get(place, 0))
            continue
        rest = _without(headers or ())
        for index, (name, text) in enumerate(zip(envelope.keys(), envelope.texts(), strict=True)):
            found.append(offset, append_ms, name, text, rest, index)
    return found


def _without(headers: Headers) -> Headers:
    return tuple((name, value) for name, value in headers if name != CONTENT_TYPE)


def _unwritten(packed: Packed, opened: dict[int, Envelope | Lines]) -> Records:
    tables: list[Words] = []
    kept, headers = [*packed.kept], dict[int, Headers]()
    unwritten: list[tuple[int, int, Any]] = []
    done = count = 0
    for place in [*sorted(opened), len(packed)]:
        headers |= {count + k - done: packed.headers[k] for k in range(done, place) if k in packed.headers}
        tables.append(packed.table[done:place])
        count += place - done
        done = place + 1
        if place == len(packed):
            break
        envelope, row = opened[place], packed.table[place].tolist()
        rest = _without(packed.headers[place])
        table: Words = np.zeros((envelope.count, PACKED_WORDS), dtype=np.int64)
        table[:, 4] = row[4] + np.arange(envelope.count, dtype=np.int64) * position(0, 1)
        table[:, 5], table[:, 6] = row[5], bool(rest)
        unwritten.append((count, count + envelope.count, envelope))
        if rest:
            headers |= dict.fromkeys(range(count, count + envelope.count), rest)
        tables.append(table)
        count += envelope.count
    records = Records()
    records.extend(Packed(np.ascontiguousarray(np.concatenate(tables)), kept, headers, unwritten))
    return records


def write(table: Words, keys: Sequence[bytes | None], texts: Sequence[bytes]) -> NDArray[np.uint8]:
    """Enter texts and keys into rows of a packed table; gives the array that they lie in."""
    parts = [*texts, *(key or b"" for key in keys)]
    body = padded(b"".join(parts))
    sizes = np.fromiter(map(len, parts), dtype=np.int64, count=len(parts))
    starts = address(body) + np.cumsum(sizes) - sizes
    half = len(texts)
    table[:, 0], table[:, 2], table[:, 1], table[:, 3] = starts[:half], starts[half:], sizes[:half], sizes[half:]
    table[[index for index, key in enumerate(keys) if key is None], 3] = -1
    return body
