"""A simulated broker and loop: feeds any processor from a history as the real runtime would, in another order per seed.

What it keeps of the real one: append times never go back within a partition; a partition's clock is the least, over its
inputs, of the time last read, or of the confirmed moment when an input is drained, and never goes back; what is
forwarded comes back as a record of another partition; no partition lags by more than a third of the grace period.
Everything else (which partition steps, how much of each input it takes) is drawn.

With `cuts`, steps put requests away at cuts that are drawn as well, and what is asked is answered some time later by
what really answers it (`services.recall.answer`), from the logs as they were read.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field
from random import Random
from typing import Generic, TypeVar

from schemas.event import decode
from schemas.recall import RecallRequested
from schemas.topics import INPUTS
from services.recall.answer import TOPICS as LANDED
from services.recall.answer import Stored, answer
from streams.join.naive import Record, partition_of, timers_clock
from streams.runtime.processor import Batch, Output, Processor, Stepped, whole_parts
from streams.runtime.records import Records
from tests.streams.join.histories import T0_MS, History, S, request_of

StateT = TypeVar("StateT")

END_MS = T0_MS + 1_000_000 * S
TOPICS = ("control", *INPUTS)
RECALLED = "recalled"


@dataclass(frozen=True, slots=True)
class Step:
    """A step as it was taken: enough to take it again."""

    batch: Batch
    clock_ms: int
    stepped: Stepped


@dataclass
class Part(Generic[StateT]):
    """One partition: its logs as far as they have arrived, what has been read of them, its state."""

    state: StateT
    logs: dict[str, list[Record]] = field(default_factory=lambda: {topic: [] for topic in (*TOPICS, RECALLED)})
    questions: list[RecallRequested] = field(default_factory=list)
    read: Counter[str] = field(default_factory=Counter)
    clock_ms: int = 0
    steps: list[Step] = field(default_factory=list)
    control_read: list[tuple[int, int]] = field(default_factory=list)

    def unread(self, topic: str) -> list[Record]:
        return self.logs[topic][self.read[topic] :]

    @property
    def drained(self) -> bool:
        return not self.questions and all(not self.unread(topic) for topic in (*TOPICS, RECALLED))

    @property
    def counters(self) -> Mapping[str, int]:
        return self.steps[-1].stepped.counters if self.steps else {}

    @property
    def wake_at_ms(self) -> int | None:
        return self.steps[-1].stepped.wake_at_ms if self.steps else None


class Driver(Generic[StateT]):
    """Runs a history to its end. `reload` makes it dump and load the state before some steps."""

    def __init__(
        self,
        processor: Processor[StateT],
        history: History,
        random: Random,
        *,
        reload: Random | None = None,
        cuts: Random | None = None,
    ) -> None:
        self.processor, self.history, self.random, self.reload, self.cuts = processor, history, random, reload, cuts
        self.parts = [Part(processor.empty(partition)) for partition in range(history.bounds.partitions)]
        self.outputs: dict[str, list[Record]] = defaultdict(list)
        self.now_ms = 0
        self.arrived = 0
        self.lag_ms = history.bounds.grace_ms // 3

    @property
    def logs(self) -> dict[str, list[Record]]:
        """What all partitions have read so far."""
        return {
            topic: [record for part in self.parts for record in part.logs[topic][: part.read[topic]]]
            for topic in TOPICS
        }

    @property
    def clocks(self) -> dict[int, int]:
        """Partition → its timers' clock."""
        return {
            partition: timers_clock(part.logs["control"], part.control_read, self.history.bounds)
            for partition, part in enumerate(self.parts)
        }

    @property
    def counters(self) -> Counter[str]:
        total: Counter[str] = Counter()
        for part in self.parts:
            total.update(part.counters)
        return total

    def run(self) -> None:
        """Go to the end: all read, all forwarded, every deadline and eviction passed."""
        while self.tick():
            pass

    def tick(self) -> bool:
        """Let some time pass, records arrive, and partitions step. False once there is nothing more to come."""
        if self.arrived < len(self.history.arrivals) or not all(part.drained for part in self.parts):
            self._pass_time()
        else:
            wakes = [part.wake_at_ms for part in self.parts if part.wake_at_ms is not None]
            if not wakes and self.now_ms >= END_MS:
                return False
            due_ms = min(wakes, default=END_MS)
            self.now_ms = (
                END_MS
                if self.random.random() < 0.1
                else max(self.now_ms, min(END_MS, due_ms + self.random.choice((0, 0, 1, S))))
            )
        self._arrive()
        for part in self.parts:
            self._answer(part)
        for partition in self.random.sample(range(len(self.parts)), len(self.parts)):
            for _ in range(self.random.choice((0, 1, 1, 2))):
                self.step(partition, upto_ms=None)
        for partition, part in enumerate(self.parts):
            old_ms = self.now_ms if self.now_ms >= END_MS else self.now_ms - self.lag_ms
            if any(part.unread(topic)[0].append_ms <= old_ms for topic in TOPICS if part.unread(topic)):
                self.step(partition, upto_ms=old_ms)
        if self.now_ms >= END_MS and self.arrived == len(self.history.arrivals):
            for partition, part in enumerate(self.parts):
                while not part.drained or part.clock_ms < END_MS:
                    self._answer(part)
                    self.step(partition, upto_ms=self.now_ms)
        return True

    def _answer(self, part: Part[StateT]) -> None:
        """Answer the first questions of a partition, or none yet; now and then one of them again."""
        if self.cuts is None:
            return
        for _ in range(self.cuts.choice((0, 0, 1, 3))):
            if not part.questions:
                return
            question = part.questions.pop(0)
            for _ in range(self.cuts.choice((1, 1, 1, 2))):
                for value in answer(question, self._landed(question.request_id), self.cuts.choice((3_000_000, 2_600))):
                    key = question.request_id.encode()
                    self._append(RECALLED, question.partition, self.now_ms, key, value, ())

    def _landed(self, request_id: str) -> list[Stored]:
        logs = [*((topic, part.logs[topic]) for part in self.parts for topic in INPUTS)]
        logs.append(("feedback", self.outputs["feedback"]))
        return [
            Stored(LANDED.index(topic), one.partition, one.offset, one.append_ms, one.key, one.value, list(one.headers))
            for topic, log in logs
            for one in log
            if request_of(one.value) == request_id
        ]

    def _pass_time(self) -> None:
        step_ms = self.random.choice((1, S, self.lag_ms, self.lag_ms))
        later = [arrival.append_ms for arrival in self.history.arrivals[self.arrived : self.arrived + 1]]
        if later and all(part.drained for part in self.parts):
            step_ms = max(step_ms, later[0] - self.now_ms)  # nothing can be late: jump
        self.now_ms += step_ms

    def _arrive(self) -> None:
        arrivals = self.history.arrivals
        while self.arrived < len(arrivals) and arrivals[self.arrived].append_ms <= self.now_ms:
            one = arrivals[self.arrived]
            self.arrived += 1
            self._append(one.topic, one.partition, one.append_ms, one.key, one.value, one.headers)

    def _append(
        self,
        topic: str,
        partition: int,
        append_ms: int,
        key: bytes | None,
        value: bytes | None,
        headers: tuple[tuple[str, bytes | None], ...],
    ) -> None:
        log = self.parts[partition].logs[topic]
        gap = 1 if len(log) % 3 else 2  # transaction markers take offsets
        offset = log[-1].offset + gap if log else 0
        append_ms = max(append_ms, log[-1].append_ms) if log else append_ms
        log.append(Record(partition, offset, append_ms, key, value, headers))

    def step(self, partition: int, upto_ms: int | None) -> None:
        """Step one partition: take all that came up to a moment, or some of everything."""
        part = self.parts[partition]
        if self.reload is not None and self.reload.random() < 0.3:
            part.state = self.processor.load(partition, whole_parts(self.processor, part.state))
        inputs: dict[str, Records] = {}
        for topic in (*TOPICS, RECALLED):
            unread = part.unread(topic)
            if upto_ms is None:
                count = self.random.choice((0, 1, self.random.randint(0, len(unread)), len(unread)))
            else:
                count = sum(record.append_ms <= upto_ms for record in unread)
            taken = unread[:count]
            part.read[topic] += len(taken)
            records = Records()
            for one in taken:
                records.append(one.offset, one.append_ms, one.key, one.value, one.headers or None)
            if taken or self.random.random() < 0.5:
                inputs[topic] = records
        part.clock_ms = max(part.clock_ms, min(self._clock_of(part, topic) for topic in INPUTS))
        logs = ((topic, part.logs[topic][: part.read[topic]]) for topic in (*TOPICS, RECALLED))
        offsets = {topic: log[-1].offset + 1 if log else 0 for topic, log in logs}
        batch = Batch(partition, len(part.steps), inputs, offsets, self._cut_ms(part))
        stepped = self.processor.step(part.state, batch, part.clock_ms)
        part.steps.append(Step(batch, part.clock_ms, stepped))
        control = part.logs["control"][: part.read["control"]]
        part.control_read.append((control[-1].offset + 1 if control else 0, part.clock_ms))
        for output in stepped.outputs:
            self._produce(output)

    def _cut_ms(self, part: Part[StateT]) -> int:
        if self.cuts is None or self.cuts.random() < 0.6:
            return 0
        return part.clock_ms - self.cuts.choice((0, 0, 1, S, 20 * S, 60 * S))

    def _clock_of(self, part: Part[StateT], topic: str) -> int:
        last = part.logs[topic][part.read[topic] - 1].append_ms if part.read[topic] else 0
        drained = part.read[topic] == len(part.logs[topic])
        return max(last, self.now_ms - self.random.choice((0, 0, 100))) if drained else last

    def _produce(self, output: Output) -> None:
        count = self.history.bounds.partitions
        if output.topic in INPUTS:
            assert output.partition is not None or output.key is not None
            target = (
                output.partition if output.partition is not None else partition_of((output.key or b"").decode(), count)
            )
            self._append(output.topic, target, self.now_ms, output.key, output.value, output.headers)
            return
        if output.topic == "recall-requests":
            question = decode(output.value, RecallRequested)
            self.parts[question.partition].questions.append(question)
        log = self.outputs[output.topic]
        partition = 0
        if output.topic == "feedback":
            partition = (
                partition_of((output.key or b"").decode(), count) if output.partition is None else output.partition
            )
        log.append(Record(partition, len(log), self.now_ms, output.key, output.value, output.headers))
