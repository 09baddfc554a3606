"""A member of a group on a real Kafka: it begins where the group left off, waits without leaving, gives up its slot."""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from typing import Any

import pytest
from confluent_kafka import KafkaError, Message

from schemas.errors import WeirError
from schemas.settings import Settings
from schemas.topics import topic_name
from services.kafka import Sender, places_of
from streams.runtime import kafka, member
from streams.runtime.member import Member, TakenAway
from streams.runtime.offsets import GroupOffsets
from tests.services.threads import in_thread

pytestmark = pytest.mark.kafka

STAGE, TOPIC = "record", "labels"
DEADLINE_S = 90.0


class Away(Exception):
    pass


class Reader:
    """Commits every record that it reads, and remembers their keys."""

    def __init__(self, settings: Settings, first: int = 0) -> None:
        self.settings, self.stop = settings, threading.Event()
        self.keys: list[bytes] = []
        self.forgotten = 0
        self.failures = first
        self.member = Member(settings, STAGE, [TOPIC], self.stop, forget=self.forget, late=self.take, away=(Away,))

    def run(self) -> None:
        with self.member:
            self.member.run(self.turn)

    def turn(self) -> None:
        places = self.member.pending
        if places is not None:
            first = kafka.earliest(kafka.make_admin(self.settings, "test"), places)
            commits = self.member.committed(places)
            self.member.begin(places, {place: max(first[place], commits[place].offset) for place in places})
        before = len(self.keys)
        ends = self.take(self.member.consume(100, 0.1))
        if len(self.keys) > before:
            self.member.insist(self.fail)
            self.member.commit(ends, dict.fromkeys(ends, "said"))

    def fail(self) -> None:
        if self.failures:
            self.failures -= 1
            raise Away("not now")

    def take(self, messages: Sequence[Message]) -> dict[kafka.Place, int]:
        ends: dict[kafka.Place, int] = {}
        for message in messages:
            error: KafkaError | None = message.error()
            if error is None:
                self.keys.append(message.key() or b"")
                ends[message.topic() or "", message.partition() or 0] = (message.offset() or 0) + 1
            elif error.code() != KafkaError._PARTITION_EOF:
                self.member.refuse(message, error)
        return ends

    def forget(self) -> None:
        self.forgotten += 1


def until(condition: Any) -> None:
    deadline = time.monotonic() + DEADLINE_S
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def send(settings: Settings, *keys: bytes) -> None:
    with Sender(settings, "test") as sender:
        for key in keys:
            sender.send(TOPIC, b"{}", key=key, partition=0)


def test_a_successor_begins_at_what_is_committed(on_kafka: Settings) -> None:
    send(on_kafka, b"a", b"b")
    place = (topic_name(on_kafka.namespace, TOPIC), 0)
    with GroupOffsets(on_kafka, STAGE, "test") as group:
        assert group.committed([]) == {}
        assert group.committed([place])[place] < 0, "nobody has committed"
        first = Reader(on_kafka, 3)
        with in_thread(first.run, first.stop):
            until(lambda: group.committed([place])[place] == 2)
        assert (first.keys, first.member.waits) == ([b"a", b"b"], 3)
        assert set(group.committed(places_of(on_kafka, TOPIC)).values()) <= {2, -1001}, "only what was read"
    send(on_kafka, b"c")
    second = Reader(on_kafka)
    with in_thread(second.run, second.stop):
        until(lambda: second.keys)
    assert second.keys == [b"c"]


def test_what_waits_ends_when_it_is_to_stop(on_kafka: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(member, "BACKOFF_S", (60.0, 60.0))
    reader = Reader(on_kafka, 1)
    send(on_kafka, b"a")
    with in_thread(reader.run, reader.stop):
        until(lambda: reader.member.waits)
        assert not reader.member.progress.ready
    assert reader.forgotten, "what was not committed is dropped: whoever is next reads it again"


def test_a_plan_that_is_not_pending_any_more_is_not_begun(on_kafka: Settings) -> None:
    reader = Reader(on_kafka)
    with reader.member, pytest.raises(TakenAway):
        reader.member.begin([], {})


@pytest.mark.slow
@pytest.mark.timeout(120)
def test_two_with_one_name_do_not_fight_for_ever(on_kafka: Settings) -> None:
    one, two = Reader(on_kafka), Reader(on_kafka)
    ended: list[WeirError] = []

    def run(reader: Reader) -> None:
        try:
            reader.run()
        except WeirError as error:
            ended.append(error)

    with in_thread(lambda: run(one), one.stop), in_thread(lambda: run(two), two.stop):
        until(lambda: ended)
        assert "cannot go on as worker" in ended[0].message
        send(on_kafka, b"a")
        until(lambda: one.keys or two.keys)
