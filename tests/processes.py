"""Real processes of the loop for tests: started as a user would, ended by pid, with their log when something fails."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

from schemas.settings import Settings
from services.cli.configuration import write_running

DEADLINE_S = 60.0


class Process:
    """`weir NAME` with these settings, in a process of its own."""

    def __init__(self, name: str, settings: Settings) -> None:
        self.name = name
        self._config = write_running(settings)
        self._log = settings.data_dir / f"{name}.log"
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start it (again)."""
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "services.cli", self.name],
                env={**os.environ, "WEIR_CONFIG": str(self._config)},
                stdout=log,
                stderr=log,
                stdin=subprocess.DEVNULL,
            )

    @property
    def alive(self) -> bool:
        """Whether it runs."""
        return self._process is not None and self._process.poll() is None

    def kill(self) -> None:
        """End it as `kill -9` does."""
        self.stop(signal.SIGKILL)

    def stop(self, number: int = signal.SIGTERM) -> int | None:
        """End it by a signal and give its exit status."""
        if self._process is None:
            return None
        if self._process.poll() is None:
            self._process.send_signal(number)
        return self._process.wait(DEADLINE_S)

    def stop_for_now(self) -> None:
        """Put it to sleep in the middle of whatever it does."""
        assert self._process is not None
        self._process.send_signal(signal.SIGSTOP)

    def go_on(self) -> int:
        """Wake it up, and give the exit status that it ends with."""
        assert self._process is not None
        self._process.send_signal(signal.SIGCONT)
        return self._process.wait(DEADLINE_S)

    def log(self) -> str:
        """Give the end of what it wrote."""
        return Path(self._log).read_text(errors="replace")[-4_000:]


@contextmanager
def process(name: str, settings: Settings) -> Iterator[Process]:
    """Run `weir NAME` until the block ends."""
    settings.data_dir.mkdir(parents=True, exist_ok=True)
    one = Process(name, settings)
    one.start()
    try:
        yield one
    finally:
        one.stop()


class Logged(Protocol):
    """What can tell what it did, when a test waits for it in vain."""

    def log(self) -> str:
        """Give the end of what was written."""


def until(condition: Callable[[], Any], what: str, *, of: Logged | None = None, deadline_s: float = DEADLINE_S) -> Any:
    """Wait for a condition and give what it gave. Fails at the deadline, with the log of who was waited for."""
    deadline = time.monotonic() + deadline_s
    while not (found := condition()):
        assert time.monotonic() < deadline, f"waited {deadline_s:g} s for {what}\n{of.log() if of else ''}"
        time.sleep(0.05)
    return found
