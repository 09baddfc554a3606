"""Children that are started in order, watched, restarted with back-off, and stopped in reverse order.

The plan is pure: `next_delay_s` says how long a child that keeps dying waits. A child that ran for `STEADY_S` starts
over with the shortest delay. Children die with the supervisor (parent-death signal), so that even `kill -9` of it
leaves nothing running.
"""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO

FIRST_DELAY_S, LAST_DELAY_S, STEADY_S = 0.5, 30.0, 30.0
STOP_TIMEOUT_S = 20.0
AGAIN_S = 5.0
"""A child that was started again and has run for so long is said to run again."""

Say = Callable[[str, str], None]
"""Called as `say(child, text)` for every line that a child prints and everything that happens to it."""


@dataclass(frozen=True, slots=True)
class Child:
    """A process to keep alive: its name, its command, and what to add to the environment."""

    name: str
    command: Sequence[str]
    environment: Mapping[str, str]


def next_delay_s(previous_s: float | None, ran_s: float) -> float:
    """How long to wait before the next start.

    >>> [next_delay_s(previous, ran) for previous, ran in ((None, 1), (0.5, 1), (16, 1), (16, 31))]
    [0.5, 1.0, 30.0, 0.5]
    """
    if previous_s is None or ran_s >= STEADY_S:
        return FIRST_DELAY_S
    return LAST_DELAY_S if previous_s * 2 > LAST_DELAY_S / 1.5 else previous_s * 2


def die_with_parent() -> None:
    """Ask the kernel to end this process when its parent ends. For `subprocess.Popen(preexec_fn=…)`; Linux only."""
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(1, signal.SIGKILL, 0, 0, 0)


class Supervisor:
    """Keeps children alive from `start` to `stop`. Restarts are counted in `restarts`."""

    def __init__(
        self, children: Sequence[Child], *, logs: Path, say: Say, echo: bool = False, again_s: float = AGAIN_S
    ) -> None:
        self.children, self._again_s = list(children), again_s
        self.restarts = dict.fromkeys((child.name for child in children), 0)
        self._logs, self._say, self._echo = logs, say, echo
        self._stopping = threading.Event()
        self._processes: dict[str, subprocess.Popen[bytes]] = {}
        self._threads: list[threading.Thread] = []
        self._lock = threading.Lock()

    def start(self) -> None:
        """Start every child, in order, each with a thread that watches it."""
        self._logs.mkdir(parents=True, exist_ok=True)
        for child in self.children:
            started = threading.Event()
            thread = threading.Thread(target=self._keep, args=(child, started), name=f"keep-{child.name}", daemon=True)
            thread.start()
            self._threads.append(thread)
            started.wait(10)

    def pid(self, name: str) -> int | None:
        """Give the process id of a running child, or None between two starts."""
        process = self._processes.get(name)
        return process.pid if process is not None and process.poll() is None else None

    def stop(self) -> None:
        """Ask the children to end, the last first, and wait for each; after `STOP_TIMEOUT_S` they are killed."""
        self._stopping.set()
        for child in reversed(self.children):
            with self._lock:
                process = self._processes.get(child.name)
            if process is None:
                continue
            if process.poll() is None:
                process.send_signal(signal.SIGTERM)
            try:
                process.wait(STOP_TIMEOUT_S)
            except subprocess.TimeoutExpired:
                self._say(child.name, f"did not end within {STOP_TIMEOUT_S:.0f} s, killed")
                process.kill()
                process.wait()
        for thread in self._threads:
            thread.join(5)

    def _keep(self, child: Child, started: threading.Event) -> None:
        delay_s: float | None = None
        # The parent-death signal is tied to the thread that forks, so this thread lives as long as the child does.
        while not self._stopping.is_set():
            begun = time.monotonic()
            with (self._logs / f"{child.name}.log").open("ab") as log:
                with self._lock:
                    if self._stopping.is_set():
                        break
                    process = subprocess.Popen(
                        child.command,
                        env={**os.environ, **child.environment},
                        stdin=subprocess.DEVNULL,
                        stdout=log,
                        stderr=subprocess.PIPE if self._echo else log,
                        preexec_fn=die_with_parent,
                        start_new_session=True,
                    )
                    self._processes[child.name] = process
                started.set()
                again = threading.Timer(self._again_s, self._say, (child.name, "runs again"))
                if delay_s is not None:
                    again.start()
                if process.stderr is not None:
                    self._relay(child.name, process.stderr, log)
                code = process.wait()
                again.cancel()
            if self._stopping.is_set():
                return
            delay_s = next_delay_s(delay_s, time.monotonic() - begun)
            self.restarts[child.name] += 1
            self._say(child.name, f"ended ({_ending(code)}); restarting in {delay_s:g} s; log: {log.name}")
            self._stopping.wait(delay_s)
        started.set()

    def _relay(self, name: str, lines: IO[bytes], log: IO[bytes]) -> None:
        for line in lines:
            log.write(line)
            log.flush()
            self._say(name, line.decode(errors="replace").rstrip())


def _ending(code: int) -> str:
    if code < 0:
        return f"signal {signal.Signals(-code).name}"
    return f"exit {code}"
