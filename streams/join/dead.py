"""Dead letters of the join: the record whole, a short reason, and a sentence that says what to do."""

from __future__ import annotations

from base64 import b64encode
from dataclasses import dataclass

from msgspec.structs import replace

from schemas.event import encode
from schemas.records import DeadLetter
from streams.runtime.processor import Output
from streams.runtime.records import Headers

LETTER_BYTES = 3_900_000
"""A larger letter, which would not be taken, leaves the record out; its position says where it is."""


@dataclass(frozen=True, slots=True)
class Origin:
    """Where a record was read, and the record as it came."""

    topic: str
    partition: int
    offset: int
    append_ms: int
    key: bytes | None
    value: bytes | None
    headers: Headers = ()
    index: int = 0

    @property
    def position(self) -> str:
        """`topic/partition/offset`, and the index of an event that is not the first of its envelope."""
        named = f"{self.topic}/{self.partition}/{self.offset}"
        return f"{named}/{self.index}" if self.index else named


def dead_letter(
    origin: Origin, reason: str, detail: str, clock_ms: int, *, request_id: str = "", model: str = ""
) -> Output:
    """Make the output. Its key is the record's position, so that the same letter sent twice is seen to be one."""
    letter = DeadLetter(
        reason=reason,
        detail=detail,
        stage="join",
        topic=origin.topic,
        partition=origin.partition,
        offset=origin.offset,
        index=origin.index,
        append_ms=origin.append_ms,
        key=_base64(origin.key),
        value=_base64(origin.value),
        headers=[(name, _base64(value)) for name, value in origin.headers],
        request_id=request_id,
        model=model,
        at_ms=clock_ms,
    )
    body = encode(letter)
    if len(body) > LETTER_BYTES:
        body = encode(replace(letter, key=None, value=None, headers=[]))
    return Output("dead-letters", origin.position.encode(), body)


def _base64(value: bytes | None) -> str | None:
    return None if value is None else b64encode(value).decode("ascii")
