"""Who gets in: nobody without the token, on no route under /v1, and no server that others reach without one."""

import threading
from collections.abc import Iterable, Iterator
from typing import Any

import pytest
from fastapi import FastAPI
from fastapi.routing import APIRoute
from pydantic import SecretStr
from starlette.testclient import TestClient

from schemas.errors import WeirError
from schemas.settings import Api, Kafka, Settings
from services.api.app import build
from services.api.auth import check_binding
from services.api.run import run

OPEN = {"/healthz", "/readyz", "/metrics", "/", "/page/{path:path}"}
NOWHERE = Settings(namespace="a", kafka=Kafka(bootstrap="127.0.0.1:1"), api=Api(token=SecretStr("weir_unguessable")))


@pytest.fixture(scope="module")
def app() -> FastAPI:
    return build(NOWHERE, threading.Event())


def routes(found: Iterable[Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    """Give (method, path) of every route, those of included routers too."""
    for route in found:
        if isinstance(route, APIRoute):
            yield from ((method, prefix + route.path) for method in route.methods or ())
        elif getattr(route, "routes", None):
            yield from routes(route.routes, prefix + getattr(getattr(route, "include_context", None), "prefix", ""))


def declared(app: FastAPI) -> list[tuple[str, str]]:
    """Give every route that the API describes, and those it does not."""
    described = [(method.upper(), path) for path, item in app.openapi()["paths"].items() for method in item]
    return sorted({*described, *routes(app.routes)})


def test_every_route_is_open_on_purpose_or_needs_the_token(app: FastAPI) -> None:
    client = TestClient(app)
    found = declared(app)
    guarded = [(method, path) for method, path in found if path.startswith("/v1")]
    assert len(guarded) >= 12
    assert {path for _, path in found} - {path for _, path in guarded} <= OPEN | {"/openapi.json"}
    for method, path in guarded:
        url = path.replace("{model}", "m")
        for header in (
            None,
            "Bearer wrong",
            "Bearer weir_unguessable2",
            "Bearer ",
            "Basic cmlnaHQ6",
            "weir_unguessable",
        ):
            answer = client.request(method, url, headers={"Authorization": header} if header else {})
            assert answer.status_code == 401, (method, path, header)
            assert answer.headers["WWW-Authenticate"].startswith("Bearer")
            assert set(answer.json()) == {"what", "fix"}
        assert client.request(method, url + "?token=weir_unguessable").status_code == 401


def test_the_token_lets_in_and_never_shows(app: FastAPI) -> None:
    client = TestClient(app, headers={"Authorization": "Bearer weir_unguessable"}, raise_server_exceptions=False)
    answer = client.post("/v1/labels", content=b"{}", headers={"Content-Type": "application/json"})
    assert answer.status_code == 422
    for path in ("/healthz", "/metrics", "/openapi.json", "/", "/page/app.js"):
        answer = client.get(path)
        assert answer.status_code == 200, path
        assert "weir_unguessable" not in answer.text, path


def test_probes_say_what_is_missing(app: FastAPI) -> None:
    client = TestClient(app)
    assert client.get("/healthz").json() == {"ok": True}
    answer = client.get("/readyz")
    assert answer.status_code == 503
    reasons = " ".join(answer.json()["reasons"])
    assert "Kafka" in reasons
    assert "ClickHouse" in reasons


def test_unknown_paths_say_where_things_are(app: FastAPI) -> None:
    client = TestClient(app)
    answer = client.get("/nothing")
    assert answer.status_code == 404
    assert set(answer.json()) == {"what", "fix"}
    assert client.delete("/healthz").status_code == 405


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "10.1.2.3", "weir.example"])
def test_an_address_that_others_reach_needs_a_token(host: str) -> None:
    settings = NOWHERE.model_copy(update={"api": Api(host=host)})
    with pytest.raises(WeirError, match=r"api\.token is empty\n  fix: set a token"):
        run(settings, threading.Event())
    check_binding(NOWHERE.model_copy(update={"api": Api(host=host, token=SecretStr("t"))}))
