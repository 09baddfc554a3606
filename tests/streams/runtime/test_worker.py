"""The loop against a real Kafka: exactly once, restored, timed, fenced, and clear when it must stop."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from confluent_kafka import Consumer, ConsumerGroupTopicPartitions, KafkaError, KafkaException, TopicPartition

from schemas.control import ClockAdvanced
from schemas.event import encode
from schemas.settings import Settings
from schemas.topics import topic_name
from services.local.kafka import LocalKafka
from streams.runtime import failures, worker
from streams.runtime import kafka as ours
from streams.runtime.backlog import lags
from streams.runtime.failures import NotRestored, ProcessorFailed, UnknownOutcome
from streams.runtime.topics import ensure_topics
from streams.runtime.transaction import Transactions
from tests.streams.runtime.counting import Counting
from tests.streams.runtime.harness import (
    DEADLINE_S,
    Running,
    assert_exactly_once,
    configuration,
    everything,
    fresh,
    recorded,
    reflected,
    running,
    send,
    snapshots,
    until,
)

pytestmark = pytest.mark.kafka


def values(count: int) -> list[bytes]:
    return [b"v%d" % number for number in range(count)]


def run_until_read(settings: Settings, count: int, processor: Counting | None = None) -> None:
    """Run a worker until it has read so many records in this life, and stop it cleanly."""
    with running(settings, processor) as run:
        run.until(lambda: run.worker.progress.ready and run.worker.progress.events >= count, f"{count} records")


def test_every_input_is_reflected_once_and_state_follows(kafka: LocalKafka, tmp_path: Path) -> None:
    settings = fresh(kafka.bootstrap, tmp_path)
    send(settings, "predictions", values(500))
    send(settings, "labels", values(300))
    run_until_read(settings, 800)
    assert_exactly_once(settings)


def test_restart_goes_on_from_a_snapshot_or_from_the_log_alone(kafka: LocalKafka, tmp_path: Path) -> None:
    settings = fresh(kafka.bootstrap, tmp_path)
    send(settings, "predictions", values(100))
    run_until_read(settings, 100)
    send(settings, "labels", values(100))
    run_until_read(settings, 100)
    for path in snapshots(settings):
        path.unlink()
    send(settings, "predictions", values(50))
    run_until_read(settings, 50)
    assert_exactly_once(settings)


def test_corrupt_newest_snapshot_falls_back_to_the_one_before(kafka: LocalKafka, tmp_path: Path) -> None:
    settings = fresh(kafka.bootstrap, tmp_path, partitions=1)
    for _ in range(3):
        send(settings, "predictions", values(20))
        run_until_read(settings, 20)
    newest = snapshots(settings)[-1]
    newest.write_bytes(newest.read_bytes()[:-1] + b"?")
    send(settings, "labels", values(20))
    run_until_read(settings, 20)
    assert_exactly_once(settings)


def test_timer_on_an_idle_partition_fires_within_two_seconds(kafka: LocalKafka, tmp_path: Path) -> None:
    settings = fresh(kafka.bootstrap, tmp_path)
    with running(settings) as run:
        run.until(lambda: run.worker.progress.ready, "readiness")
        due_ms = int(time.time() * 1000) + 1500
        send(settings, "predictions", [b"due:%d" % due_ms], partition=1)
        run.until(lambda: run.worker.progress.partitions[1].counters.get("timers.fired"), "the timer")
    [fired] = [message for message in everything(settings, "feedback") if (message.key() or b"").startswith(b"timer/")]
    assert int((fired.value() or b"").split(b":")[1]) >= due_ms
    assert 0 <= fired.timestamp()[1] - due_ms < 2000


def test_idle_partitions_tick_once_a_second_with_a_clock_that_moves(kafka: LocalKafka, tmp_path: Path) -> None:
    settings = fresh(kafka.bootstrap, tmp_path)
    with running(settings) as run:
        run.until(lambda: run.worker.progress.steps >= 8, "ticks")
    for partition in range(2):
        clocks = [step.clock_ms for step in recorded(settings, partition)]
        assert clocks[0] == 0
        assert clocks[1:] == sorted(set(clocks[1:]))
        assert time.time() * 1000 - clocks[-1] < DEADLINE_S * 1000


def test_open_transaction_of_somebody_else_holds_the_clock(kafka: LocalKafka, tmp_path: Path) -> None:
    settings = fresh(kafka.bootstrap, tmp_path, partitions=1)
    other = ours.make_producer(settings, "other", f"{settings.namespace}.other")
    other.init_transactions(30)
    with running(settings) as run:
        run.until(lambda: run.worker.progress.ready, "readiness")
        other.begin_transaction()
        other.produce(topic_name(settings.namespace, "labels"), b"hidden", b"k", 0)
        other.flush(10)
        due_ms = int(time.time() * 1000) + 300
        send(settings, "predictions", [b"due:%d" % due_ms], partition=0)
        run.until(lambda: run.worker.progress.partitions[0].held.get("labels") == "open transaction", "the cause")
        before = run.worker.progress.steps
        run.until(lambda: run.worker.progress.steps >= before + 3 and time.time() * 1000 > due_ms + 1000, "ticks")
        assert run.worker.progress.partitions[0].counters["timers.fired"] == 0
        other.commit_transaction(10)
        run.until(lambda: run.worker.progress.partitions[0].counters["timers.fired"] == 1, "the timer")
    keys = [message.key() or b"" for message in everything(settings, "feedback")]
    assert [key.split(b"/")[0] for key in keys] == [b"predictions", b"labels", b"timer"]


def test_input_that_runs_far_ahead_is_paused_and_goes_on(
    kafka: LocalKafka, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(worker, "LEAD_MS", 700)
    settings = fresh(kafka.bootstrap, tmp_path, partitions=1)
    other = ours.make_producer(settings, "other", f"{settings.namespace}.other")
    other.init_transactions(30)
    with running(settings) as run:
        run.until(lambda: run.worker.progress.ready, "readiness")
        other.begin_transaction()
        other.produce(topic_name(settings.namespace, "labels"), b"hidden", b"k", 0)
        other.flush(10)

        def paused() -> bool:
            send(settings, "predictions", [b"more"])
            return "predictions" in run.worker._running[0].paused

        run.until(paused, "the pause")
        other.commit_transaction(10)
        run.until(lambda: not run.worker._running[0].paused, "going on")
        run.until(lambda: not sum(lags(settings, "join", ("predictions", "labels")).values()), "the end")
    assert_exactly_once(settings)


def test_virtual_clock_moves_every_partition_once_and_drains(kafka: LocalKafka, tmp_path: Path) -> None:
    settings = fresh(kafka.bootstrap, tmp_path, clock="virtual")
    driver = ours.make_producer(settings, "driver", f"{settings.namespace}.driver")
    driver.init_transactions(30)

    def advance(now_ms: int, *extra: bytes) -> None:
        driver.begin_transaction()
        for partition in range(2):
            body = encode(ClockAdvanced(now_ms=now_ms))
            driver.produce(topic_name(settings.namespace, "control"), body, None, partition, timestamp=now_ms)
        for value in extra:
            driver.produce(topic_name(settings.namespace, "predictions"), value, b"k", 0, timestamp=now_ms)
        driver.commit_transaction(20)

    with running(settings) as run:
        for now_ms, extra in ((1000, []), (2000, [b"due:3500"]), (3000, []), (4000, [])):
            advance(now_ms, *extra)
            run.until(lambda: sum(lags(settings, "join", Counting.inputs).values()) == 0, "drained stages")
    assert [step.clock_ms for step in recorded(settings, 1)] == [1000, 2000, 3000, 4000]
    assert {step.clock_ms for step in recorded(settings, 0)} == {1000, 2000, 3000, 4000}
    said = {message.key(): (message.value(), message.timestamp()[1]) for message in everything(settings, "feedback")}
    [timer] = [found for key, found in said.items() if (key or b"").startswith(b"timer/")]
    assert timer == (b"3500:4000", 4000)


def test_second_process_with_the_same_slot_fences_the_first(kafka: LocalKafka, tmp_path: Path) -> None:
    given = configuration(kafka.bootstrap, tmp_path)
    settings = Settings(**given)
    ensure_topics(settings)
    send(settings, "predictions", values(10))
    command = [sys.executable, "-m", "tests.streams.runtime.counting", json.dumps(given)]
    first = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    try:
        until(lambda: len(reflected(settings)) == 10, "the first worker's work")
        with running(settings) as second:
            assert first.wait(DEADLINE_S) == failures.FENCED
            send(settings, "predictions", values(10))
            second.until(lambda: second.worker.progress.events >= 10, "the second worker's work")
            assert "no longer this process's" in (first.stderr.read() if first.stderr else "")
    finally:
        first.kill()
        first.communicate()
    assert_exactly_once(settings)


def test_term_stops_cleanly_with_a_snapshot_of_the_last_step(kafka: LocalKafka, tmp_path: Path) -> None:
    given = configuration(kafka.bootstrap, tmp_path, runtime={"snapshot_s": 1000})
    settings = Settings(**given)
    ensure_topics(settings)
    send(settings, "predictions", values(10))
    command = [sys.executable, "-m", "tests.streams.runtime.counting", json.dumps(given)]
    with subprocess.Popen(command) as process:
        until(lambda: len(reflected(settings)) == 10, "its work")
        process.send_signal(signal.SIGTERM)
        assert process.wait(DEADLINE_S) == 0
    for partition in range(2):
        last = recorded(settings, partition)[-1].number
        assert max(int(path.stem) for path in snapshots(settings) if int(path.parent.name) == partition) == last


@pytest.mark.parametrize("happened", [True, False])
def test_unknown_outcome_ends_the_process_and_its_successor_finds_out(
    kafka: LocalKafka, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, happened: bool
) -> None:
    settings = fresh(kafka.bootstrap, tmp_path)
    commit = Transactions.commit

    class LostAnswer:
        def __init__(self, producer: object) -> None:
            self._producer = producer

        def __getattr__(self, name: str) -> object:
            return getattr(self._producer, name)

        def commit_transaction(self, timeout: float) -> None:
            if happened:
                self._producer.commit_transaction(timeout)  # type: ignore[attr-defined]
            raise KafkaException(KafkaError(KafkaError._TIMED_OUT))

    def lossy(self: Transactions, consumer: Consumer, offsets: dict[ours.Place, int], steps: dict[int, int]) -> None:
        if any(offset for (topic, _), offset in offsets.items() if topic.endswith("predictions")):
            self._producer = LostAnswer(self._producer)  # type: ignore[assignment]
        commit(self, consumer, offsets, steps)

    send(settings, "predictions", values(50))
    with monkeypatch.context() as patch:
        patch.setattr(Transactions, "commit", lossy)
        assert isinstance(Running(settings).ended(), UnknownOutcome)
    before = len(reflected(settings))
    assert (before > 0) == happened
    run_until_read(settings, 50 - before)
    assert_exactly_once(settings)
    assert len(reflected(settings)) == 50


def test_two_workers_share_and_one_takes_over(kafka: LocalKafka, tmp_path: Path) -> None:
    given = configuration(kafka.bootstrap, tmp_path)
    settings = Settings(**given)
    ensure_topics(settings)
    other = Settings(**{**given, "runtime": {**given["runtime"], "worker": "1"}})
    send(settings, "predictions", values(40))
    with running(settings) as first:
        first.until(lambda: len(first.worker.progress.partitions) == 2, "all partitions")
        with running(other) as second:
            first.until(lambda: len(first.worker.progress.partitions) == 1, "a share")
            second.until(lambda: len(second.worker.progress.partitions) == 1, "the other share")
            send(settings, "labels", values(40))
            until(lambda: len(reflected(settings)) == 80, "both")
        first.until(lambda: len(first.worker.progress.partitions) == 2, "the partition that was left")
        send(settings, "labels", values(10))
        until(lambda: len(reflected(settings)) == 90, "the rest")
    assert_exactly_once(settings)


def test_a_bug_in_the_processor_names_the_records_and_commits_nothing(kafka: LocalKafka, tmp_path: Path) -> None:
    settings = fresh(kafka.bootstrap, tmp_path, partitions=1)
    send(settings, "predictions", [b"fine", b"bug"])
    error = Running(settings).ended()
    assert isinstance(error, ProcessorFailed)
    assert "predictions/0 offsets 0–1" in str(error)
    assert "ZeroDivisionError: planted" in str(error)
    assert reflected(settings) == []


def test_output_that_no_broker_takes_is_refused(kafka: LocalKafka, tmp_path: Path) -> None:
    settings = fresh(kafka.bootstrap, tmp_path, partitions=1)
    send(settings, "predictions", [b"fine"])
    error = Running(settings, Counting(wide=5_000_000)).ended()
    assert isinstance(error, ProcessorFailed)
    assert "'dead-letters'" in str(error)
    assert reflected(settings) == []


def test_new_version_starts_from_the_snapshot_of_a_clean_stop_only(kafka: LocalKafka, tmp_path: Path) -> None:
    settings = fresh(kafka.bootstrap, tmp_path, partitions=1)
    send(settings, "predictions", values(10))
    run_until_read(settings, 10, Counting("1"))
    send(settings, "predictions", values(10))
    run_until_read(settings, 10, Counting("2"))
    for path in snapshots(settings):
        path.unlink()
    error = Running(settings, Counting("2")).ended()
    assert isinstance(error, NotRestored)
    assert "run version '1' once" in str(error)


def test_offsets_that_kafka_forgot_are_found_in_the_steps(kafka: LocalKafka, tmp_path: Path) -> None:
    settings = fresh(kafka.bootstrap, tmp_path)
    send(settings, "predictions", values(20))
    run_until_read(settings, 20)
    group = ours.group_id(settings.namespace, "join")
    forget(settings, group)
    send(settings, "predictions", values(20))
    run_until_read(settings, 20)
    assert_exactly_once(settings)


def forget(settings: Settings, group: str) -> None:
    """Delete a group; its static members leave first, as they would when their session ends."""
    admin = ours.make_admin(settings)

    def deleted() -> bool:
        try:
            admin.delete_consumer_groups([group])[group].result()
        except KafkaException as error:
            if error.args[0].code() != KafkaError.NON_EMPTY_GROUP:
                raise
            return False
        return True

    until(deleted, "the group's end")


def test_offsets_moved_by_hand_are_refused(kafka: LocalKafka, tmp_path: Path) -> None:
    settings = fresh(kafka.bootstrap, tmp_path)
    group = ours.group_id(settings.namespace, "join")
    moved = [TopicPartition(topic_name(settings.namespace, "predictions"), 0, 5)]
    admin = ours.make_admin(settings)
    admin.alter_consumer_group_offsets([ConsumerGroupTopicPartitions(group, moved)])[group].result()
    error = Running(settings).ended()
    assert isinstance(error, NotRestored)
    assert "somebody else moved this group's offsets" in str(error)
