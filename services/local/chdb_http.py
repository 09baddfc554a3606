"""The embedded ClickHouse: chDB in a process that speaks ClickHouse's HTTP protocol on the loopback interface.

    python -m services.local.chdb_http --data DIRECTORY [--port N]

The directory holds everything: `engine/` (the tables), `owner.lock` (one process at a time), `http_password` (made at
the first start, readable by its owner only), `http_port` (the port is chosen once and kept). When the process is ready
it prints one line of JSON on its standard output, `{"port": …, "pid": …}`; when it cannot start, `{"error": …}`.
SIGTERM and Ctrl-C finish the requests in flight, at most `GRACE_S` seconds, and end the process with status 0.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import logging
import os
import secrets
import select
import signal
import socket
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from http.server import ThreadingHTTPServer
from pathlib import Path

from services.local.chdb_engine import Engine, Sessions
from services.local.chdb_handler import Request
from services.local.owner import DirectoryInUse, DirectoryOwner

GRACE_S = 5.0
USER = "weir"
_OWNER_PATIENCE_S = 2.0
_MARK_CACHE_BYTES = 256 << 20

log = logging.getLogger("weir.clickhouse")


class ChdbServer(ThreadingHTTPServer):
    """A thread per connection: a statement blocks its thread inside the engine, with the interpreter's lock free."""

    daemon_threads = True
    block_on_close = False
    request_queue_size = 128

    def __init__(self, port: int, directory: Path, engine: Engine, user: str, password: str) -> None:
        self.directory, self.engine, self.user, self.password = directory, engine, user, password
        self.sessions = Sessions(engine)
        self._idle = threading.Condition()
        self._requests = 0
        super().__init__(("127.0.0.1", port), Request)

    @contextlib.contextmanager
    def in_flight(self) -> Iterator[None]:
        """Counts a request for as long as it runs."""
        with self._idle:
            self._requests += 1
        try:
            yield
        finally:
            with self._idle:
                self._requests -= 1
                self._idle.notify_all()

    def wait_idle(self, timeout_s: float) -> bool:
        """Whether no request was running before `timeout_s` was over."""
        with self._idle:
            return self._idle.wait_for(lambda: self._requests == 0, timeout_s)

    def handle_error(self, request: object, client_address: object) -> None:
        """A client that hung up is not worth a stack trace."""
        log.debug("connection %s ended", client_address, exc_info=True)


def read_password(directory: Path) -> str:
    """The directory's password; made, and written whole or not at all, when there is none."""
    path = directory / "http_password"
    with contextlib.suppress(FileNotFoundError):
        if password := path.read_text().strip():
            return password
    password = secrets.token_urlsafe(24)
    fresh = path.with_suffix(".new")
    with open(os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as file:
        file.write(password)
    fresh.replace(path)
    return password


def _kept_port(directory: Path) -> int:
    """The port of the last start if it is free now, else 0 (the system chooses)."""
    try:
        port = int((directory / "http_port").read_text())
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(("127.0.0.1", port))
    except (OSError, ValueError, OverflowError):
        return 0
    return port


def _own(directory: Path) -> DirectoryOwner:
    """The directory's lock. A predecessor whose parent just died may need a moment to notice."""
    deadline = time.monotonic() + _OWNER_PATIENCE_S
    while True:
        try:
            return DirectoryOwner(directory, purpose="embedded ClickHouse")
        except DirectoryInUse:
            if time.monotonic() >= deadline:
                raise
            time.sleep(0.05)


def _end_with_parent(parent: int) -> None:
    """End at once when the starter is gone: its end of our standard input closes, or we have another parent.

    Two signs, because a process that the starter forked may keep the pipe open. No clean-up: what was acknowledged is
    on disk, and the next owner should not have to wait.
    """
    while True:
        readable, _, _ = select.select([0], [], [], 0.5)
        if (readable and not os.read(0, 1)) or os.getppid() != parent:
            os._exit(0)


def _say(line: dict[str, object]) -> None:
    print(json.dumps(line), flush=True)


def main(argv: Sequence[str] | None = None) -> int:
    """Run until told to stop. Status 0: stopped; 2: wrong arguments; 3: could not start."""
    parser = argparse.ArgumentParser(prog="python -m services.local.chdb_http", description=__doc__.split("\n")[0])
    parser.add_argument("--data", type=Path, required=True, help="the data directory; made when missing")
    parser.add_argument("--port", type=int, default=0, help="the port; 0 keeps the last one or chooses a free one")
    parser.add_argument("--memory", type=int, default=0, help="bytes the engine may use; 0: half of this machine's")
    parser.add_argument("--end-with-parent", action="store_true", help="end when standard input closes")
    args = parser.parse_args(argv)
    logging.basicConfig(stream=sys.stderr, level=logging.INFO, format="%(asctime)s %(name)s %(levelname)s %(message)s")
    if args.end_with_parent:
        threading.Thread(target=_end_with_parent, args=(os.getppid(),), daemon=True).start()
    try:
        directory: Path = args.data.absolute()
        owner = _own(directory)
        memory = args.memory or os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2
        caps = {"max_server_memory_usage": str(memory), "mark_cache_size": str(min(_MARK_CACHE_BYTES, memory // 4))}
        engine = Engine(directory / "engine", caps)
        server = ChdbServer(args.port or _kept_port(directory), directory, engine, USER, read_password(directory))
    except DirectoryInUse as error:
        _say({"error": str(error), "in_use_by": error.pid, "command": error.command})
        return 3
    except Exception as error:
        log.exception("could not start")
        _say({"error": f"embedded ClickHouse could not start on {args.data}: {error}"})
        return 3
    port = int(server.server_address[1])
    (directory / "http_port").write_text(f"{port}\n")

    def stop(*_: object) -> None:
        threading.Thread(target=server.shutdown).start()  # shutdown() waits for the loop that this thread runs

    signal.signal(signal.SIGTERM, stop)
    signal.signal(signal.SIGINT, stop)
    _say({"port": port, "pid": os.getpid(), "version": engine.version})
    server.serve_forever(poll_interval=0.1)
    server.server_close()
    if not server.wait_idle(GRACE_S):
        log.warning("requests still running after %.0f s are abandoned", GRACE_S)
        os._exit(0)
    engine.close()
    owner.release()
    return 0


if __name__ == "__main__":
    status = main()
    sys.stdout.flush()
    os._exit(status)  # idle keep-alive threads have nothing to finish
