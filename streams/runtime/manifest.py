"""The manifest of a snapshot, as bytes, and the parts that it names.

In this order: 8 bytes `WEIRSNAP`; the header's length (4 bytes, big endian); the header (JSON, `Header`, `v` 2); the
table of parts (MessagePack, `_Table`); 16 bytes XXH3-128 over all that. Format 1 had the whole state in the table's
place and is still read.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field

import msgspec
import xxhash

from streams.runtime.objects import Read
from streams.runtime.processor import WHOLE

_MAGIC = b"WEIRSNAP"
_CHECKSUM_BYTES = 16


class Header(msgspec.Struct, frozen=True, kw_only=True):
    """What a state belongs to. `offsets` is the step's vector, `seen_ms` the clock's memory (logical topic → ms).

    `steps_offset` is where the step's own record lies in `steps`; `wake_at_ms` is what the step asked for.
    """

    v: int = 2
    stage: str
    processor: str
    partition: int
    step: int
    offsets: dict[str, int]
    steps_offset: int
    clock_ms: int
    seen_ms: dict[str, int]
    wake_at_ms: int | None
    counters: dict[str, int]


class Part(msgspec.Struct, frozen=True, array_like=True):
    """Where a part's bytes lie, and their XXH3-128."""

    pack: str
    offset: int
    length: int
    digest: bytes


class _Table(msgspec.Struct, frozen=True, array_like=True):
    packs: dict[str, int]
    parts: dict[str, tuple[int, int, int, bytes]]


@dataclass(frozen=True, slots=True)
class Manifest:
    """A snapshot that is kept: its header, its packs' lengths, its parts by name.

    `body` is the whole state of a snapshot of format 1, which has no parts.
    """

    header: Header
    packs: Mapping[str, int] = field(default_factory=dict)
    parts: Mapping[str, Part] = field(default_factory=dict)
    body: bytes | None = None


class SnapshotUnreadable(ValueError):
    """It is cut short, altered, in part gone, or of a format that this version does not know."""


def encode(manifest: Manifest) -> bytes:
    """Give the bytes of a manifest."""
    header = msgspec.json.encode(manifest.header)
    numbers = {name: number for number, name in enumerate(manifest.packs)}
    parts = {name: (numbers[part.pack], part.offset, part.length, part.digest) for name, part in manifest.parts.items()}
    table = msgspec.msgpack.encode(_Table(dict(manifest.packs), parts))
    content = b"".join((_MAGIC, len(header).to_bytes(4, "big"), header, table))
    return content + xxhash.xxh3_128_digest(content)


def decode(content: bytes) -> Manifest:
    """Read the bytes of a manifest. Raises `SnapshotUnreadable` saying what is wrong."""
    start = len(_MAGIC) + 4
    if len(content) < start + _CHECKSUM_BYTES:
        raise SnapshotUnreadable(f"it is cut short: {len(content)} bytes")
    if not content.startswith(_MAGIC):
        raise SnapshotUnreadable(f"it does not begin with {_MAGIC.decode()}")
    if xxhash.xxh3_128_digest(memoryview(content)[:-_CHECKSUM_BYTES]) != content[-_CHECKSUM_BYTES:]:
        raise SnapshotUnreadable("its checksum differs")
    end = start + int.from_bytes(content[len(_MAGIC) : start], "big")
    try:
        header = msgspec.json.decode(content[start:end], type=Header)
    except msgspec.DecodeError as error:
        raise SnapshotUnreadable(f"its header is not understood: {error}") from None
    if header.v == 1:
        return Manifest(header, body=content[end:-_CHECKSUM_BYTES])
    if header.v != 2:
        raise SnapshotUnreadable(f"its format is version {header.v}, known are 1 and 2")
    try:
        table = msgspec.msgpack.decode(content[end:-_CHECKSUM_BYTES], type=_Table)
    except msgspec.DecodeError as error:
        raise SnapshotUnreadable(f"its table of parts is not understood: {error}") from None
    packs = list(table.packs)
    parts = {name: Part(packs[at], offset, size, digest) for name, (at, offset, size, digest) in table.parts.items()}
    return Manifest(header, table.packs, parts)


class Parts(Mapping[str, bytes]):
    """The parts of a kept snapshot, each read and checked when it is asked for.

    Raises `SnapshotUnreadable` for one that is gone, cut short or altered, and tells `broken`; `OSError` when the place
    does not answer.
    """

    def __init__(
        self, manifest: Manifest, open_pack: Callable[[str], Read], broken: Callable[[], None] = lambda: None
    ) -> None:
        self._manifest, self._open, self._broken = manifest, open_pack, broken
        self._packs: dict[str, Read] = {}

    def __len__(self) -> int:
        return 1 if self._manifest.body is not None else len(self._manifest.parts)

    def __iter__(self) -> Iterator[str]:
        return iter(self._manifest.parts if self._manifest.body is None else [WHOLE])

    def __contains__(self, name: object) -> bool:
        return name == WHOLE if self._manifest.body is not None else name in self._manifest.parts

    def __getitem__(self, name: str) -> bytes:
        if self._manifest.body is not None and name == WHOLE:
            return self._manifest.body
        try:
            return self._checked(name, self._manifest.parts[name])
        except SnapshotUnreadable:
            self._broken()
            raise

    def _checked(self, name: str, part: Part) -> bytes:
        read = self._packs.get(part.pack)
        try:
            if read is None:
                read = self._packs[part.pack] = self._open(part.pack)
            body = read(part.offset, part.length)
        except FileNotFoundError:
            raise SnapshotUnreadable(f"{part.pack}, in which the part {name!r} lies, is gone") from None
        if len(body) != part.length:
            raise SnapshotUnreadable(f"{part.pack} is cut short in the part {name!r}")
        if xxhash.xxh3_128_digest(body) != part.digest:
            raise SnapshotUnreadable(f"the checksum of the part {name!r} in {part.pack} differs")
        return body
