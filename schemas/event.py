"""What all events share: base classes, field types, identity, canonical bytes.

Times are integers in milliseconds since the epoch and their names end in `_ms`. An event that apps send (`Input`)
tolerates unknown fields, because a producer may be ahead of us; an event that we define (`Event`) refuses them, because
an unknown field in a command is a typing error.
"""

from __future__ import annotations

from typing import Annotated, TypeVar

import msgspec
from msgspec import Meta

MAX_MS = 253_402_300_799_999
"""The last millisecond of the year 9999: a larger number is surely not milliseconds since the epoch."""

RequestId = Annotated[str, Meta(min_length=1, max_length=128, description="Joins a prediction with what follows it.")]
Name = Annotated[str, Meta(min_length=1, max_length=128)]
Text = Annotated[str, Meta(max_length=128)]
Subject = Annotated[str, Meta(max_length=256)]
TimeMs = Annotated[int, Meta(ge=0, le=MAX_MS, description="Milliseconds since the epoch, UTC.")]
DurationMs = Annotated[int, Meta(ge=0, le=MAX_MS)]
Share = Annotated[float, Meta(ge=0.0, le=1.0)]

Scalar = bool | int | float | str | None
LabelValue = bool | int | float | str | list[float | str]


class Input(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """An event that an app sends. Unknown fields are ignored here, counted by `record` and kept in its raw row."""


class Event(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, forbid_unknown_fields=True):
    """An event that Weir defines. Unknown fields are an error; `v` is the version of its contract."""

    v: int = 1


StructT = TypeVar("StructT", bound=msgspec.Struct)

_encoder = msgspec.json.Encoder(order="deterministic")


def encode(event: msgspec.Struct) -> bytes:
    """Give the JSON bytes of an event: known fields only, in a fixed order, so that equal events have equal bytes."""
    return _encoder.encode(event)


def decode(body: bytes | str, kind: type[StructT]) -> StructT:
    """Read an event from JSON.

    Raises `msgspec.ValidationError` (or its base `DecodeError`) with the path of the field that is wrong.

    >>> from schemas.inputs import Label
    >>> decode(b'{"request_id": "r1", "at_ms": 5, "label": 1}', Label).label
    1
    >>> decode(b'{"request_id": "", "at_ms": 5, "label": 1}', Label)
    Traceback (most recent call last):
    msgspec.ValidationError: Expected `str` of length >= 1 - at `$.request_id`
    """
    return msgspec.json.decode(body, type=kind)
