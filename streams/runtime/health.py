"""What a worker shows of itself over HTTP on loopback: `/healthz`, `/readyz`, `/metrics`.

The loop writes plain numbers into `Progress`; the server's thread reads them. Nothing here slows the loop down.
"""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from prometheus_client import CollectorRegistry, Histogram
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.exposition import generate_latest
from prometheus_client.registry import Collector

from schemas.errors import ENVIRONMENT, WeirError
from schemas.settings import Runtime

POLL_AGE_S = 30.0
COMMIT_AGE_S = 60.0
_BUCKETS_S = (0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0)


@dataclass(frozen=True, slots=True)
class PartitionProgress:
    """One running partition. `positions` and `ends` by logical topic; `held` says what keeps the clock, if anything."""

    step: int
    clock_ms: int
    positions: Mapping[str, int]
    ends: Mapping[str, int]
    counters: Mapping[str, int]
    held: Mapping[str, str]


@dataclass(slots=True)
class Progress:
    """What the loop says of itself. Ages are measured with `time.monotonic`.

    `restored` says of each partition how it was restored, and what could not be used and why.
    `following`: it is a standby; `lag_steps` is how many recorded steps it has read and not yet taken again.
    """

    stage: str
    worker: str
    ready: bool = False
    restoring: tuple[int, ...] = ()
    restored: dict[int, dict[str, object]] = field(default_factory=dict)
    following: bool = False
    lag_steps: int = 0
    polled_at: float = field(default_factory=time.monotonic)
    committed_at: float = field(default_factory=time.monotonic)
    partitions: dict[int, PartitionProgress] = field(default_factory=dict)
    steps: int = 0
    events: int = 0
    outputs: int = 0
    commits: int = 0
    snapshots: int = 0
    snapshot_failures: int = 0
    registry: CollectorRegistry = field(default_factory=CollectorRegistry)
    commit_seconds: Histogram = field(init=False)
    snapshot_pause_seconds: Histogram = field(init=False)

    def __post_init__(self) -> None:
        self.commit_seconds = Histogram(
            "weir_commit_seconds", "time to commit a transaction", registry=self.registry, buckets=_BUCKETS_S
        )
        self.snapshot_pause_seconds = Histogram(
            "weir_snapshot_pause_seconds",
            "time a step waited for a snapshot's dump",
            registry=self.registry,
            buckets=_BUCKETS_S,
        )
        self.registry.register(_Numbers(self))

    def lag(self) -> int:
        """Give how many offsets lie between positions and ends, as of the last look (about a second ago)."""
        parts = tuple(self.partitions.values())
        return sum(max(0, end - part.positions.get(name, end)) for part in parts for name, end in part.ends.items())

    def ill(self, now: float) -> str:
        """Say what is wrong, or nothing: the loop hangs, or there is work and no commit."""
        polled_s, committed_s = now - self.polled_at, now - self.committed_at
        if polled_s > POLL_AGE_S:
            return f"the last poll is {polled_s:.0f} s ago"
        if committed_s > COMMIT_AGE_S and not self.following and self.lag() and not self.restoring:
            return f"{self.lag()} offsets behind, and the last commit is {committed_s:.0f} s ago"
        return ""


class _Numbers(Collector):
    def __init__(self, progress: Progress) -> None:
        self._progress = progress

    def collect(self) -> Iterable[Metric]:
        progress, now = self._progress, time.monotonic()
        for name in ("steps", "events", "outputs", "commits", "snapshots", "snapshot_failures"):
            yield CounterMetricFamily(f"weir_{name}", f"{name} of this process", value=getattr(progress, name))
        yield GaugeMetricFamily("weir_ready", "1 when nothing is being restored", value=int(progress.ready))
        yield GaugeMetricFamily("weir_following", "1 while a standby", value=int(progress.following))
        yield GaugeMetricFamily("weir_lag_steps", "steps read and not yet followed", value=progress.lag_steps)
        yield GaugeMetricFamily("weir_poll_age_seconds", "since the last poll", value=now - progress.polled_at)
        yield GaugeMetricFamily("weir_commit_age_seconds", "since the last commit", value=now - progress.committed_at)
        clock = GaugeMetricFamily("weir_clock_ms", "the partition's clock", labels=["partition"])
        position = GaugeMetricFamily("weir_position", "next offset to read", labels=["topic", "partition"])
        end = GaugeMetricFamily("weir_end", "end offset", labels=["topic", "partition"])
        held = GaugeMetricFamily("weir_clock_held", "1: keeps the clock", labels=["topic", "partition", "by"])
        counter = GaugeMetricFamily("weir_counter", "the stage's own counters", labels=["name", "partition"])
        for number, part in tuple(progress.partitions.items()):
            where = str(number)
            clock.add_metric([where], part.clock_ms)
            for families, values in ((position, part.positions), (end, part.ends), (counter, part.counters)):
                for name, value in values.items():
                    families.add_metric([name, where], value)
            for name, cause in part.held.items():
                held.add_metric([name, where, cause], 1)
        yield from (clock, position, end, held, counter)


class HealthServer:
    """Serves a `Progress`. Port 0 takes a free one; `port` says which. Raises `WeirError` when it cannot listen."""

    def __init__(self, progress: Progress, port: int = 0, host: str = "127.0.0.1") -> None:
        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                status, kind, body = answer(progress, self.path)
                self.send_response(status)
                self.send_header("Content-Type", kind)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, format: str, *args: object) -> None:
                """Say nothing: a probe every second is no news."""

        try:
            self._server = ThreadingHTTPServer((host, port), Handler)
        except OSError as error:
            raise WeirError(
                f"health cannot be served on {host}:{port}: {error.strerror}",
                fix="free the port, or set runtime.health_host and runtime.health_port; 0 takes a free one",
                code=ENVIRONMENT,
            ) from None
        self._server.daemon_threads = True
        self.port: int = self._server.server_address[1]
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.1,), name="health", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Stop serving."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


def serve(progress: Progress, runtime: Runtime, port: int | None) -> HealthServer | None:
    """Serve it at the host that settings name; not at all without a port."""
    return None if port is None else HealthServer(progress, port, runtime.health_host)


def answer(progress: Progress, path: str) -> tuple[int, str, bytes]:
    """Give status, content type and body for a path."""
    if path == "/metrics":
        return 200, "text/plain; version=0.0.4; charset=utf-8", generate_latest(progress.registry)
    if path == "/healthz":
        ill = progress.ill(time.monotonic())
        return _json(503 if ill else 200, {"ok": not ill, "reason": ill})
    if path == "/readyz":
        detail: dict[str, object] = {"ok": progress.ready, "restoring": list(progress.restoring)}
        detail["restored"] = {str(number): how for number, how in tuple(progress.restored.items())}
        if progress.following:
            detail |= {"following": True, "lag_steps": progress.lag_steps}
        else:
            detail |= {"lag": progress.lag()}
        return _json(200 if progress.ready else 503, detail)
    return _json(404, {"ok": False, "reason": "there is /healthz, /readyz and /metrics"})


def _json(status: int, body: Mapping[str, object]) -> tuple[int, str, bytes]:
    return status, "application/json", json.dumps(body).encode() + b"\n"
