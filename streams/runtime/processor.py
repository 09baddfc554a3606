"""The contract between a sans-I/O processor and the loop that feeds it.

A processor never sees Kafka, a wall clock or a file. For one partition it gets everything that was gathered from each
of its inputs up to an offset vector, and the clock; it gives outputs, counters and the time at which it wants to be
woken.
`step` is deterministic: the same state, batch and clock give the same bytes, so a recorded step can be taken again.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Generic, Protocol, TypeVar

StateT = TypeVar("StateT")

Headers = Sequence[tuple[str, bytes | None]]


@dataclass(slots=True)
class Records:
    """Records of one input of one partition, column by column, in offset order. All columns have equal length.

    `append_ms` is the Kafka timestamp. `headers` is sparse (index → headers), because most records have none.
    """

    offsets: list[int] = field(default_factory=list)
    append_ms: list[int] = field(default_factory=list)
    keys: list[bytes | None] = field(default_factory=list)
    values: list[bytes | None] = field(default_factory=list)
    headers: dict[int, Headers] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.offsets)

    def append(
        self, offset: int, append_ms: int, key: bytes | None, value: bytes | None, headers: Headers | None = None
    ) -> None:
        """Add one record at the end."""
        if headers:
            self.headers[len(self.offsets)] = headers
        self.offsets.append(offset)
        self.append_ms.append(append_ms)
        self.keys.append(key)
        self.values.append(value)


@dataclass(frozen=True, slots=True)
class Batch:
    """What one step of one partition reads: logical topic → records, and the step's number."""

    partition: int
    step: int
    inputs: Mapping[str, Records]


@dataclass(frozen=True, slots=True)
class Output:
    """One record to produce. `topic` is a logical name.

    `partition` None means: by murmur2 of the key. `append_ms` sets the record's timestamp in a namespace with a virtual
    clock (elsewhere the broker sets it); None means the step's clock.
    """

    topic: str
    key: bytes | None
    value: bytes
    partition: int | None = None
    headers: tuple[tuple[str, bytes], ...] = ()
    append_ms: int | None = None


@dataclass(frozen=True, slots=True)
class Stepped:
    """What a step gives: outputs in order, cumulative counters, and when to be woken (clock ms; None: never)."""

    outputs: Sequence[Output]
    counters: Mapping[str, int]
    wake_at_ms: int | None


class Processor(Protocol[StateT]):
    """A stage's thinking. `version` names the code: recorded digests are compared only within one version."""

    stage: str
    version: str
    inputs: tuple[str, ...]

    def empty(self, partition: int) -> StateT:
        """Give the state of a partition that has read nothing."""
        ...

    def step(self, state: StateT, batch: Batch, clock_ms: int) -> Stepped:
        """Advance `state` in place. Input records come before timers; timers due at `clock_ms` fire.

        Raises nothing for bad records (those become dead letters): an exception is a bug and stops the process with
        nothing committed.
        """
        ...

    def dump(self, state: StateT) -> bytes:
        """Give the whole state as bytes that begin with a format version."""
        ...

    def load(self, partition: int, body: bytes) -> StateT:
        """Read `dump`'s bytes. Raises `ValueError` for a format it does not know."""
        ...


@dataclass(frozen=True, slots=True)
class Taken(Generic[StateT]):
    """A state with the step that made it: what a snapshot holds."""

    state: StateT
    step: int
    offsets: Mapping[str, int]
    clock_ms: int
