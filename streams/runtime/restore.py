"""From what is committed to a running state: the newest readable snapshot, then the recorded steps again.

The offset commit carries the step number N in its metadata, in the same transaction as the step's record and outputs.
So the state wanted is that after step N, exactly. The steps after the snapshot's are read from `steps`, their records
from the inputs between two vectors, and each is taken again at its recorded clock, outputs suppressed; digest, number
of outputs and counters must agree, or the restore stops. Agreement is asked only of steps that the same processor
version wrote; a step of another version cannot be taken again, so a new version begins at a snapshot of the last older
step (a clean stop writes one).

When the group's offsets are gone (Kafka drops them when a group was away too long), `steps` itself says what N was.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Generic, TypeVar

import msgspec
import structlog
from confluent_kafka import Consumer, KafkaError, KafkaException, Message, TopicPartition
from confluent_kafka.admin import AdminClient

from schemas.records import Step
from schemas.settings import Settings
from schemas.topics import topic_name
from streams.runtime import kafka, steps
from streams.runtime.clock import BrokerClock, PartitionClock, VirtualClock
from streams.runtime.failures import NotRestored
from streams.runtime.manifest import Manifest
from streams.runtime.processor import Batch, Processor, Records
from streams.runtime.snapshot import SnapshotStore

StateT = TypeVar("StateT")

PATIENCE_S = 60.0
"""How long nothing may come of a log in which something must be, before the restore gives up."""

_log = structlog.get_logger()
_steps = msgspec.json.Decoder(Step)


class Abandoned(Exception):
    """The partition was taken away, or the process was asked to stop, while it was being restored."""


@dataclass(frozen=True, slots=True)
class Committed:
    """What the group committed of a partition: step number (0: nothing yet) and next offset by logical topic."""

    step: int
    offsets: Mapping[str, int]


@dataclass(slots=True)
class Restored(Generic[StateT]):
    """A state right after step `step`, and what the loop needs to go on from there.

    `saved` is the snapshot that the state's next dump adds to; None: nothing that was dumped can be counted on.
    """

    state: StateT
    clock: PartitionClock
    step: int = 0
    offsets: dict[str, int] = field(default_factory=dict)
    steps_offset: int = -1
    wake_at_ms: int | None = None
    counters: Mapping[str, int] = field(default_factory=dict)
    replayed: int = 0
    saved: Manifest | None = None


def read_committed(
    consumer: Consumer, settings: Settings, inputs: Sequence[str], partitions: Collection[int]
) -> dict[int, Committed]:
    """Ask the group once what it committed. Waits for transactions of other workers (the isolation level says so).

    Raises `NotRestored` when somebody else has moved the offsets, `KafkaException` when the broker does not answer.
    """
    logical = {topic_name(settings.namespace, name): name for name in inputs}
    asked = [TopicPartition(topic, partition) for partition in partitions for topic in logical]
    offsets: dict[int, dict[str, int]] = {partition: {} for partition in partitions}
    numbers: dict[int, set[int]] = {partition: set() for partition in partitions}
    for tp in consumer.committed(asked, timeout=30) if asked else ():
        if tp.error is not None:
            raise KafkaException(tp.error)
        if tp.offset < 0:
            continue
        if not (tp.metadata or "").isdecimal():
            raise NotRestored(
                f"the committed offset {tp.offset} of {tp.topic}/{tp.partition} carries no step number: "
                "somebody else moved this group's offsets",
                fix="offsets of this group are not for hand: to process everything anew, use another namespace",
            )
        offsets[tp.partition][logical[tp.topic]] = tp.offset
        numbers[tp.partition].add(int(tp.metadata or 0))
    for partition, found in numbers.items():
        if len(found) > 1:
            raise NotRestored(
                f"the committed offsets of partition {partition} name different steps: {sorted(found)}",
                fix="offsets of this group are not for hand: to process everything anew, use another namespace",
            )
    return {partition: Committed(max(numbers[partition], default=0), offsets[partition]) for partition in partitions}


def repeat(
    processor: Processor[StateT],
    restored: Restored[StateT],
    partition: int,
    offset: int,
    step: Step,
    read: Callable[[Mapping[str, int]], Mapping[str, Records]],
) -> None:
    """Take a recorded step again, outputs suppressed, and move `restored` to it.

    `offset` is where the record lies in `steps`; `read` gives the records of each input below a vector that were not
    given before. Raises `NotRestored` when it is not the next step, was taken by another version, or comes out
    differently.
    """
    if step.number != restored.step + 1:
        raise NotRestored(
            f"partition {partition}: after step {restored.step} `steps` goes on with {step.number}",
            fix="retention of `steps` was shorter than needed; without a snapshot, use another namespace",
        )
    if step.processor != processor.version:
        raise NotRestored(
            f"partition {partition}: steps from {step.number} on were taken by version {step.processor!r} "
            f"of {processor.stage}, which this version {processor.version!r} cannot repeat",
            fix=f"run version {step.processor!r} once and stop it cleanly: that writes a snapshot",
        )
    batch = Batch(partition, step.number, read(step.offsets))
    stepped = steps.take(processor, restored.state, restored.clock, batch, step.clock_ms)
    again = steps.record(processor, batch, stepped, step.clock_ms, step.offsets)
    if again != step:
        raise NotRestored(
            f"partition {partition}: step {step.number} taken again differs from its record:\n"
            f"    recorded {step}\n    again    {again}",
            fix="input that it read is gone from the log, or the processor is not deterministic",
        )
    restored.step, restored.offsets, restored.steps_offset = step.number, dict(step.offsets), offset
    restored.wake_at_ms, restored.counters = stepped.wake_at_ms, stepped.counters
    restored.replayed += 1


class Restorer(Generic[StateT]):
    """Restores partitions of one stage, one after the other, with readers of its own. Close it afterwards.

    `alive` is called between reads: it polls the group's consumer (else the group gives the worker up) and raises
    `Abandoned` when there is no point in going on.
    """

    def __init__(
        self,
        processor: Processor[StateT],
        settings: Settings,
        snapshots: SnapshotStore,
        admin: AdminClient,
        alive: Callable[[], None],
    ) -> None:
        self._processor, self._settings, self._snapshots = processor, settings, snapshots
        self._admin, self._alive = admin, alive
        self._inputs = steps.in_order(processor.inputs)
        self._topics = {topic_name(settings.namespace, name): name for name in self._inputs}
        self._readers: list[Consumer] = []

    def close(self) -> None:
        """Let go of the readers."""
        for reader in self._readers:
            reader.close()
        self._readers.clear()

    def restore(self, partition: int, committed: Committed) -> Restored[StateT]:
        """Build the state after the committed step.

        Raises `NotRestored` (with what to do) and `Abandoned`.
        """
        began = time.monotonic()
        low = kafka.earliest(self._admin, [(topic, partition) for topic in self._topics])
        start = {name: low[topic, partition] for topic, name in self._topics.items()}
        if committed.step == 0:
            committed = self._last_recorded(partition)
        if committed.step == 0:
            return Restored(self._processor.empty(partition), self._clock(), offsets=start)
        restored = self._from_snapshot(partition, committed.step) or Restored(
            self._processor.empty(partition), self._clock(), offsets=dict(start)
        )
        from_step = restored.step
        self._replay(partition, restored, committed.step, {**start, **restored.offsets})
        ahead = {name: max(offset, restored.offsets.get(name, 0)) for name, offset in committed.offsets.items()}
        restored.offsets = {**start, **restored.offsets, **ahead}
        gone = {name: offset for name, offset in restored.offsets.items() if offset < start[name]}
        if gone:
            raise NotRestored(
                f"partition {partition}: records not yet read are gone: next to read {gone}, first there {start}",
                fix="retention was shorter than the downtime; to go on without them, use another namespace",
            )
        _log.info(
            "restored",
            stage=self._processor.stage,
            partition=partition,
            step=restored.step,
            snapshot_step=from_step,
            replayed=restored.replayed,
            seconds=round(time.monotonic() - began, 3),
        )
        return restored

    def _clock(self, ms: int = 0, seen: Mapping[str, int] | None = None) -> PartitionClock:
        if self._settings.clock == "virtual":
            return VirtualClock(ms=ms)
        return BrokerClock(self._inputs, grace_ms=self._settings.join.grace_ms, ms=ms, seen=seen)

    def _from_snapshot(self, partition: int, up_to_step: int) -> Restored[StateT] | None:
        for manifest, parts in self._snapshots.newest(partition, up_to_step=up_to_step):
            try:
                return self._loaded(partition, manifest, parts)
            except (ValueError, KeyError, OSError, msgspec.MsgspecError) as error:
                _log.warning("snapshot_not_loaded", partition=partition, step=manifest.header.step, reason=str(error))
        return None

    def _loaded(self, partition: int, manifest: Manifest, parts: Mapping[str, bytes]) -> Restored[StateT]:
        header = manifest.header
        if (header.stage, header.partition) != (self._processor.stage, partition):
            raise ValueError(f"it is of stage {header.stage}, partition {header.partition}")
        return Restored(
            self._processor.load(partition, parts),
            self._clock(header.clock_ms, header.seen_ms),
            step=header.step,
            offsets=dict(header.offsets),
            steps_offset=header.steps_offset,
            wake_at_ms=header.wake_at_ms,
            counters=header.counters,
            saved=None if header.v == 1 else manifest,
        )

    def _replay(self, partition: int, restored: Restored[StateT], number: int, start: Mapping[str, int]) -> None:
        if restored.step == number:
            return
        tape = _Inputs(self._reader(1), self._topics, partition, start, self._alive)
        for offset, step in self._recorded(partition, restored.steps_offset + 1, number):
            repeat(self._processor, restored, partition, offset, step, tape.up_to)

    def _last_recorded(self, partition: int) -> Committed:
        """Nothing is committed: `steps` says whether that is because nothing ever was."""
        topic = topic_name(self._settings.namespace, "steps")
        stable, high = kafka.ends(self._admin, [(topic, partition)])[topic, partition]
        last = Committed(0, {})
        if min(stable, high) > kafka.earliest(self._admin, [(topic, partition)])[topic, partition]:
            for _, step in self._recorded(partition, 0, None):
                last = Committed(step.number, step.offsets)
        if last.step:
            _log.warning("offsets_gone", partition=partition, step=last.step, taken_from="steps")
        return last

    def _recorded(self, partition: int, offset: int, number: int | None) -> Iterator[tuple[int, Step]]:
        """Yield this stage's steps from an offset of `steps` on, up to a number (waited for) or to the end (None)."""
        topic = topic_name(self._settings.namespace, "steps")
        reader = self._reader(0)
        first = max(offset, kafka.earliest(self._admin, [(topic, partition)])[topic, partition])
        reader.assign([TopicPartition(topic, partition, first)])
        stage = self._processor.stage.encode()
        patience = _Patience(f"step {number} of partition {partition} in `steps`")
        while True:
            self._alive()
            for message in _draw(reader, 1_000):
                error = message.error()
                if error is not None:
                    if error.code() == KafkaError._PARTITION_EOF and number is None:
                        return
                    refuse(error, f"{topic}/{partition}")
                    continue
                patience.renew()
                if message.key() == stage:
                    step = _steps.decode(message.value() or b"")
                    yield message.offset() or 0, step
                    if step.number == number:
                        return
            patience.check()

    def _reader(self, index: int) -> Consumer:
        while len(self._readers) <= index:
            self._readers.append(kafka.make_reader(self._settings, f"{self._processor.stage}.restore"))
        return self._readers[index]


class _Inputs:
    """The inputs of one partition from a vector on, handed out up to each next vector."""

    def __init__(
        self,
        reader: Consumer,
        topics: Mapping[str, str],
        partition: int,
        start: Mapping[str, int],
        alive: Callable[[], None],
    ) -> None:
        self._reader, self._topics, self._partition, self._alive = reader, topics, partition, alive
        self._waiting: dict[str, deque[Message]] = {name: deque() for name in topics.values()}
        self._read = {name: start[name] for name in topics.values()}  # every record below has come
        reader.assign([TopicPartition(topic, partition, start[name]) for topic, name in topics.items()])

    def up_to(self, vector: Mapping[str, int]) -> dict[str, Records]:
        """Give each input's records below its offset in the vector, without those given before."""
        patience = _Patience(f"inputs of partition {self._partition} up to {dict(vector)}")
        while any(self._read[name] < offset for name, offset in vector.items() if name in self._read):
            self._alive()
            for message in _draw(self._reader, 10_000):
                patience.renew()
                self._keep(message)
            patience.check()
        return {name: self._below(name, vector.get(name, 0)) for name in self._waiting}

    def _keep(self, message: Message) -> None:
        name = self._topics[message.topic() or ""]
        offset = message.offset() or 0
        error = message.error()
        if error is None:
            self._waiting[name].append(message)
            self._read[name] = offset + 1
        elif error.code() == KafkaError._PARTITION_EOF:
            self._read[name] = max(self._read[name], offset)
        else:
            refuse(error, f"{message.topic()}/{self._partition}")

    def _below(self, name: str, end: int) -> Records:
        records, waiting = Records(), self._waiting[name]
        while waiting and (waiting[0].offset() or 0) < end:
            message = waiting.popleft()
            append(records, message)
        return records


class _Patience:
    """A deadline that moves with every sign of life."""

    def __init__(self, what: str) -> None:
        self._what = what
        self.renew()

    def renew(self) -> None:
        self._deadline = time.monotonic() + PATIENCE_S

    def check(self) -> None:
        if time.monotonic() > self._deadline:
            raise NotRestored(
                f"nothing came for {PATIENCE_S:g} s while reading {self._what}",
                fix="see whether the brokers of these partitions are up and whether a transaction is left open there",
            )


def _draw(reader: Consumer, limit: int) -> list[Message]:
    """Give what there is, waiting a little for the first: `consume` alone waits for the limit or the whole time."""
    return (first := reader.consume(1, 0.1)) and first + reader.consume(limit, 0)


def append(records: Records, message: Message) -> None:
    """Add a message to columns."""
    headers = message.headers()
    records.append(
        message.offset() or 0,
        message.timestamp()[1],
        message.key(),
        message.value(),
        headers or None,  # type: ignore[arg-type]  # consumed headers are (str, bytes | None) pairs
    )


def refuse(error: KafkaError, place: str) -> None:
    """Take an event that is no record. Raises `NotRestored` for records that are gone, `KafkaException` for good."""
    if error.code() == KafkaError._AUTO_OFFSET_RESET:
        raise NotRestored(
            f"{place}: records that a step read are gone: {error.str()}",
            fix="retention was shorter than the snapshots' age; without a newer snapshot, use another namespace",
        )
    if error.fatal():
        raise KafkaException(error)
    if error.code() != KafkaError._PARTITION_EOF:
        _log.warning("kafka_error", place=place, reason=error.str())
