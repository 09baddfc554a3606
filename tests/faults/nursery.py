"""A process that has imported everything and forks: a successor is at work in milliseconds instead of a second.

Importing is what a start of `weir join` costs (1.2 s of CPU), and a thousand kills need a thousand starts. So one
process with a single thread imports what they need and then forks, like the warm spare that a supervisor keeps. A child
calls the command line with the given arguments: from there on it is `weir join` and nothing else. Asked for a cold
start, it executes Python anew, so that the whole way is taken too.

Run as `python -m tests.faults.nursery`. Standard input: one JSON object a line (`Birth`). Standard output: one JSON
object a line, `{"name", "pid"}` for a birth and `{"pid", "status"}` for an end. At the end of its input it kills its
children, and the kernel does when it is killed itself.
"""

from __future__ import annotations

import contextlib
import ctypes
import faulthandler
import gc
import importlib
import json
import mmap
import os
import select
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn

from streams.runtime.phase import LOOP, SIZE, VARIABLE, WRITER, Phase

PRELOADED = (
    *("services.cli.app", "services.cli.processes", "services.logs", "streams.stages", "streams.runtime.worker"),
    *("services.record.run", "services.recall.run", "clickhouse_connect"),
)
SLOW_FSYNC = "WEIR_FAULTS_FSYNC_S"
SAY_WHERE = signal.SIGUSR1
"""Lets a child write to its log where each of its threads is; one that was started cold ends."""
_PR_SET_PDEATHSIG = 1


def main() -> None:
    """Import, then fork on demand until the input ends."""
    for name in PRELOADED:
        importlib.import_module(name)
    _warm()
    gc.collect()
    gc.freeze()
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    woken, wake = os.pipe()
    os.set_blocking(wake, False)
    signal.set_wakeup_fd(wake, warn_on_full_buffer=False)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    children: set[int] = set()
    held = b""
    while True:
        ready, _, _ = select.select([0, woken], [], [])
        if woken in ready:
            os.read(woken, 4096)
        _reap(children)
        if 0 not in ready:
            continue
        read = os.read(0, 65_536)
        if not read:
            break
        *lines, held = (held + read).split(b"\n")
        for line in lines:
            order = json.loads(line)
            pid = os.fork()
            if pid == 0:
                signal.set_wakeup_fd(-1)
                os.close(woken)
                os.close(wake)
                _live(order)
            children.add(pid)
            _say({"name": order["name"], "pid": pid})
    for pid in children:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


def _warm() -> None:
    """Take some steps, so that what is compiled when it is first called is there in every child."""
    from tests.faults.plan import plan, rehearse

    rehearse(plan("warm", 1).history)


def _reap(children: set[int]) -> None:
    for pid in sorted(children):
        ended, status = os.waitpid(pid, os.WNOHANG)
        if ended:
            children.discard(pid)
            _say({"pid": pid, "status": os.waitstatus_to_exitcode(status)})


def _say(what: Mapping[str, Any]) -> None:
    os.write(1, json.dumps(what).encode() + b"\n")


def _live(order: Mapping[str, Any]) -> NoReturn:
    """In the child: become the process that was asked for."""
    code = 1
    try:
        parent = os.getppid()
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent:
            os._exit(1)
        log = os.open(order["log"], os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        null = os.open(os.devnull, os.O_RDONLY)
        os.dup2(null, 0)
        os.dup2(log, 1)
        os.dup2(log, 2)
        for number in (signal.SIGINT, signal.SIGCHLD):
            signal.signal(number, signal.SIG_DFL)
        faulthandler.register(SAY_WHERE)
        os.environ.update(order["environment"])
        if order["cold"]:
            os.execv(sys.executable, [sys.executable, "-m", "services.cli", *order["arguments"]])
        _slow_disk(float(order["environment"].get(SLOW_FSYNC, 0)))
        sys.argv = ["weir", *order["arguments"]]
        from services.cli import main as weir

        weir()
        code = 0
    except SystemExit as ended:
        code = ended.code if isinstance(ended.code, int) else int(ended.code is not None)
    except BaseException:
        sys.excepthook(*sys.exc_info())
    finally:
        with contextlib.suppress(BaseException):
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(code)


def _slow_disk(seconds: float) -> None:
    """Let every `fsync` of this process take so much longer: what a disk under load looks like from above."""
    if not seconds:
        return
    quick = os.fsync

    def slow(descriptor: int) -> None:
        time.sleep(seconds)
        quick(descriptor)

    os.fsync = slow  # type: ignore[assignment]  # ours only ever has descriptors


class Life:
    """One process of a slot, from its birth to its end. `status` is its exit status, negative for a signal.

    `killed` and `asked` say that it was sent SIGKILL or SIGTERM.
    """

    def __init__(self, arguments: Sequence[str], phase_path: Path) -> None:
        self.arguments = tuple(arguments)
        self.pid = 0
        self.status: int | None = None
        self.born_at = time.monotonic()
        self.killed = self.asked = False
        phase_path.write_bytes(bytes(SIZE))
        with phase_path.open("rb") as file:
            self._phases = mmap.mmap(file.fileno(), SIZE, access=mmap.ACCESS_READ)
        self._born, self._ended = threading.Event(), threading.Event()

    def born(self, pid: int) -> None:
        """Take note of its birth."""
        self.pid = pid
        self._born.set()

    def ended(self, status: int) -> None:
        """Take note of its end."""
        if self.status is None:
            self.status = status
        self._born.set()
        self._ended.set()

    @property
    def alive(self) -> bool:
        """Whether it has not ended, as far as is known."""
        return self.status is None

    def signal(self, number: int) -> None:
        """Send a signal; to one that has ended, nothing."""
        self._born.wait(10)
        if self.status is None and self.pid:
            self.killed |= number == signal.SIGKILL
            self.asked |= number == signal.SIGTERM
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, number)

    def wait(self, seconds: float) -> bool:
        """Wait for its end. False: it lives on."""
        return self._ended.wait(seconds)

    def kill(self) -> None:
        """End it as `kill -9` does, and wait until it is gone."""
        self.signal(signal.SIGKILL)
        self.wait(10)

    def stopped(self) -> bool:
        """Whether all its threads stand still (SIGSTOP)."""
        try:
            tasks = list(Path(f"/proc/{self.pid}/task").iterdir())
            return all((task / "stat").read_bytes().rpartition(b")")[2].split()[0] == b"T" for task in tasks)
        except OSError:
            return False

    def doing(self) -> tuple[Phase, Phase]:
        """Give the phases of its loop and of its writer."""
        return Phase(self._phases[LOOP]), Phase(self._phases[WRITER])


class Nursery:
    """The process above, seen from the harness. Use it as `with …`; afterwards no child is left."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._process: subprocess.Popen[bytes] | None = None
        self._lock = threading.Lock()
        self._waiting: dict[str, Life] = {}
        self._living: dict[int, Life] = {}
        self._count = 0

    def __enter__(self) -> Nursery:
        self._directory.mkdir(parents=True, exist_ok=True)
        with (self._directory / "nursery.log").open("ab") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "tests.faults.nursery"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                env={**os.environ, "OPENBLAS_NUM_THREADS": "1"},  # a process with threads must not fork
                start_new_session=True,  # Ctrl-C is for the harness
            )
        self._listener = threading.Thread(target=self._listen, name="nursery", daemon=True)
        self._listener.start()
        return self

    def __exit__(self, *_: object) -> None:
        assert self._process is not None
        assert self._process.stdin is not None
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.close()
        try:
            self._process.wait(10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._listener.join(10)  # until the pipe ends, which it does when the last child is gone
        assert self._process.stdout is not None
        self._process.stdout.close()

    def bear(
        self, arguments: Sequence[str], environment: Mapping[str, str], log: Path, phase_path: Path, *, cold: bool
    ) -> Life:
        """Start `weir ARGUMENTS` and give its life."""
        assert self._process is not None
        assert self._process.stdin is not None
        life = Life(arguments, phase_path)
        with self._lock:
            self._count += 1
            name = str(self._count)
            self._waiting[name] = life
            told = {**environment, VARIABLE: str(phase_path)}
            order = {"name": name, "arguments": list(arguments), "environment": told, "log": str(log)}
            self._process.stdin.write(json.dumps({**order, "cold": cold}).encode() + b"\n")
            self._process.stdin.flush()
        return life

    def _listen(self) -> None:
        assert self._process is not None
        assert self._process.stdout is not None
        for line in self._process.stdout:
            said = json.loads(line)
            with self._lock:
                if "name" in said:
                    life = self._waiting.pop(said["name"])
                    life.born(said["pid"])
                    self._living[life.pid] = life
                elif (gone := self._living.pop(said["pid"], None)) is not None:
                    gone.ended(said["status"])
        with self._lock:
            for life in (*self._waiting.values(), *self._living.values()):
                life.ended(-signal.SIGKILL)


if __name__ == "__main__":
    main()
