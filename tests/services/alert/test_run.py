"""The process on a real Kafka: alerts in the topic arrive at a real receiver, whatever is killed when."""

from __future__ import annotations

import sqlite3
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from schemas.errors import WeirError
from schemas.event import encode
from schemas.lifecycle import Alert
from schemas.settings import AlertDelivery, Kafka, Settings, Webhook
from services.alert.look import look
from services.alert.run import run
from services.kafka import Sender
from services.local.kafka import LocalKafka
from services.local.owner import DirectoryOwner
from streams.runtime.backlog import lags
from streams.runtime.topics import ensure_topics
from tests.processes import Process, process, until
from tests.services.alert.receiver import Receiver, Reply, alert, receiving
from tests.services.threads import in_thread

pytestmark = pytest.mark.kafka


def send(settings: Settings, *alerts: Alert | bytes) -> None:
    with Sender(settings, "test") as sender:
        for one in alerts:
            sender.send("alerts", one if isinstance(one, bytes) else encode(one), key=b"k")


def with_alerts(settings: Settings, directory: Path, *webhooks: Webhook) -> Settings:
    alerting = AlertDelivery(webhooks=list(webhooks), timeout_s=5)
    return settings.model_copy(update={"data_dir": directory, "alert": alerting})


@contextmanager
def alerting(settings: Settings) -> Iterator[None]:
    """Run the process in a thread; raises what it raised."""
    stop = threading.Event()
    with in_thread(lambda: run(settings, stop), stop):
        yield


def test_alerts_leave_quickly_and_poison_harms_nobody(on_kafka: Settings, tmp_path: Path) -> None:
    with receiving() as receiver:
        settings = with_alerts(on_kafka, tmp_path, receiver.webhook())
        send(settings, alert("a"), b"\xff{", b'{"id": 1}', b"", alert("a"), alert("b", "g"))
        with alerting(settings):
            until(lambda: len(receiver.posts) >= 2, "what was there before")
            began = time.monotonic()
            send(settings, alert("c", status="resolved"))
            until(lambda: len(receiver.posts) >= 3, "what came later")
            assert time.monotonic() - began < 5
            until(lambda: not any(lags(settings, "alert", ["alerts"]).values()), "no lag")
        assert sorted(receiver.told) == [("f", "firing"), ("f", "resolved"), ("g", "firing")]
        with alerting(settings):
            send(settings, alert("d", "g", "resolved"))
            until(lambda: len(receiver.posts) >= 4, "the one that is new after a restart")
        assert receiver.told[-1] == ("g", "resolved")
        assert len(receiver.posts) == 4


def test_a_kill_amid_a_delivery(on_kafka: Settings, tmp_path: Path) -> None:
    arrived, go_on = threading.Event(), threading.Event()

    def hang() -> None:
        arrived.set()
        go_on.wait(60)

    with receiving(Reply(before=hang)) as receiver:
        settings = with_alerts(on_kafka, tmp_path, receiver.webhook())
        with process("alert", settings) as one:
            send(settings, alert("a"), alert("b", status="resolved"))
            until(arrived.is_set, "the first attempt", of=one)
            one.kill()
            go_on.set()
            one.start()
            until(lambda: len(receiver.posts) >= 3, "all once more", of=one)
            until(lambda: {row.state for row in look(tmp_path).deliveries} == {"delivered"}, "an end", of=one)
            assert one.stop() == 0, one.log()
        assert receiver.told == [("f", "firing"), ("f", "firing"), ("f", "resolved")]
        assert receiver.posts[0].id == receiver.posts[1].id != receiver.posts[2].id
        assert receiver.posts[0].body == receiver.posts[1].body


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_kills_at_any_moment(on_kafka: Settings, tmp_path: Path) -> None:
    count, rounds = 25, 8
    with receiving() as receiver:
        settings = with_alerts(on_kafka, tmp_path, receiver.webhook())
        with process("alert", settings) as one:
            for number in range(rounds):
                enough = len(receiver.posts) + 5 * number
                names = [f"{number}-{index}" for index in range(count)]
                send(settings, *(alert(f"{name}{end}", name, end) for end in ("firing", "resolved") for name in names))
                _await_more_than(receiver, enough, one)
                one.kill()
                one.start()
            total = 2 * count * rounds
            until(lambda: len({post.id for post in receiver.posts}) == total, "all", of=one)
            until(lambda: {row.state for row in look(tmp_path, total).deliveries} == {"delivered"}, "an end", of=one)
        assert len({post.event["data"]["id"] for post in receiver.posts}) == total
        assert len(receiver.posts) <= total + rounds, "a kill repeats at most the attempt it interrupted"
        first: dict[tuple[str, str], int] = {}
        for index, told in enumerate(receiver.told):
            first.setdefault(told, index)
        assert all(first[name, "firing"] < first[name, "resolved"] for name, _ in first)


def test_one_owner(on_kafka: Settings, tmp_path: Path) -> None:
    settings = with_alerts(on_kafka, tmp_path)
    with DirectoryOwner(tmp_path / "alert", purpose="a test"), pytest.raises(WeirError, match="in use"):
        run(settings, threading.Event())


def test_a_store_that_breaks_stops_the_process(on_kafka: Settings, tmp_path: Path) -> None:
    with receiving(Reply(before=lambda: _break(tmp_path))) as receiver:
        settings = with_alerts(on_kafka, tmp_path, receiver.webhook())
        send(settings, alert("a"))
        process_of_it = alerting(settings)
        process_of_it.__enter__()
        until(lambda: receiver.posts, "the attempt")
        until(lambda: not any(thread.name == "courier-ops" for thread in threading.enumerate()), "the end")
        with pytest.raises(WeirError, match="cannot be used"):
            process_of_it.__exit__(None, None, None)


def _await_more_than(receiver: Receiver, count: int, one: Process) -> None:
    until(lambda: len(receiver.posts) > count, "some", of=one)


def _break(directory: Path) -> None:
    connection = sqlite3.connect(directory / "alert.db")
    connection.execute("DROP TABLE attempts")
    connection.close()


def test_a_broker_that_was_killed_is_read_again(tmp_path: Path) -> None:
    soon = {"session.timeout.ms": "3000", "heartbeat.interval.ms": "300", "log_level": "2"}
    with LocalKafka(tmp_path / "kafka") as broker, receiving() as receiver:
        kafka = Kafka(bootstrap=broker.bootstrap, properties=soon)
        settings = with_alerts(Settings(namespace="killed", partitions=1, kafka=kafka), tmp_path, receiver.webhook())
        ensure_topics(settings)
        send(settings, alert("a"))
        with alerting(settings):
            until(lambda: len(receiver.posts) >= 1, "what was there before")
            broker.kill()
            broker.start()
            send(settings, alert("b", "g"))
            until(lambda: len(receiver.posts) >= 2, "what came after the kill")
