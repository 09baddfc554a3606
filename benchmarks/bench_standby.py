"""How long a slot stands still when its worker is killed beside a warm standby, and what following costs.

Each round starts `weir join` and `weir join --standby` with data directories of their own on an embedded Kafka, feeds
predictions and labels at `--rate` events a second (0: an idle namespace that only ticks), takes both processes' CPU
for `--seconds`, and kills the worker with SIGKILL at a random moment. A label of an older prediction is sent a moment
later, into the gap. What is timed, from the kill, with a reader of committed records: the first step that the standby
took, and the feedback of that label.

    python -m benchmarks.bench_standby
    python -m benchmarks.bench_standby --rounds 10 --rate 4000
"""

from __future__ import annotations

import argparse
import contextlib
import json
import random
import statistics
import sys
import tempfile
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from confluent_kafka import OFFSET_BEGINNING, OFFSET_END, TopicPartition

from benchmarks.join.process import Program
from schemas.settings import Kafka, Settings
from schemas.topics import topic_name
from services.kafka import Sender
from services.local.kafka import LocalKafka
from streams.runtime.kafka import make_reader
from streams.runtime.topics import ensure_topics

DEADLINE_S = 60.0
SETTLED_S = 0.5
"""What the killed worker committed is readable by then, and no standby has taken over yet."""

FEATURES = {f"f{number}": number / 7 for number in range(8)}


@dataclass(frozen=True, slots=True)
class Round:
    """Seconds from the kill to the first step and to the feedback; CPU in cores of both before the kill."""

    step_s: float
    feedback_s: float
    worker_cpu: float
    standby_cpu: float


def main() -> None:
    """Run the rounds and print a table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--rate", type=int, nargs="*", default=[0, 2_000])
    parser.add_argument("--seconds", type=float, default=10.0)
    parser.add_argument("--seed", type=int, default=1)
    given = parser.parse_args()
    dice = random.Random(given.seed)
    print(f"{'events/s':>9} {'round':>5} {'step':>7} {'feedback':>8} {'worker':>7} {'standby':>8} {'share':>6}")
    with tempfile.TemporaryDirectory() as directory, LocalKafka(Path(directory) / "kafka") as kafka:
        for rate in given.rate:
            rounds = []
            for number in range(given.rounds):
                work = Path(directory) / f"{rate}-{number}"
                one = measured(kafka.bootstrap, work, rate, given.seconds, dice)
                rounds.append(one)
                print(
                    f"{rate:>9,} {number:>5} {one.step_s:>6.2f}s {one.feedback_s:>7.2f}s {one.worker_cpu:>6.1%} "
                    f"{one.standby_cpu:>7.1%} {one.standby_cpu / one.worker_cpu:>6.0%}",
                    flush=True,
                )
            summary = [
                ("step", [one.step_s for one in rounds]),
                ("feedback", [one.feedback_s for one in rounds]),
                ("share of CPU", [one.standby_cpu / one.worker_cpu for one in rounds]),
            ]
            for what, values in summary:
                print(f"{rate:>9,}   {what}: median {statistics.median(values):.2f}, worst {max(values):.2f}")


def measured(bootstrap: str, work: Path, rate: int, seconds: float, dice: random.Random) -> Round:
    """Kill one worker beside one standby."""
    name = f"standby-{rate}-{dice.getrandbits(32):x}"
    settings = Settings(namespace=name, partitions=4, kafka=Kafka(bootstrap=bootstrap))
    ensure_topics(settings)
    command = [sys.executable, "-m", "services.cli", "join", "--namespace", name, "--bootstrap", bootstrap]
    environment = {"PYTHONPATH": str(Path(__file__).parents[1]), "WEIR_LOG_LEVEL": "info"}
    worker = Program([*command, "--data-dir", "data"], work / "worker", work / "worker.log", environment)
    standby = Program(
        [*command, "--standby", "--data-dir", "data"], work / "standby", work / "standby.log", environment
    )
    with worker, Sender(settings) as sender, contextlib.ExitStack() as stack:
        until(lambda: ready(work / "worker.log"), worker, "the worker")
        feed = Feed(sender, rate)
        for request in ("warm", "probe"):
            feed.predict(request)
        feed.label("warm")
        sender.flush()
        with Tail(settings) as tail:  # the first events load compiled code
            until(lambda: tail.feedback_at("warm"), worker, "the first feedback")
        stack.enter_context(feed)
        stack.enter_context(standby)
        until(lambda: ready(work / "standby.log"), standby, "the standby")
        time.sleep(2)
        before, began = (worker.cpu_s(), standby.cpu_s()), time.monotonic()
        time.sleep(seconds + dice.random())
        spent_s = time.monotonic() - began
        cpu = [(program.cpu_s() - used) / spent_s for program, used in zip((worker, standby), before, strict=True)]
        if "taking_over" in (work / "standby.log").read_text():
            raise RuntimeError(f"the standby took over from a worker that was alive: {standby.tail(20)}")
        tail = stack.enter_context(Tail(settings))
        killed_at = time.monotonic()
        worker.kill()
        time.sleep(dice.uniform(0.0, 0.5))
        feed.label("probe")
        sender.flush()
        until(lambda: tail.step_at(killed_at) and tail.feedback_at("probe"), standby, "the feedback")
        return Round(tail.step_at(killed_at) - killed_at, tail.feedback_at("probe") - killed_at, cpu[0], cpu[1])


class Feed:
    """Sends a prediction and its label, again and again, `rate` events a second, until the block ends."""

    def __init__(self, sender: Sender, rate: int) -> None:
        self._sender, self._rate = sender, rate
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="feed")

    def predict(self, request: str) -> None:
        """Send a prediction."""
        self._send("predictions", request, {"model": "ctr", "version": "v1", "score": 0.7, "features": FEATURES})

    def label(self, request: str) -> None:
        """Send a label."""
        self._send("labels", request, {"label": 1, "source": "orders"})

    def _send(self, topic: str, request: str, more: dict[str, Any]) -> None:
        body = {"request_id": request, "at_ms": int(time.time() * 1000), **more}
        self._sender.send(topic, json.dumps(body).encode(), key=request.encode())

    def _run(self) -> None:
        sent, began = 0, time.monotonic()
        while not self._stop.wait(0.01):
            while sent < (time.monotonic() - began) * self._rate:
                self.predict(f"r{sent // 2}")
                self.label(f"r{sent // 2}")
                sent += 2

    def __enter__(self) -> Feed:
        if self._rate:
            self._thread.start()
        return self

    def __exit__(self, *given: object) -> None:
        self._stop.set()
        if self._rate:
            self._thread.join()


class Tail:
    """Notes when steps of the join, and the first feedback of each request, can be read."""

    def __init__(self, settings: Settings) -> None:
        self._reader = make_reader(settings, "bench")
        self._steps = topic_name(settings.namespace, "steps")
        starts = {self._steps: OFFSET_END, topic_name(settings.namespace, "feedback"): OFFSET_BEGINNING}
        numbers = range(settings.partitions)
        self._reader.assign([TopicPartition(topic, n, at) for topic, at in starts.items() for n in numbers])
        self._stepped: list[float] = []
        self._feedback: dict[bytes, float] = {}
        self._ended: set[tuple[str, int]] = set()
        self._stop = threading.Event()
        while len(self._ended) < len(starts) * settings.partitions:  # nothing is timed before all are at their ends
            self._read()
        self._thread = threading.Thread(target=self._run, name="tail")

    def step_at(self, killed_at: float) -> float:
        """Give when the first step after the gap was read; 0: not yet."""
        return next((at for at in self._stepped if at > killed_at + SETTLED_S), 0.0)

    def feedback_at(self, request: str) -> float:
        """Give when a request's feedback was read first; 0: not yet."""
        return self._feedback.get(request.encode(), 0.0)

    def _read(self) -> None:
        messages = self._reader.consume(1, 0.05)
        messages += self._reader.consume(10_000, 0) if messages else []
        now = time.monotonic()
        for message in messages:
            if message.error() is not None:
                self._ended.add((message.topic() or "", message.partition() or 0))
            elif message.topic() != self._steps:
                self._feedback.setdefault(message.key() or b"", now)
            elif message.key() == b"join":
                self._stepped.append(now)

    def _run(self) -> None:
        while not self._stop.is_set():
            self._read()

    def __enter__(self) -> Tail:
        self._thread.start()
        return self

    def __exit__(self, *given: object) -> None:
        self._stop.set()
        self._thread.join()
        self._reader.close()


def ready(log: Path) -> bool:
    """Whether the process that writes this log says on `/readyz` that it is ready, and has caught up."""
    for line in log.read_text().splitlines():
        if line.startswith("{") and (port := json.loads(line).get("health_port")):
            try:
                with urllib.request.urlopen(f"http://127.0.0.1:{port}/readyz", timeout=5) as answer:
                    return not json.load(answer).get("lag_steps")
            except (urllib.error.URLError, ConnectionError):
                return False
    return False


def until(condition: Callable[[], object], program: Program, what: str) -> None:
    """Wait for a condition. Raises `TimeoutError` or `Ended` with the program's last words."""
    deadline = time.monotonic() + DEADLINE_S
    while not condition():
        program.check()
        if time.monotonic() > deadline:
            raise TimeoutError(f"waited {DEADLINE_S:g} s for {what}: {program.tail()}")
        time.sleep(0.02)


if __name__ == "__main__":
    main()
