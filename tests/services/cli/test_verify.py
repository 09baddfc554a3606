"""The whole of verify on real parts: a join and a recorder run, the twin agrees, the residual is 0, then 1."""

import json
import random
from pathlib import Path
from typing import Any

import pytest

from schemas.errors import FAILURE, OK, WeirError
from schemas.event import decode, encode
from schemas.feedback import Feedback
from schemas.settings import Settings
from schemas.topics import topic_name
from services.cli.verify import verification, verify
from services.kafka import Sender, read_to_end
from services.record.residual import residuals, total
from streams.runtime import kafka as ours
from streams.runtime.backlog import lags
from tests.services.cli.test_dlq import joining
from tests.services.record.harness import ask, label, prediction, recording, send, until

pytestmark = [pytest.mark.kafka, pytest.mark.clickhouse, pytest.mark.timeout(180)]


def fill(settings: Settings, seed: int = 3) -> None:
    """Send every kind of event that is joined, forwarded, doubled, contradicted or buried."""
    seeded = random.Random(seed)
    send(settings, "predictions", [prediction(n) for n in range(200)])
    send(settings, "predictions", [prediction(n, score=0.75) for n in seeded.sample(range(200), 20)])  # conflicts
    labels = [label(n) for n in range(150)]
    send(settings, "labels", labels + labels[:30] + [label(n, label=1) for n in seeded.sample(range(150), 20)])
    send(settings, "signals", [label(n, signal="click") for n in range(100, 180)])
    producer = ours.make_producer(settings, "test")
    for number, value in enumerate((None, b"", b"{", b"\xff", json.dumps(label(7, at_ms=9 * 10**12)).encode())):
        producer.produce(topic_name(settings.namespace, "labels"), value, b"k%d" % number, number % 4)
    for number in range(40):  # keys hashed by somebody else: they lie anywhere
        body = json.dumps(prediction(1000 + number)).encode()
        producer.produce(topic_name(settings.namespace, "predictions"), body, b"x", number % 4)
    assert producer.flush(30) == 0


def settled(settings: Settings) -> bool:
    inputs = ["control", "predictions", "labels", "signals"]
    return not any(lags(settings, "join", inputs).values())


def counted(settings: Settings) -> bool:
    """Say whether everything that was sent is counted in a step that has landed."""
    found = residuals(settings)
    ends = {(m.partition(), topic) for topic in ("predictions", "labels") for m in read_to_end(settings, topic)}
    return len(found) == 12 and bool(ends) and sum(one.landed for one in found) >= 525


def run(settings: Settings, capsys: pytest.CaptureFixture[str]) -> tuple[int, Any]:
    code = verify(settings, as_json=True)
    return code, json.loads(capsys.readouterr().out.splitlines()[-1])


def test_all_is_well_until_a_row_is_gone(
    namespace: Settings, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = namespace.model_copy(update={"data_dir": tmp_path})
    with recording(settings), joining(settings):
        fill(settings)
        until(lambda: settled(settings), "the join")
        until(lambda: counted(settings), "the record")
        code, found = run(settings, capsys)  # while both go on
        assert (code, found["mismatches"]) == (OK, [])
    code, found = run(settings, capsys)  # and when they have stopped
    assert (code, found["mismatches"], found["exact"]) == (OK, [], True)
    assert found["residual"] == {"predictions": 0, "labels": 0, "signals": 0}
    assert found["predictions"] == 240
    assert found["revisions"] >= 150
    assert found["counters"]["predictions.forwarded"] > 10
    assert found["counters"]["labels.dead"] == 4
    assert found["counters"]["labels.quarantined"] == 1

    ask(
        settings,
        "DELETE FROM landed_labels WHERE (partition, offset) IN (SELECT partition, offset FROM labels LIMIT 1)",
    )
    code, found = run(settings, capsys)
    assert (code, found["residual"]["labels"]) == (FAILURE, 1)
    assert sum(total(residuals(settings)).values()) == 1
    assert verify(settings, as_json=False) == FAILURE
    told = capsys.readouterr().out
    assert "residual labels" in told
    assert "NOT well" in told


def test_a_false_revision_is_named(namespace: Settings, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    settings = namespace.model_copy(update={"data_dir": tmp_path})
    with recording(settings), joining(settings):
        send(settings, "predictions", [prediction(1)])
        send(settings, "labels", [label(1)])
        first = until(lambda: list(read_to_end(settings, "feedback")), "feedback")[0]
    said = decode(first.value(), Feedback)
    forged = Feedback(
        request_id=said.request_id,
        model=said.model,
        revision=2,
        status="final",
        label=0,
        label_kind="explicit",
        policy=said.policy,
        predicted_at_ms=said.predicted_at_ms,
        joined_at_ms=said.joined_at_ms,
    )
    with Sender(settings) as sender:
        sender.send("feedback", encode(forged), key=first.key(), partition=first.partition())
    code, found = run(settings, capsys)
    assert code == FAILURE
    assert {"was", "different"} <= {one["kind"] for one in found["mismatches"]}
    assert {one["identity"][0] for one in found["mismatches"]} == {"r000001"}
    assert verify(settings, as_json=False) == FAILURE
    assert "different r000001/m//label/: " in capsys.readouterr().out


def test_nothing_to_compare(namespace: Settings) -> None:
    with pytest.raises(WeirError, match="nothing can be compared"):
        verification(namespace)


def test_without_clickhouse_the_residual_is_unknown(
    on_kafka: Settings, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    away = on_kafka.clickhouse.model_copy(update={"port": 1})
    settings = on_kafka.model_copy(update={"data_dir": tmp_path, "clickhouse": away})
    with joining(settings):
        send(settings, "predictions", [prediction(1)])
        until(lambda: settled(settings) and len(list(read_to_end(settings, "steps"))) > 4, "steps")
    code, found = run(settings, capsys)
    assert (code, found["mismatches"], found["residual"]) == (FAILURE, [], None)
    assert "cannot be used" in found["residual_unknown"]
