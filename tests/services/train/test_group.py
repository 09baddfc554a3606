"""The trainer's place in its group outlives a broker that is killed."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

from schemas.settings import Kafka, Settings
from services.kafka import Sender, read_to_end
from services.local.kafka import LocalKafka
from services.train.run import run
from streams.runtime.topics import ensure_topics
from tests.processes import until
from tests.services.threads import in_thread


@pytest.mark.kafka
def test_a_broker_that_was_killed_is_read_again(tmp_path: Path) -> None:
    soon = {"session.timeout.ms": "3000", "heartbeat.interval.ms": "300", "log_level": "2"}
    with LocalKafka(tmp_path / "kafka") as broker:
        settings = Settings(namespace="killed", partitions=1, kafka=Kafka(bootstrap=broker.bootstrap, properties=soon))
        ensure_topics(settings)
        stop = threading.Event()
        with in_thread(lambda: run(settings, stop), stop):
            for number, value in enumerate((b"before", b"after")):
                with Sender(settings, "test") as sender:
                    sender.send("retrain", value, key=b"m")
                until(lambda: sum(1 for _ in read_to_end(settings, "dead-letters")) > number, value.decode())  # noqa: B023
                if not number:
                    broker.kill()
                    broker.start()
