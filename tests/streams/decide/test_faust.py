"""`python -m streams.decide` against a real Kafka: what leaves, once, through deaths, aborts and takeovers."""

import json
import os
import signal
import socket
import statistics
import subprocess
import sys
import time
import urllib.request
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from confluent_kafka import ConsumerGroupState, ConsumerGroupTopicPartitions, Producer, TopicPartition
from confluent_kafka.admin import AlterConfigOpType, ConfigEntry, ConfigResource, ResourceType

from schemas.event import decode, encode
from schemas.lifecycle import Alert, Promote, Retrain, RolloutStatus
from schemas.records import DeadLetter
from schemas.settings import Kafka, Settings
from schemas.topics import topic_name, width
from services.local.kafka import LocalKafka
from streams.decide.progress import port_path
from streams.decide.reading import INPUTS
from streams.decide.rows import Effect, Row
from streams.decide.state import empty
from streams.runtime.backlog import lags
from streams.runtime.failures import PROCESSOR_FAILED
from streams.runtime.kafka import group_id, make_admin, make_producer, make_reader
from streams.runtime.topics import ensure_topics
from tests.streams.decide.builders import MODEL, candidate, drift, first, gate, policy, tick

pytestmark = [pytest.mark.kafka, pytest.mark.serial]

PARTITIONS = 3


def wait_for(what: str, found: Callable[[], Any], patience_s: float = 90.0) -> Any:
    """Wait until something is true, and give it."""
    deadline = time.monotonic() + patience_s
    while not (value := found()):
        assert time.monotonic() < deadline, f"waited {patience_s:g} s for {what}"
        time.sleep(0.005)
    return value


class System:
    """A namespace of its own, its decide processes, and a view of what they sent."""

    def __init__(self, kafka: LocalKafka, directory: Path) -> None:
        self.directory = directory
        self.settings = Settings(
            namespace=f"t.{uuid.uuid4().hex[:8]}",
            clock="virtual",
            data_dir=directory / "data",
            kafka=Kafka(bootstrap=kafka.bootstrap),
            partitions=PARTITIONS,
            measures_partitions=2,
        )
        ensure_topics(self.settings)
        self.admin = make_admin(self.settings)
        self.producer = make_producer(self.settings, "test")
        self.processes: list[subprocess.Popen[bytes]] = []

    def start(self, worker: str = "0", *, wait: bool = True, poll_s: float | None = None) -> subprocess.Popen[bytes]:
        """Start a process, and wait until it is ready."""
        data = self.directory / f"data-{worker}"
        port_path(data).unlink(missing_ok=True)
        process = start(self.settings, data, worker, self.directory / "decide.log", poll_s)
        self.processes.append(process)
        if wait:
            wait_for("a ready process", lambda: self.ask(worker, "/readyz") is not None)
        return process

    def ask(self, worker: str, path: str) -> Any:
        """Ask a process over HTTP; None while it does not answer or is not ready."""
        try:
            port = json.loads(port_path(self.directory / f"data-{worker}").read_text())["port"]
            with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=5) as answer:
                return json.loads(answer.read())
        except (OSError, ValueError):
            return None

    def send(self, topic: str, *events: Any, producer: Producer | None = None) -> None:
        """Send events: `control` into every partition, the rest by their model."""
        own = producer or self.producer
        for event in events:
            body = event if isinstance(event, bytes) else encode(event)
            key = b"e" if isinstance(event, Promote) else MODEL.encode()
            name = topic_name(self.settings.namespace, topic)
            for partition in range(PARTITIONS) if topic == "control" else [0]:
                own.produce(name, body, key=key, partition=partition, timestamp=1_000)
        own.flush()

    def drained(self) -> bool:
        """Say whether decide has committed everything."""
        return not any(lags(self.settings, "decide", INPUTS, self.admin).values())

    def settle(self) -> None:
        """Wait until it has."""
        wait_for("drained inputs", self.drained)

    def read(self, topic: str, partition: int = 0) -> list[Any]:
        """Read a whole partition, as messages."""
        name = topic_name(self.settings.namespace, topic)
        reader = make_reader(self.settings, "test")
        reader.assign([TopicPartition(name, partition, 0)])
        try:
            found: list[Any] = []
            while True:
                message = reader.poll(10)
                assert message is not None, f"{name} gave nothing and no end"
                if message.error() is not None:
                    return found
                found.append(message)
        finally:
            reader.close()

    def sent(self, topic: str, kind: Any) -> list[Any]:
        """Give the events of a topic."""
        return [decode(message.value(), kind) for message in self.read(topic)]

    def close(self) -> None:
        """End what is left."""
        for process in self.processes:
            if process.poll() is None:
                process.kill()
            process.wait(10)
        print((self.directory / "decide.log").read_text(errors="replace")[-8_000:])  # pytest shows it of what failed


SLOW = """
import runpy
import streams.decide.driver

streams.decide.driver.POLL_S = {}
runpy.run_module("streams.decide", run_name="__main__")
"""


def start(
    settings: Settings, data: Path, worker: str, log: Path, poll_s: float | None = None
) -> subprocess.Popen[bytes]:
    """Start `python -m streams.decide` with these settings; `poll_s` is how long a fetch may wait."""
    told = {
        "WEIR_NAMESPACE": settings.namespace,
        "WEIR_CLOCK": settings.clock,
        "WEIR_DATA_DIR": str(data),
        "WEIR_KAFKA__BOOTSTRAP": settings.kafka.bootstrap,
        "WEIR_PARTITIONS": str(settings.partitions),
        "WEIR_MEASURES_PARTITIONS": str(settings.measures_partitions),
        "WEIR_RUNTIME__WORKER": worker,
    }
    run = ["-m", "streams.decide"] if poll_s is None else ["-c", SLOW.format(poll_s)]
    with log.open("ab") as file:
        return subprocess.Popen([sys.executable, *run], env={**os.environ, **told}, stdout=file, stderr=file)


@pytest.fixture
def system(kafka: LocalKafka, tmp_path: Path) -> Iterator[System]:
    """Give a fresh namespace."""
    made = System(kafka, tmp_path)
    yield made
    made.close()


def test_drift_becomes_a_retrain_event_soon_and_committed_past_markers(system: System) -> None:
    process = system.start()
    system.send("control", policy())
    system.send("promote", first())
    system.settle()
    transactional = make_producer(system.settings, "judge", f"{system.settings.namespace}.judge")
    transactional.init_transactions(30)
    took = []
    for number in range(20):
        transactional.begin_transaction()
        system.send("drift", drift(1_000 + number, alarmed=number == 10), producer=transactional)
        transactional.commit_transaction()  # leaves a marker behind the record
        began = time.monotonic()
        system.settle()
        took.append(time.monotonic() - began)
    retrain, alert = system.read("retrain"), system.read("alerts")
    assert [decode(message.value(), Retrain).drift_ids for message in retrain] == [["drift-quality:error-v1-1010"]]
    assert [decode(message.value(), Alert).rule for message in alert] == ["drift:quality:error"]
    assert retrain[0].timestamp()[1] == 1_010, "in a virtual namespace a record carries its cause's time"
    assert statistics.median(took) < 0.3, f"from event to commit: {sorted(took)}"
    positions = system.ask("0", "/progress")
    assert positions[f"{topic_name(system.settings.namespace, 'drift')}/0"] == 40
    process.send_signal(signal.SIGTERM)
    began = time.monotonic()
    assert process.wait(10) == 0
    assert time.monotonic() - began < 3
    assert not port_path(system.directory / "data-0").exists()


def test_what_was_aborted_is_never_seen(system: System) -> None:
    system.start()
    system.send("control", policy())
    system.send("promote", first())
    transactional = make_producer(system.settings, "judge", f"{system.settings.namespace}.judge")
    transactional.init_transactions(30)
    for keep in (False, True, False):
        transactional.begin_transaction()
        system.send("drift", drift(2_000 if keep else 1_000), producer=transactional)
        if keep:
            transactional.commit_transaction()
        else:
            transactional.flush()
            transactional.abort_transaction()
    system.settle()
    assert [event.drift_ids for event in system.sent("retrain", Retrain)] == [["drift-quality:error-v1-2000"]]
    assert [event.at_ms for event in system.sent("alerts", Alert)] == [2_000]


def test_a_rollout_over_kafka_tells_every_partition_its_shares_first(system: System) -> None:
    system.start()
    system.send("control", policy())
    system.send("promote", first())
    system.settle()
    system.send("control", tick(1_000))
    system.settle()
    system.send("candidates", candidate())
    system.settle()
    shadow = system.sent("promote", Promote)[-1]
    assert (shadow.stage, shadow.revision) == ("shadow", 2)
    system.send("gates", gate(f"shadow:{shadow.rollout_id}", 1_100, above=30.0))
    system.settle()
    canary = system.sent("promote", Promote)[-1]
    assert (canary.stage, canary.revision) == ("canary", 3)
    for partition in range(PARTITIONS):
        allocation = json.loads(system.read("control", partition)[-1].value())
        assert (allocation["kind"], allocation["layer"]) == ("allocation_set", f"canary:{shadow.rollout_id}")


def test_killed_and_told_everything_again_it_decides_nothing_twice(system: System) -> None:
    process = system.start()
    system.send("control", policy(cooldown_ms=0))
    system.send("promote", first())
    system.settle()
    system.send("drift", drift(1_000))
    system.settle()
    process.kill()
    process.wait(10)
    system.send("drift", drift(2_000))
    group = group_id(system.settings.namespace, "decide")
    described = system.admin.describe_consumer_groups

    def left() -> bool:
        return bool(described([group])[group].result().state == ConsumerGroupState.EMPTY)

    wait_for("the group to give the dead member up", left)
    counts = {"partitions": PARTITIONS, "measures_partitions": 2}
    start_again = [
        TopicPartition(topic_name(system.settings.namespace, topic), partition, 0)
        for topic in INPUTS
        for partition in range(width(topic, **counts))
    ]
    request = [ConsumerGroupTopicPartitions(group, start_again)]
    system.admin.alter_consumer_group_offsets(request)[group].result()
    system.start()
    system.settle()
    retrains, alerts = system.sent("retrain", Retrain), system.sent("alerts", Alert)
    assert [event.drift_ids for event in retrains] == [["drift-quality:error-v1-1000"]], "one in flight"
    assert [event.rule for event in alerts] == ["drift:quality:error"]


def test_killed_at_any_moment_every_command_leaves_under_one_id(system: System) -> None:
    process = system.start()
    system.send("control", policy(cooldown_ms=0, train_timeout_ms=1))
    system.send("promote", first())
    system.settle()
    for attempt in range(5):
        if attempt:
            process = system.start()
        system.send("drift", *(drift(1_000 * (attempt + 1) + number) for number in range(20)))
        time.sleep(0.015 * attempt)  # where in the batch it dies does not matter, only that it varies
        process.kill()
        process.wait(10)
    system.start()
    system.settle()
    retrains = system.sent("retrain", Retrain)
    bodies = {event.retrain_id: encode(event) for event in retrains}
    assert all(bodies[event.retrain_id] == encode(event) for event in retrains), "two events under one id"
    asked = [cause for body in bodies.values() for cause in decode(body, Retrain).drift_ids]
    assert len(asked) == len(set(asked)), "one alarm asked twice"
    assert set(asked) == {f"drift-quality:error-v1-{1_000 * (n + 1) + m}" for n in range(5) for m in range(20)}


def test_what_a_dead_process_had_decided_is_sent(system: System) -> None:
    event = Retrain(
        retrain_id="retrain-x", model=MODEL, base_version="v1", reason="quality", from_ms=0, to_ms=9, at_ms=9
    )
    effect = Effect(topic="retrain", key=MODEL, body=encode(event).decode(), at_ms=9)
    row = Row(state=empty(MODEL), offsets={"drift/0": 0}, unsent=[effect])
    name = topic_name(system.settings.namespace, "decide-state")
    system.producer.produce(name, msgspec.json.encode(row), key=MODEL.encode())
    system.producer.flush()
    system.start()
    assert system.sent("retrain", Retrain) == [event]
    last = msgspec.json.decode(system.read("decide-state")[-1].value(), type=Row)
    assert last.unsent == []


def test_a_row_that_it_cannot_read_ends_it_with_the_reason(system: System) -> None:
    body = msgspec.json.encode(Row(state=empty(MODEL))).replace(b'"v":1', b'"v":2', 1)
    system.producer.produce(topic_name(system.settings.namespace, "decide-state"), body, key=MODEL.encode())
    system.producer.flush()
    process = system.start(wait=False)
    assert process.wait(30) == PROCESSOR_FAILED
    assert "was it written by a newer version?" in (system.directory / "decide.log").read_text()


def test_a_batch_that_fails_is_not_committed_and_is_read_again(system: System) -> None:
    """The stream would acknowledge what raised if it were left to it; a race, so it is tried twice."""

    def allow(size: int) -> None:
        name = topic_name(system.settings.namespace, "decide-state")
        entry = ConfigEntry("max.message.bytes", str(size), incremental_operation=AlterConfigOpType.SET)
        resource = ConfigResource(ResourceType.TOPIC, name, incremental_configs=[entry])
        system.admin.incremental_alter_configs([resource])[resource].result(30)

    for attempt in range(2):
        process = system.start()
        system.settle()
        allow(100)  # no row fits: storing the turn fails
        status = RolloutStatus(
            endpoint="e", model=MODEL, revision=1, server=f"s{attempt}", converged=False, error="no file", at_ms=1_000
        )
        system.send("rollout-status", status)
        assert process.wait(60) != 0
        assert not system.drained(), "the failed batch was committed"
        allow(4 << 20)
        again = system.start()
        wait_for("drained inputs", system.drained, 90)
        fired = [alert for alert in system.sent("alerts", Alert) if f"s{attempt}" in alert.summary]
        assert [alert.severity for alert in fired] == ["critical"]
        again.terminate()
        again.wait(40)


@pytest.mark.parametrize("poll_s", [None, 1.0], ids=["usual", "with a fetch on its way"])
def test_a_standby_takes_over_with_what_the_other_knew(system: System, poll_s: float | None) -> None:
    active = system.start("0")
    standby = system.start("1", poll_s=poll_s)
    system.send("control", policy())
    system.send("promote", first())
    system.send("drift", drift(1_000))
    system.settle()
    active.kill()
    active.wait(10)
    system.send("drift", drift(1_500))
    wait_for("the standby to take over", system.drained)
    assert standby.poll() is None
    assert len(system.sent("retrain", Retrain)) == 1, "it knows that one is in flight"
    assert len(system.sent("alerts", Alert)) == 1


def test_what_cannot_be_read_becomes_a_dead_letter_and_the_rest_goes_on(system: System) -> None:
    system.start()
    system.send("control", policy())
    system.send("promote", first())
    system.settle()  # topics are read in no order among themselves
    system.send("approvals", b"\xff\xfe", b'{"rollout_id": 5}')
    system.send("drift", drift(1_000))
    system.settle()
    letters = system.sent("dead-letters", DeadLetter)
    assert [(one.topic, one.offset, one.stage) for one in letters] == [
        ("approvals", 0, "decide"),
        ("approvals", 1, "decide"),
    ]
    assert "rollout_id" in letters[1].detail
    assert len(system.sent("retrain", Retrain)) == 1


def test_without_kafka_it_waits_says_so_and_stops_when_asked(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        nobody = f"127.0.0.1:{taken.getsockname()[1]}"
        settings = Settings(namespace="t.nobody", kafka=Kafka(bootstrap=nobody))
        log = tmp_path / "log"
        process = start(settings, tmp_path / "data", "0", log)
        try:
            wait_for("a word about Kafka", lambda: b"kafka_silent" in log.read_bytes())
            assert nobody.encode() in log.read_bytes()
            process.send_signal(signal.SIGTERM)
            began = time.monotonic()
            assert process.wait(10) == 0
            assert time.monotonic() - began < 3
        finally:
            process.kill()
            process.wait(10)


def test_missing_topics_are_named(kafka: LocalKafka, tmp_path: Path) -> None:
    settings = Settings(namespace=f"t.{uuid.uuid4().hex[:8]}", kafka=Kafka(bootstrap=kafka.bootstrap))
    log = tmp_path / "log"
    process = start(settings, tmp_path / "data", "0", log)
    try:
        assert process.wait(30) == 3
        assert "weir topics apply" in log.read_text()
        assert f"{settings.namespace}.decide-state: missing" in log.read_text()
    finally:
        process.kill()
        process.wait(10)
