"""Twenty kills while records come in: a reader of committed records finds each input reflected exactly once."""

from __future__ import annotations

import json
import random
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from schemas.settings import Settings
from schemas.topics import topic_name
from services.local.kafka import LocalKafka
from streams.runtime import kafka as ours
from streams.runtime.backlog import lags
from streams.runtime.topics import ensure_topics
from tests.streams.runtime.harness import (
    DEADLINE_S,
    assert_exactly_once,
    configuration,
    positions,
    running,
    snapshots,
)

pytestmark = [pytest.mark.kafka, pytest.mark.slow]

KILLS = 20
POINTS = ("gathered", "step", "sent", "halfway", "committed", "snapshot", "restoring")


class Feed:
    """Appends predictions (some set a timer) and labels, a few hundred a second, until told to stop."""

    def __init__(self, settings: Settings, seed: int) -> None:
        self._settings, self._random = settings, random.Random(seed)
        self._stop = threading.Event()
        self.sent = 0
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _run(self) -> None:
        producer = ours.make_producer(self._settings, "feed")
        while not self._stop.wait(0.01):
            for _ in range(self._random.randint(1, 8)):
                logical = self._random.choice(("predictions", "labels"))
                due_ms = int(time.time() * 1000) + self._random.randint(0, 5000)
                value = b"due:%d" % due_ms if self._random.random() < 0.3 else b"v%d" % self.sent
                producer.produce(topic_name(self._settings.namespace, logical), value, b"k%d" % self.sent)
                self.sent += 1
        assert producer.flush(30) == 0

    def end(self) -> int:
        self._stop.set()
        self._thread.join(DEADLINE_S)
        return self.sent


@pytest.mark.timeout(400)
def test_twenty_kills_lose_nothing_and_repeat_nothing(kafka: LocalKafka, tmp_path: Path) -> None:
    dice = random.Random(20)
    given = configuration(kafka.bootstrap, tmp_path, runtime={"snapshot_s": 0.3})
    settings = Settings(**given)
    ensure_topics(settings)
    feed = Feed(settings, 7)
    try:
        for kill in range(KILLS):
            point = dice.choice(POINTS) if kill else "sent"  # the first life has nothing to restore
            countdown = dice.randint(1, 3) if point in ("snapshot", "restoring") else dice.randint(1, 12)
            where = f"{point}:{countdown}"
            command = [sys.executable, "-m", "tests.streams.runtime.counting", json.dumps(given), where]
            ended = subprocess.run(command, capture_output=True, text=True, timeout=DEADLINE_S)
            assert ended.returncode == -9, f"{where} ended with {ended.returncode}: {ended.stderr}"
            if kill == KILLS // 2:
                for path in snapshots(settings):  # one life begins with the log alone
                    path.unlink()
    finally:
        sent = feed.end()
    with running(settings) as run:
        run.until(lambda: run.worker.progress.ready and run.worker.progress.steps >= 4, "the last life")
        run.until(lambda: sum(lags(settings, "join", ("predictions", "labels")).values()) == 0, "the end")
    assert len(positions(settings, "predictions", "labels")) == sent
    assert_exactly_once(settings)
