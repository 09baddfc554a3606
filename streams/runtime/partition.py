"""One running partition between two steps: its state, what is gathered for the next step, and when it is looked at."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Generic, TypeVar

from confluent_kafka import Message

from streams.runtime.clock import TIMELESS, BrokerClock
from streams.runtime.health import PartitionProgress
from streams.runtime.past import append
from streams.runtime.records import Packed, Records
from streams.runtime.restore import Restored

StateT = TypeVar("StateT")


def columns(inputs: Sequence[str]) -> dict[str, Records]:
    """Give empty columns for each input, in order."""
    return {name: Records() for name in inputs}


@dataclass(slots=True, eq=False)
class Partition(Generic[StateT]):
    """`at` is where the last step left it; `position` is ahead of that by what is gathered and by markers.

    `cut_ms` is the cut of the next step (0: none). `held` says of an input why it keeps the clock; `paused` are the
    inputs that ran too far ahead. The `_at` are moments of `time.monotonic`.
    """

    number: int
    at: Restored[StateT]
    position: dict[str, int]
    gathered: dict[str, Records]
    stepped_at: float = 0.0
    asked_at: float = 0.0
    paused: set[str] = field(default_factory=set)
    held: dict[str, str] = field(default_factory=dict)
    events: int = 0
    cut_ms: int = 0
    first_ms: int | None = None

    @property
    def behind(self) -> bool:
        """Whether a timer is due at the clock."""
        wake_at_ms = self.at.wake_at_ms
        return wake_at_ms is not None and wake_at_ms <= self.at.clock.ms

    @property
    def asking(self) -> bool:
        """Whether it waits for what was put away."""
        return bool(self.at.counters.get("recalls.open"))

    def leads_ms(self) -> dict[str, int]:
        """Say by how much each input is ahead of the least. One that never spoke is where the others began."""
        seen = self.at.clock.seen
        if not seen:
            return {}
        if self.first_ms is None:
            self.first_ms = min(seen.values())
        least_ms = min(seen.get(name, self.first_ms) for name in self.gathered if name not in TIMELESS)
        return {name: moment_ms - least_ms for name, moment_ms in seen.items()}

    def keep(self, name: str, message: Message) -> bool:
        """Gather a record for the next step. False: it was gathered before."""
        offset = message.offset() or 0
        if offset < self.position[name]:
            return False
        self.position[name] = offset + 1
        self.events += 1
        append(self.gathered[name], message)
        return True

    def keep_packed(self, name: str, packed: Packed) -> int:
        """Gather packed records for the next step, those left out that were gathered before. Gives how many."""
        position = self.position[name]
        offsets = packed.table[:, 4]
        if offsets[0] < position:
            first = int(offsets.searchsorted(position))
            headers = {index - first: found for index, found in packed.headers.items() if index >= first}
            packed = Packed(packed.table[first:], packed.kept, headers)
        if len(packed):
            self.position[name] = int(offsets[-1]) + 1
            self.events += len(packed)
            self.gathered[name].extend(packed)
        return len(packed)

    def take(self, name: str, records: Records) -> None:
        """Gather records that do not come from Kafka, all of them after the position."""
        self.position[name] = records.offsets[-1] + 1
        self.events += len(records)
        self.gathered[name] = records

    def stepped(self, step: int, wake_at_ms: int | None) -> None:
        """What was gathered is in the state now."""
        self.at.step, self.at.wake_at_ms = step, wake_at_ms
        self.held = {name: cause for name, cause in self.held.items() if not self.gathered[name]}
        self.gathered, self.events, self.cut_ms = columns(list(self.gathered)), 0, 0

    def progress(self, ends: dict[str, int]) -> PartitionProgress:
        """Show where it stands."""
        at, held = self.at, dict(self.held)
        if isinstance(at.clock, BrokerClock) and at.clock.held:
            held["clock"] = "jump"
        return PartitionProgress(at.step, at.clock.ms, dict(self.position), ends, dict(at.counters), held)
