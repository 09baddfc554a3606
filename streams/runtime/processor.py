"""The contract between a sans-I/O processor and the loop that feeds it.

A processor never sees Kafka, a wall clock or a file. For one partition it gets everything that was gathered from each
of its inputs up to an offset vector, and the clock; it gives outputs, counters and the time at which it wants to be
woken.
`step` is deterministic: the same state, batch and clock give the same bytes, so a recorded step can be taken again.
"""

from __future__ import annotations

import ctypes
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Generic, Protocol, TypeVar, cast, overload, runtime_checkable

import numpy as np
from numpy.typing import NDArray

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

Headers = Sequence[tuple[str, bytes | None]]


PACKED_WORDS = 7
"""Words of a row of `Packed`: address of the value, its length (-1: none), the same of the key, position, append_ms,
and whether the record has headers."""

_INDEX_SHIFT = 44
"""A position in one number: the offset, and above it the index in an envelope. That of a record is its offset."""


def position(offset: int, index: int) -> int:
    """Give the position of an event as one number.

    >>> position(41, 0), place_of(position(41, 7))
    (41, (41, 7))
    """
    return offset | index << _INDEX_SHIFT


def place_of(position: int) -> tuple[int, int]:
    """Give offset and index of a position: places compare as the log has them, positions do not."""
    return position & ((1 << _INDEX_SHIFT) - 1), position >> _INDEX_SHIFT


@dataclass(slots=True)
class Packed:
    """Records side by side: `table` has a row for each, `kept` is what keeps the memory that its addresses point into.

    Eight bytes behind each value may be read. `unwritten` are stretches of rows whose values and keys do not exist yet:
    (first, last + 1, what makes them; see `streams.runtime.envelopes`).
    """

    table: NDArray[np.int64]
    kept: list[Any]
    headers: dict[int, Headers] = field(default_factory=dict)
    unwritten: list[tuple[int, int, Any]] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self.table)

    @property
    def size(self) -> int:
        """How many bytes keys and values have."""
        return int(self.table[:, 1:4:2].clip(0).sum())


class Records:
    """Records of one input of one partition, column by column, in offset order. All columns have equal length.

    `append_ms` is the Kafka timestamp. `headers` is sparse (index → headers), because most records have none, and so is
    `indexes`, because most come alone. Records may come packed; the columns are made of them when somebody asks.
    """

    __slots__ = ("_append_ms", "_headers", "_indexes", "_keys", "_offsets", "_packed", "_values")

    def __init__(
        self,
        offsets: list[int] | None = None,
        append_ms: list[int] | None = None,
        keys: list[bytes | None] | None = None,
        values: list[bytes | None] | None = None,
        headers: dict[int, Headers] | None = None,
        indexes: dict[int, int] | None = None,
    ) -> None:
        self._offsets = offsets if offsets is not None else []
        self._append_ms = append_ms if append_ms is not None else []
        self._keys = keys if keys is not None else []
        self._values = values if values is not None else []
        self._headers = headers if headers is not None else {}
        self._indexes = indexes if indexes is not None else {}
        self._packed: list[Packed] = []

    def __len__(self) -> int:
        return len(self._offsets) + sum(map(len, self._packed))

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Records) and self._columns() == other._columns()

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        return f"Records({', '.join(map(repr, self._columns()))})"

    @property
    def offsets(self) -> list[int]:
        """Offsets, ascending."""
        self._unpack()
        return self._offsets

    @property
    def append_ms(self) -> list[int]:
        """Kafka timestamps."""
        self._unpack()
        return self._append_ms

    @property
    def keys(self) -> list[bytes | None]:
        """Kafka keys."""
        self._unpack()
        return self._keys

    @property
    def values(self) -> list[bytes | None]:
        """Values as they came."""
        self._unpack()
        return self._values

    @property
    def headers(self) -> dict[int, Headers]:
        """Headers of the records that have some."""
        self._unpack()
        return self._headers

    @property
    def indexes(self) -> dict[int, int]:
        """Index in its envelope, of each event that is not its first."""
        self._unpack()
        return self._indexes

    def position(self, index: int) -> int:
        """Give the position of one of them (`position`)."""
        self._unpack()
        return position(self._offsets[index], self._indexes.get(index, 0))

    def beside(self) -> dict[int, Headers]:
        """Give the headers without unpacking anything."""
        if not self._packed:
            return self._headers
        found, start = dict(self._headers), len(self._offsets)
        for chunk in self._packed:
            found |= {start + index: headers for index, headers in chunk.headers.items()}
            start += len(chunk)
        return found

    @property
    def last_ms(self) -> int | None:
        """The Kafka timestamp of the last record."""
        if self._packed:
            return int(self._packed[-1].table[-1, 5])
        return self._append_ms[-1] if self._append_ms else None

    def append(
        self,
        offset: int,
        append_ms: int,
        key: bytes | None,
        value: bytes | None,
        headers: Headers | None = None,
        index: int = 0,
    ) -> None:
        """Add one record at the end."""
        self._unpack()
        if headers:
            self._headers[len(self._offsets)] = headers
        if index:
            self._indexes[len(self._offsets)] = index
        self._offsets.append(offset)
        self._append_ms.append(append_ms)
        self._keys.append(key)
        self._values.append(value)

    def extend(self, packed: Packed) -> None:
        """Add packed records at the end."""
        if len(packed):
            self._packed.append(packed)

    def packed(self) -> Packed:
        """Give all of them packed."""
        chunks = self._packed if not self._offsets else [self._pack(), *self._packed]
        if len(chunks) == 1:
            return chunks[0]
        if not chunks:
            return Packed(np.zeros((0, PACKED_WORDS), dtype=np.int64), [])
        headers: dict[int, Headers] = {}
        start = 0
        for chunk in chunks:
            headers |= {start + index: found for index, found in chunk.headers.items()}
            start += len(chunk)
        return Packed(
            np.concatenate([chunk.table for chunk in chunks]),
            [body for chunk in chunks for body in chunk.kept],
            headers,
        )

    def select(self, indices: Sequence[int]) -> Records:
        """Give some of the records, in the order of `indices`, which ascend."""
        if not self._packed:
            return Records(
                [self._offsets[index] for index in indices],
                [self._append_ms[index] for index in indices],
                [self._keys[index] for index in indices],
                [self._values[index] for index in indices],
                {place: self._headers[index] for place, index in enumerate(indices) if index in self._headers},
                {place: self._indexes[index] for place, index in enumerate(indices) if index in self._indexes},
            )
        packed = self.packed()
        chosen = Packed(packed.table[np.asarray(indices, dtype=np.int64)], packed.kept)
        chosen.headers = {
            place: packed.headers[index] for place, index in enumerate(indices) if index in packed.headers
        }
        records = Records()
        records.extend(chosen)
        return records

    def _columns(self) -> tuple[object, ...]:
        self._unpack()
        return self._offsets, self._append_ms, self._keys, self._values, self._headers, self._indexes

    def _pack(self) -> Packed:
        count = len(self._offsets)
        parts = [body or b"" for body in (*self._values, *self._keys)]
        body: NDArray[np.uint8] = np.frombuffer(b"".join([*parts, bytes(16)]), dtype=np.uint8)
        sizes = np.fromiter(map(len, parts), dtype=np.int64, count=2 * count)
        starts = body.ctypes.data + np.cumsum(sizes) - sizes
        table: NDArray[np.int64] = np.zeros((count, PACKED_WORDS), dtype=np.int64)
        table[:, 0], table[:, 2] = starts[:count], starts[count:]
        table[:, 1], table[:, 3] = sizes[:count], sizes[count:]
        table[:, 4], table[:, 5] = self._offsets, self._append_ms
        table[list(self._headers), 6] = 1
        table[list(self._indexes), 4] |= np.fromiter(self._indexes.values(), np.int64) << _INDEX_SHIFT
        for word, bodies in ((1, self._values), (3, self._keys)):
            if None in bodies:
                table[[index for index, one in enumerate(bodies) if one is None], word] = -1
        return Packed(table, [body], dict(self._headers))

    def _unpack(self) -> None:
        if not self._packed:
            return
        chunks, self._packed = self._packed, []
        for chunk in chunks:
            first = len(self._offsets)
            self._headers |= {first + index: found for index, found in chunk.headers.items()}
            for value, size, key, key_size, place, append_ms, _ in chunk.table.tolist():
                offset, index = place_of(place)
                if index:
                    self._indexes[len(self._offsets)] = index
                self._offsets.append(offset)
                self._append_ms.append(append_ms)
                self._keys.append(None if key_size < 0 else ctypes.string_at(key, key_size))
                self._values.append(None if size < 0 else ctypes.string_at(value, size))


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
