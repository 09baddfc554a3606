"""A question and what has landed about its request give the answer: a pure function, equal bytes for equal input.

What lies at or above the question's offsets is left out, although it may have landed: the join reads it itself. So an
answer does not depend on when it is given.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import groupby

import msgspec
import structlog

from schemas.event import encode
from schemas.recall import InputTopic, Recalled, RecalledRecord, RecallRequested
from streams.join.partition import partition_of
from streams.runtime.records import place_of

KINDS: tuple[InputTopic, ...] = ("predictions", "labels", "signals")
FEEDBACK = len(KINDS)
TOPICS = (*KINDS, "feedback")
"""What is recallable; a stored record names its topic by the index here."""

PART_BYTES = 3_900_000
"""Largest answer in one record, a little under what our producers send to `recalled`."""
_ENVELOPE_BYTES = 2_048
_RECORD_BYTES = 160

_HEAD = struct.Struct("<Biqq")
_log = structlog.get_logger()


class _Said(msgspec.Struct):
    """What has to be known of a feedback, which is passed on as it is."""

    model: str
    joined_at_ms: int
    deployment: str = ""
    name: str = "label"
    item: str | None = None


class _Answer(msgspec.Struct, omit_defaults=True):
    """`Recalled`, with feedback as it was written instead of read and written again."""

    request_id: str
    partition: int
    step: int
    clock_ms: int
    offsets: dict[InputTopic, int]
    found: bool
    part: int = 0
    parts: int = 1
    events: list[RecalledRecord] = []
    feedback: list[msgspec.Raw] = []


assert _Answer.__struct_fields__ == tuple(name for name in Recalled.__struct_fields__ if name != "v")

_said = msgspec.json.Decoder(_Said)
_questions = msgspec.json.Decoder(RecallRequested)


@dataclass(frozen=True, slots=True)
class Stored:
    """One recallable record: `topic` is an index of `TOPICS`."""

    topic: int
    partition: int
    offset: int
    append_ms: int
    key: bytes | None
    value: bytes | None
    headers: list[tuple[str, bytes | None]]
    index: int = 0

    @property
    def place(self) -> tuple[int, int, int, int]:
        """Where it stands in the log."""
        return self.topic, self.partition, self.offset, self.index


class BadQuestion(ValueError):
    """What came is no question that anybody could answer. The text says why; `reason` is the short code."""

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(detail)
        self.reason = reason


def read_question(value: bytes | None, partition: int, partitions: int) -> RecallRequested:
    """Read a question that came in a partition. Raises `BadQuestion`.

    >>> body = b'{"request_id":"r","cause":"label","partition":1,"step":7,"clock_ms":5,"offsets":{"labels":3}}'
    >>> read_question(body, 1, 4)
    Traceback (most recent call last):
    services.recall.answer.BadQuestion: `offsets` lacks predictions, signals
    """
    try:
        question = _questions.decode(value or b"")
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise BadQuestion("bad_event", f"no RecallRequested: {error}") from None
    missing = [topic for topic in KINDS if topic not in question.offsets]
    if missing:
        raise BadQuestion("bad_event", f"`offsets` lacks {', '.join(missing)}")
    home = partition_of(question.request_id.encode(), partitions)
    if not question.partition == partition == home:
        raise BadQuestion(
            "wrong_partition",
            f"request {question.request_id!r} belongs to partition {home}; the question says {question.partition} and "
            f"came in {partition}",
        )
    return question


def unpack(row: bytes) -> tuple[str, Stored]:
    """Read one row of the look-up table: RowBinary, as `services.recall.table` packs it."""
    topic, partition, position, append_ms = _HEAD.unpack_from(row)
    offset, index = place_of(position)
    request_id, at = _bytes(row, _HEAD.size)
    key, at = _perhaps(row, at)
    value, at = _perhaps(row, at)
    count, at = _length(row, at)
    headers: list[tuple[str, bytes | None]] = []
    for _ in range(count):
        name, at = _bytes(row, at)
        header, at = _perhaps(row, at)
        headers.append((name.decode(), header))
    return request_id.decode(), Stored(topic, partition, offset, append_ms, key, value, headers, index)


def _length(row: bytes, at: int) -> tuple[int, int]:
    size = shift = 0
    while True:
        byte = row[at]
        at += 1
        size |= (byte & 0x7F) << shift
        if byte < 0x80:
            return size, at
        shift += 7


def _bytes(row: bytes, at: int) -> tuple[bytes, int]:
    size, at = _length(row, at)
    return row[at : at + size], at + size


def _perhaps(row: bytes, at: int) -> tuple[bytes | None, int]:
    return (None, at + 1) if row[at] else _bytes(row, at + 1)


def answer(question: RecallRequested, stored: Iterable[Stored], part_bytes: int = PART_BYTES) -> list[bytes]:
    """Give the answer's records, usually one; `stored` is what has landed of the request, in any order, even twice."""
    number, offsets = question.partition, question.offsets
    bounds = [offsets[topic] for topic in KINDS]
    places = {one.place: one for one in stored if one.partition == number}
    in_order = [places[place] for place in sorted(places)]
    events = [one for one in in_order if one.topic < FEEDBACK and one.offset < bounds[one.topic]]
    feedback = _last([one for one in in_order if one.topic == FEEDBACK], question.clock_ms)
    found = bool(events) and events[0].topic == 0
    parts = _in_parts(events, feedback, part_bytes)
    return [
        encode(
            _Answer(
                question.request_id,
                number,
                question.step,
                question.clock_ms,
                offsets,
                found,
                part,
                len(parts),
                [_recalled(one) for one in some],
                said,
            )
        )
        for part, (some, said) in enumerate(parts)
    ]


def _last(feedback: Sequence[Stored], clock_ms: int) -> list[msgspec.Raw]:
    """Give the last revision of each identity that was said until then; `feedback` is in the order of offsets."""
    last: dict[tuple[str, str, str, bool, str], bytes] = {}
    for one in feedback:
        try:
            said = _said.decode(one.value or b"")
        except msgspec.DecodeError as error:
            _log.error("feedback_unreadable", partition=one.partition, offset=one.offset, reason=str(error)[:200])
            continue
        if said.joined_at_ms <= clock_ms:
            identity = said.model, said.deployment, said.name, said.item is not None, said.item or ""
            last[identity] = one.value or b""
    return [msgspec.Raw(last[identity]) for identity in sorted(last)]


def _recalled(one: Stored) -> RecalledRecord:
    return RecalledRecord(
        topic=KINDS[one.topic],
        partition=one.partition,
        offset=one.offset,
        index=one.index,
        append_ms=one.append_ms,
        key=one.key,
        value=one.value,
        headers=one.headers,
    )


def _in_parts(
    events: Sequence[Stored], feedback: Sequence[msgspec.Raw], part_bytes: int
) -> list[tuple[list[Stored], list[msgspec.Raw]]]:
    """Cut what does not fit into one record, in order; one record or feedback alone always fits."""
    sizes = [_size(one) for one in events] + [len(bytes(one)) + 1 for one in feedback]
    bound = part_bytes - _ENVELOPE_BYTES
    if sum(sizes) <= bound:
        return [(list(events), list(feedback))]
    parts: list[int] = []
    part = held = 0
    for size in sizes:
        if held and held + size > bound:
            part, held = part + 1, 0
        parts.append(part)
        held += size
    found = []
    for _, indices in groupby(range(len(sizes)), key=parts.__getitem__):
        here = list(indices)
        found.append(
            (
                [events[index] for index in here if index < len(events)],
                [feedback[index - len(events)] for index in here if index >= len(events)],
            )
        )
    return found


def _size(one: Stored) -> int:
    """Bound the bytes of a record in an answer: base64 takes four for three, a name six for one at worst."""
    blobs = len(one.key or b"") + len(one.value or b"")
    size = _RECORD_BYTES + blobs * 4 // 3 + 8
    for name, value in one.headers:
        size += 6 * len(name.encode()) + len(value or b"") * 4 // 3 + 12
    return size
