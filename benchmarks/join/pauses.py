"""Weir alone with many predictions open and labels that hit any of them: do its snapshots show in the latency?

Labels leave on a schedule, each for an open prediction drawn at random, so before every snapshot nearly every segment
of the state has been written to. A label's delay is from the time at which it should have left to its feedback
readable, read committed. The same is done with a snapshot every few seconds and with none; the first fifth is left out.
"""

from __future__ import annotations

import re
import threading
import time
import urllib.request
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from confluent_kafka import Producer

from benchmarks.join.history import History
from benchmarks.join.live import now_ms, reader_at_end
from benchmarks.join.log import Log
from benchmarks.join.peer import Peer
from benchmarks.join.process import Program
from benchmarks.join.race import LEFT_OUT, task_of
from streams.runtime.backlog import Backlog

TIMEOUT_MS = 6 * 3_600_000
SPAN_MS = 1_200_000
SETTLE_S = 3
NEVER_S = 1e6
_LABEL = b'{"request_id":"%b","at_ms":%d,"label":1,"source":"desk"}'
_LABELLED = re.compile(rb'"labelled_at_ms":(\d+)')


@dataclass(frozen=True, slots=True)
class Paused:
    """Milliseconds from a label's scheduled time to its feedback. `pause_ms`: of a step by a dump, on average; `over`:
    the share of the labels that waited longer than half a second.
    """

    open: int
    per_s: int
    every_s: float
    p50_ms: float
    p99_ms: float
    most_ms: float
    over: float
    rows: int
    snapshots: int
    pause_ms: float
    commit_ms: float


def pauses(
    peer: Peer,
    command: Sequence[str],
    log: Log,
    work: Path,
    *,
    n: int,
    per_s: int,
    seconds: int,
    every_s: float,
    say: Callable[[str], None],
) -> Paused:
    """Fill, label, read. `every_s` 0: no snapshots. Raises `TimeoutError` or `Ended`."""
    history = History(n, now_ms() - SPAN_MS - 10_000, SPAN_MS, TIMEOUT_MS, seed=14, labelled=0.0)
    log.create(backdated=True)
    log.policy(history.first_ms, TIMEOUT_MS, carry=False)
    log.write(history.records())
    log.seal("predictions", "labels")
    task = task_of(peer, log, TIMEOUT_MS, work / "state")
    arguments = [*command, *task.arguments(), "--snapshot-s", str(every_s or NEVER_S)]
    with Program(arguments, task.state, work / "log", peer.environment) as program:
        _read_all(log, program, n)
        say(f"pauses: {n:,} open, {per_s:,} labels a second for {seconds} s, a snapshot every {every_s:g} s")
        chosen = np.random.default_rng([14, 1]).permutation(n)[: per_s * seconds]
        keys = history.keys(chosen)
        reader = reader_at_end(log, task.output)
        begin_ms = now_ms() + SETTLE_S * 1000
        sender = threading.Thread(target=_send, args=(log, keys, begin_ms, per_s), daemon=True)
        sender.start()
        steady_ms = begin_ms + int(seconds * 1000 * LEFT_OUT)
        waited: list[float] = []
        rows, end_s = 0, time.monotonic() + SETTLE_S + 2 * seconds + 30
        while rows < len(keys) and time.monotonic() < end_s:
            program.check()
            messages = reader.consume(50_000, 0.01)
            at_ms = time.time() * 1000
            for message in messages:
                if message.error() is None and (found := _LABELLED.search(message.value() or b"")):
                    rows += 1
                    if int(found[1]) > steady_ms:
                        waited.append(at_ms - int(found[1]))
        reader.close()
        sender.join()
        told = _metrics(program)
    if not waited:
        raise TimeoutError("no feedback came")
    p50_ms, p99_ms = np.percentile(waited, [50, 99]).tolist()
    snapshots = int(told["weir_snapshots_total"])
    return Paused(
        n,
        per_s,
        every_s,
        p50_ms,
        p99_ms,
        max(waited),
        float(np.mean(np.asarray(waited) > 500)),
        len(waited),
        snapshots,
        told["weir_snapshot_pause_seconds_sum"] / max(told["weir_snapshot_pause_seconds_count"], 1) * 1000,
        told["weir_commit_seconds_sum"] / max(told["weir_commit_seconds_count"], 1) * 1000,
    )


def _read_all(log: Log, program: Program, n: int) -> None:
    with Backlog(log.settings, "join", ["predictions"], log.admin) as backlog:
        deadline = time.monotonic() + max(60.0, n / 10_000)
        while lag := sum(backlog.lags().values()):
            program.check()
            if time.monotonic() > deadline:
                raise TimeoutError(f"{lag:,} of {n:,} predictions were not read in time")
            time.sleep(0.1)


def _send(log: Log, keys: Sequence[bytes], begin_ms: int, per_s: int) -> None:
    """Keep to the schedule; a label that leaves late keeps the time at which it should have left."""
    producer = Producer(
        {"bootstrap.servers": log.settings.kafka.bootstrap, "partitioner": "murmur2_random", "linger.ms": 5}
    )
    topic, sent = log.topic("labels"), 0
    while sent < len(keys):
        until = min(len(keys), (now_ms() - begin_ms) * per_s // 1000)
        for index in range(sent, until):
            producer.produce(topic, _LABEL % (keys[index], begin_ms + index * 1000 // per_s), keys[index])
        sent = max(sent, until)
        producer.poll(0)
        time.sleep(0.005)
    producer.flush(30)


def _metrics(program: Program) -> dict[str, float]:
    """Give what the worker says of itself, without labels."""
    port = re.findall(r"health_port=(\d+)", program.said())[-1]
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10) as answer:
        lines = answer.read().decode().splitlines()
    pairs = (line.rsplit(" ", 1) for line in lines if not line.startswith("#") and "{" not in line)
    return {name: float(value) for name, value in pairs}
