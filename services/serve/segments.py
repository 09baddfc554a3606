"""An append-only log on disk, in segment files: what is behind its cursor is deleted, file by file.

A record is `length, crc32, sequence number, time, key length, topic` and then key and value. Sequence numbers grow,
with holes where a record could not be written. A file is named by the first number in it. A record that is not whole
(a kill tears the last one) ends its file, counted; a file of an earlier run is never written to again.

**What is safe when.** `append` hands records to the operating system: they survive the death of the process. They
survive a loss of power after `sync`, or when their file was closed for the next one.
"""

from __future__ import annotations

import os
import struct
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

_HEAD: Final = struct.Struct("<IIQqHB")
_FRONT: Final = struct.Struct("<II")
_TAIL: Final = struct.Struct("<QqHB")
_SUFFIX, _CURSOR = ".events", "cursor"
SEGMENT_BYTES: Final = 8 << 20


@dataclass(frozen=True, slots=True)
class Record:
    """An event on its way: its number, its time where the clock is virtual (else −1), whither (`topic` is the writer's
    code, 0 to 255), Kafka key and value.
    """

    seq: int
    at_ms: int
    topic: int
    key: bytes
    value: bytes

    @property
    def size(self) -> int:
        """The bytes that it takes on disk."""
        return _HEAD.size + len(self.key) + len(self.value)


@dataclass(slots=True)
class _Segment:
    path: Path
    last: int
    size: int


class Segments:
    """The log in one directory, which is created when missing; the caller is its only user.

    `waiting` records lie beyond the cursor when it is opened, `next_seq` is the number of the next one, `damaged` is
    how many files end in what cannot be read. Raises `OSError` when the directory cannot be used.
    """

    def __init__(self, directory: Path, *, segment_bytes: int = SEGMENT_BYTES) -> None:
        self.directory = directory
        self.damaged = 0
        self._segment_bytes = segment_bytes
        self._open: _Segment | None = None
        self._fd = -1
        self._dirty = False
        directory.mkdir(parents=True, exist_ok=True)
        self.cursor = self._read_cursor()
        self._written_cursor = self.cursor
        found = [self._recover(path) for path in sorted(directory.glob("*" + _SUFFIX))]
        self._segments = [one for one in found if self._keep(one)]
        self.next_seq = max([self.cursor, *(one.last + 1 for one in self._segments)])
        self.waiting = sum(1 for _ in self.read(self.cursor))

    @property
    def size(self) -> int:
        """The bytes on disk."""
        return sum(one.size for one in self._segments)

    def append(self, records: Sequence[Record]) -> None:
        """Write records, numbers ascending. Raises `OSError` (disk full); then none of them is in the log."""
        if self._open is None or self._open.size >= self._segment_bytes:
            self._begin(records[0].seq)
        segment = self._open
        assert segment is not None
        pieces = bytearray()
        for record in records:
            pieces += _pack(record)
        rest = memoryview(pieces)
        try:
            while rest:
                rest = rest[os.write(self._fd, rest) :]
        except OSError:
            os.ftruncate(self._fd, segment.size)  # shrinking needs no space
            raise
        segment.size += len(pieces)
        segment.last = records[-1].seq
        self.next_seq = segment.last + 1
        self._dirty = True

    def read(self, seq: int) -> Iterator[Record]:
        """Give the records from a number on, as far as they are written now."""
        for segment in list(self._segments):
            if segment.last < seq:
                continue
            for record in _records(segment.path.read_bytes()[: segment.size]):
                if record.seq >= seq:
                    yield record

    def pass_to(self, seq: int) -> None:
        """Move the cursor: everything below `seq` is done. Files without anything else are deleted."""
        if seq <= self.cursor:
            return
        self.cursor = seq
        while self._segments and self._segments[0].last < seq:
            gone = self._segments[0]
            if gone is self._open:
                if gone.size < self._segment_bytes:
                    break  # goes on being written
                self._close()
            gone.path.unlink(missing_ok=True)
            del self._segments[0]

    def write_cursor(self) -> None:
        """Note the cursor, so that a restart does not send again what is done. Raises `OSError`."""
        if self.cursor != self._written_cursor:
            temporary = self.directory / (_CURSOR + ".new")
            temporary.write_text(str(self.cursor))
            temporary.replace(self.directory / _CURSOR)
            self._written_cursor = self.cursor

    def sync(self) -> None:
        """Force what was appended to disk. Raises `OSError`."""
        if self._dirty and self._fd >= 0:
            os.fsync(self._fd)
        self._dirty = False

    def close(self) -> None:
        """Force everything to disk, note the cursor, and delete what is done."""
        self._close()
        self._segments = [one for one in self._segments if self._keep(one)]
        self.write_cursor()

    def _begin(self, seq: int) -> None:
        self._close()
        path = self.directory / f"{seq:020d}{_SUFFIX}"
        self._fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        self._open = _Segment(path, seq - 1, 0)
        self._segments.append(self._open)

    def _close(self) -> None:
        if self._fd >= 0:
            self.sync()
            os.close(self._fd)
        self._fd, self._open = -1, None

    def _keep(self, segment: _Segment) -> bool:
        if segment.last >= self.cursor:
            return True
        segment.path.unlink(missing_ok=True)
        return False

    def _recover(self, path: Path) -> _Segment:
        body = path.read_bytes()
        size, last = 0, -1
        for record in _records(body):
            size, last = size + record.size, record.seq
        if size < len(body):
            self.damaged += 1
        return _Segment(path, last, size)

    def _read_cursor(self) -> int:
        try:
            return int((self.directory / _CURSOR).read_text())
        except (FileNotFoundError, ValueError):
            return 0


def _pack(record: Record) -> bytes:
    body = record.key + record.value
    rest = _TAIL.pack(record.seq, record.at_ms, len(record.key), record.topic) + body
    return _FRONT.pack(len(body), zlib.crc32(rest)) + rest


def _records(body: bytes) -> Iterator[Record]:
    """Read until the end or the first record that is not whole."""
    at = 0
    while at + _HEAD.size <= len(body):
        length, crc, seq, at_ms, key_length, topic = _HEAD.unpack_from(body, at)
        end = at + _HEAD.size + length
        if end > len(body) or key_length > length or zlib.crc32(memoryview(body)[at + _FRONT.size : end]) != crc:
            return
        start = at + _HEAD.size
        yield Record(seq, at_ms, topic, body[start : start + key_length], body[start + key_length : end])
        at = end
