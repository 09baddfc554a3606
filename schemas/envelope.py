"""Envelopes: many events of one partition in one Kafka record.

An envelope is marked by the header `content-type`. Its event number *i* stands for a record of its own: the value is
the event's **text**, one line of JSON; the key its `request_id`; timestamp, and headers but for `content-type`, are
the envelope's; the position is (topic, partition, offset, *i*). So everything that is said of records holds for it,
and the same events in other batches are the same events.

**Arrow** (`ARROW`; predictions, labels, signals): one Arrow IPC stream. A column is a field. The text of a row is
`{"name":value,…}` without blanks, fields in the order of the contract's class, then unknown ones by name; a null is a
field that is absent. A column `features.age` is the member `age` of `features` (also of `slices`, `outputs`,
`experiments`), members by name. How a value is written:

| column | text |
|---|---|
| utf8 (plain, large, dictionary) of a field in `STRINGS`, of a member, of an unknown field | a JSON string |
| utf8 of any other field | as it is, when it is JSON: `0.25`, `{"age":31}`, `"yes"`; else a JSON string |
| integer, bool | `5`, `true` |
| float | the shortest text that reads back as the same double, as msgspec writes it: `0.1`, `1.0`, `1e-7`; NaN and Infinity as strings |
| list of these | a JSON array, as msgspec writes it |

Other types are refused, and buffers that Arrow has compressed: what is in the envelope must not be more than its bytes
say, and Kafka compresses anyway.

**Rows** (`ROWS`; feedback): lines of JSON, each a `Feedback`.
"""  # noqa: E501 (a table)

from __future__ import annotations

from collections.abc import Iterable

CONTENT_TYPE = "content-type"
ARROW = b"application/vnd.apache.arrow.stream"
ROWS = b"application/x-ndjson"

STRINGS = frozenset(
    {
        "request_id",
        "event_id",
        "model",
        "version",
        "deployment",
        "role",
        "app_version",
        "subject",
        "action",
        "name",
        "item",
        "source",
        "op",
        "signal",
    }
)
"""Fields of inputs that hold text. Any other field that the contract knows is written as JSON in a utf8 column."""
MAPS = ("features", "slices", "outputs", "experiments")

INDEX_BITS = 19
MOST_EVENTS = (1 << INDEX_BITS) - 1
"""Events of one envelope."""
EVENT_BYTES = 8
"""Bytes of an envelope for each of its events, at least: a time alone has as many. Else the 200 bytes of a batch
without columns would be half a million dead letters."""
MOST_BYTES = 64 << 20
"""Bytes of their texts together."""

_NAMED_ELSEWHERE = b"ARROW:experimental_compression"
"""The key in a message's metadata that named a codec in Arrow 0.17; it is still obeyed."""


def content_type(headers: Iterable[tuple[str, bytes | None]]) -> bytes:
    """Give what a record says it holds; of several headers of that name the last counts.

    >>> content_type([("trace", b"7"), ("content-type", b"application/x-ndjson")]) == ROWS
    True
    >>> content_type([])
    b''
    """
    found = b""
    for name, value in headers:
        if name == CONTENT_TYPE:
            found = value or b""
    return found


def place_name(topic: str, partition: int, offset: int, index: int = 0) -> str:
    """Write where an event lies, as dead letters are named.

    >>> place_name("labels", 3, 17), place_name("labels", 3, 17, 4)
    ('labels/3/17', 'labels/3/17/4')
    """
    return f"{topic}/{partition}/{offset}" + (f"/{index}" if index else "")


def is_compressed(stream: bytes | memoryview) -> bool:
    """Say whether some buffers of an Arrow IPC stream are compressed. Raises `ValueError` for what is none.

    An IPC stream is a row of messages, each its length, a table of Flatbuffers (`Message`), and a body.
    """
    at = 0
    while at + 8 <= len(stream):
        marked = stream[at : at + 4] == b"\xff\xff\xff\xff"
        at += 4 * marked
        size = _int(stream, at, 4)
        if size <= 0:
            return False
        message, at = stream[at + 4 : at + 4 + size], at + 4 + size
        root = _int(message, 0, 4)
        kind, header, length = (_field(message, root, number) for number in (1, 2, 3))
        body = _int(message, length, 8) if length else 0
        if body < 0:
            raise ValueError("a message whose body has less than no bytes")
        at += body
        what = _int(message, kind, 1) if kind else 0
        if header and what in (2, 3):
            if _NAMED_ELSEWHERE in bytes(message):
                return True
            batch = header + _int(message, header, 4)
            if what == 2:  # of a dictionary
                inner = _field(message, batch, 1)
                batch = inner + _int(message, inner, 4)
            if _field(message, batch, 3):
                return True
    return False


def _int(body: bytes | memoryview, at: int, size: int, *, signed: bool = True) -> int:
    if at < 0 or at + size > len(body):
        raise ValueError("a message that ends too soon")
    return int.from_bytes(body[at : at + size], "little", signed=signed)


def _field(body: bytes | memoryview, table: int, number: int) -> int:
    """Give where a field of a Flatbuffers table lies; 0 when it is absent."""
    names = table - _int(body, table, 4)
    place = 4 + 2 * number
    if place >= _int(body, names, 2, signed=False):
        return 0
    offset = _int(body, names + place, 2, signed=False)
    return table + offset if offset else 0
