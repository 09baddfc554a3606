"""One owner per data directory.

A broker or a database that finds a second writer in its directory corrupts it, so whoever opens a data directory first
takes an advisory lock (`flock`) on the file `owner.lock` inside it. The kernel drops the lock when the last process
that holds the open file is gone, by exit, crash or `kill -9`: there is no stale lock to clear by hand, and the file
itself stays for ever (deleting it would let two processes lock two different files of one name).

A child that must not be outlived by its data (the broker's JVM) inherits the open file through `fileno()`: then the
directory stays taken until the child is gone too, even when the process that took it was killed first.
"""

from __future__ import annotations

import errno
import fcntl
import json
import os
import sys
import time
from pathlib import Path
from types import TracebackType
from typing import Self

LOCK_NAME = "owner.lock"
_POLL_S = 0.02
_HELD = frozenset({errno.EWOULDBLOCK, errno.EAGAIN, errno.EACCES})


class DirectoryInUse(RuntimeError):
    """Another live process owns the directory. `pid` is that process, or None when it could not be read."""

    def __init__(self, directory: Path, purpose: str, pid: int | None, command: str) -> None:
        self.directory, self.purpose, self.pid, self.command = directory, purpose, pid, command
        whom = f"process {pid}" + (f" ({command})" if command else "") if pid else "another process"
        super().__init__(
            f"{purpose}: the data directory {directory} is in use by {whom}. "
            f"Stop that process, talk to what it runs, or give this one another directory."
        )


class DirectoryOwner:
    """Exclusive ownership of one directory, from construction to `release()` (or the end of a `with` block).

    The directory is created when missing. `purpose` names the wanted use in the error (`embedded Kafka`).
    When the lock is held but the process that took it is already gone, its children are still ending: that is
    waited for, at most `linger_s` seconds. A live owner is refused at once.

    Raises `DirectoryInUse` when a live process owns the directory, `OSError` when it cannot be created or written.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as directory, DirectoryOwner(directory, purpose="a test"):
    ...     try:
    ...         DirectoryOwner(directory, purpose="a second test")
    ...     except DirectoryInUse as refused:
    ...         refused.pid == os.getpid()
    True
    """

    def __init__(self, directory: str | os.PathLike[str], *, purpose: str, linger_s: float = 10.0) -> None:
        self.directory = Path(directory).absolute()
        self.directory.mkdir(parents=True, exist_ok=True)
        self._fd = os.open(self.directory / LOCK_NAME, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            self._take(purpose, time.monotonic() + linger_s)
        except BaseException:
            os.close(self._fd)
            self._fd = -1
            raise

    def _take(self, purpose: str, deadline: float) -> None:
        while True:
            try:
                fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError as held:
                if held.errno not in _HELD:
                    raise
            else:
                break
            pid, command = self._read_owner()
            if _alive(pid) or time.monotonic() >= deadline:
                raise DirectoryInUse(self.directory, purpose, pid, command) from None
            time.sleep(_POLL_S)
        note = json.dumps({"pid": os.getpid(), "command": _command_line()}).encode()
        os.ftruncate(self._fd, 0)
        os.pwrite(self._fd, note, 0)

    def _read_owner(self) -> tuple[int | None, str]:
        """What the holder wrote; (None, '') in the instant between its taking the lock and its writing."""
        try:
            note = json.loads(os.pread(self._fd, 4096, 0))
            return int(note["pid"]), str(note["command"])
        except (ValueError, KeyError, TypeError):
            return None, ""

    @property
    def held(self) -> bool:
        """Whether this object still owns the directory."""
        return self._fd >= 0

    def fileno(self) -> int:
        """The locked file's descriptor, for `subprocess.Popen(pass_fds=[owner.fileno()])`."""
        if self._fd < 0:
            raise ValueError(f"the data directory {self.directory} was already released")
        return self._fd

    def release(self) -> None:
        """Give the directory up, also on behalf of children that inherited it; end them first. Idempotent."""
        if self._fd >= 0:
            fcntl.flock(self._fd, fcntl.LOCK_UN)
            os.close(self._fd)
            self._fd = -1

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.release()


def _alive(pid: int | None) -> bool:
    if pid is None:
        return False
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def _command_line() -> str:
    return " ".join(["python", *sys.argv])[:200] if sys.argv else "python"
