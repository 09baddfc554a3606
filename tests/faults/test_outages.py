"""What is around Weir fails: Kafka away, ClickHouse away, disks full. Every process waits and says so, then goes on."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack
from functools import partial
from pathlib import Path

import pytest
from confluent_kafka import KafkaError, Message, Producer
from pydantic import SecretStr

from schemas.event import decode
from schemas.feedback import Feedback
from schemas.settings import ClickHouse, Kafka, Runtime, Settings
from schemas.topics import INPUTS, topic_name
from services.cli.up import running
from services.cli.verify import verification
from services.kafka import read_to_end
from services.local.clickhouse import LocalClickHouse
from services.local.kafka import LocalKafka
from services.record.residual import counted
from streams.runtime.topics import ensure_topics
from tests.processes import Logged, Process, process, until
from tests.services.record.harness import label, positions, prediction, send

pytestmark = [pytest.mark.kafka, pytest.mark.clickhouse, pytest.mark.slow, pytest.mark.timeout(240)]

DISK_MB = 256
TRIES = 20
QUICK = Runtime(commit_ms=50, snapshot_s=0.5, transaction_timeout_ms=2_000)


def address_of(server: LocalClickHouse) -> ClickHouse:
    return ClickHouse(host=server.host, port=server.port, user=server.user, password=SecretStr(server.password))


def says(one: Process, text: str) -> bool:
    return text in one.log()


def joined(settings: Settings) -> set[str]:
    return {decode(message.value() or b"", Feedback).request_id for message in read_to_end(settings, "feedback")}


def pairs(settings: Settings, numbers: range) -> set[str]:
    """Send a prediction and its label for each number; give their request ids."""
    send(settings, "predictions", [prediction(number) for number in numbers])
    send(settings, "labels", [label(number) for number in numbers])
    return {f"r{number:06d}" for number in numbers}


def assert_nothing_lost(settings: Settings, of: Logged | None = None) -> None:
    """Wait until the recorder has caught up: the twin agrees, the residual is 0, every position is counted."""

    def whole() -> bool:
        found = verification(settings)
        assert found.report.ok, found.report.mismatches[:5]
        counters = found.cut.counters
        return found.ok and all(counted(topic, counters) == len(positions(settings, topic)) for topic in INPUTS)

    until(whole, "a run that equals its twin, with residual 0", of=of)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """Give a directory on a file system of its own, small enough to be filled."""
    if os.geteuid() != 0:
        pytest.skip("only root may mount the small file system that this test fills")
    place = tmp_path / "disk"
    place.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={DISK_MB}m", "tmpfs", str(place)]
    mounted = subprocess.run(mount, capture_output=True, text=True, check=False)
    if mounted.returncode:
        pytest.skip(f"this machine lets nobody mount a tmpfs: {mounted.stderr.strip()}")
    yield place
    subprocess.run(["umount", "--lazy", str(place)], check=True)


@contextlib.contextmanager
def filled(disk: Path, *, left_kb: int) -> Iterator[None]:
    """Fill a disk but for some KB until the block ends."""
    ballast = disk / "ballast"
    with ballast.open("wb") as file:
        for again in reversed(range(TRIES)):
            found = os.statvfs(disk)
            try:
                os.posix_fallocate(file.fileno(), 0, max(1, found.f_bavail * found.f_frsize - left_kb * 1024))
                break
            except OSError:  # somebody wrote in between
                if not again:
                    raise
    yield
    ballast.unlink()


def test_kafka_is_down_at_the_start_and_goes_down_again(clickhouse: LocalClickHouse, tmp_path: Path) -> None:
    with LocalKafka(tmp_path / "kafka") as kafka:
        settings = Settings(
            namespace="outage",
            partitions=2,
            data_dir=tmp_path,
            kafka=Kafka(bootstrap=kafka.bootstrap),
            clickhouse=address_of(clickhouse),
            runtime=QUICK,
        )
        ensure_topics(settings)
        kafka.stop()
        names = ("join", "judge", "record", "decide", "train", "alert")
        with ExitStack() as stack:
            started = {name: stack.enter_context(process(name, settings)) for name in names}
            for one in started.values():
                until(partial(says, one, "kafka_silent"), f"{one.name} to say that it waits", of=one)
                assert one.alive, one.log()
            kafka.start()
            expected = pairs(settings, range(50))
            until(lambda: joined(settings) == expected, "pairs to be joined", of=started["join"])
            assert_nothing_lost(settings, started["record"])
            for one in started.values():
                assert one.alive, one.log()

            # And once more, while they work. Who ends is started again, as a supervisor would.
            kafka.kill()
            time.sleep(1)
            kafka.start()
            expected |= pairs(settings, range(50, 100))

            def again() -> bool:
                for one in started.values():
                    if not one.alive:
                        one.start()
                return joined(settings) == expected

            until(again, "pairs to be joined after a crash of Kafka", of=started["join"])
            assert_nothing_lost(settings, started["record"])
            for name in ("judge", "decide", "train", "alert"):
                assert started[name].alive, started[name].log()
    assert all(one.stop() is not None for one in started.values())


def test_clickhouse_is_away_while_events_come(on_kafka: Settings, tmp_path: Path) -> None:
    """For some seconds; a minute is the same flush tried more often."""
    with LocalClickHouse(tmp_path / "clickhouse", memory_bytes=1 << 30) as server:
        settings = on_kafka.model_copy(update={"data_dir": tmp_path, "clickhouse": address_of(server)})
        with process("join", settings) as worker, process("record", settings) as recorder:
            expected = pairs(settings, range(50))
            until(lambda: joined(settings) == expected, "the first pairs", of=worker)
            assert_nothing_lost(settings, recorder)
            server.stop()
            expected |= pairs(settings, range(50, 150))
            until(lambda: recorder.log().count('"event": "waiting"') >= 4, "the recorder to say that it waits")
            assert "ClickHouse" in recorder.log()
            until(lambda: joined(settings) == expected, "the join, which does not care", of=worker)
            server.start()
            assert_nothing_lost(settings, recorder)
            assert "works_again" in recorder.log()


def test_disk_of_clickhouse_and_of_snapshots_is_full(on_kafka: Settings, small_disk: Path, tmp_path: Path) -> None:
    (small_disk / "snapshots").mkdir()
    (tmp_path / "snapshots").symlink_to(small_disk / "snapshots")
    with LocalClickHouse(small_disk / "clickhouse", memory_bytes=1 << 30) as server:
        settings = on_kafka.model_copy(
            update={
                "data_dir": tmp_path,
                "clickhouse": address_of(server),
                "runtime": QUICK,
            }
        )
        with process("join", settings) as worker, process("record", settings) as recorder:
            expected = pairs(settings, range(50))
            until(lambda: joined(settings) == expected, "the first pairs", of=worker)
            assert_nothing_lost(settings, recorder)
            with filled(small_disk, left_kb=0):
                expected |= pairs(settings, range(50, 150))
                until(lambda: "not enough space" in recorder.log(), "the recorder to say why it waits", of=recorder)
                until(lambda: "snapshot_failed" in worker.log(), "the join to say that it cannot snapshot", of=worker)
                until(lambda: joined(settings) == expected, "the join to go on", of=worker)
            assert_nothing_lost(settings, recorder)
            worker.kill()  # whatever lies there now, it is restored from
            worker.start()
            expected |= pairs(settings, range(150, 200))
            until(lambda: joined(settings) == expected, "pairs after a restart", of=worker)
            assert_nothing_lost(settings, recorder)
            assert recorder.alive, recorder.log()


class Told:
    """What `weir up` said, and the ends of the logs beside it."""

    def __init__(self, data_dir: Path) -> None:
        self._data_dir = data_dir
        self._lines: list[str] = []

    def say(self, who: str, text: str) -> None:
        self._lines.append(f"{time.time():.3f} {who}: {text}")

    def heard(self, text: str) -> bool:
        return any(text in line for line in list(self._lines))

    def log(self) -> str:
        logs = [*sorted(self._data_dir.glob("logs/*.log")), self._data_dir / "kafka" / "kafka.log"]
        ends = [f"--- {path.name}\n{path.read_text(errors='replace')[-4_000:]}" for path in logs]
        return "\n".join([*self._lines, *ends])


def test_disk_of_everything_is_full(small_disk: Path) -> None:
    """`weir up` with data, logs and snapshots on it: it stops Kafka and says why, and all goes on with space."""
    acknowledged: set[str] = set()
    data = Settings(namespace="full", partitions=2, data_dir=small_disk / "data", runtime=QUICK)
    told = Told(data.data_dir)

    with running(data, ["join", "record"], embedded=True, say=told.say) as system:
        settings = system.settings
        stop = threading.Event()
        producing = threading.Thread(target=produce, args=(settings, acknowledged, stop))
        producing.start()
        try:
            until(lambda: len(joined(settings)) > 20, "the first pairs", of=told)
            with filled(small_disk, left_kb=100):
                until(lambda: told.heard("is full"), "weir up to say that the disk is full", of=told)
                until(lambda: told.heard("nothing acknowledged is lost"), "and what that means", of=told)
                time.sleep(2)  # everything goes on trying meanwhile
            until(lambda: told.heard("up again at"), "Kafka to be started again", of=told)
            before = len(acknowledged)
            until(lambda: len(acknowledged) > before + 20, "producers to go on", of=told)
        finally:
            stop.set()
            producing.join()
        until(lambda: joined(settings) >= acknowledged, "all that was acknowledged to be joined", of=told)
        assert_nothing_lost(settings, told)


def produce(settings: Settings, acknowledged: set[str], stop: threading.Event) -> None:
    """Send pairs until `stop` is set; note those whose label and prediction Kafka has acknowledged."""
    names = topic_name(settings.namespace, "predictions"), topic_name(settings.namespace, "labels")
    producer = Producer(
        {"bootstrap.servers": settings.kafka.bootstrap, "enable.idempotence": True, "partitioner": "murmur2_random"}
    )
    half: set[str] = set()

    def delivered(error: KafkaError | None, message: Message) -> None:
        key = (message.key() or b"").decode()
        if error is None:
            (acknowledged if key in half else half).add(key)

    number = 0
    while not stop.wait(0.02):
        key = f"r{number:06d}".encode()
        for name, event in zip(names, (prediction(number), label(number)), strict=True):
            producer.produce(name, json.dumps(event).encode(), key, on_delivery=delivered)
        producer.poll(0)
        number += 1
    producer.flush(60)
