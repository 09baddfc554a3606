"""An envelope of the log: the events in it, each as the text that it would be as a record. See `schemas.envelope`."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import msgspec
import pyarrow as pa

from schemas.envelope import EVENT_BYTES, MAPS, MOST_BYTES, MOST_EVENTS, STRINGS, is_compressed
from schemas.inputs import Label, Prediction, Signal

KINDS: dict[str, type[Prediction] | type[Label] | type[Signal]] = {
    "predictions": Prediction,
    "labels": Label,
    "signals": Signal,
}


def table_of(topic: str, value: bytes | None) -> pa.Table | str:
    """Read an envelope: a table, or the reason why it is none."""
    try:
        if value is None or is_compressed(value):
            return "bad_envelope"
        source = pa.BufferReader(value)
        batches, rows, size = [], 0, 0
        most = min(MOST_EVENTS, len(value) // EVENT_BYTES)
        with pa.ipc.open_stream(source) as stream:
            if not all(is_accepted(field.type) for field in stream.schema):
                return "bad_envelope"
            for batch in stream:
                batch.validate()
                rows, size = rows + batch.num_rows, size + batch.nbytes
                if rows <= most and size <= MOST_BYTES:
                    batch.validate(full=True)
                    size += sum(viewed(column, MOST_BYTES) for column in batch.columns)
                if rows > most or size > MOST_BYTES:
                    return "too_large"
                batches.append(batch)
            table = pa.Table.from_batches(batches, stream.schema)
        if source.tell() < len(value):
            return "bad_envelope"  # a second stream, say
    except (pa.ArrowException, OSError, ValueError):
        return "bad_envelope"
    names = table.column_names
    fields = {field.name for field in msgspec.structs.fields(KINDS[topic])}
    objects = {name.partition(".")[0] for name in names if "." in name} & {*MAPS} & fields
    if len(names) > len(set(names)) or objects & set(names):
        return "bad_envelope"
    size = 0
    for batch in table.to_batches(max_chunksize=64):
        size += sum(len(text_of(topic, row)) for row in batch.to_pylist())
        if size > MOST_BYTES:
            return "too_large"
    return table


def viewed(column: pa.Array, most: int) -> int:
    """Count the bytes of texts that lie behind views, which may overlap; not much beyond `most`."""
    words = column
    if pa.types.is_dictionary(column.type):
        words = column.dictionary
    elif pa.types.is_list(column.type) or pa.types.is_large_list(column.type):
        words = column.values
    size = 0
    if words.type == pa.string_view():
        for word in words:
            size += len((word.as_py() or "").encode())
            if size > most:
                break
    return size


def is_accepted(kind: pa.DataType) -> bool:
    """Say whether a column may have a type."""
    texts = (pa.string(), pa.large_string(), pa.string_view())
    if pa.types.is_dictionary(kind):
        return kind.value_type in texts
    if pa.types.is_list(kind) or pa.types.is_large_list(kind):
        kind = kind.value_type
    numbers = pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_boolean(kind)
    return numbers or kind in texts


def text_of(topic: str, row: Mapping[str, Any]) -> bytes:
    """Write a row as JSON: fields in the contract's order, then unknown ones by name; nulls are absent."""
    fields = [field.name for field in msgspec.structs.fields(KINDS[topic])]
    texts: dict[str, bytes] = {}
    members: dict[str, dict[str, bytes]] = {}
    for name, value in row.items():
        outer, dot, inner = name.partition(".")
        is_member = bool(dot) and outer in MAPS and outer in fields
        if value is not None:
            is_text = is_member or name in STRINGS or name not in fields
            text = cell_of(value, is_text)
            if is_member:
                members.setdefault(outer, {})[inner] = text
            else:
                texts[name] = text
    texts |= {name: joined(sorted(inside.items())) for name, inside in members.items()}
    return joined(sorted(texts.items(), key=lambda one: (one[0] not in fields, *where(one[0], fields))))


def where(name: str, fields: Sequence[str]) -> tuple[int, str]:
    """Place a name among the contract's fields, or by itself."""
    return (fields.index(name), "") if name in fields else (0, name)


def joined(members: Iterable[tuple[str, bytes]]) -> bytes:
    """Write an object from its members' texts."""
    return b"{" + b",".join(msgspec.json.encode(name) + b":" + text for name, text in members) + b"}"


def cell_of(value: object, is_text: bool) -> bytes:
    """Write a cell."""
    if isinstance(value, str):
        return msgspec.json.encode(value) if is_text or not is_json(value.encode()) else value.encode()
    if isinstance(value, float) and value - value != 0:
        return b'"NaN"' if value != value else b'"Infinity"' if value > 0 else b'"-Infinity"'
    return msgspec.json.encode(value)


def is_json(value: bytes) -> bool:
    """Say whether bytes are JSON of any shape; numbers too large to hold are."""
    try:
        msgspec.json.decode(value.decode("utf-8"))
    except (UnicodeDecodeError, RecursionError):
        return False
    except ValueError as error:
        malformed = isinstance(error, msgspec.DecodeError) and not isinstance(error, msgspec.ValidationError)
        return not malformed  # else a number: beyond a double, or of thousands of digits
    return True
