"""Questions that nobody can answer, as dead letters."""

from __future__ import annotations

from base64 import b64encode

from confluent_kafka import Message

from schemas.event import encode
from schemas.records import DeadLetter
from services.recall.answer import BadQuestion
from streams.runtime.records import Headers


def refusal(message: Message, error: BadQuestion, topic: str) -> tuple[str, bytes]:
    """Give the place of a question and its dead letter. `topic` is the logical name of where it came."""
    append_ms, offset, number = message.timestamp()[1], message.offset() or 0, message.partition() or 0
    headers: Headers = message.headers() or ()  # type: ignore[assignment]  # consumed ones are (str, bytes | None)
    letter = DeadLetter(
        reason=error.reason,
        detail=str(error),
        stage="recall",
        topic=topic,
        partition=number,
        offset=offset,
        append_ms=append_ms,
        key=_base64(message.key()),
        value=_base64(message.value()),
        headers=[(name, _base64(value)) for name, value in headers],
        at_ms=append_ms,
    )
    return f"{topic}/{number}/{offset}", encode(letter)


def _base64(value: bytes | None) -> str | None:
    return None if value is None else b64encode(value).decode("ascii")
