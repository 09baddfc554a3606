"""Envelopes through real parts: join, record and verify agree event by event, however the events are batched."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from schemas.envelope import ARROW, CONTENT_TYPE, ROWS, content_type
from schemas.errors import OK
from schemas.event import decode
from schemas.records import DeadLetter
from schemas.settings import Settings
from schemas.topics import topic_name
from services.cli.verify import verify
from services.kafka import read_to_end
from services.record.residual import residuals
from streams.join.partition import partition_of
from streams.runtime import kafka as ours
from streams.runtime.enclose import enclose
from tests.services.cli.test_dlq import joining
from tests.services.cli.test_verify import settled
from tests.services.record.harness import label, landed, prediction, recording, until

pytestmark = [pytest.mark.kafka, pytest.mark.clickhouse, pytest.mark.timeout(180)]


def send_enclosed(settings: Settings, topic: str, bodies: Sequence[dict[str, Any]], size: int) -> None:
    """Send events in envelopes of their partitions, `size` in each."""
    by_partition: dict[int, list[bytes]] = {}
    for body in bodies:
        place = partition_of(body["request_id"].encode(), settings.partitions)
        by_partition.setdefault(place, []).append(json.dumps(body).encode())
    producer = ours.make_producer(settings, "test")
    for partition, texts in by_partition.items():
        for start in range(0, len(texts), size):
            value = enclose(texts[start : start + size])
            producer.produce(
                topic_name(settings.namespace, topic), value, None, partition, headers=[(CONTENT_TYPE, ARROW)]
            )
    assert producer.flush(30) == 0


def test_every_event_of_an_envelope_counts_once(
    namespace: Settings, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    join = namespace.join.model_copy(update={"feedback_envelopes": True})
    settings = namespace.model_copy(update={"data_dir": tmp_path, "join": join})
    predictions = [prediction(n, features={"age": n, "country": "de"}) for n in range(200)]
    labels = [label(n) for n in range(150)]
    with recording(settings), joining(settings):
        send_enclosed(settings, "predictions", predictions, 40)
        until(lambda: settled(settings), "the join")
        send_enclosed(settings, "labels", labels, 16)
        send_enclosed(settings, "labels", labels, 7)  # the same events, batched otherwise
        producer = ours.make_producer(settings, "test")
        stray = [json.dumps(prediction(1000 + n)).encode() for n in range(8)]
        for value in (b"no Arrow", enclose([*stray, b'{"at_ms":1,"label":2}'])):
            name = topic_name(settings.namespace, "predictions")
            producer.produce(name, value, None, 0, headers=[(CONTENT_TYPE, ARROW)])
        assert producer.flush(30) == 0
        until(lambda: settled(settings), "the join")
        until(lambda: sum(one.landed for one in residuals(settings)) >= 200 + 300 + 10, "the record")
        until(lambda: settled(settings), "what was forwarded")
    assert verify(settings, as_json=True) == OK
    found = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert found["residual"] == {"predictions": 0, "labels": 0, "signals": 0}
    assert found["mismatches"] == []
    counters = found["counters"]
    assert (counters["labels.joined"], counters["labels.duplicate"]) == (150, 150)
    assert counters["predictions.final"] == 150
    away = [text for text in stray if partition_of(json.loads(text)["request_id"].encode(), settings.partitions)]
    assert (counters["predictions.forwarded"], counters["predictions.dead"]) == (len(away), 2)

    feedback = list(read_to_end(settings, "feedback"))
    assert {content_type(message.headers() or ()) for message in feedback} == {ROWS}  # type: ignore[arg-type]
    assert len(feedback) < 150
    rows = landed(settings, "feedback", "request_id, revision, label, unreadable")
    assert sorted(rows) == [(f"r{n:06d}", 1, float(n % 2), "") for n in range(150)]
    letters = [decode(message.value() or b"", DeadLetter) for message in read_to_end(settings, "dead-letters")]
    assert sorted((one.reason, one.index) for one in letters) == [("bad_envelope", 0), ("bad_event", 8)]
    assert {index for (index,) in landed(settings, "labels", "idx")} == set(range(16))
    assert landed(settings, "predictions", "body")[0][0].startswith('{"request_id":"r')
