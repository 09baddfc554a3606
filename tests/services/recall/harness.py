"""What tests of recall on real parts share: questions, a process in a thread, reading answers back."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

from confluent_kafka import Message

from schemas.event import decode, encode
from schemas.recall import Recalled, RecallRequested
from schemas.settings import Settings
from services.kafka import Sender, places_of, read_to_end
from services.recall.answer import KINDS
from services.recall.run import ANSWERS, REQUESTS, Recaller
from streams.join.partition import partition_of
from streams.runtime import kafka
from tests.services.threads import in_thread


def ends(settings: Settings) -> dict[tuple[str, int], int]:
    """Give the end of each (input, partition), as a step that had read everything would know it."""
    admin = kafka.make_admin(settings, "test")
    return {
        (topic, place[1]): high
        for topic in KINDS
        for place, (_, high) in kafka.ends(admin, places_of(settings, topic)).items()
    }


def question(settings: Settings, request_id: str, known: dict[tuple[str, int], int], **more: object) -> RecallRequested:
    """Ask for a request as of these offsets."""
    number = partition_of(request_id.encode(), settings.partitions)
    fields = {
        "request_id": request_id,
        "cause": "label",
        "partition": number,
        "step": 1,
        "clock_ms": 10**13,
        "offsets": {topic: known[topic, number] for topic in KINDS},
        **more,
    }
    return RecallRequested(**fields)  # type: ignore[arg-type]


def ask_all(settings: Settings, questions: list[RecallRequested]) -> None:
    """Append questions."""
    with Sender(settings, "test") as sender:
        for one in questions:
            sender.send(REQUESTS, encode(one), key=one.request_id.encode(), partition=one.partition)


def messages(settings: Settings) -> list[Message]:
    """Give every record of `recalled`, in the order of partition and offset."""
    return sorted(read_to_end(settings, ANSWERS), key=lambda one: (one.partition() or 0, one.offset() or 0))


def answers(settings: Settings) -> list[Recalled]:
    """Read every answer; each stands in its partition, under its request id."""
    found = []
    for message in messages(settings):
        one = decode(message.value() or b"", Recalled)
        assert (message.partition(), message.key()) == (one.partition, one.request_id.encode())
        found.append(one)
    return found


@contextmanager
def recalling(settings: Settings) -> Iterator[Recaller]:
    """Answer in a thread until the block ends; raises what was raised."""
    stop = threading.Event()
    recaller = Recaller(settings, stop)
    with in_thread(recaller.run, stop):
        yield recaller
