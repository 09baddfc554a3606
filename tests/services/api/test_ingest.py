"""Events over HTTP: taken as they are, refused with the field's name, acknowledged when Kafka has them."""

import json
import math
import threading
from typing import Any

import pytest

from schemas.event import decode
from schemas.lifecycle import Approval
from schemas.settings import Kafka, Settings
from services.api.ingest import MOST
from services.kafka import read_to_end
from tests.services.api.serving import TOKEN, Asker, at_free_port

pytestmark = [pytest.mark.kafka, pytest.mark.clickhouse]


def post(asker: Asker, path: str, body: Any) -> Any:
    return asker.client.post(f"/v1/{path}", json=body)


def sent(asker: Asker, topic: str, request: str) -> list[dict[str, Any]]:
    messages = [message for message in read_to_end(asker.settings, topic) if message.key() == request.encode()]
    return [json.loads(message.value() or b"") for message in messages]


def test_events_travel_as_they_came_under_java_s_hash(house: Asker) -> None:
    label = {"request_id": "http-1", "at_ms": 5, "label": 1, "label_source_note": {"kept": [1, 2]}}
    answer = post(house, "labels", label)
    assert (answer.status_code, answer.json()) == (202, {"accepted": 1})
    assert sent(house, "labels", "http-1") == [label]
    signals = [{"request_id": f"http-{n}", "at_ms": n, "signal": "click"} for n in range(50)]
    assert post(house, "signals", signals).json() == {"accepted": 50}
    partitions = {m.key(): m.partition() for m in read_to_end(house.settings, "signals")}
    assert len(set(partitions.values())) > 1
    from tests.services.api.murmur import partition_of

    assert all(partition_of(key or b"", house.settings.partitions) == at for key, at in partitions.items())
    prediction = {"request_id": "http-2", "at_ms": 5, "model": "other", "score": 0.5, "features": {"a": None, "b": "x"}}
    assert post(house, "predictions", prediction).status_code == 202
    assert sent(house, "predictions", "http-2") == [prediction]


@pytest.mark.parametrize(
    ("path", "body", "at", "what"),
    [
        ("labels", {"at_ms": 5, "label": 1}, "body.request_id", "required"),
        ("labels", {"request_id": "", "at_ms": 5, "label": 1}, "body.request_id", "at least 1"),
        ("labels", {"request_id": "r" * 129, "at_ms": 5, "label": 1}, "body.request_id", "at most 128"),
        ("labels", {"request_id": "r", "at_ms": -1, "label": 1}, "body.at_ms", "greater than or equal"),
        ("labels", {"request_id": "r", "at_ms": "5", "label": 1}, "body", "Expected `int`, got `str`"),
        ("labels", {"request_id": "r", "at_ms": 5}, "body", "an asserted label needs"),
        ("labels", [{"request_id": "r", "at_ms": 5, "label": 1}, {"request_id": "r"}], "body[1].at_ms", "required"),
        ("predictions", {"request_id": "r", "at_ms": 5, "model": "m", "role": "best"}, "body.role", "primary"),
        ("signals", {"request_id": "r", "at_ms": 5}, "body.signal", "required"),
        ("approvals", {"rollout_id": "r", "model": "m", "decision": "maybe"}, "body.decision", "approve"),
        ("approvals", {"rollout_id": "r", "model": "m", "decision": "approve", "why": 1}, "body.why", "not permitted"),
    ],
)
def test_wrong_input_is_named_and_nothing_is_sent(house: Asker, path: str, body: Any, at: str, what: str) -> None:
    before = sum(1 for _ in read_to_end(house.settings, path))
    answer = post(house, path, body)
    assert answer.status_code == 422
    field = answer.json()["fields"][0]
    assert field["at"] == at
    assert what in field["what"]
    assert answer.json()["fix"]
    assert sum(1 for _ in read_to_end(house.settings, path)) == before


@pytest.mark.parametrize(
    ("body", "status"),
    [
        (b"not JSON", 422),
        (b'{"request_id": "r\xff", "at_ms": 5, "label": 1}', 400),
        (b'{"request_id": "r", "at_ms": 5, "label": NaN}', 422),
        (b"[]", 413),
        (b"null", 422),
        (b"", 422),
        (b"[" * 100_000, 400),
    ],
)
def test_what_is_no_event_is_refused(house: Asker, body: bytes, status: int) -> None:
    answer = house.client.post("/v1/labels", content=body, headers={"Content-Type": "application/json"})
    assert answer.status_code in (status, 422)
    assert set(answer.json()) >= {"what", "fix"}


def test_json_that_is_not_called_so_is_told(house: Asker) -> None:
    """What `curl -d` sends by itself."""
    body = b'{"request_id": "r", "at_ms": 5, "label": 1}'
    kind = "application/x-www-form-urlencoded"
    answer = house.client.post("/v1/labels", content=body, headers={"Content-Type": kind})
    assert answer.status_code == 422
    assert answer.json()["fix"] == f"send `Content-Type: application/json`; what came is {kind}"


def test_too_much_is_refused(house: Asker) -> None:
    label = {"request_id": "r", "at_ms": 5, "label": 1}
    assert post(house, "labels", [label] * (MOST + 1)).status_code == 413
    assert post(house, "labels", {**label, "more": "x" * 1_100_000}).status_code == 413
    large = json.dumps({**label, "more": "x" * (9 << 20)}).encode()
    for content in (large, iter([large[: 5 << 20], large[5 << 20 :]])):  # with a length, and in chunks
        answer = house.client.post("/v1/labels", content=content, headers={"Content-Type": "application/json"})
        assert answer.status_code == 413
        assert set(answer.json()) == {"what", "fix"}


def test_a_decision_reaches_decide(house: Asker) -> None:
    answer = post(
        house, "approvals", {"rollout_id": "r-1", "model": "m", "decision": "approve", "by": "me", "note": "ok"}
    )
    assert answer.status_code == 202
    message = [m for m in read_to_end(house.settings, "approvals") if m.key() == b"m"][-1]
    event = decode(message.value() or b"", Approval)
    assert (event.rollout_id, event.decision, event.by, event.note) == ("r-1", "approve", "me", "ok")
    assert math.isclose(event.at_ms, message.timestamp()[1], abs_tol=60_000)


def test_kafka_away_is_503_and_says_send_again(house: Asker, monkeypatch: pytest.MonkeyPatch) -> None:
    from starlette.testclient import TestClient

    from services.api import ingest
    from services.api.app import build

    monkeypatch.setattr(ingest, "ANSWER_S", 0.5)
    settings: Settings = at_free_port(house.settings.model_copy(update={"kafka": Kafka(bootstrap="127.0.0.1:1")}))
    with TestClient(build(settings, threading.Event()), headers={"Authorization": f"Bearer {TOKEN}"}) as client:
        answer = client.post("/v1/labels", json={"request_id": "r", "at_ms": 5, "label": 1})
    assert answer.status_code == 503
    assert "did not take the event" in answer.json()["what"]
    assert "send it again" in answer.json()["fix"]
