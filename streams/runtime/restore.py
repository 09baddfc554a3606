"""From what is committed to a running state: the newest readable snapshot, then the recorded steps again.

The offset commit carries the step number N in its metadata, in the same transaction as the step's record and outputs.
So the state wanted is that after step N, exactly. The steps after the snapshot's are read from `steps`, their records
from the inputs between two vectors, and each is taken again at its recorded clock, outputs suppressed; digest, number
of outputs and counters must agree, or the restore stops. Agreement is asked only of steps that the same processor
version wrote; a step of another version cannot be taken again, so a new version begins at a snapshot of the last older
step (a clean stop writes one).

Origins, in this order: the newest snapshot that can be read; the first step, with an empty state; for a processor that
forgets (`Forgetful`) a step so old that nothing of then is in state any more (`window`). An origin from which the steps
and records up to N are neither in Kafka nor in the history (ClickHouse, `past`) is refused, and so is a snapshot that
is torn, altered or in part missing; what was refused, and why, is told with the result.

When the group's offsets are gone (Kafka drops them when a group was away too long), `steps` itself says what N was.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Generic, TypeVar

import msgspec
import structlog
from confluent_kafka import Consumer, KafkaException, TopicPartition
from confluent_kafka.admin import AdminClient

from schemas.records import Step
from schemas.settings import Settings
from schemas.topics import topic_name
from streams.runtime import kafka, steps
from streams.runtime.clock import BrokerClock, PartitionClock, VirtualClock
from streams.runtime.failures import NotRestored
from streams.runtime.history import History
from streams.runtime.manifest import Manifest
from streams.runtime.past import Gone, Past
from streams.runtime.processor import Batch, Forgetful, Processor, Remarking
from streams.runtime.records import Records
from streams.runtime.snapshot import SnapshotStore

StateT = TypeVar("StateT")

_log = structlog.get_logger()


REPLAY_MOST = 50_000_000
"""From so many records on, a window is tried before all of them: an hour's work at ten thousand a second and more."""


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
    `origin` says what was begun with, `refused` what could not be used instead, and why. `owed` holds the records of an
    input that are not read yet and gone from Kafka, with the offset at which Kafka begins.
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
    origin: str = "nothing"
    refused: tuple[str, ...] = ()
    owed: dict[str, tuple[Iterator[Records], int]] = field(default_factory=dict)

    def told(self) -> dict[str, object]:
        """Say how it was restored, for people."""
        return {"step": self.step, "origin": self.origin, "replayed": self.replayed, "refused": list(self.refused)}


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
    batch = Batch(partition, step.number, read(step.offsets), step.offsets, step.cut_ms)
    stepped = steps.take(processor, restored.state, restored.clock, batch, step.clock_ms)
    again = steps.record(processor, batch, stepped, step.clock_ms)
    if again != step:
        raise NotRestored(
            f"partition {partition}: step {step.number} taken again differs from its record:\n"
            f"    recorded {step}\n    again    {again}",
            fix="did settings of this stage (`join`, `recall`) change after it ended without a snapshot? Start it with "
            "the former ones, stop it cleanly (that writes a snapshot), then change them. Else input that it read is "
            "gone from the log, or the processor is not deterministic",
        )
    restored.step, restored.offsets, restored.steps_offset = step.number, dict(step.offsets), offset
    restored.wake_at_ms, restored.counters = stepped.wake_at_ms, stepped.counters
    restored.replayed += 1


class Restorer(Generic[StateT]):
    """Restores partitions of one stage, one after the other, with readers of its own. Close it afterwards.

    `alive` is called between reads: it polls the group's consumer (else the group gives the worker up) and raises
    `Abandoned` when there is no point in going on. `history` has records that Kafka no longer has.
    """

    def __init__(
        self,
        processor: Processor[StateT],
        settings: Settings,
        snapshots: SnapshotStore,
        admin: AdminClient,
        alive: Callable[[], None],
        history: History | None = None,
    ) -> None:
        self._processor, self._settings, self._snapshots = processor, settings, snapshots
        self._admin, self._alive, self._history = admin, alive, history
        self._inputs = steps.in_order(processor.inputs)
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
        past = Past(
            self._settings,
            self._processor.stage,
            self._inputs,
            partition,
            self._admin,
            self._reader,
            self._alive,
            self._history,
        )
        if committed.step == 0:
            committed = self._last_recorded(past, partition)
        if committed.step == 0:
            return Restored(self._processor.empty(partition), self._clock(), offsets=dict(past.low))
        restored = self._restored(past, partition, committed)
        ahead = {name: max(offset, restored.offsets.get(name, 0)) for name, offset in committed.offsets.items()}
        restored.offsets = {**past.low, **restored.offsets, **ahead}
        for name, offset in restored.offsets.items():
            low = past.low.get(name, 0)
            if offset < low:
                restored.owed[name] = past.remembered(name, offset, low), low
        _log.info(
            "restored",
            stage=self._processor.stage,
            partition=partition,
            step=restored.step,
            origin=restored.origin,
            refused=list(restored.refused),
            replayed=restored.replayed,
            seconds=round(time.monotonic() - began, 3),
        )
        return restored

    def _restored(self, past: Past, partition: int, committed: Committed) -> Restored[StateT]:
        """Try one origin after the other until one leads to the step. What was refused is told with the result."""
        number = committed.step
        refused: list[str] = []
        failure: Gone | None = None
        origins = [self._from_snapshot, self._from_beginning, self._from_window]
        if sum(committed.offsets.values()) > REPLAY_MOST:
            origins[1:] = self._from_window, self._from_beginning
        for origin in origins:
            try:
                restored = origin(past, partition, number, refused)
                if restored is None:
                    continue
                self._replay(past, partition, restored, number)
            except Gone as error:
                failure = error
                refused.append(error.message)
                _log.warning("origin_refused", partition=partition, reason=error.message)
            else:
                restored.refused = tuple(refused)
                return restored
        assert failure is not None, "the beginning leads to the step or raises"
        raise failure

    def _clock(self, ms: int = 0, seen: Mapping[str, int] | None = None) -> PartitionClock:
        if self._settings.clock == "virtual":
            return VirtualClock(ms=ms)
        return BrokerClock(self._inputs, grace_ms=self._settings.join.grace_ms, ms=ms, seen=seen)

    def _from_snapshot(self, past: Past, partition: int, number: int, refused: list[str]) -> Restored[StateT] | None:
        def refuse(which: str, why: str) -> None:
            refused.append(f"{which}: {why}")

        for manifest, parts in self._snapshots.newest(partition, up_to_step=number, refused=refuse):
            try:
                return self._loaded(partition, manifest, parts)
            except (ValueError, KeyError, OSError, msgspec.MsgspecError) as error:
                _log.warning("snapshot_not_loaded", partition=partition, step=manifest.header.step, reason=str(error))
                refuse(f"snapshot of step {manifest.header.step}", str(error))
        return None

    def _loaded(self, partition: int, manifest: Manifest, parts: Mapping[str, bytes]) -> Restored[StateT]:
        header = manifest.header
        if (header.stage, header.partition) != (self._processor.stage, partition):
            raise ValueError(f"it is of stage {header.stage}, partition {header.partition}")
        state = self._processor.load(partition, parts)
        for remark in state.remarks if isinstance(state, Remarking) else ():
            _log.warning("snapshot_loaded_in_part", partition=partition, step=header.step, remark=remark)
        return Restored(
            state,
            self._clock(header.clock_ms, header.seen_ms),
            step=header.step,
            offsets=dict(header.offsets),
            steps_offset=header.steps_offset,
            wake_at_ms=header.wake_at_ms,
            counters=header.counters,
            saved=None if header.v == 1 else manifest,
            origin=f"snapshot of step {header.step}",
        )

    def _from_beginning(self, past: Past, partition: int, number: int, refused: list[str]) -> Restored[StateT]:
        """Begin with nothing, before the first step."""
        first = past.first()
        if first != 1:
            there = "no step" if first is None else f"steps from {first} on"
            raise Gone(
                f"partition {partition}: without a snapshot all steps from the first to {number} are needed, "
                f"and {there} can be read in {past.where}",
                fix="retention of `steps` was shorter than needed; ClickHouse would have them (set clickhouse.*, run "
                "`weir record`); to go on without them, use another namespace",
            )
        state = self._processor.empty(partition)
        return Restored(state, self._clock(), offsets=past.beginning(), origin="the first step")

    def _from_window(self, past: Past, partition: int, number: int, refused: list[str]) -> Restored[StateT] | None:
        """Begin with nothing at a step of which nothing is in state any more."""
        if not isinstance(self._processor, Forgetful):
            return None
        from streams.runtime.window import rebuilt

        return rebuilt(self._processor, partition, past, number, self._clock)

    def _replay(self, past: Past, partition: int, restored: Restored[StateT], number: int) -> None:
        if restored.step == number:
            return
        records = past.records({**past.low, **restored.offsets})
        for offset, step in past.steps(restored.step, restored.steps_offset, number):
            repeat(self._processor, restored, partition, offset, step, records.up_to)

    def _last_recorded(self, past: Past, partition: int) -> Committed:
        """Nothing is committed: `steps` says whether that is because nothing ever was."""
        found = past.last()
        if found is None:
            return Committed(0, {})
        _log.warning("offsets_gone", partition=partition, step=found[1].number, taken_from="steps")
        return Committed(found[1].number, found[1].offsets)

    def _reader(self, index: int) -> Consumer:
        while len(self._readers) <= index:
            self._readers.append(kafka.make_reader(self._settings, f"{self._processor.stage}.restore"))
        return self._readers[index]
