"""The embedded ClickHouse as its starter sees it: start, address, client, stop.

The server is another process (`services.local.chdb_http`), because a chDB directory has one owner while many processes
ask, and because the engine's memory and crashes are its own. It ends when its starter ends, however that happens. When
it dies by itself it is started again, on the same port, with the same tables: clients see a refused connection, then
everything that was acknowledged.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from services.local.owner import DirectoryInUse

if TYPE_CHECKING:
    from clickhouse_connect.driver.httpclient import HttpClient

HOST, USER = "127.0.0.1", "weir"
_START_S = 60.0
_STOP_S = 15.0  # more than the server's own grace
_BACKOFF_S = (0.1, 5.0)
_STEADY_S = 30.0  # a server that ran so long starts the back-off anew
_LOG_BYTES = 4 << 20


class ClickHouseNotStarted(RuntimeError):
    """The server did not come up. The text says why, and where its log is."""


class LocalClickHouse:
    """A ClickHouse on this machine, in `directory`, from `start()` to `stop()` (or for a `with` block).

    `port` None keeps the directory's port, or chooses a free one. `memory_bytes` bounds what the engine may hold
    (None: half of the machine's memory; a query beyond it fails with code 241). `restart` False leaves a server that
    died dead. `told` gets one line for each thing that a person should know.

    Inserts are as durable as a ClickHouse server's: an acknowledged one survives the death of every process; it is not
    forced to the disk. A client that loses its connection cannot know whether its insert was done, and
    `clickhouse-connect` then sends it again by itself: give inserts an `insert_deduplication_token`, and the table
    `non_replicated_deduplication_window`. A token recognises the same insert *in the same blocks*: a retry that sends
    its rows as another number of Arrow batches, or in another format, can land a second time.
    """

    host = HOST
    user = USER

    def __init__(
        self,
        directory: str | os.PathLike[str],
        *,
        port: int | None = None,
        memory_bytes: int | None = None,
        restart: bool = True,
        told: Callable[[str], None] | None = None,
    ) -> None:
        self.directory = Path(directory).absolute()
        self.log_path = self.directory / "server.log"
        self._asked_port, self._memory_bytes, self._restart = port, memory_bytes, restart
        self._told = told or (lambda line: None)
        self._port: int | None = None
        self._process: subprocess.Popen[bytes] | None = None
        self._watcher: threading.Thread | None = None
        self._stopping = threading.Event()
        self._lock = threading.Lock()  # no start while stopping

    @property
    def port(self) -> int:
        """The TCP port, once started."""
        if self._port is None:
            raise ClickHouseNotStarted("the embedded ClickHouse has no port before start()")
        return self._port

    @property
    def url(self) -> str:
        """Where it listens: `http://127.0.0.1:PORT`."""
        return f"http://{self.host}:{self.port}"

    @property
    def password(self) -> str:
        """The password of `user`, made at the first start and kept in the directory."""
        return (self.directory / "http_password").read_text().strip()

    @property
    def pid(self) -> int | None:
        """The server's process id while it runs."""
        process = self._process
        return process.pid if process is not None and process.poll() is None else None

    def start(self) -> Self:
        """Start the server and wait until it answers.

        Raises `DirectoryInUse` when another process owns the directory, `ClickHouseNotStarted` for everything else.
        """
        if self._process is not None:
            raise ClickHouseNotStarted("this embedded ClickHouse is already started; stop() it first")
        self._stopping.clear()
        self._port = self._spawn(self._asked_port)
        self._watcher = threading.Thread(target=self._watch, name="clickhouse-watcher", daemon=True)
        self._watcher.start()
        return self

    def stop(self) -> None:
        """Finish what runs (a few seconds at most) and end the server. Idempotent."""
        self._stopping.set()
        with self._lock:
            process = self._process
            if process is not None and process.poll() is None:
                process.terminate()
                try:
                    process.wait(_STOP_S)
                except subprocess.TimeoutExpired:
                    process.kill()
                    process.wait()
        if self._watcher is not None:
            self._watcher.join()
        self._close_pipes()
        self._process = self._watcher = None

    def client(self, database: str | None = None, **options: Any) -> HttpClient:
        """A `clickhouse-connect` client of this server. A client serves one thread at a time; make one per thread."""
        import clickhouse_connect

        given: dict[str, Any] = {"compress": False, "autogenerate_session_id": False, **options}
        client = clickhouse_connect.get_client(
            host=self.host,
            port=self.port,
            username=self.user,
            password=self.password,
            database=database or "default",
            **given,
        )
        return client  # type: ignore[return-value]  # typed as the general Client

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    # -- the process --------------------------------------------------------------------------------------------------

    def _spawn(self, port: int | None) -> int:
        """Start the process, read its first line; the port that it listens on."""
        self.directory.mkdir(parents=True, exist_ok=True)
        with contextlib.suppress(FileNotFoundError):
            if self.log_path.stat().st_size > _LOG_BYTES:
                self.log_path.replace(self.log_path.with_suffix(".log.1"))
        command = [sys.executable, "-m", "services.local.chdb_http", "--data", str(self.directory), "--end-with-parent"]
        if port is not None:
            command += ["--port", str(port)]
        if self._memory_bytes is not None:
            command += ["--memory", str(self._memory_bytes)]
        with self.log_path.open("ab") as log:
            process = subprocess.Popen(
                command,
                stdin=subprocess.PIPE,  # its end tells the server that we are gone
                stdout=subprocess.PIPE,
                stderr=log,
                env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, [_root(), os.getenv("PYTHONPATH")]))},
                start_new_session=True,  # Ctrl-C is for the starter, which then stops the server in its order
            )
        self._close_pipes()
        self._process = process
        said = self._first_line(process)
        if "port" in said:
            return int(said["port"])
        process.kill()
        process.wait()
        self._process = None
        if "in_use_by" in said:
            raise DirectoryInUse(self.directory, "embedded ClickHouse", said["in_use_by"], said["command"])
        raise ClickHouseNotStarted(
            f"{said.get('error', 'the embedded ClickHouse gave no answer')} (see {self.log_path})"
        )

    def _first_line(self, process: subprocess.Popen[bytes]) -> dict[str, Any]:
        assert process.stdout is not None
        deadline, line = time.monotonic() + _START_S, b""
        while not line.endswith(b"\n"):
            readable, _, _ = select.select([process.stdout], [], [], max(0.0, deadline - time.monotonic()))
            if not readable:
                return {"error": f"the embedded ClickHouse did not start within {_START_S:.0f} s"}
            piece = os.read(process.stdout.fileno(), 4096)
            if not piece:
                return {"error": f"the embedded ClickHouse ended at its start with status {process.wait()}"}
            line += piece
        try:
            said = json.loads(line)
        except ValueError:
            return {"error": f"the embedded ClickHouse said {line[:200]!r} instead of its port"}
        return dict(said)

    def _watch(self) -> None:
        """Wait for the server's end; start it again unless that was wanted."""
        delay, started = _BACKOFF_S[0], time.monotonic()
        while (process := self._process) is not None:
            status = process.wait()
            if self._stopping.is_set():
                return
            if time.monotonic() - started > _STEADY_S:
                delay = _BACKOFF_S[0]
            why = f"the embedded ClickHouse (process {process.pid}) ended by itself with status {status}"
            if not self._restart:
                self._told(f"{why}; its log: {self.log_path}")
                return
            self._told(f"{why}; starting it again in {delay:.1f} s; its log: {self.log_path}")
            while not self._stopping.wait(delay):
                delay, started = min(2 * delay, _BACKOFF_S[1]), time.monotonic()
                with self._lock:
                    if self._stopping.is_set():
                        return
                    try:
                        self._spawn(self._port)
                    except (ClickHouseNotStarted, DirectoryInUse, OSError) as error:
                        self._told(f"{error}; trying again in {delay:.1f} s")
                    else:
                        self._told(f"the embedded ClickHouse runs again as process {self.pid}")
                        break
            else:
                return

    def _close_pipes(self) -> None:
        if self._process is not None:
            for pipe in (self._process.stdin, self._process.stdout):
                if pipe is not None:
                    with contextlib.suppress(OSError):
                        pipe.close()


def _root() -> str:
    """Where the package lies, so that the server finds it whatever the working directory."""
    return str(Path(__file__).resolve().parents[2])
