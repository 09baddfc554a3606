"""What an envelope holds, as texts: the events of one of an input, a column at a time, or lines of feedback."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import msgspec
import numpy as np
import pyarrow as pa

QUOTED, JSON, INTEGER = 0, 1, 2
"""How a cell becomes text: between quotes, as it is if it is JSON, in decimal."""
DETAIL_CHARACTERS = 400
CACHED_CHARACTERS = 256
"""A longer name is not kept: thousands of them would be gigabytes."""
_encode = msgspec.json.encode
_decode = msgspec.json.decode


class Unreadable(Exception):
    """An envelope that is none; its text says why. `reason` is the dead letter's."""

    def __init__(self, detail: str, reason: str = "bad_envelope") -> None:
        super().__init__(detail[:DETAIL_CHARACTERS])  # a name in it may be megabytes, and its letter has to fit
        self.reason = reason


def _label(name: str) -> bytes:
    return _short_label(name) if len(name) <= CACHED_CHARACTERS else _encode(name) + b":"


@lru_cache(maxsize=4096)
def _short_label(name: str) -> bytes:
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
