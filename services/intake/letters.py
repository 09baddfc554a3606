"""Dead letters of intake, and what a retry of one brings back.

A letter holds the document **as it may be seen**: protected. A record that could not be read could not be protected
either; it is kept whole only when the mapping protects nothing, and else the letter says where it lies. A retry
(`weir dlq retry`) goes to our topic `intake-retries`, never to the team's own, and names its mapping in a header.
"""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import msgspec

from schemas.event import MAX_MS, encode
from schemas.records import DeadLetter
from services.intake.mapper import Refusal
from streams.join.dead import LETTER_BYTES
from streams.runtime.processor import Output

RETRIES = "intake-retries"
NAME_HEADER, ABOUT_HEADER, RAW_HEADER = "weir-intake", "weir-intake-about", "weir-intake-raw"
DETAILS = 3

_canonical = msgspec.json.Encoder(order="deterministic").encode


class Place(NamedTuple):
    """Where a foreign record lies. Rows of a database are counted: partition 0, and how many came before."""

    partition: int
    offset: int


class Retry(NamedTuple):
    """A document that is tried once more: as it was kept, protected, or raw bytes that could not be read."""

    place: Place
    about: dict[str, Any]
    document: Any = None
    raw: bytes | None = None


def letter(
    stage: str,
    place: Place,
    about: Mapping[str, Any],
    refusals: Sequence[Refusal],
    now_ms: int,
    *,
    document: Any = None,
    raw: bytes | None = None,
) -> Output:
    """Make the letter of one document: the first reason, and up to three sentences. `raw` is kept instead of it."""
    first = refusals[0]
    more = f"; and {len(refusals) - DETAILS} more" if len(refusals) > DETAILS else ""
    value = raw if raw is not None else _kept(document)
    name = stage.partition(".")[2].encode()
    headers = [(NAME_HEADER, name), (ABOUT_HEADER, _kept({**about, "at": list(place)}) or b"{}")]
    if raw is not None:
        headers.append((RAW_HEADER, b"1"))
    found = DeadLetter(
        reason=first.reason,
        detail=_sayable("; ".join(one.detail for one in refusals[:DETAILS]) + more),
        stage="intake",
        topic=stage,
        partition=place.partition,
        offset=place.offset,
        append_ms=_moment(about.get("time")),
        value=None if value is None else b64encode(value).decode("ascii"),
        headers=[(name, b64encode(held).decode("ascii")) for name, held in headers],
        request_id=_sayable(first.request_id),
        model=_sayable(first.model),
        at_ms=now_ms,
    )
    body = encode(found)
    if len(body) > LETTER_BYTES:
        body = encode(msgspec.structs.replace(found, value=None, headers=[]))
    key = f"{stage}/{place.partition}/{place.offset}".encode()
    return Output("dead-letters", key, body, append_ms=now_ms)


def read_retry(name: str, headers: Sequence[tuple[str, bytes | None]], value: bytes | None) -> Retry | None:
    """Give what a record of `intake-retries` asks for; None when it is another mapping's, or nobody's."""
    said = dict(headers)
    if said.get(NAME_HEADER) != name.encode() or value is None:
        return None
    try:
        about = msgspec.json.decode(said.get(ABOUT_HEADER) or b"", type=dict[str, Any])
        partition, offset = about.pop("at")
        place = Place(int(partition), int(offset))
        if RAW_HEADER in said:
            return Retry(place, about, raw=value)
        return Retry(place, about, document=msgspec.json.decode(value))
    except (msgspec.MsgspecError, KeyError, TypeError, ValueError, RecursionError):
        return None


def _kept(document: Any) -> bytes | None:
    """Write a document; None for one that JSON cannot say (half a surrogate pair, nesting without end)."""
    try:
        return None if document is None else _canonical(document)
    except (UnicodeEncodeError, RecursionError):
        return None


def _sayable(text: str) -> str:
    return text.encode("utf-8", "replace").decode()


def _moment(time: Any) -> int:
    return time if type(time) is int and 0 <= time <= MAX_MS else 0
