"""Envelopes, read: one Kafka record there, many events or rows here (`schemas.envelope` says what it is).

An envelope is read into `Cells`, one per column; `Envelope.texts` gives its events' texts, and compiled code may write
the same ones itself (`streams.join.columns.arrow`). What cannot be read is one record, whole.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache, lru_cache
from typing import Any

import msgspec
import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from schemas.envelope import (
    MAPS,
    MOST_BYTES,
    MOST_EVENTS,
    STRINGS,
    is_compressed,
)
from schemas.inputs import Label, Prediction, Signal

KINDS: dict[str, type[msgspec.Struct]] = {"predictions": Prediction, "labels": Label, "signals": Signal}

QUOTED, JSON, INTEGER = 0, 1, 2
"""How a cell becomes text: between quotes, as it is if it is JSON, in decimal."""
_encode = msgspec.json.encode
_decode = msgspec.json.decode


class Unreadable(Exception):
    """An envelope that is none; its text says why. `reason` is the dead letter's."""

    def __init__(self, detail: str, reason: str = "bad_envelope") -> None:
        super().__init__(detail)
        self.reason = reason


@cache
def fields_of(topic: str) -> tuple[str, ...]:
    """Name the fields of an input's events, in the order in which texts have them."""
    return tuple(field.encode_name for field in msgspec.structs.fields(KINDS[topic]))


@lru_cache(maxsize=4096)
def _label(name: str) -> bytes:
    return _encode(name) + b":"


@dataclass(frozen=True, slots=True)
class Cells:
    """A column: the field, or the `member` of one, its values, and how they become text."""

    name: str
    member: str | None
    kind: int
    array: pa.Array

    @property
    def label(self) -> bytes:
        """What stands before a value: `"name":`."""
        return _label(self.name if self.member is None else self.member)

    @property
    def opening(self) -> bytes:
        """What stands before the first member of an object: `"features":{`."""
        return _label(self.name) + b"{"

    def texts(self) -> list[bytes | None]:
        """Give each cell's text; None for a null."""
        if self.kind == INTEGER:
            return [None if value is None else b"%d" % value for value in self.array.to_pylist()]
        values = self.array.to_pylist()
        if self.kind == QUOTED:
            return [None if value is None else _encode(value) for value in values]
        return [None if value is None else _as_json(value) for value in values]


class Envelope:
    """The events of one envelope: `columns` in the order of their texts."""

    def __init__(self, columns: list[Cells], count: int) -> None:
        self.columns, self.count = columns, count

    def select(self, first: int, count: int = 1) -> Envelope:
        """Give some of the events."""
        some = [Cells(one.name, one.member, one.kind, one.array.slice(first, count)) for one in self.columns]
        return Envelope(some, count)

    def keys(self) -> list[bytes | None]:
        """Give each event's request id, where it is a text."""
        for cells in self.columns:
            if cells.name == "request_id" and cells.kind == QUOTED:
                return [None if value is None else value.encode() for value in cells.array.to_pylist()]
        return [None] * self.count

    def texts(self) -> list[bytes]:
        """Give the text of each event."""
        parts: list[list[bytes]] = [[] for _ in range(self.count)]
        start = 0
        while start < len(self.columns):
            end = start + 1
            if self.columns[start].member is not None:
                while end < len(self.columns) and self.columns[end].name == self.columns[start].name:
                    end += 1
                self._members(parts, self.columns[start:end])
            else:
                label = self.columns[start].label
                for part, text in zip(parts, self.columns[start].texts(), strict=True):
                    if text is not None:
                        part.append(label + text)
            start = end
        return [b"{%b}" % b",".join(part) for part in parts]

    def _members(self, parts: list[list[bytes]], columns: list[Cells]) -> None:
        label = columns[0].opening
        labelled = [(cells.label, cells.texts()) for cells in columns]
        for index, part in enumerate(parts):
            members = [name + text for name, texts in labelled if (text := texts[index]) is not None]
            if members:
                part.append(label + b",".join(members) + b"}")


class Lines:
    """The rows of an envelope of feedback."""

    def __init__(self, value: bytes | None) -> None:
        if not value:
            raise Unreadable("the record has no value: expected lines of JSON")
        self.rows = value.split(b"\n")
        self.count = len(self.rows)

    def keys(self) -> list[bytes | None]:
        """Give each row's request id, where it is to be seen."""
        return [_request_id(row) for row in self.rows]

    def texts(self) -> list[bytes]:
        """Give each row."""
        return self.rows


class _Whose(msgspec.Struct):
    request_id: str


_whose = msgspec.json.Decoder(_Whose)


def _request_id(row: bytes) -> bytes | None:
    try:
        return _whose.decode(row).request_id.encode()
    except (ValueError, RecursionError):
        return None


def read(topic: str, value: bytes | pa.Buffer | None) -> Envelope:
    """Read an Arrow envelope of an input. Raises `Unreadable`."""
    if value is None:
        raise Unreadable("the record has no value: expected an Arrow IPC stream")
    try:
        if is_compressed(memoryview(value).cast("B")):
            raise Unreadable("its buffers are compressed: leave that to Kafka (`compression.type`)")
        with pa.ipc.open_stream(pa.py_buffer(value)) as stream:
            for field in stream.schema:
                _refuse_type(field)
            table = stream.read_all()
        if table.num_rows > MOST_EVENTS or table.nbytes > MOST_BYTES:
            raise Unreadable(
                f"the envelope holds {table.num_rows} events of {table.nbytes} bytes; at most {MOST_EVENTS} of "
                f"{MOST_BYTES} bytes are accepted",
                "too_large",
            )
        table.validate(full=True)  # lengths, offsets, UTF-8: compiled code trusts them
        table = table.unify_dictionaries().combine_chunks()
    except (pa.ArrowException, OSError, ValueError, UnicodeDecodeError) as error:
        raise Unreadable(f"the value is no Arrow IPC stream: {str(error)[:200]}") from None
    return _checked(Envelope(_columns(topic, table), table.num_rows))


def _refuse_type(field: pa.Field) -> None:
    """Refuse types whose values may be more than their bytes (run ends, unions, lists of nulls) or mean no JSON."""
    types, kind = pa.types, field.type
    if types.is_dictionary(kind):
        accepted = is_text(kind.value_type)
    else:
        if types.is_list(kind) or types.is_large_list(kind):
            kind = kind.value_type
        accepted = is_text(kind) or types.is_integer(kind) or types.is_floating(kind) or types.is_boolean(kind)
    if not accepted:
        raise Unreadable(
            f"the column {field.name!r} has type {field.type}: expected utf8, an integer, a float, bool, or a list "
            "of them"
        )


def _columns(topic: str, table: pa.Table) -> list[Cells]:
    found = []
    for place, field, member, text in _layout(topic, table.schema):
        array = _array(table.column(place))
        found.append(Cells(field, member, _kind(array, text), array))
    return found


@lru_cache(maxsize=256)
def _layout(topic: str, schema: pa.Schema) -> list[tuple[int, str, str | None, bool]]:
    """Give the columns in the order of their texts: place, field, member, and whether texts are strings there.

    Raises `Unreadable`.
    """
    fields = fields_of(topic)
    seen: dict[str, set[str | None]] = {}
    found = []
    for place, name in enumerate(schema.names):
        field, dot, inner = name.partition(".")
        is_member = bool(dot) and field in MAPS and field in fields
        field, member = (field, inner) if is_member else (name, None)
        members = seen.setdefault(field, set())
        if member in members or (members and None in {member, *members}):
            raise Unreadable(f"the column {name!r} says again what another column says")
        members.add(member)
        rank = fields.index(field) if field in fields else len(fields)
        text = is_member or field in STRINGS or field not in fields
        found.append(((rank, field, member or ""), (place, field, member, text)))
    return [column for _, column in sorted(found, key=lambda one: one[0])]


def _array(column: pa.ChunkedArray) -> pa.Array:
    """Give a column as one array: texts with offsets, plain or behind 32-bit codes, integers as int64 if they fit."""
    array = column.chunk(0) if column.num_chunks else pa.array([], column.type)
    kind = array.type
    if pa.types.is_dictionary(kind):
        if not is_text(kind.value_type) or array.dictionary.null_count:
            return _array(pa.chunked_array([array.dictionary_decode()]))
        if kind.value_type != pa.string_view() and kind.index_type == pa.int32():
            return array
        words = array.dictionary.cast(pa.large_utf8())
        return pa.DictionaryArray.from_arrays(array.indices.cast(pa.int32()), words)
    if kind == pa.string_view():
        return array.cast(pa.large_utf8())
    if pa.types.is_integer(kind) and kind not in (pa.int64(), pa.uint64()):
        return array.cast(pa.int64())
    return array


def is_text(kind: pa.DataType) -> bool:
    """Whether a column holds texts."""
    return kind in (pa.utf8(), pa.large_utf8(), pa.string_view())


def _kind(array: pa.Array, text: bool) -> int:
    if pa.types.is_dictionary(array.type) or is_text(array.type):
        return QUOTED if text else JSON
    return INTEGER if array.type == pa.int64() else JSON


def _as_json(value: Any) -> bytes:
    """Give the text of a value of a field that is no string."""
    if type(value) is str:
        body = value.encode()
        try:
            _decode(body)
        except RecursionError:
            return _encode(value)
        except ValueError as error:
            # a number beyond a double is JSON all the same; what is made of it is said where it is read
            if isinstance(error, msgspec.DecodeError) and not isinstance(error, msgspec.ValidationError):
                return _encode(value)
        return body
    if type(value) is float and not np.isfinite(value):
        return b'"NaN"' if value != value else b'"Infinity"' if value > 0 else b'"-Infinity"'
    try:
        return _encode(value)
    except (TypeError, ValueError, OverflowError, RecursionError):
        return _encode(repr(value))


def _checked(envelope: Envelope) -> Envelope:
    """Refuse one whose texts are too long together: a dictionary makes much of little."""
    bound = _bound(envelope)
    if bound <= MOST_BYTES:
        return envelope
    most = max(1, MOST_BYTES * envelope.count // bound)
    size = 0
    for start in range(0, envelope.count, most):
        size += sum(map(len, envelope.select(start, min(most, envelope.count - start)).texts()))
        if size > MOST_BYTES:
            raise Unreadable(f"its events have more than {MOST_BYTES} bytes together", "too_large")
    return envelope


def _bound(envelope: Envelope) -> int:
    """Bound the bytes of all texts together."""
    total = 2 * envelope.count
    for cells in envelope.columns:
        array, each = cells.array, 30 + len(cells.label) + len(cells.opening)
        total += envelope.count * each
        if pa.types.is_dictionary(array.type):
            total += 6 * envelope.count * int(np.diff(offsets_of(array.dictionary)).max(initial=0))
        else:
            inner = len(array.values) if pa.types.is_list(array.type) or pa.types.is_large_list(array.type) else 0
            total += 26 * inner + 6 * int(array.nbytes)
    return total


def offsets_of(words: pa.Array) -> NDArray[Any]:
    """Give where each text begins in an array's data, and where the last one ends: 32 or 64 bits each."""
    buffer = words.buffers()[1]
    kind = np.int64 if pa.types.is_large_string(words.type) else np.int32
    if buffer is None or not len(words):
        return np.zeros(1, dtype=kind)
    found = np.frombuffer(buffer, dtype=kind)
    return found[words.offset : words.offset + len(words) + 1]
