"""Records of one topic become one Arrow table: the raw record always, typed columns where the body is readable.

A column at a time: all bodies are decoded first, then each column is built over all events. When a batch does not
convert (an integer that no column holds, say), it is halved until the culprits are found; those land raw, with the
reason in `unreadable`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any

import msgspec
import pyarrow as pa

from services.record.columns import Column
from services.record.tables import EVENTS, POSITION, Table
from streams.runtime.records import Records
from streams.runtime.unfold import is_refused, unfold

_fields = msgspec.json.Decoder(dict[str, msgspec.Raw])

ERROR_CHARACTERS = 200


@cache
def _decoder(topic: str) -> msgspec.json.Decoder[Any]:
    return msgspec.json.Decoder(EVENTS[topic])


def to_arrow(table: Table, ranges: Mapping[int, Records], landed_ms: int) -> pa.Table:
    """Give the rows of some partitions of one topic, in the order of position; one for each event of an envelope."""
    decode = _decoder(table.topic).decode
    ranges = {partition: unfold(table.topic, records) for partition, records in ranges.items()}
    events: list[Any] = []
    errors: list[str] = []
    for partition in sorted(ranges):
        headers = ranges[partition].headers
        for place, body in enumerate(ranges[partition].values):
            event, error = _decoded(decode, body)
            if headers and is_refused(table.topic, headers.get(place, ())):
                event, error = None, "an envelope that cannot be read"
            events.append(event)
            errors.append(error)
    try:
        typed = [_column(column, events) for column in table.columns]
    except _NOT_A_VALUE:
        _refuse_misfits(table.columns, events, errors, 0, len(events))
        typed = [_column(column, events) for column in table.columns]
    arrays, names = _raw(ranges, errors, landed_ms), list(POSITION)
    if table.known is not None:
        bodies = [body for partition in sorted(ranges) for body in ranges[partition].values]
        arrays.append(pa.array(_unknown(bodies, events, table.known), pa.uint32()))
        names.append("unknown_fields")
    return pa.table(arrays + typed, names=names + [column.name for column in table.columns])


_NOT_A_VALUE = (pa.ArrowException, OverflowError, UnicodeEncodeError, TypeError, ValueError)


def _decoded(decode: Any, body: bytes | None) -> tuple[Any, str]:
    if body is None:
        return None, "the record has no value"
    try:
        if not body.isascii():
            body.decode()  # the decoder does not look into fields that it ignores
        return decode(body), ""
    except UnicodeDecodeError as error:
        return None, f"not UTF-8: byte {error.start} is wrong"
    except RecursionError:
        return None, "nested too deeply"
    except ValueError as error:  # msgspec's errors, and integers of thousands of digits
        return None, str(error)[:ERROR_CHARACTERS]


def _refuse_misfits(columns: Sequence[Column], events: list[Any], errors: list[str], start: int, end: int) -> None:
    """Find the events in [start, end) that some column does not take, halving, and take them out."""
    misfit = _misfit(columns, events[start:end])
    if not misfit:
        return
    if end - start == 1:
        events[start], errors[start] = None, misfit
        return
    middle = (start + end) // 2
    _refuse_misfits(columns, events, errors, start, middle)
    _refuse_misfits(columns, events, errors, middle, end)


def _misfit(columns: Sequence[Column], events: Sequence[Any]) -> str:
    for column in columns:
        try:
            _column(column, events)
        except _NOT_A_VALUE as error:
            return f"`{column.name}` fits no column: {error}"[:ERROR_CHARACTERS]
    return ""


def _raw(ranges: Mapping[int, Records], errors: list[str], landed_ms: int) -> list[Any]:
    partitions: list[int] = []
    offsets: list[int] = []
    indexes: list[int] = []
    append_ms: list[int] = []
    keys: list[bytes | None] = []
    bodies: list[bytes | None] = []
    headers: list[list[dict[str, Any]]] = []
    for partition in sorted(ranges):
        records = ranges[partition]
        partitions += [partition] * len(records)
        offsets += records.offsets
        indexes += [records.indexes.get(place, 0) for place in range(len(records))]
        append_ms += records.append_ms
        keys += records.keys
        bodies += records.values
        if records.headers:
            headers += [_headers(records.headers.get(index, ())) for index in range(len(records))]
        else:
            headers += [[]] * len(records)
    count = len(offsets)
    values = [partitions, offsets, indexes, append_ms, [landed_ms] * count, keys, bodies, headers, errors]
    return [pa.array(given, kind) for given, (_, kind) in zip(values, POSITION.values(), strict=True)]


def _headers(given: Sequence[tuple[str, bytes | None]]) -> list[dict[str, Any]]:
    return [{"name": name, "value": value} for name, value in given]


def _unknown(bodies: Sequence[bytes | None], events: Sequence[Any], known: frozenset[str]) -> list[int]:
    counts = []
    for body, event in zip(bodies, events, strict=True):
        counts.append(0 if event is None or body is None else len(_fields.decode(body).keys() - known))
    return counts


def _column(column: Column, events: Sequence[Any]) -> pa.Array:
    get, empty = column.get, column.empty
    values = [empty if event is None else get(event) for event in events]
    if pa.types.is_map(column.arrow):
        return _map(column.arrow, values)
    return pa.array([None if value is msgspec.UNSET else value for value in values], column.arrow)


def _map(kind: pa.DataType, values: Sequence[Mapping[str, Any]]) -> pa.Array:
    """Build a map column from its flat keys and values: about three times as fast as from lists of pairs."""
    offsets, at = [0], 0
    keys: list[str] = []
    items: list[Any] = []
    for value in values:
        if value:
            at += len(value)
            keys += value.keys()
            items += value.values()
        offsets.append(at)
    return pa.MapArray.from_arrays(
        pa.array(offsets, pa.int32()), pa.array(keys, pa.string()), pa.array(items, kind.item_type)
    )
