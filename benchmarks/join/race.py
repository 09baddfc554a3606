"""One peer against the backlog: how many events per CPU second and per second, with how much memory.

Steady state: samples of CPU and position are taken over time; the figure is events over CPU seconds between the first
sample that has passed a fifth of the events and the first that has passed them all. So start-up (imports, JIT, joining
the group) does not count. `whole` counts it: all events over all CPU seconds up to that same sample.

Position is what the peer's group has committed, where it commits often; else the rows it has written, as a share of
those it will have written. The two agree where a peer reads both topics evenly.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from confluent_kafka import Consumer, KafkaException, TopicPartition

from benchmarks.join.history import History
from benchmarks.join.log import Log
from benchmarks.join.peer import Peer, Task
from benchmarks.join.process import Ended, Program, Together

START_S = 90.0
LEFT_OUT = 0.2
SAMPLE_S = 0.1
MEMORY_S = 1.0


@dataclass(frozen=True, slots=True)
class Sample:
    """Where a peer stood: `events` read (by its position), since its start."""

    at_s: float
    cpu_s: float
    events: float


@dataclass(frozen=True, slots=True)
class Raced:
    """What was measured. `finished`: it read everything within the time it had; `said` is why not."""

    events: int
    per_cpu_s: float | None
    per_s: float | None
    whole_per_cpu_s: float | None
    first_row_s: float | None
    pss_mb: float
    load: float
    finished: bool
    said: str = ""


def race(
    peer: Peer,
    command: Sequence[str],
    log: Log,
    history: History,
    work: Path,
    *,
    limit_s: float,
    tail_s: float,
    say: Callable[[str], None],
    workers: int = 1,
) -> Raced:
    """Measure a peer on the backlog until it has written its rows.

    It has `START_S` for its first event, from there `limit_s` to read everything, and `tail_s` more to write what is
    left, the wall clock's timeouts included. With several `workers` (Weir only) all of them together are measured.
    """
    task = task_of(peer, log, history.timeout_ms, work / "state")
    program = Together(
        [
            Program(
                [*command, *task.arguments(), *(("--worker", str(number)) if workers > 1 else ())],
                task.state,
                work / ("log" if workers == 1 else f"log-{number}"),
                peer.environment,
            )
            for number in range(workers)
        ]
    )
    track = _Track(peer, log, task, history)
    samples: list[Sample] = []
    pss_mb, said, finished, looked_at, told_at, waited_s = 0.0, "", False, 0.0, time.monotonic(), 0.0
    with contextlib.closing(track), program:
        with contextlib.suppress(Ended):
            pss_mb = program.pss_mb()
        try:
            while True:
                now = time.monotonic() - program.started_at
                events = track.events(now)
                samples.append(Sample(now, program.cpu_s(), events))
                if now - looked_at >= MEMORY_S:
                    looked_at, pss_mb = now, max(pss_mb, program.pss_mb())
                program.check()
                if track.done(now):
                    finished = True
                    break
                if not events and now > START_S:
                    said = f"no event within {START_S:g} s: {program.tail()}"
                    break
                if track.first_row_s is None and events >= history.events and now > START_S / 3:
                    said = f"read everything and wrote nothing: {program.tail()}"
                    break
                share = min(1.0, events / history.events)
                if not events:
                    waited_s = now
                if now - waited_s > limit_s + (tail_s if share == 1.0 else 0.0):
                    said = f"cut after {now:.0f} s with {share:.0%} of the events read and {track.rows:,} rows written"
                    break
                if time.monotonic() - told_at > 10:
                    told_at = time.monotonic()
                    say(f"{peer.name}: {events:,.0f} of {history.events:,} events after {now:.0f} s")
                time.sleep(SAMPLE_S)
        except Ended as error:
            said = str(error)
        pss_mb = max(pss_mb, program.pss_mb())
    steady = figures(samples, history.events)
    return Raced(
        history.events,
        steady.per_cpu_s,
        steady.per_s,
        steady.whole_per_cpu_s,
        track.first_row_s,
        pss_mb,
        round(os.getloadavg()[0], 1),
        finished,
        said,
    )


def task_of(peer: Peer, log: Log, timeout_ms: int, state: Path) -> Task:
    """Give what a peer is told in this namespace, its output topic made."""
    settings = log.settings
    state.mkdir(parents=True, exist_ok=True)
    return Task(
        bootstrap=settings.kafka.bootstrap,
        predictions=log.topic("predictions"),
        labels=log.topic("labels"),
        output=log.create_output(peer.name),
        group=f"{settings.namespace}.join" if peer.name.startswith("weir") else f"{settings.namespace}.{peer.name}",
        partitions=settings.partitions,
        timeout_ms=timeout_ms,
        state=state,
    )


@dataclass(frozen=True, slots=True)
class Steady:
    """Events over CPU seconds and over seconds without the beginning, and over all CPU seconds."""

    per_cpu_s: float | None = None
    per_s: float | None = None
    whole_per_cpu_s: float | None = None


def figures(samples: Sequence[Sample], events: int) -> Steady:
    """Give the rates from where a fifth had been read to where all had been.

    Of one that was cut, all is what it had read by then.
    """
    reached = min(float(events), max((sample.events for sample in samples), default=0.0))
    begin = next((sample for sample in samples if sample.events and sample.events >= LEFT_OUT * reached), None)
    end = next((sample for sample in samples if sample.events >= reached), None)
    if end is None or not end.cpu_s or not end.events:
        return Steady()
    whole = end.events / end.cpu_s
    if begin is None or end.at_s <= begin.at_s or end.cpu_s <= begin.cpu_s:
        return Steady(whole_per_cpu_s=whole)
    read = end.events - begin.events
    return Steady(read / (end.cpu_s - begin.cpu_s), read / (end.at_s - begin.at_s), whole)


class _Track:
    """Follows a peer from outside: its group's offsets, and how many rows there are."""

    def __init__(self, peer: Peer, log: Log, task: Task, history: History) -> None:
        self._peer, self._log, self._task, self._history = peer, log, task, history
        self._rows_before = log.ends(task.output)
        positives = int((history.label >= 0).sum())
        self._due = history.n if peer.timers == "event" else positives
        self._all = history.n if peer.timers != "none" else positives
        self._inputs = [
            TopicPartition(topic, partition)
            for topic in (task.predictions, task.labels)
            for partition in range(task.partitions)
        ]
        self._consumer = Consumer({"bootstrap.servers": task.bootstrap, "group.id": task.group})
        self.first_row_s: float | None = None
        self.rows, self._moved_s = 0, 0.0

    def events(self, now_s: float) -> float:
        """Give how many events it has read."""
        rows = self._log.ends(self._task.output) - self._rows_before
        if rows > self.rows:
            self._moved_s = now_s
            if self.first_row_s is None:
                self.first_row_s = now_s
        self.rows = rows
        if self._peer.position == "output":
            return min(1.0, rows / self._due) * self._history.events
        try:
            committed = self._consumer.committed(self._inputs, timeout=5)
        except KafkaException:  # the group's coordinator is still being found
            return 0.0
        return min(float(self._history.events), self._read(committed))

    def _read(self, committed: Sequence[TopicPartition]) -> float:
        return float(sum(self._log.read(place.topic, place.partition, max(place.offset, 0)) for place in committed))

    def done(self, now_s: float) -> bool:
        """Whether all rows are there, or none has come for so long that none will."""
        patience_s = self._peer.grace_s
        if self._peer.timers == "wall" and self.rows < self._all:
            patience_s += self._history.timeout_ms / 1000
        if self.rows >= self._all:
            patience_s = min(patience_s, 2.0)
        return self.rows > 0 and now_s - self._moved_s > patience_s

    def close(self) -> None:
        """Let go of the connection."""
        self._consumer.close()
