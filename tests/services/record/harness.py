"""What tests of the recorder share: events, a recorder in a thread or a process, waiting, reading Kafka back."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from schemas.settings import Settings
from services.clickhouse import connect
from services.kafka import Sender, read_to_end
from services.record.run import Recorder
from tests.services.threads import DEADLINE_S, in_thread


def until(condition: Callable[[], Any], what: str) -> Any:
    """Wait for a condition and give what it gave. Fails at the deadline."""
    deadline = time.monotonic() + DEADLINE_S
    while not (found := condition()):
        assert time.monotonic() < deadline, f"waited {DEADLINE_S:g} s for {what}"
        time.sleep(0.02)
    return found


def prediction(number: int, **more: Any) -> dict[str, Any]:
    """Give the body of a prediction that just happened."""
    now_ms = int(time.time() * 1000)
    return {"request_id": f"r{number:06d}", "at_ms": now_ms, "model": "m", "version": "1", "score": 0.25, **more}


def label(number: int, **more: Any) -> dict[str, Any]:
    """Give the body of a label that just became true."""
    return {"request_id": f"r{number:06d}", "at_ms": int(time.time() * 1000), "label": number % 2, **more}


def send(settings: Settings, topic: str, bodies: list[dict[str, Any]]) -> None:
    """Append events under their request ids."""
    with Sender(settings, "test") as sender:
        for body in bodies:
            sender.send(topic, json.dumps(body).encode(), key=body["request_id"].encode())


def positions(settings: Settings, topic: str) -> list[tuple[int, int]]:
    """Give (partition, offset) of every committed record in Kafka."""
    return sorted((m.partition() or 0, m.offset() or 0) for m in read_to_end(settings, topic))


def landed(settings: Settings, topic: str, what: str = "partition, offset") -> list[tuple[Any, ...]]:
    """Give columns of the exact view in the order of position."""
    client = connect(settings)
    try:
        rows = client.query(f"SELECT {what} FROM {topic} ORDER BY partition, offset, idx").result_rows
    finally:
        client.close()
    return [tuple(row) for row in rows]


def ask(settings: Settings, sql: str) -> Any:
    """Run one statement in the namespace's database and give its first value."""
    client = connect(settings)
    try:
        return client.command(sql)
    finally:
        client.close()


@contextmanager
def recording(settings: Settings) -> Iterator[Recorder]:
    """Run a recorder in a thread until the block ends; raises what it raised."""
    stop = threading.Event()
    recorder = Recorder(settings, stop)
    with in_thread(recorder.run, stop) as thread:
        thread.name = f"recorder-{id(recorder)}"
        yield recorder


def alive(recorder: Recorder) -> bool:
    """Say whether a recorder's thread still runs."""
    return any(thread.name == f"recorder-{id(recorder)}" for thread in threading.enumerate())


def environment(settings: Settings) -> dict[str, str]:
    """Give what another process needs to have the same settings."""
    at = settings.clickhouse
    return {
        **os.environ,
        "WEIR_NAMESPACE": settings.namespace,
        "WEIR_PARTITIONS": str(settings.partitions),
        "WEIR_KAFKA__BOOTSTRAP": settings.kafka.bootstrap,
        "WEIR_CLICKHOUSE__HOST": at.host,
        "WEIR_CLICKHOUSE__PORT": str(at.port),
        "WEIR_CLICKHOUSE__USER": at.user,
        "WEIR_CLICKHOUSE__PASSWORD": at.password.get_secret_value(),
    }


def start(settings: Settings, *command: str) -> subprocess.Popen[bytes]:
    """Start Python with these settings."""
    return subprocess.Popen([sys.executable, *command], env=environment(settings), stderr=subprocess.DEVNULL)
