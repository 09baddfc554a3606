"""Following a worker: each step that it recorded is taken again as soon as it can be read, outputs suppressed.

Steps become visible with the transaction that holds them, so a step that is read is committed, and the state here is
always that after a committed step. `repeat` makes the same comparisons as a restore: whoever computes something else
than the worker recorded stops.

Inputs are read in the background; what runs ahead of the recorded steps waits here, up to a bound.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Generic, TypeVar

import msgspec
from confluent_kafka import Consumer, KafkaError, Message, TopicPartition

from schemas.records import Step
from schemas.settings import Settings
from schemas.topics import topic_name
from streams.runtime import kafka, steps
from streams.runtime.past import append, refuse
from streams.runtime.processor import Processor
from streams.runtime.records import Records
from streams.runtime.restore import Restored, repeat

StateT = TypeVar("StateT")

AHEAD = 50_000
"""Records of one input of one partition that may wait for the step that reads them before the input is paused."""

TAKE_S = 0.1
"""Steps are taken again for about so long at a time, so that whoever follows can look up in between."""

_steps = msgspec.json.Decoder(Step)


@dataclass(slots=True)
class _Track(Generic[StateT]):
    """One partition: where it stands, steps not yet taken again, records that wait for theirs.

    `read`: every record of an input below was read. `heard`: every record of `steps` below was read.
    """

    at: Restored[StateT]
    read: dict[str, int]
    heard: int
    waiting: dict[str, deque[Message]]
    recorded: deque[tuple[int, Step]] = field(default_factory=deque)
    paused: set[str] = field(default_factory=set)

    def covered(self, step: Step) -> bool:
        """Whether everything that the step read is here."""
        return all(self.read[name] >= offset for name, offset in step.offsets.items() if name in self.read)

    def below(self, vector: Mapping[str, int]) -> dict[str, Records]:
        """Hand out the records below a vector, in the order of the inputs."""
        batch = {name: Records() for name in self.waiting}
        for name, records in batch.items():
            waiting, end = self.waiting[name], vector.get(name, 0)
            while waiting and (waiting[0].offset() or 0) < end:
                append(records, waiting.popleft())
        return batch


class Following(Generic[StateT]):
    """The partitions of one stage that are followed, with readers outside of any group. Close it afterwards.

    `heard` counts the steps that were read in this life, `taken` those that were taken again.
    """

    def __init__(self, processor: Processor[StateT], settings: Settings) -> None:
        self._processor = processor
        self._names = {topic_name(settings.namespace, name): name for name in steps.in_order(processor.inputs)}
        self._steps_topic = topic_name(settings.namespace, "steps")
        self._recorder = kafka.make_reader(settings, f"{processor.stage}.standby")
        self._reader = kafka.make_reader(settings, f"{processor.stage}.standby")
        self._tracks: dict[int, _Track[StateT]] = {}
        self.heard = self.taken = 0

    @property
    def at(self) -> dict[int, Restored[StateT]]:
        """Where each partition stands."""
        return {number: track.at for number, track in self._tracks.items()}

    @property
    def lag(self) -> int:
        """How many steps were read and not yet taken again."""
        return sum(len(track.recorded) for track in self._tracks.values())

    def follow(self, restored: Mapping[int, Restored[StateT]], start: Mapping[kafka.Place, int]) -> None:
        """Follow exactly these partitions, each from where it stands; `start` gives the first offset of each place."""
        self._tracks = {number: self._track(number, at, start) for number, at in sorted(restored.items())}
        self._recorder.assign(
            [TopicPartition(self._steps_topic, number, track.heard) for number, track in self._tracks.items()]
        )
        places = [
            TopicPartition(topic, number, track.read[name])
            for number, track in self._tracks.items()
            for topic, name in self._names.items()
        ]
        self._reader.assign(places)
        if places:
            self._reader.resume(places)  # a pause outlives an assignment

    def advance(self, wait_s: float) -> None:
        """Read what was recorded, waiting a little for the first, and take what can be taken again.

        Raises `NotRestored` for a step that cannot be taken again or comes out differently.
        """
        until = time.monotonic() + wait_s + TAKE_S
        for message in _drawn(self._recorder, 1_000, wait_s):
            self._hear(message)
        self._take(until)
        while self.lag and time.monotonic() < until:
            self._bound()
            for message in _drawn(self._reader, 10_000, 0.02):
                self._read(message)
            self._take(until)

    def unheard(self, ends: Mapping[kafka.Place, tuple[int, int]]) -> list[int]:
        """Give the partitions of which `steps` holds something visible that was not read yet."""
        return [n for n, track in self._tracks.items() if ends[self._steps_topic, n][0] > track.heard]

    def close(self) -> None:
        """Let go of the readers."""
        self._recorder.close()
        self._reader.close()

    def _track(self, number: int, at: Restored[StateT], start: Mapping[kafka.Place, int]) -> _Track[StateT]:
        read = {name: at.offsets.get(name, start[topic, number]) for topic, name in self._names.items()}
        heard = max(at.steps_offset + 1, start[self._steps_topic, number])
        return _Track(at, read, heard, {name: deque() for name in self._names.values()})

    def _hear(self, message: Message) -> None:
        track, offset = self._tracks.get(message.partition() or 0), message.offset() or 0
        error = message.error()
        if track is None:
            return
        if error is None:
            track.heard = offset + 1
            if message.key() == self._processor.stage.encode():
                track.recorded.append((offset, _steps.decode(message.value() or b"")))
                self.heard += 1
        elif error.code() == KafkaError._PARTITION_EOF:
            track.heard = max(track.heard, offset)
        else:
            refuse(error, f"{self._steps_topic}/{message.partition()}")

    def _read(self, message: Message) -> None:
        track, offset = self._tracks.get(message.partition() or 0), message.offset() or 0
        name = self._names[message.topic() or ""]
        error = message.error()
        if track is None:
            return
        if error is None:
            track.waiting[name].append(message)
            track.read[name] = offset + 1
        elif error.code() == KafkaError._PARTITION_EOF:
            track.read[name] = max(track.read[name], offset)
        else:
            refuse(error, f"{message.topic()}/{message.partition()}")

    def _take(self, until: float) -> None:
        """Take every step again whose records are here."""
        for number, track in self._tracks.items():
            while track.recorded and track.covered(track.recorded[0][1]) and time.monotonic() < until:
                offset, step = track.recorded.popleft()
                repeat(self._processor, track.at, number, offset, step, track.below)
                self.taken += 1

    def _bound(self) -> None:
        """Pause inputs that ran far ahead of the steps; let them go on when half of it is used up."""
        for number, track in self._tracks.items():
            for topic, name in self._names.items():
                place, ahead = [TopicPartition(topic, number)], len(track.waiting[name])
                needed = bool(track.recorded) and track.read[name] < track.recorded[0][1].offsets.get(name, 0)
                if name in track.paused and (needed or ahead < AHEAD // 2):
                    self._reader.resume(place)
                    track.paused.discard(name)
                elif name not in track.paused and ahead > AHEAD and not needed:
                    self._reader.pause(place)
                    track.paused.add(name)


def _drawn(reader: Consumer, limit: int, wait_s: float) -> Sequence[Message]:
    """Give what there is, waiting a little for the first: `consume` alone waits for the limit or the whole time."""
    first = reader.consume(1, wait_s)
    return first + reader.consume(limit, 0) if first else first
