"""What ClickHouse keeps as the past of a stage: the same records, and the same state after a restore from them."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from confluent_kafka import Message, TopicPartition

from schemas.event import decode
from schemas.feedback import Feedback
from schemas.settings import ClickHouse, Settings
from schemas.topics import TOPICS, topic_name
from services.record.history import RecordedHistory
from streams.runtime import kafka as ours
from streams.runtime.backlog import lags
from streams.runtime.failures import NotRestored
from streams.runtime.history import History, HistoryAway
from streams.runtime.past import append
from streams.runtime.processor import Batch
from streams.runtime.records import Records
from streams.runtime.topics import ensure_topics
from streams.stages import join_processor
from tests.services.record.harness import label, prediction, recording, until
from tests.services.record.harness import send as send_events
from tests.streams.runtime.counting import Counting, Counts
from tests.streams.runtime.harness import Running, everything, final_state, recorded, reflected, snapshots
from tests.streams.runtime.harness import send as send_values

pytestmark = [pytest.mark.kafka, pytest.mark.clickhouse]

INPUTS = ("control", "predictions", "labels")


@pytest.fixture
def settings(namespace: Settings, tmp_path: Path) -> Settings:
    runtime = namespace.runtime.model_copy(update={"commit_ms": 30, "snapshot_s": 0.5})
    return namespace.model_copy(update={"runtime": runtime, "data_dir": tmp_path})


def land(settings: Settings) -> None:
    """Let everything that is in Kafka land."""
    with recording(settings):
        until(lambda: not any(lags(settings, "record", list(TOPICS)).values()), "landing")


def forget(settings: Settings, *topics: str) -> None:
    """Delete all records of some topics from Kafka, as retention does."""
    admin = ours.make_admin(settings)
    for topic in topics:
        name = topic_name(settings.namespace, topic)
        ends = [TopicPartition(name, partition, -1) for partition in range(settings.partitions)]
        for future in admin.delete_records(ends).values():
            future.result()


@contextmanager
def working(settings: Settings, history: History | None) -> Iterator[Running]:
    run = Running(settings, history=history)
    try:
        yield run
    finally:
        run.stop.set()
        run.ended()
    if run.error is not None:
        raise run.error


def work(settings: Settings, events: int, history: History | None = None) -> Running:
    """Run a worker until it has read so many records in this life; stop it cleanly."""
    with working(settings, history) as run:
        run.until(lambda: run.worker.progress.ready and run.worker.progress.events >= events, f"{events} records")
    return run


def logs(settings: Settings) -> dict[str, list[Message]]:
    return {name: everything(settings, name) for name in INPUTS}


def columns(messages: list[Message]) -> Records:
    records = Records()
    for message in messages:
        append(records, message)
    return records


def test_records_are_what_they_were(settings: Settings) -> None:
    dice = random.Random(3)
    producer = ours.make_producer(settings, "test", f"{settings.namespace}.test")
    producer.init_transactions(30)
    name = topic_name(settings.namespace, "labels")
    for round_ in range(6):
        producer.begin_transaction()
        for _ in range(20):
            key = dice.choice([None, b"", b"key", dice.randbytes(9)])
            value = dice.choice([None, b"", b'{"request_id":"a","at_ms":1,"label":1}', dice.randbytes(30)])
            headers: list[tuple[str, str | bytes | None]] = dice.choice(
                [[], [], [("a", b"1"), ("a", None), ("ä", dice.randbytes(4))], [("weir-hop", b"labels/0/1")]]
            )
            producer.produce(name, value, key, 2, headers=headers)
        producer.flush(30)
        if round_ % 3 == 1:
            producer.abort_transaction(30)
        else:
            producer.commit_transaction(30)
    land(settings)
    there = [message for message in everything(settings, "labels") if message.partition() == 2]
    history = RecordedHistory(settings)
    end = (there[-1].offset() or 0) + 1
    assert history.landed("labels", 2) >= end
    [found] = history.records("labels", 2, 0, end)
    assert found == columns(there)
    middle = there[30].offset() or 0
    [found] = history.records("labels", 2, middle, middle + 1)
    assert found == columns(there[30:31])
    assert list(history.records("labels", 1, 0, 100)) == []


def test_steps_are_found_by_number_and_by_clock(settings: Settings) -> None:
    send_values(settings, "predictions", [b"x"], partition=1)
    with working(settings, None) as run:
        run.until(lambda: run.worker.progress.steps >= 12, "ticks")
    land(settings)
    history = RecordedHistory(settings)
    steps = recorded(settings, 1)
    assert [step for _, step in history.steps("join", 1, 1, 10**9)] == steps
    assert [step.number for _, step in history.steps("join", 1, 2, 3)] == [2, 3]
    assert list(history.steps("judge", 1, 1, 10**9)) == []
    place, found = history.step_before("join", 1, steps[-1].clock_ms - 1) or (-1, None)
    assert found == max((step for step in steps if step.clock_ms < steps[-1].clock_ms), key=lambda step: step.number)
    [message] = [m for m in everything(settings, "steps") if (m.partition(), m.offset()) == (1, place)]
    assert found is not None
    assert f'"number":{found.number},'.encode() in (message.value() or b"")
    assert history.step_before("join", 1, -1) is None


def test_restore_takes_from_clickhouse_what_kafka_has_lost(settings: Settings) -> None:
    send_values(settings, "predictions", [b"due:1" if n % 7 == 0 else b"p%d" % n for n in range(60)])
    send_values(settings, "labels", [b"l%d" % n for n in range(40)])
    work(settings, 100)
    states = [final_state(settings, partition) for partition in range(settings.partitions)]
    send_values(settings, "predictions", [b"unread%d" % n for n in range(30)])
    land(settings)
    read, steps = logs(settings), [recorded(settings, partition) for partition in range(settings.partitions)]
    forget(settings, "predictions", "steps")
    for path in snapshots(settings):
        path.unlink()

    error = Running(settings).ended()
    assert isinstance(error, NotRestored)
    assert "no step can be read in Kafka" in str(error)
    assert "ClickHouse would have them" in str(error)

    send_values(settings, "labels", [b"after%d" % n for n in range(10)])
    run = work(settings, 40, RecordedHistory(settings))
    assert {how["origin"] for how in run.worker.progress.restored.values()} == {"the first step"}
    read["labels"] = everything(settings, "labels")
    for partition in range(settings.partitions):
        again = Counts()
        waiting = {name: [m for m in read[name] if m.partition() == partition] for name in INPUTS}
        taken = [*steps[partition], *recorded(settings, partition)]
        assert [step.number for step in taken] == list(range(1, len(taken) + 1))
        for step in taken:
            batch = {}
            for name in INPUTS:
                below = [m for m in waiting[name] if (m.offset() or 0) < step.offsets[name]]
                waiting[name] = waiting[name][len(below) :]
                batch[name] = columns(below)
            Counting().step(again, Batch(partition, step.number, batch), step.clock_ms)
            if step == steps[partition][-1]:
                assert again.chain == states[partition]
        assert not any(waiting.values())
        assert final_state(settings, partition) == again.chain
    everyone = sorted(f"{name}/{m.partition()}/{m.offset()}" for name in INPUTS[1:] for m in read[name])
    assert reflected(settings) == everyone


def test_join_goes_on_from_clickhouse_alone(settings: Settings) -> None:
    def joined(events: int) -> Running:
        run = Running(settings, join_processor(settings), RecordedHistory(settings))  # type: ignore[arg-type]
        try:
            run.until(lambda: run.worker.progress.ready and run.worker.progress.events >= events, f"{events} events")
        finally:
            run.stop.set()
        assert run.ended() is None
        return run

    send_events(settings, "predictions", [prediction(n, features={"x": n}) for n in range(40)])
    send_events(settings, "labels", [label(n) for n in range(20)])
    joined(60)
    land(settings)
    forget(settings, "predictions", "labels", "steps")
    for path in snapshots(settings):
        path.unlink()
    send_events(settings, "labels", [label(n) for n in range(20, 40)])
    run = joined(20)
    assert {how["origin"] for how in run.worker.progress.restored.values()} == {"the first step"}
    said = [decode(message.value() or b"", Feedback) for message in everything(settings, "feedback")]
    assert sorted((one.request_id, one.revision, one.label) for one in said) == [
        (f"r{n:06d}", 1, n % 2) for n in range(40)
    ]


def test_history_of_another_log_is_refused(settings: Settings) -> None:
    history = RecordedHistory(settings)
    with pytest.raises(HistoryAway, match=r"Unknown database|does not exist|cannot be used"):
        history.landed("labels", 0)
    send_values(settings, "labels", [b"x"], partition=0)
    land(settings)
    admin = ours.make_admin(settings)
    name = topic_name(settings.namespace, "labels")
    for future in admin.delete_topics([name]).values():
        future.result()
    until(lambda: name not in ours.partition_counts(admin, settings), "the topic's end")
    ensure_topics(settings)
    with pytest.raises(HistoryAway, match="another topic that was once named"):
        next(RecordedHistory(settings).records("labels", 0, 0, 5))


def test_clickhouse_that_is_away_says_so() -> None:
    history = RecordedHistory(Settings(clickhouse=ClickHouse(port=1)))
    with pytest.raises(HistoryAway, match=r"ClickHouse at 127\.0\.0\.1:1 cannot be used"):
        next(history.records("labels", 0, 0, 5))
