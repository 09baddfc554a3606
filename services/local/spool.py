"""A place for the data of one insert between the network and the engine."""

from __future__ import annotations

import os
import shutil
import tempfile
from pathlib import Path
from typing import BinaryIO, cast


class Spool:
    """The data of one insert as an unnamed file: in memory up to `MEMORY` bytes, beyond that in `directory`.

    It has no name, so nothing is left behind when the process dies. Raises `OSError` when the disk is full.
    """

    MEMORY = 64 << 20

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._file: BinaryIO = open(os.memfd_create("insert"), "r+b", buffering=0)  # noqa: SIM115 — closed by close()
        self._size, self._on_disk = 0, False

    @property
    def path(self) -> str:
        """A path for this process; opening it starts at the first byte."""
        return f"/proc/self/fd/{self._file.fileno()}"

    def write(self, piece: bytes) -> None:
        """Append. `OSError` with ENOSPC when there is no space."""
        if not self._on_disk and self._size + len(piece) > self.MEMORY:
            disk = cast(BinaryIO, tempfile.TemporaryFile(dir=self._directory, buffering=0))  # noqa: SIM115
            self._file.seek(0)
            shutil.copyfileobj(self._file, disk, 1 << 20)
            self._file.close()
            self._file, self._on_disk = disk, True
        rest = memoryview(piece)
        while rest:
            rest = rest[self._file.write(rest) :]
        self._size += len(piece)

    def close(self) -> None:
        """Give the memory or the disk space back."""
        self._file.close()
