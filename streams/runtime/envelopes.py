"""Envelopes, read: one Kafka record there, many events or rows here (`schemas.envelope` says what it is).

An envelope is read into `Cells`, one per column; `Envelope.texts` gives its events' texts, and compiled code may write
the same ones itself (`streams.join.columns.arrow`). What cannot be read is one record, whole.
"""

from __future__ import annotations

from functools import cache, lru_cache
from typing import Any

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from schemas.envelope import (
    EVENT_BYTES,
    MAPS,
    MOST_BYTES,
    MOST_EVENTS,
    STRINGS,
    is_compressed,
)
from schemas.inputs import Label, Prediction, Signal
from streams.runtime.rows import CACHED_CHARACTERS, INTEGER, JSON, QUOTED, Cells, Envelope, Unreadable

KINDS: dict[str, type[msgspec.Struct]] = {"predictions": Prediction, "labels": Label, "signals": Signal}


@cache
def fields_of(topic: str) -> tuple[str, ...]:
    """Name the fields of an input's events, in the order in which texts have them."""
    return tuple(field.encode_name for field in msgspec.structs.fields(KINDS[topic]))


def read(topic: str, value: bytes | pa.Buffer | None) -> Envelope:
    """Read an Arrow envelope of an input. Raises `Unreadable`."""
    if value is None:
        raise Unreadable("the record has no value: expected an Arrow IPC stream")
    try:
        if is_compressed(memoryview(value).cast("B")):
            raise Unreadable("its buffers are compressed: leave that to Kafka (`compression.type`)")
        table = _unified(_table(pa.BufferReader(value)))
        envelope = Envelope(_columns(topic, table), table.num_rows)
    except (pa.ArrowException, OSError, ValueError, UnicodeDecodeError) as error:
        raise Unreadable(f"the value is no Arrow IPC stream: {str(error)[:200]}") from None
    return _checked(envelope)


def _table(source: pa.BufferReader) -> pa.Table:
    """Read a stream. Batch by batch, because each may hold all the words of those before once more."""
    batches, count, size = [], 0, 0
    most = min(MOST_EVENTS, source.size() // EVENT_BYTES)
    with pa.ipc.open_stream(source) as stream:
        for field in stream.schema:
            _refuse_type(field)
        views = [place for place, kind in enumerate(stream.schema.types) if _has_views(kind)]
        for batch in stream:
            batch.validate()  # before it is measured: Arrow follows offsets for that
            count, size = count + batch.num_rows, size + batch.nbytes
            if count <= most and size <= MOST_BYTES:
                batch.validate(full=True)  # lengths, offsets, UTF-8: compiled code trusts them
                size += sum(_viewed(batch.column(place)) for place in views)
            if count > most or size > MOST_BYTES:
                raise Unreadable(
                    f"the envelope holds {count} events of {size} bytes, or more; at most {most} (one for "
                    f"{EVENT_BYTES} bytes as they came) of {MOST_BYTES} bytes are accepted",
                    "too_large",
                )
            batches.append(batch)
        if source.tell() != source.size():
            raise Unreadable("there is more behind the end of the stream, which nobody would read: send it by itself")
        return pa.Table.from_batches(batches, stream.schema)


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


def _has_views(kind: pa.DataType) -> bool:
    inner = kind.value_type if not is_text(kind) and hasattr(kind, "value_type") else kind
    return bool(inner == pa.string_view())


def _viewed(array: pa.Array) -> int:
    """Count the bytes of a column's texts that lie behind views: many may show the same ones."""
    if pa.types.is_dictionary(array.type):
        array = array.dictionary
    elif array.type != pa.string_view():
        array = array.values
    return int(_views(array)[:, 0].sum(dtype=np.int64))


def _views(array: pa.Array) -> NDArray[np.int32]:
    """Give an array's views, four words each, of which the first is a length; zeros for nulls."""
    count = array.offset + len(array)
    if not len(array):
        return np.zeros((count, 4), dtype=np.int32)
    found = np.frombuffer(array.buffers()[1], np.int32, 4 * count).reshape(-1, 4)
    if array.null_count:
        bits = np.frombuffer(array.buffers()[0], np.uint8)
        found = found * np.unpackbits(bits, count=count, bitorder="little").astype(np.int32)[:, np.newaxis]
    return found


def _with_offsets(array: pa.Array) -> pa.Array:
    """Give texts behind views as texts with offsets. A null's view may be anything, and Arrow would follow it."""
    buffers = array.buffers()
    buffers[1] = pa.py_buffer(np.ascontiguousarray(_views(array)))
    return pa.Array.from_buffers(array.type, len(array), buffers, offset=array.offset).cast(pa.large_utf8())


def _unified(table: pa.Table) -> pa.Table:
    """Give a table with its columns in one piece each."""
    for place, field in enumerate(table.schema):
        if pa.types.is_dictionary(field.type):
            kind, column = field.type, table.column(place)
            nulls = any(chunk.dictionary.null_count for chunk in column.chunks)
            if nulls or kind.value_type == pa.string_view() or kind.index_type != pa.int32():
                words = pa.utf8() if kind.value_type == pa.utf8() else pa.large_utf8()
                chunks = [_coded(chunk) for chunk in column.chunks]
                table = table.set_column(place, field.name, pa.chunked_array(chunks, pa.dictionary(pa.int32(), words)))
    return table.unify_dictionaries().combine_chunks()


def _coded(array: pa.Array) -> pa.Array:
    """Give texts behind a dictionary as Arrow can unify them: 32-bit codes, words with offsets, none of them null."""
    words, codes = array.dictionary, array.indices.cast(pa.int32())
    if words.type == pa.string_view():
        words = _with_offsets(words)
    if words.null_count:
        codes = pc.if_else(words.is_valid().take(codes), codes, None)
        words = pc.coalesce(words, "")
    return pa.DictionaryArray.from_arrays(codes, words)


def _columns(topic: str, table: pa.Table) -> list[Cells]:
    found = []
    names = tuple(table.schema.names)
    layout = _layout if sum(map(len, names)) <= CACHED_CHARACTERS * 64 else _layout.__wrapped__
    for place, field, member, text in layout(topic, names):
        array = _array(table.column(place))
        found.append(Cells(field, member, _kind(array, text), array))
    return found


@lru_cache(maxsize=256)
def _layout(topic: str, names: tuple[str, ...]) -> list[tuple[int, str, str | None, bool]]:
    """Give the columns in the order of their texts: place, field, member, and whether texts are strings there.

    Raises `Unreadable`.
    """
    fields = fields_of(topic)
    seen: dict[str, set[str | None]] = {}
    found = []
    for place, name in enumerate(names):
        field, dot, inner = name.partition(".")
        is_member = bool(dot) and field in MAPS and field in fields
        field, member = (field, inner) if is_member else (name, None)
        members = seen.setdefault(field, set())
        if member in members or None in members or (members and member is None):
            raise Unreadable(f"the column {name!r} says again what another column says")
        members.add(member)
        rank = fields.index(field) if field in fields else len(fields)
        text = is_member or field in STRINGS or field not in fields
        found.append(((rank, field, member or ""), (place, field, member, text)))
    return [column for _, column in sorted(found, key=lambda one: one[0])]


def _array(column: pa.ChunkedArray) -> pa.Array:
    """Give a column as one array: texts with offsets, integers as int64 if they fit."""
    array = column.chunk(0) if column.num_chunks else pa.array([], column.type)
    kind = array.type
    if kind == pa.string_view():
        return _with_offsets(array)
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


def _checked(envelope: Envelope) -> Envelope:
    """Refuse one whose texts are too long together: a dictionary makes much of little."""
    if _bound(envelope) <= MOST_BYTES:
        return envelope
    # One long word that few events say would make of every event a portion, and hours of them all.
    coded = sum(_coded_bytes(one.array) for one in envelope.columns if pa.types.is_dictionary(one.array.type))
    size, least = 0, coded + sum(_there(one.array) * len(one.label) for one in envelope.columns)
    most = max(1, MOST_BYTES * envelope.count // _bound(envelope, coded))
    for start in range(0, envelope.count, most):
        if max(size, least) <= MOST_BYTES:
            size += sum(map(len, envelope.select(start, min(most, envelope.count - start)).texts()))
    if max(size, least) > MOST_BYTES:
        raise Unreadable(f"its events have more than {MOST_BYTES} bytes together", "too_large")
    return envelope


def _there(array: pa.Array) -> int:
    return len(array) - int(array.null_count)


def _coded_bytes(array: pa.Array) -> int:
    """Count the bytes of a column's texts, which lie behind a dictionary."""
    return int(pc.sum(pc.binary_length(array.dictionary).take(array.indices)).as_py() or 0)


def _bound(envelope: Envelope, coded: int | None = None) -> int:
    """Bound the bytes of all texts together. `coded`: how many lie behind dictionaries, if that has been counted."""
    total = 2 * envelope.count + 6 * (coded or 0)
    for cells in envelope.columns:
        array, each = cells.array, 30 + len(cells.label) + len(cells.opening)
        total += _there(array) * each
        if pa.types.is_dictionary(array.type):
            if coded is None:
                total += 6 * _there(array) * int(np.diff(offsets_of(array.dictionary)).max(initial=0))
        else:
            inner = len(array.values) if pa.types.is_list(array.type) or pa.types.is_large_list(array.type) else 0
            total += 26 * inner + 6 * int(array.nbytes) + (6 * _viewed(array) if _has_views(array.type) else 0)
    return total


def offsets_of(words: pa.Array) -> NDArray[Any]:
    """Give where each text begins in an array's data, and where the last one ends: 32 or 64 bits each."""
    buffer = words.buffers()[1]
    kind = np.int64 if pa.types.is_large_string(words.type) else np.int32
    if buffer is None or not len(words):
        return np.zeros(1, dtype=kind)
    return np.frombuffer(buffer, kind, words.offset + len(words) + 1)[words.offset :]  # there may be odd bytes behind
