"""What tests of intake share: an order topic and its mapping, an intake in a thread or a process, reading back."""

from __future__ import annotations

import json
import os
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import tomlkit
from confluent_kafka import Producer
from confluent_kafka.admin import AdminClient, NewTopic, TopicMetadata

from schemas.mapping import Mapping
from schemas.records import DeadLetter
from schemas.settings import Settings
from services.intake.load import Loaded, load
from services.intake.mapper import Mapper
from services.intake.run import Intake
from services.kafka import read_to_end
from tests.services.record.harness import environment, until
from tests.services.threads import in_thread

KEY_VARIABLE, KEY = "TEST_INTAKE_KEY", "0123456789abcdef0123456789abcdef"
SECRET = "someone@example.org"

ORDERS: dict[str, Any] = {
    "name": "orders",
    "source": {"kind": "kafka", "topic": "orders"},
    "protect": {"drop": ["email"], "hmac": ["user_id"], "key": f"env:{KEY_VARIABLE}"},
    "events": [
        {
            "kind": "prediction",
            "request_id": "order_id",
            "at_ms": {"path": "created_us", "unit": "us"},
            "model": {"value": "fraud"},
            "version": "model.version",
            "score": "model.score",
            "subject": "user_id",
            "features": {"amount": "amount", "country": "ship.country"},
        }
    ],
}

LABELS: dict[str, Any] = {
    "name": "chargebacks",
    "source": {"kind": "sql", "url": "sqlite:///labels.db", "query": "SELECT * FROM chargebacks", "cursor": "id"},
    "events": [
        {
            "kind": "label",
            "request_id": "order_id",
            "at_ms": {"path": "decided_at", "unit": "iso", "zone": "UTC"},
            "label": "fraud",
            "source": {"value": "chargebacks"},
        }
    ],
}


def order(number: int, **more: Any) -> dict[str, Any]:
    """Give an order that was just placed."""
    return {
        "order_id": f"o-{number:06d}",
        "created_us": time.time_ns() // 1000,
        "email": SECRET,
        "user_id": 990_000 + number,
        "amount": 12.5 + number,
        "ship": {"country": "DE"},
        "model": {"version": "v3", "score": 0.25},
        **more,
    }


def mapper(tables: dict[str, Any], **more: Any) -> Mapper:
    """Compile a mapping given as TOML would be."""
    return Mapper(Mapping.model_validate(tables), KEY.encode(), **more)


def written(folder: Path, tables: dict[str, Any]) -> Path:
    """Write a mapping file."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{tables['name']}.toml"
    path.write_text(tomlkit.dumps(tables), encoding="utf-8")
    return path


def loaded(folder: Path, tables: dict[str, Any]) -> Loaded:
    """Write and load it."""
    os.environ[KEY_VARIABLE] = KEY
    return load(written(folder, tables), max_event_bytes=900_000)


def make_topic(settings: Settings, name: str, partitions: int = 3, **config: str) -> str:
    """Make a foreign topic."""
    admin = AdminClient({"bootstrap.servers": settings.kafka.bootstrap})
    admin.create_topics([NewTopic(name, partitions, 1, config=config)])[name].result(timeout=20)
    until(
        lambda: len(admin.list_topics(timeout=20).topics.get(name, TopicMetadata()).partitions or ()) == partitions,
        name,
    )
    return name


def produce(settings: Settings, topic: str, bodies: Sequence[dict[str, Any] | bytes | None], key: str = "user") -> None:
    """Append documents as a team does: keyed by something of their own, with another hash than ours."""
    producer = Producer({"bootstrap.servers": settings.kafka.bootstrap, "partitioner": "consistent_random"})
    for number, body in enumerate(bodies):
        value = json.dumps(body).encode() if isinstance(body, dict) else body
        producer.produce(topic, value, f"{key}-{number}".encode(), headers=[("trace", b"7")])
    assert producer.flush(30) == 0


def events(settings: Settings, topic: str) -> list[dict[str, Any]]:
    """Give the bodies of every committed event of a topic of ours."""
    return [json.loads(message.value() or b"") for message in read_to_end(settings, topic)]


def letters(settings: Settings) -> list[DeadLetter]:
    """Give the dead letters."""
    from schemas.event import decode

    return [decode(message.value() or b"", DeadLetter) for message in read_to_end(settings, "dead-letters")]


@contextmanager
def taking(settings: Settings, mapping: Loaded) -> Iterator[Intake]:
    """Run one mapping in a thread until the block ends; raises what it raised."""
    stop = threading.Event()
    intake = Intake(settings, mapping, stop)
    with in_thread(intake.run, stop):
        yield intake


@contextmanager
def process(settings: Settings, *command: str) -> Iterator[subprocess.Popen[bytes]]:
    """Run `weir …` with these settings, the key and small transactions; it is killed when the block ends."""
    given = environment(settings) | {KEY_VARIABLE: KEY, "WEIR_RUNTIME__WORKER": settings.runtime.worker}
    given |= {"WEIR_RUNTIME__BATCH_EVENTS": "50", "WEIR_RUNTIME__COMMIT_MS": "10"}
    with subprocess.Popen([sys.executable, "-m", "services.cli", *command], env=given, stderr=subprocess.PIPE) as one:
        try:
            yield one
        finally:
            one.kill()


def database(path: Path) -> sqlite3.Connection:
    """Make the table of labels."""
    connection = sqlite3.connect(path)
    connection.execute("CREATE TABLE chargebacks (id INTEGER, order_id TEXT, fraud INTEGER, decided_at TEXT)")
    connection.commit()
    return connection
