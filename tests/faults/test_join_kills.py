"""The join under `kill -9`: a seeded history with every kind of trouble ends in what the naive twin says."""

from __future__ import annotations

import random
from dataclasses import replace
from pathlib import Path

import pytest

from schemas.control import ClockAdvanced
from schemas.event import encode
from schemas.settings import Join, Kafka, Runtime, Settings
from schemas.topics import INPUTS
from services.cli.verify import verification
from services.kafka import Sender
from services.local.kafka import LocalKafka
from streams.runtime.backlog import lags
from streams.runtime.kafka import ensure_topics
from tests.processes import Process, process, until
from tests.streams.join.histories import BOUNDS, History, history

pytestmark = [pytest.mark.kafka, pytest.mark.slow, pytest.mark.timeout(400)]

KILLS = 20
CHUNKS = 24


def settings_of(bootstrap: str, data_dir: Path, given: History) -> Settings:
    bounds = given.bounds
    return Settings(
        namespace="kills",
        clock="virtual",
        partitions=bounds.partitions,
        data_dir=data_dir,
        kafka=Kafka(bootstrap=bootstrap),
        join=Join(
            skew_ms=bounds.skew_ms,
            early_label_ms=bounds.early_label_ms,
            grace_ms=bounds.grace_ms,
            max_event_bytes=bounds.max_event_bytes,
        ),
        runtime=Runtime(commit_ms=20, snapshot_s=0.5),
    )


def advance(sender: Sender, settings: Settings, now_ms: int) -> None:
    for partition in range(settings.partitions):
        sender.send("control", encode(ClockAdvanced(now_ms=now_ms)), partition=partition, append_ms=now_ms)
    sender.flush()


def drained(settings: Settings) -> bool:
    return not any(lags(settings, "join", ("control", *INPUTS)).values())


def alive_until(worker: Process, settings: Settings, what: str) -> None:
    """Wait until the join has committed everything; whoever died is started again, as a supervisor would."""

    def done() -> bool:
        if not worker.alive:
            worker.start()
        return drained(settings)

    until(done, what, of=worker)


def test_twenty_kills_change_nothing(kafka: LocalKafka, tmp_path: Path) -> None:
    seeded = random.Random(20_260_101)
    given = history(seeded, requests=400, events=6_000, bounds=replace(BOUNDS, virtual=True))
    settings = settings_of(kafka.bootstrap, tmp_path, given)
    ensure_topics(settings)
    arrivals = given.arrivals
    size = -(-len(arrivals) // CHUNKS)
    kills = 0
    with Sender(settings) as sender, process("join", settings) as worker:
        for start in range(0, len(arrivals), size):
            chunk = arrivals[start : start + size]
            kill_after = seeded.randrange(len(chunk))
            for number, arrival in enumerate(chunk):
                sender.send(
                    arrival.topic,
                    arrival.value,
                    key=arrival.key,
                    partition=arrival.partition,
                    headers=arrival.headers,
                    append_ms=arrival.append_ms,
                )
                if number == kill_after and kills < KILLS:
                    sender.flush()
                    if seeded.random() < 0.5:  # sometimes in the middle of its work, sometimes while it starts
                        until(lambda: worker.alive, "a worker to kill", of=worker)
                    worker.kill()
                    worker.start()
                    kills += 1
            sender.flush()
            alive_until(worker, settings, f"records {start} and on")
            advance(sender, settings, chunk[-1].append_ms)
            alive_until(worker, settings, "the clock")
        advance(sender, settings, arrivals[-1].append_ms + 30 * 86_400_000)
        alive_until(worker, settings, "the last deadline")
        assert kills == KILLS
    found = verification(settings)
    assert found.report.ok, "\n".join(one.sentence for one in found.report.mismatches[:10])
    assert found.report.revisions > 300
    assert found.report.due > 100
