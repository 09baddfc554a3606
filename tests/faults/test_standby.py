"""The real join beside a standby: a worker falls asleep in the middle of its work; then what `weir verify` finds."""

from __future__ import annotations

import json
import signal
import time
from pathlib import Path
from random import Random

import pytest

from schemas.settings import Kafka, Runtime, Settings
from schemas.topics import INPUTS
from services.cli.verify import verification
from services.kafka import Sender
from services.local.kafka import LocalKafka
from streams.runtime.backlog import lags
from streams.runtime.failures import FENCED
from streams.runtime.topics import ensure_topics
from tests.processes import process, until

pytestmark = [pytest.mark.kafka, pytest.mark.slow, pytest.mark.timeout(300)]

REQUESTS = 400


class Traffic:
    """Predictions with labels: in time, twice, corrected, before their prediction, or never."""

    def __init__(self, sender: Sender) -> None:
        self._sender, self._dice = sender, Random(7)

    def send(self, first: int, last: int) -> None:
        """Send what belongs to these requests."""
        for number in range(first, last):
            kind = self._dice.choice(("label", "twice", "corrected", "early", "silent"))
            if kind == "early":
                self._label(number, 1)
            self._event("predictions", number, model="ctr", version="v1", score=0.5)
            if kind in ("label", "twice", "corrected"):
                self._label(number, 1)
            if kind == "twice":
                self._label(number, 1)
            if kind == "corrected":
                self._label(number, 0)
        self._sender.flush()

    def _label(self, number: int, label: int) -> None:
        self._event("labels", number, label=label, source="orders", event_id=f"{number}-{label}")

    def _event(self, topic: str, number: int, **more: object) -> None:
        request = f"r{number}"
        body = {"request_id": request, "at_ms": int(time.time() * 1000), **more}
        self._sender.send(topic, json.dumps(body).encode(), key=request.encode())


def test_join_that_falls_asleep_is_taken_over_and_the_twin_agrees(kafka: LocalKafka, tmp_path: Path) -> None:
    runtime = Runtime(snapshot_s=1.0)
    settings = Settings(
        namespace="asleep",
        partitions=2,
        data_dir=tmp_path / "a",
        kafka=Kafka(bootstrap=kafka.bootstrap),
        runtime=runtime,
    )
    standby = settings.model_copy(
        update={"data_dir": tmp_path / "b", "runtime": runtime.model_copy(update={"standby": True})}
    )
    ensure_topics(settings)

    def drained() -> bool:
        return not any(lags(settings, "join", INPUTS).values())

    with Sender(settings) as sender, process("join", settings) as first:
        traffic = Traffic(sender)
        traffic.send(0, 100)
        until(drained, "the first records", of=first)
        with process("join", standby) as second:
            until(lambda: list((tmp_path / "b" / "snapshots").rglob("*.snapshot")), "a standby that follows", of=second)
            traffic.send(100, 200)
            first.stop_for_now()
            traffic.send(200, 300)
            until(lambda: "took_over" in second.log(), "the takeover", of=second)
            until(drained, "what came in the gap", of=second)
            assert first.go_on() == FENCED, first.log()
            traffic.send(300, REQUESTS)
            until(drained, "the rest", of=second)
            assert second.stop(signal.SIGTERM) == 0, second.log()
    found = verification(settings)
    assert found.report.ok, "\n".join(one.sentence for one in found.report.mismatches[:10])
    assert found.requests == REQUESTS
    assert found.report.revisions > REQUESTS / 2
