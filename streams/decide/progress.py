"""How far `decide` is, over HTTP on loopback, in a form that a driver can believe.

`GET /progress` gives `{"<Kafka topic>/<partition>": next offset}`: everything below it is applied and its commands
are acknowledged by Kafka. It passes transaction markers, as the committed offsets do, a commit interval later; so
`streams.runtime.kafka.lags` is 0 on a drained input, and this here is the same figure without the wait. The port
stands in `data_dir/run/decide.json` (`{"port": …, "pid": …}`) while the process runs.

`/healthz` is ill when the last poll is long ago, `/readyz` ready when the table is restored and partitions are
assigned, `/metrics` for Prometheus.
"""

from __future__ import annotations

import json
import os
import threading
import time
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

POLL_AGE_S = 30.0


@dataclass(slots=True)
class Progress:
    """What the loop says of itself; plain numbers, written by it and read by the server's thread."""

    ready: bool = False
    positions: dict[tuple[str, int], int] = field(default_factory=dict)
    polled_at: float = field(default_factory=time.monotonic)
    events: int = 0
    unreadable: int = 0
    effects: int = 0
    batches: int = 0

    def answer(self, path: str) -> tuple[int, str, bytes]:
        """Give status, content type and body for a path."""
        age_s = time.monotonic() - self.polled_at
        if path == "/progress":
            return _json(200, {f"{topic}/{part}": at for (topic, part), at in sorted(self.positions.copy().items())})
        if path == "/healthz":
            ill = f"the last poll is {age_s:.0f} s ago" if age_s > POLL_AGE_S else ""
            return _json(503 if ill else 200, {"ok": not ill, "reason": ill})
        if path == "/readyz":
            return _json(200 if self.ready else 503, {"ok": self.ready})
        if path == "/metrics":
            lines = [f"weir_decide_{name}_total {getattr(self, name)}" for name in ("events", "unreadable", "effects")]
            lines += [f"weir_ready {int(self.ready)}", f"weir_poll_age_seconds {age_s:.3f}"]
            lines += [
                f'weir_position{{topic="{topic}",partition="{part}"}} {at}'
                for (topic, part), at in sorted(self.positions.copy().items())
            ]
            return 200, "text/plain; version=0.0.4; charset=utf-8", ("\n".join(lines) + "\n").encode()
        return _json(404, {"ok": False, "reason": "there is /progress, /healthz, /readyz and /metrics"})


class ProgressServer:
    """Serves a `Progress` on a free port of 127.0.0.1 and writes the port into `data_dir/run/decide.json`."""

    def __init__(self, progress: Progress, data_dir: Path) -> None:
        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                status, kind, body = progress.answer(self.path)
                self.send_response(status)
                self.send_header("Content-Type", kind)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, format: str, *args: object) -> None:
                """Say nothing: a probe every second is no news."""

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.port: int = self._server.server_address[1]
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.1,), name="progress", daemon=True)
        self._thread.start()
        self._path = port_path(data_dir)
        self._path.parent.mkdir(parents=True, exist_ok=True)
        written = self._path.with_name(f"{self._path.name}.{os.getpid()}")
        written.write_text(json.dumps({"port": self.port, "pid": os.getpid()}), encoding="utf-8")
        written.replace(self._path)

    def close(self) -> None:
        """Stop serving, and take the file away if it is still this process's."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()
        try:
            if json.loads(self._path.read_text(encoding="utf-8"))["pid"] == os.getpid():
                self._path.unlink()
        except (OSError, ValueError, KeyError):
            return  # somebody else's by now


def port_path(data_dir: Path) -> Path:
    """Give the file that says where a running `decide` answers."""
    return data_dir / "run" / "decide.json"


def _json(status: int, body: object) -> tuple[int, str, bytes]:
    return status, "application/json", json.dumps(body).encode() + b"\n"
