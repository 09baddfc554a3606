"""The contract between a sans-I/O processor and the loop that feeds it.

A processor never sees Kafka, a wall clock or a file. For one partition it gets everything that was gathered from each
of its inputs up to an offset vector, and the clock; it gives outputs, counters and the time at which it wants to be
woken.
`step` is deterministic: the same state, batch and clock give the same bytes, so a recorded step can be taken again.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Generic, Protocol, TypeVar, cast, overload, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from streams.runtime.records import Records

StateT = TypeVar("StateT")

Body = bytes | bytearray | memoryview | NDArray[Any]
"""Contiguous memory."""


def flat(body: Body) -> memoryview:
    r"""Give memory of any shape and type as bytes, without a copy.

    >>> flat(np.array([1, 256], ">i2")).tobytes()
    b'\x00\x01\x01\x00'
    """
    # through numpy, because a memoryview of records (a structured array) cannot be cast to bytes
    return np.frombuffer(memoryview(cast(bytes, body)), np.uint8).data


WHOLE = "state"
"""The name of the only part of a state that is dumped in one piece."""


@dataclass(frozen=True, slots=True)
class Batch:
    """What one step of one partition reads: logical topic → records, and the step's number.

    `offsets` is the vector after the step (next offset to read by logical topic). `cut_ms`, when it is not 0, lets the
    processor put away what is older and has landed: like the clock, a decision from outside.
    """

    partition: int
    step: int
    inputs: Mapping[str, Records]
    offsets: Mapping[str, int] = field(default_factory=dict)
    cut_ms: int = 0


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
class Block:
    """Many outputs of one topic and partition side by side: as an iterable, the `Output`s that it stands for.

    `spans` has a row for each: where its key begins in `body` and the key's length, then the same of its value. Values
    lie in order, a line break behind each, so those from one to another are lines as they are.
    """

    topic: str
    partition: int
    body: NDArray[np.uint8]
    spans: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.spans)

    def __iter__(self) -> Iterator[Output]:
        body = self.body.tobytes()
        for key, key_size, value, size in self.spans.tolist():
            yield Output(self.topic, body[key : key + key_size], body[value : value + size], self.partition)


class Outputs(Sequence[Output]):
    """Outputs in order. `pieces` holds them as they were made: one by one, or in blocks."""

    __slots__ = ("_count", "pieces")

    def __init__(self, pieces: Iterable[Output | Block] = ()) -> None:
        self.pieces: list[Output | Block] = []
        self._count = 0
        self.extend(pieces)

    def append(self, piece: Output | Block) -> None:
        """Add an output or a block of them at the end."""
        self.pieces.append(piece)
        self._count += len(piece) if isinstance(piece, Block) else 1

    def extend(self, pieces: Iterable[Output | Block]) -> None:
        """Add several."""
        for piece in pieces:
            self.append(piece)

    def __len__(self) -> int:
        return self._count

    def __iter__(self) -> Iterator[Output]:
        for piece in self.pieces:
            if isinstance(piece, Block):
                yield from piece
            else:
                yield piece

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Sequence) and list(self) == list(other)

    __hash__ = None  # type: ignore[assignment]

    @overload
    def __getitem__(self, index: int) -> Output: ...
    @overload
    def __getitem__(self, index: slice) -> list[Output]: ...
    def __getitem__(self, index: int | slice) -> Output | list[Output]:
        return list(self)[index]


@dataclass(frozen=True, slots=True)
class Stepped:
    """What a step gives: outputs in order, cumulative counters, and when to be woken (clock ms; None: never)."""

    outputs: Sequence[Output]
    counters: Mapping[str, int]
    wake_at_ms: int | None


@dataclass(frozen=True, slots=True)
class Dump:
    """Parts of a state by name: their bytes, or None for one that is gone. A part that did not change is left out.

    A body is a copy that nobody changes any more: another thread hashes and writes it while the state goes on.
    """

    parts: Mapping[str, Body | None]

    @classmethod
    def of(cls, body: Body) -> Dump:
        """Give the dump of a state that is dumped in one piece, each time.

        >>> only(Dump.of(b"1").parts)
        b'1'
        """
        return cls({WHOLE: body})


def only(parts: Mapping[str, Any]) -> Any:
    """Give the body of a state that was dumped in one piece. Raises `ValueError` for another one."""
    if list(parts) != [WHOLE]:
        raise ValueError(f"expected one part named {WHOLE!r}, got {sorted(parts)[:10]}")
    return parts[WHOLE]


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

    def dump(self, state: StateT, *, whole: bool) -> Dump:
        """Give copies of every part that changed since the last dump of this state, or since it was loaded.

        With `whole` of all parts there are, whatever changed: nothing of what was dumped before can be counted on.
        It runs between two steps, so it copies and leaves encoding to others. Some part carries a format version.
        """
        ...

    def load(self, partition: int, parts: Mapping[str, bytes]) -> StateT:
        """Make a state of its parts: of each name the body dumped last, without those that are gone.

        Parts are read and checked as they are asked for. Raises `ValueError` for a format it does not know, and lets
        through what `parts` raises.
        """
        ...


@runtime_checkable
class Remarking(Protocol):
    """A state that says what of its snapshot it could not go on with: logged once it is loaded."""

    remarks: list[str]


@runtime_checkable
class Forgetful(Processor[StateT], Protocol[StateT]):
    """A processor whose state holds nothing older than a window, besides what control said and cumulative counters.

    `gauges` are the counters that count what is in state.
    """

    gauges: tuple[str, ...]

    def reach_ms(self, state: StateT) -> int | None:
        """Give how long before the clock something may have been read that is still in state; None: no bound now."""
        ...

    def forgotten(self, state: StateT, before_ms: int) -> bool:
        """Say whether everything that was read when the clock was at most `before_ms` has left state."""
        ...

    def adopt(self, state: StateT, counters: Mapping[str, int]) -> None:
        """Replace the cumulative counters, those of a state that began later, by recorded ones."""
        ...


@runtime_checkable
class Evictable(Processor[StateT], Protocol[StateT]):
    """A processor that puts away what is old at a cut (`Batch.cut_ms`), to ask for it again when it is needed.

    `said` is the topic of its outputs from which it can be asked for, when `lander`, another stage, has landed them.
    """

    said: str
    lander: str

    def used_bytes(self, state: StateT) -> int:
        """Give about how much memory a state takes."""
        ...

    def oldest_ms(self, state: StateT) -> int | None:
        """Give the time of about the oldest that could be put away; None when there is nothing."""
        ...


def whole_parts(processor: Processor[StateT], state: StateT) -> dict[str, bytes]:
    """Dump a whole state, as `Processor.load` takes it; the next dump leaves out what does not change from here on."""
    parts = processor.dump(state, whole=True).parts
    return {name: flat(body).tobytes() for name, body in parts.items() if body is not None}


@dataclass(frozen=True, slots=True)
class Taken(Generic[StateT]):
    """A state with the step that made it: what a snapshot holds."""

    state: StateT
    step: int
    offsets: Mapping[str, int]
    clock_ms: int
