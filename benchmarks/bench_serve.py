"""What an answer costs: CPU per request of the serving process, and latency at a fixed rate of arrivals.

An open loop: requests leave when their time has come, whether or not earlier ones are answered, and latency counts from
the moment at which a request should have left. Real Kafka, real processes; the client runs beside them on the same
machine, so latencies at high rates are its doing too. `--shadow` adds a deployment that answers after the answer.

    python -m benchmarks.bench_serve
    python -m benchmarks.bench_serve --rates 400 --seconds 20 --shadow
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import psutil

from schemas.control import Reference
from schemas.event import encode
from schemas.lifecycle import Deployment, Promote
from schemas.settings import Kafka, Serve, Settings
from services.kafka import Sender
from services.local.kafka import LocalKafka
from services.train.artifact import Artifact, Card, Lineage, Network, Probe, registry_of, save
from streams.runtime.topics import ensure_topics

FEATURES = ("period", "nsw_price", "nsw_demand", "vic_price", "vic_demand", "transfer")


def artifact(version: str) -> Artifact:
    """Make the demo's network with random weights: six features, two hidden layers of 32."""
    import torch

    from services.train import network

    torch.manual_seed(int(version))
    shape = Network(kind="mlp", inputs=len(FEATURES), hidden=[32, 32])
    card = Card(
        model="bench",
        version=version,
        network=shape,
        features=list(FEATURES),
        mean=[0.5] * len(FEATURES),
        scale=[0.3] * len(FEATURES),
        reference=Reference(id=f"r{version}", model="bench", version=version, n=0),
        lineage=Lineage(retrain_id=f"bench-{version}", from_ms=0, to_ms=1, dataset="", rows=0),
        probe=Probe(rows=[], scores=[]),
        created_at_ms=0,
    )
    return Artifact(card, network.weights_of(network.build(shape)))


def requests(count: int, port: int, seed: int) -> list[bytes]:
    """Write whole HTTP requests beforehand, so that the client costs little."""
    rows = np.random.default_rng(seed).random((count, len(FEATURES)))
    made = []
    for i, row in enumerate(rows.round(6).tolist()):
        body = json.dumps({"features": dict(zip(FEATURES, row, strict=True)), "subject": f"user-{i % 997}"}).encode()
        head = f"POST /v1/predict HTTP/1.1\r\nhost: 127.0.0.1:{port}\r\ncontent-type: application/json\r\n"
        made.append(f"{head}content-length: {len(body)}\r\n\r\n".encode() + body)
    return made


class Connection(asyncio.Protocol):
    """One kept connection with at most one request under way."""

    def __init__(self, idle: asyncio.Queue[Connection]) -> None:
        self.idle, self.failed = idle, 0
        self.answered: asyncio.Future[None] | None = None
        self._received = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep the transport."""
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        """Answers are small: the head says how long, and the body comes with it or next."""
        self._received += data
        head, found, body = self._received.partition(b"\r\n\r\n")
        if not found:
            return
        length = int(head.lower().split(b"content-length: ")[1].split(b"\r\n")[0])
        if len(body) >= length:
            self.failed += not head.startswith(b"HTTP/1.1 200")
            self._received = b""
            assert self.answered is not None
            self.answered.set_result(None)


async def drive(port: int, rate: float, seconds: float, connections: int) -> tuple[list[float], int]:
    """Send at a fixed rate; give latencies in seconds and the number of answers other than 200."""
    loop = asyncio.get_running_loop()
    idle: asyncio.Queue[Connection] = asyncio.Queue()
    made = [(await loop.create_connection(lambda: Connection(idle), "127.0.0.1", port))[1] for _ in range(connections)]
    for one in made:
        idle.put_nowait(one)
    latencies: list[float] = []

    async def send(request: bytes, due: float) -> None:
        connection = await idle.get()
        connection.answered = loop.create_future()
        connection.transport.write(request)
        await connection.answered
        latencies.append(loop.time() - due)
        idle.put_nowait(connection)

    bodies = requests(int(rate * seconds), port, seed=0)
    began, tasks = loop.time(), []
    for i, body in enumerate(bodies):
        due = began + i / rate
        if due > loop.time():
            await asyncio.sleep(due - loop.time())
        tasks.append(asyncio.create_task(send(body, due)))
    await asyncio.gather(*tasks)
    for one in made:
        one.transport.close()
    return latencies, sum(one.failed for one in made)


def wait_ready(port: int, patience_s: float = 60.0) -> None:
    """Wait until the server answers predictions."""
    import http.client

    deadline = time.monotonic() + patience_s
    while time.monotonic() < deadline:
        try:
            asked = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
            asked.request("GET", "/readyz")
            if asked.getresponse().status == 200:
                return
        except OSError:
            pass
        time.sleep(0.05)
    raise SystemExit("the server did not become ready")


def main() -> None:
    """Run and print one table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rates", type=float, nargs="+", default=[100, 400, 800])
    parser.add_argument("--seconds", type=float, default=10)
    parser.add_argument("--connections", type=int, default=16)
    parser.add_argument("--shadow", action="store_true")
    said = parser.parse_args()
    with tempfile.TemporaryDirectory() as directory, LocalKafka(Path(directory) / "kafka") as kafka:
        with socket.create_server(("127.0.0.1", 0)) as free:
            port = free.getsockname()[1]
        settings = Settings(
            namespace="bench",
            data_dir=Path(directory),
            kafka=Kafka(bootstrap=kafka.bootstrap),
            serve=Serve(port=port),
        )
        ensure_topics(settings)
        for version in ("1", "2"):
            save(registry_of(settings), artifact(version))
        deployments = [Deployment(deployment="v1", version="1", weight=1.0)]
        if said.shadow:
            deployments.append(Deployment(deployment="v2", version="2", weight=0.0, role="shadow"))
        with Sender(settings) as sender:
            promote = Promote(endpoint="default", model="bench", revision=1, deployments=deployments, at_ms=1)
            sender.send("promote", encode(promote), key=b"default")
        environment = {
            **os.environ,
            "WEIR_NAMESPACE": "bench",
            "WEIR_DATA_DIR": directory,
            "WEIR_KAFKA__BOOTSTRAP": kafka.bootstrap,
            "WEIR_SERVE__PORT": str(port),
        }
        server = subprocess.Popen([sys.executable, "-m", "services.cli", "serve"], env=environment)
        try:
            wait_ready(port)
            asyncio.run(drive(port, 100, 2, said.connections))  # warm
            process = psutil.Process(server.pid)
            print(f"{'asked/s':>8} {'done/s':>8} {'failed':>7} {'CPU ms':>7} {'p50 ms':>7} {'p99 ms':>7} {'max ms':>7}")
            for rate in said.rates:
                before, began = sum(process.cpu_times()[:2]), time.monotonic()
                latencies, failed = asyncio.run(drive(port, rate, said.seconds, said.connections))
                took = time.monotonic() - began
                used = sum(process.cpu_times()[:2]) - before
                p50, p99 = (1e3 * float(one) for one in np.percentile(latencies, [50, 99]))
                done = len(latencies)
                print(
                    f"{rate:>8.0f} {done / took:>8.0f} {failed:>7} {1e3 * used / done:>7.3f} "
                    f"{p50:>7.2f} {p99:>7.2f} {1e3 * max(latencies):>7.1f}"
                )
        finally:
            server.send_signal(signal.SIGTERM)
            server.wait(20)


if __name__ == "__main__":
    main()
