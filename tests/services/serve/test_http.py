"""The HTTP edge without any Kafka: what was served last goes on answering, and bad bodies get clear errors."""

import json
import math
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from schemas.errors import WeirError
from schemas.event import encode
from schemas.lifecycle import Promote
from schemas.settings import Serve, Settings
from services.serve.requests import MAX_BODY
from tests.services.serve.serving import Client, primary, promote, put_models, serving, settings_in, until


def kept(settings: Settings, state: Promote) -> None:
    """Leave what an earlier run of the server leaves behind."""
    directory = settings.data_dir / "outbox" / settings.namespace / "default"
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "served.json").write_bytes(encode(state))


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Client]:
    """Give a server that answers with `v1` of `spam` while Kafka is away."""
    settings = settings_in(tmp_path_factory.mktemp("http"))
    put_models(settings, v1=0.0)
    kept(settings, promote(3, primary("v1")))
    with serving(settings, flush_s=0) as client:
        until(lambda: client.ask("GET", "/readyz")[0] == 200)
        yield client


def test_a_prediction(client: Client) -> None:
    status, answer, headers = client.ask(
        "POST", "/v1/predict", b'{"request_id": "r1", "features": {"a": 3, "b": 0.5, "other": "x"}, "subject": "anna"}'
    )
    score = 1 / (1 + math.exp(-2.0))
    assert status == 200
    assert headers["x-request-id"] == "r1"
    assert answer["score"] == pytest.approx(score, abs=1e-6)
    assert {name: answer[name] for name in answer if name != "score"} == {
        "request_id": "r1",
        "model": "spam",
        "version": "v1",
        "deployment": "v1",
        "revision": 3,
        "prediction": 1,
        "threshold": 0.5,
    }


def test_an_id_is_made_when_there_is_none(client: Client) -> None:
    ids = [client.predict(features={"a": 1.0})[1]["request_id"] for _ in range(20)]
    assert len(set(ids)) == 20
    assert all(one[14] == "7" and one[19] in "89ab" for one in ids)
    assert [one[:13] for one in ids] == sorted(one[:13] for one in ids)


def test_an_id_that_is_no_header_comes_back_in_the_body_alone(client: Client) -> None:
    status, answer, headers = client.ask(
        "POST", "/v1/predict", json.dumps({"request_id": "ä\r\nset-cookie: x", "features": {"a": 1}}).encode()
    )
    assert (status, answer["request_id"]) == (200, "ä\r\nset-cookie: x")
    assert headers["x-request-id"] is None
    assert headers["set-cookie"] is None


@pytest.mark.parametrize(
    ("body", "status", "words"),
    [
        (b"", 400, "not JSON"),
        (b"features=1", 400, "not JSON"),
        (b'{"features": {"a": NaN}}', 400, "NaN and Infinity are not JSON, send null"),
        (b'{"features": {"a": "\xff"}}', 400, "not UTF-8"),
        (b'{"features": {"a": ' + b"[" * 100_000, 422, "features"),
        (b"[1]", 422, "Expected `object`, got `array`"),
        (b"{}", 422, "missing required field `features`"),
        (b'{"features": {"a": 1}, "subjekt": "x"}', 422, "unknown field `subjekt`"),
        (b'{"features": {"a": [1]}}', 422, "$.features.a"),
        (b'{"features": {"b": 1, "a": 99999999999999999999}}', 422, "$.features.a"),
        (b'{"features": {"a": 1e999}}', 422, "out of range"),
        (b'{"features": {"a": "red"}}', 422, "feature 'a' must be a number"),
        (b'{"features": {}}', 422, "none of the features"),
        (b'{"request_id": "", "features": {"a": 1}}', 422, "$.request_id"),
        (b'{"request_id": "' + b"r" * 129 + b'", "features": {"a": 1}}', 422, "length <= 128"),
        (b'{"request_id": 7, "features": {"a": 1}}', 422, "Expected `str | null`, got `int`"),
        (b'{"features": {"a": 1}, "at_ms": 5}', 422, "only where the namespace's clock is virtual"),
        (b'{"features": {"a": "' + b"x" * MAX_BODY + b'"}}', 413, "more than"),
    ],
)
def test_a_bad_body_gets_a_clear_error(client: Client, body: bytes, status: int, words: str) -> None:
    got, answer, _ = client.ask("POST", "/v1/predict", body)
    assert got == status
    assert words in answer["error"]
    assert "features" in answer["expected"]
    assert client.predict(features={"a": 1})[0] == 200


def test_the_id_of_a_bad_request_comes_back(client: Client) -> None:
    status, answer = client.predict(request_id="r9", features={"a": "red"})
    assert (status, answer["request_id"]) == (422, "r9")
    assert client.predict(request_id="r9", features={"a": [1]})[1]["request_id"] == "r9"


@pytest.mark.parametrize(("method", "path", "status"), [("GET", "/v1/predict", 405), ("GET", "/", 404)])
def test_other_paths_say_what_there_is(client: Client, method: str, path: str, status: int) -> None:
    got, answer, _ = client.ask(method, path)
    assert got == status
    assert "POST /v1/predict" in answer["expected"]


def test_the_endpoint_says_what_is_so(client: Client) -> None:
    client.predict(features={"a": 1})
    state = client.endpoint()
    assert (state["endpoint"], state["revision"], state["desired_revision"], state["converged"]) == (
        "default",
        3,
        3,
        True,
    )
    assert state["deployments"] == [{"deployment": "v1", "version": "v1", "weight": 1.0}]
    assert state["outbox"]["pending"] > 0  # Kafka is away: nothing was acknowledged
    assert state["shadow"] == {"pending": 0}


def test_health_and_metrics(client: Client) -> None:
    client.predict(features={"a": 1})
    assert client.ask("GET", "/healthz")[1] == {"ok": True, "reason": ""}
    text = client.ask("GET", "/metrics")[1]
    assert 'weir_serve_answers_total{deployment="v1",role="primary"}' in text
    assert "weir_serve_converged 1.0" in text
    assert 'weir_serve_imputed_total{deployment="v1",feature="b"}' in text


def test_the_openapi_document_describes_the_hot_path(client: Client) -> None:
    document = client.ask("GET", "/openapi.json")[1]
    operation: dict[str, Any] = document["paths"]["/v1/predict"]["post"]
    asked = operation["requestBody"]["content"]["application/json"]["schema"]["$ref"].rpartition("/")[2]
    assert document["components"]["schemas"][asked]["required"] == ["features"]
    assert set(operation["responses"]) == {"200", "400", "413", "422", "503"}
    assert "/v1/endpoint" in document["paths"]


def test_nothing_to_serve_is_said(tmp_path: Path) -> None:
    with serving(settings_in(tmp_path), flush_s=0) as client:
        status, answer, headers = client.ask("POST", "/v1/predict", b'{"features": {"a": 1}}')
        assert (status, headers["retry-after"]) == (503, "1")
        assert "Kafka is silent" in answer["error"]
        assert client.ask("GET", "/readyz")[0] == 503
        assert client.ask("GET", "/healthz")[0] == 200


def test_a_model_that_is_gone_is_said(tmp_path: Path) -> None:
    settings = settings_in(tmp_path)
    put_models(settings, v1=0.0)
    kept(settings, promote(1, primary("v1")))
    shutil.rmtree(tmp_path / "registry")
    with serving(settings, flush_s=0) as client:
        until(lambda: client.endpoint()["error"])
        status, answer, _ = client.ask("POST", "/v1/predict", b'{"features": {"a": 1}}')
        assert status == 503
        assert "is no model" in answer["error"]
        assert not client.endpoint()["converged"]


def test_a_virtual_clock_is_told_the_time(tmp_path: Path) -> None:
    settings = settings_in(tmp_path, clock="virtual")
    put_models(settings, v1=0.0)
    kept(settings, promote(1, primary("v1")))
    with serving(settings, flush_s=0) as client:
        until(lambda: client.ask("GET", "/readyz")[0] == 200)
        assert client.predict(features={"a": 1}, at_ms=5)[0] == 200
        status, answer = client.predict(features={"a": 1})
        assert status == 422
        assert "`at_ms` must say the request's time" in answer["error"]


def test_a_port_that_is_taken_is_said(client: Client, tmp_path: Path) -> None:
    settings = settings_in(tmp_path)
    again = settings.model_copy(update={"serve": Serve(port=client.port)})
    with pytest.raises(WeirError, match=f"cannot listen on 127.0.0.1:{client.port}"), serving(again):
        pass


def test_two_servers_do_not_share_an_outbox(tmp_path: Path) -> None:
    settings = settings_in(tmp_path)
    with (
        serving(settings, flush_s=0),
        pytest.raises(WeirError, match="in use by process"),
        serving(settings, flush_s=0),
    ):
        pass
