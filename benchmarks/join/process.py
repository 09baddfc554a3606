"""A program under measurement: started in a session of its own, so that whatever it starts counts as it.

CPU is what the kernel charged to every process of the session, children that have ended included, in steps of 10 ms.
Memory is the proportional set size (PSS): pages shared between processes count once.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

_TICKS_S = 1 / os.sysconf("SC_CLK_TCK")
_PROC = Path("/proc")


class Ended(RuntimeError):
    """The program ended by itself. The message has its last words."""


class Program:
    """One command, its log file and its session. `stop` is idempotent; leaving the `with` block stops it."""

    def __init__(
        self, command: Sequence[str], directory: Path, log: Path, environment: Mapping[str, str] | None = None
    ) -> None:
        self._command, self._directory, self._log = list(command), directory, log
        self._environment = {**os.environ, **(environment or {})}
        self._running: subprocess.Popen[bytes] | None = None
        self.started_at = 0.0

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def start(self) -> None:
        """Start it (again); the log goes on."""
        self._directory.mkdir(parents=True, exist_ok=True)
        with self._log.open("ab") as log:
            self._running = subprocess.Popen(
                self._command,
                cwd=self._directory,
                env=self._environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        self.started_at = time.monotonic()

    @property
    def pid(self) -> int:
        """The leader's process id, which is the session's."""
        assert self._running is not None
        return self._running.pid

    def check(self) -> None:
        """Raise `Ended` when it runs no more."""
        if self._running is not None and self._running.poll() is not None:
            raise Ended(f"ended by itself with status {self._running.returncode}: {self.tail()}")

    def tail(self, lines: int = 6) -> str:
        """Give the last lines of its log."""
        said = [line.strip() for line in self.said().splitlines() if line.strip()]
        return " | ".join(said[-lines:]) or "(it said nothing)"

    def said(self) -> str:
        """Give its whole log."""
        return self._log.read_text(errors="replace") if self._log.exists() else ""

    def cpu_s(self) -> float:
        """Give the CPU seconds of the session so far."""
        ticks = 0
        for pid in self._members():
            fields = _stat(pid)
            if fields:
                ticks += sum(int(field) for field in fields[11:15])  # utime, stime, and those of reaped children
        return ticks * _TICKS_S

    def pss_mb(self) -> float:
        """Give the proportional set size of the session now."""
        kib = 0
        for pid in self._members():
            with contextlib.suppress(OSError):
                rollup = (_PROC / str(pid) / "smaps_rollup").read_text()
                kib += next((int(line.split()[1]) for line in rollup.splitlines() if line.startswith("Pss:")), 0)
        return kib / 1024

    def kill(self) -> None:
        """End every process of the session at once, as `kill -9` does, and wait for the leader."""
        if self._running is None:
            return
        for pid in self._members():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self._running.wait()
        self._running = None

    def stop(self, patience_s: float = 10.0) -> None:
        """Ask the leader to end, then kill what is left."""
        if self._running is None:
            return
        if self._running.poll() is None:
            self._running.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._running.wait(patience_s)
        self.kill()

    def _members(self) -> list[int]:
        session = str(self.pid)
        found = []
        for entry in _PROC.iterdir():
            if entry.name.isdigit():
                fields = _stat(int(entry.name))
                if fields and fields[3] == session:
                    found.append(int(entry.name))
        return found


class Together:
    """Several programs as one: what they take is added up."""

    def __init__(self, programs: Sequence[Program]) -> None:
        self._programs = programs

    def __enter__(self) -> Self:
        for program in self._programs:
            program.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for program in self._programs:
            program.stop()

    @property
    def started_at(self) -> float:
        """When the last one was started."""
        return max(program.started_at for program in self._programs)

    def check(self) -> None:
        """Raise `Ended` when one runs no more."""
        for program in self._programs:
            program.check()

    def tail(self) -> str:
        """Give the last lines of their logs."""
        return " || ".join(program.tail() for program in self._programs)

    def cpu_s(self) -> float:
        """Give the CPU seconds of all."""
        return sum(program.cpu_s() for program in self._programs)

    def pss_mb(self) -> float:
        """Give the proportional set size of all."""
        return sum(program.pss_mb() for program in self._programs)


def _stat(pid: int) -> list[str]:
    """Give the fields of /proc/PID/stat behind the name: state, parent, group, session, …; none when it is gone."""
    try:
        return (_PROC / str(pid) / "stat").read_text().rpartition(") ")[2].split()
    except OSError:
        return []
