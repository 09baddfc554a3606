"""Events on their way out: never blocked, never lost, each found in Kafka under its own id in the end."""

from __future__ import annotations

import errno
import os
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from confluent_kafka import TIMESTAMP_CREATE_TIME, Message
from confluent_kafka.admin import AdminClient, NewTopic

from schemas.settings import Serve, Settings
from schemas.topics import topic_name
from services.kafka import read_to_end
from services.local.kafka import LocalKafka
from services.serve.outbox import PREDICTIONS, Outbox
from services.serve.segments import Record, Segments
from streams.join.partition import partition_of
from streams.runtime.topics import ensure_topics
from tests.services.serve.serving import NOBODY, settings_in, until


@contextmanager
def sending(settings: Settings, directory: Path, *, flush_s: float = 10.0) -> Iterator[Outbox]:
    """Run an outbox while the block lasts."""
    outbox = Outbox(settings, directory)
    outbox.start()
    try:
        yield outbox
    finally:
        outbox.close(flush_s)


def put(outbox: Outbox, first: int, last: int, size: int = 20) -> None:
    """Put events with consecutive numbers as values."""
    for i in range(first, last):
        outbox.put(PREDICTIONS, b"k%d" % i, b"%*d" % (size, i), i)


def values(settings: Settings) -> list[int]:
    """Give the numbers in Kafka, by partition in order."""
    return [int(one.value() or b"") for one in messages(settings)]


def messages(settings: Settings) -> list[Message]:
    """Give the records in Kafka."""
    return sorted(read_to_end(settings, "predictions"), key=lambda one: (one.partition() or 0, one.offset() or 0))


@pytest.mark.kafka
def test_everything_arrives_once_and_where_java_would_put_it(on_kafka: Settings, tmp_path: Path) -> None:
    with sending(on_kafka, tmp_path) as outbox:
        put(outbox, 0, 3_000)
        until(lambda: outbox.pending == 0)
        assert (outbox.acknowledged, outbox.dropped, outbox.behind) == (3_000, 0, False)
    found = messages(on_kafka)
    assert sorted(int(one.value() or b"") for one in found) == list(range(3_000))
    assert all(one.partition() == partition_of(one.key() or b"", on_kafka.partitions) for one in found)
    assert not list(tmp_path.glob("*.events"))


@pytest.mark.kafka
def test_in_a_virtual_namespace_records_have_the_events_time(kafka: LocalKafka, tmp_path: Path) -> None:
    settings = settings_in(tmp_path, bootstrap=kafka.bootstrap, namespace=f"virtual-{os.getpid()}", clock="virtual")
    ensure_topics(settings)
    with sending(settings, tmp_path) as outbox:
        put(outbox, 1_000, 1_010)
        until(lambda: outbox.pending == 0)
    assert all(one.timestamp() == (TIMESTAMP_CREATE_TIME, int(one.value() or b"")) for one in messages(settings))


@pytest.mark.kafka
@pytest.mark.serial
def test_kafka_may_be_killed_and_come_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # A queue of 200 makes librdkafka full at once, so that most events wait on disk.
    monkeypatch.setattr("services.serve.outbox.QUEUE_MESSAGES", 200)
    with LocalKafka(tmp_path / "kafka") as kafka:
        settings = settings_in(tmp_path, bootstrap=kafka.bootstrap, partitions=2)
        ensure_topics(settings)
        with sending(settings, tmp_path / "outbox") as outbox:
            put(outbox, 0, 500)
            until(lambda: outbox.pending == 0)
            kafka.kill()
            slowest = 0.0
            for i in range(500, 5_000):
                began = time.perf_counter()
                put(outbox, i, i + 1)
                slowest = max(slowest, time.perf_counter() - began)
            until(lambda: outbox.behind and outbox.bytes_on_disk > 4_000 * 40)
            assert outbox.pending == 4_500
            kafka.start()
            until(lambda: outbox.pending == 0, 60)
            put(outbox, 5_000, 5_100)
            until(lambda: outbox.pending == 0)
            assert outbox.dropped == 0
        found = messages(settings)
        seen = Counter(int(one.value() or b"") for one in found)
        assert set(seen) == set(range(5_100))
        firsts = [
            list(dict.fromkeys(int(one.value() or b"") for one in found if one.partition() == part)) for part in (0, 1)
        ]
        assert all(order == sorted(order) for order in firsts)
        assert slowest < 0.5  # a put is a few microseconds; what remains is the machine


@pytest.mark.kafka
def test_what_a_killed_run_left_is_sent_by_the_next(on_kafka: Settings, tmp_path: Path) -> None:
    log = Segments(tmp_path)
    log.append([Record(seq, -1, PREDICTIONS, b"k%d" % seq, b"%d" % seq) for seq in range(10)])
    log.append([Record(seq, -1, PREDICTIONS, b"k%d" % seq, b"%d" % seq) for seq in range(15, 20)])  # a hole
    log.pass_to(3)
    log.write_cursor()
    del log  # no close: a kill
    with sending(on_kafka, tmp_path) as outbox:
        assert outbox.recovered == 12
        put(outbox, 20, 30)
        until(lambda: outbox.pending == 0)
    assert sorted(values(on_kafka)) == [*range(3, 10), *range(15, 30)]


@pytest.mark.kafka
def test_topics_that_come_later_get_everything(
    kafka: LocalKafka, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("services.serve.outbox._BACKOFF_S", (0.05, 0.2))
    settings = settings_in(tmp_path, bootstrap=kafka.bootstrap, namespace=f"later-{os.getpid()}", partitions=2)
    properties = {"topic.metadata.propagation.max.ms": "100", "topic.metadata.refresh.fast.interval.ms": "50"}
    settings = settings.model_copy(update={"kafka": settings.kafka.model_copy(update={"properties": properties})})
    with sending(settings, tmp_path / "outbox") as outbox:
        put(outbox, 0, 50)
        until(lambda: outbox.behind)  # sending failed: no such topic
        assert outbox.pending == 50
        admin = AdminClient({"bootstrap.servers": kafka.bootstrap})
        name = topic_name(settings.namespace, "predictions")
        admin.create_topics([NewTopic(name, 2, 1)])[name].result(timeout=20)
        until(lambda: outbox.pending == 0)
    assert set(values(settings)) == set(range(50))


@pytest.mark.kafka
def test_what_kafka_refuses_is_kept_and_the_others_go_on(kafka: LocalKafka, tmp_path: Path) -> None:
    settings = settings_in(tmp_path, bootstrap=kafka.bootstrap, namespace=f"refuses-{os.getpid()}", partitions=1)
    name = topic_name(settings.namespace, "predictions")
    admin = AdminClient({"bootstrap.servers": kafka.bootstrap})
    made = NewTopic(name, 1, 1, config={"max.message.bytes": "2000", "compression.type": "uncompressed"})
    admin.create_topics([made])[name].result(timeout=20)
    noise = os.urandom(3_000).hex().encode()
    with sending(settings, tmp_path / "outbox") as outbox:
        put(outbox, 0, 5)
        until(lambda: outbox.pending == 0)
        outbox.put(PREDICTIONS, b"large", noise, 0)
        until(lambda: outbox.pending == 0)
        put(outbox, 5, 10)
        until(lambda: outbox.pending == 0)
        assert (outbox.refused, outbox.acknowledged) == (1, 10)
    assert sorted(values(settings)) == list(range(10))
    assert (tmp_path / "outbox" / "refused").read_bytes() == noise + b"\n"


def test_beyond_its_limit_new_events_are_dropped_and_counted(tmp_path: Path) -> None:
    settings = settings_in(tmp_path, bootstrap=NOBODY).model_copy(update={"serve": Serve(outbox_bytes=20_000)})
    outbox = Outbox(settings, tmp_path / "outbox")
    outbox.start()
    for first in range(0, 1_000, 10):
        put(outbox, first, first + 10, size=100)
        until(lambda: not outbox._incoming)
    until(lambda: outbox.dropped + outbox.pending == 1_000)
    left = outbox.close(0)
    assert outbox.bytes_on_disk <= 20_000
    assert 0 < left < 200
    again = Outbox(settings, tmp_path / "outbox")
    assert again.recovered == left
    again.start()
    assert again.close(0) == left


@pytest.mark.kafka
def test_a_full_disk_leaves_the_way_to_kafka(
    on_kafka: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with sending(on_kafka, tmp_path) as outbox:
        put(outbox, 0, 10)
        until(lambda: outbox.pending == 0)
        with monkeypatch.context() as patch:
            patch.setattr(Segments, "append", full)
            put(outbox, 10, 20)
            until(lambda: outbox.pending == 0)
        put(outbox, 20, 30)
        until(lambda: outbox.pending == 0)
        assert (outbox.acknowledged, outbox.dropped) == (30, 0)
    assert sorted(values(on_kafka)) == list(range(30))


def test_a_stop_without_kafka_leaves_everything_on_disk(tmp_path: Path) -> None:
    settings = settings_in(tmp_path, bootstrap=NOBODY)
    outbox = Outbox(settings, tmp_path / "outbox")
    outbox.start()
    put(outbox, 0, 100)
    assert outbox.close(0) == 100
    assert [int(one.value) for one in Segments(tmp_path / "outbox").read(0)] == list(range(100))
