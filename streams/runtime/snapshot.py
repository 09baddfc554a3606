"""Full snapshots of one partition's state on the local file system: the newest readable one counts.

A file holds, in this order: 8 bytes `WEIRSNAP`; the header's length (4 bytes, big endian); the header (JSON, `Header`);
the state (`Processor.dump`); 16 bytes XXH3-128 over all that. It is written under a temporary name, synced, renamed;
so a file with a final name is whole unless the disk lies; the checksum finds out when it does. The last two are kept.

The directory's name carries the id of the `steps` topic: a namespace that was deleted and created anew starts over
instead of finding the state of its former life.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import msgspec
import structlog
import xxhash

_MAGIC = b"WEIRSNAP"
_SUFFIX = ".snapshot"
_CHECKSUM_BYTES = 16
KEPT = 2

_log = structlog.get_logger()


class Header(msgspec.Struct, frozen=True, kw_only=True):
    """What a state belongs to. `offsets` is the step's vector, `seen_ms` the clock's memory (logical topic → ms).

    `steps_offset` is where the step's own record lies in `steps`; `wake_at_ms` is what the step asked for.
    """

    v: int = 1
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


@dataclass(frozen=True, slots=True)
class Snapshot:
    """A header with the dumped state."""

    header: Header
    body: bytes


class SnapshotUnreadable(ValueError):
    """The file is cut short, altered, or of a format that this version does not know."""


def encode(snapshot: Snapshot) -> bytes:
    """Give the bytes of a snapshot file."""
    header = msgspec.json.encode(snapshot.header)
    content = b"".join((_MAGIC, len(header).to_bytes(4, "big"), header, snapshot.body))
    return content + xxhash.xxh3_128_digest(content)


def decode(content: bytes) -> Snapshot:
    """Read the bytes of a snapshot file. Raises `SnapshotUnreadable` saying what is wrong."""
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
    if header.v != 1:
        raise SnapshotUnreadable(f"its format is version {header.v}, known is 1")
    return Snapshot(header, content[end:-_CHECKSUM_BYTES])


class SnapshotStore:
    """The snapshots of one stage: `root/NAMESPACE/STAGE/LOG/PARTITION/STEP.snapshot`. `log` names the `steps` topic."""

    def __init__(self, root: Path, namespace: str, stage: str, log: str) -> None:
        parts = (namespace, stage, log)
        if any(part in ("", ".", "..") or "/" in part for part in parts):
            raise ValueError(f"snapshots need plain names for their directories, not {parts}")
        self.directory = root.joinpath("snapshots", *parts)

    def write(self, snapshot: Snapshot) -> Path:
        """Keep a snapshot for good and drop those before the last two. Raises `OSError` (disk full and the like)."""
        directory = self._of(snapshot.header.partition)
        directory.mkdir(parents=True, exist_ok=True)
        path = directory / f"{snapshot.header.step:020d}{_SUFFIX}"
        # The name is our own: a worker that lost its slot may still be writing the same step.
        temporary = directory / f"{path.name}.{os.getpid()}.tmp"
        try:
            with temporary.open("wb") as file:
                file.write(encode(snapshot))
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(path)
        except OSError:
            temporary.unlink(missing_ok=True)
            raise
        _sync_directory(directory)
        self._prune(directory, path)
        return path

    def newest(self, partition: int, *, up_to_step: int) -> Iterator[Snapshot]:
        """Yield the readable snapshots of a partition, newest first; says which ones cannot be read and why."""
        for path in sorted(self._of(partition).glob(f"*{_SUFFIX}"), reverse=True):
            if int(path.stem) > up_to_step:
                _log.warning("snapshot_ahead", path=str(path), step=int(path.stem), committed_step=up_to_step)
                continue
            try:
                yield decode(path.read_bytes())
            except (SnapshotUnreadable, OSError) as error:
                _log.warning("snapshot_unreadable", path=str(path), reason=str(error), next="the one before")

    def _of(self, partition: int) -> Path:
        return self.directory / f"{partition:05d}"

    def _prune(self, directory: Path, newest: Path) -> None:
        older = sorted(path for path in directory.glob(f"*{_SUFFIX}") if path.name < newest.name)
        for path in older[: len(older) - (KEPT - 1)]:
            path.unlink(missing_ok=True)
        own = f".{os.getpid()}.tmp"
        for path in directory.glob("*.tmp"):  # left by a process that was killed while it wrote
            if not path.name.endswith(own) and not _alive(path):
                path.unlink(missing_ok=True)


def _alive(temporary: Path) -> bool:
    try:
        os.kill(int(temporary.suffixes[-2][1:]), 0)
    except ProcessLookupError:
        return False
    except (PermissionError, ValueError, IndexError):
        return True
    return True


def _sync_directory(directory: Path) -> None:
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
