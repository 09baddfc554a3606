"""Serving in a thread of the test: the real process function, a real uvicorn on a free port, a small HTTP client."""

from __future__ import annotations

import contextlib
import http.client
import json
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from confluent_kafka import Message

from schemas.event import decode, encode
from schemas.inputs import Prediction
from schemas.lifecycle import Deployment, Promote
from schemas.settings import Kafka, Serve, Settings
from services.kafka import Sender, read_to_end
from services.serve.run import run
from services.train.artifact import registry_of, save
from tests.services.train.making import artifact

NOBODY = "127.0.0.1:9"
"""The discard port: no Kafka answers there."""


def settings_in(directory: Path, *, bootstrap: str = NOBODY, **more: Any) -> Settings:
    """Give settings with a data directory of their own and a port that the system chooses."""
    serve = Serve(port=0, **more.pop("serve", {}))
    return Settings(
        **{"namespace": "t", "data_dir": directory, "kafka": Kafka(bootstrap=bootstrap), **more, "serve": serve}
    )


def put_models(settings: Settings, **biases: float) -> None:
    """Save versions of the model `spam` that differ in their bias: `v1=0.0` is version `v1`."""
    for version, bias in biases.items():
        save(registry_of(settings), artifact(version, retrain_id=version, bias=bias))


def promote(revision: int, *deployments: Deployment, **more: Any) -> Promote:
    """Give a desired state of the endpoint `default`."""
    given = {"endpoint": "default", "model": "spam", "at_ms": 1, **more}
    return Promote(revision=revision, deployments=list(deployments), **given)


def primary(version: str, weight: float = 1.0, arm: str = "") -> Deployment:
    """Give a deployment that answers."""
    return Deployment(deployment=version, version=version, weight=weight, arm=arm)


def shadow(version: str, arm: str = "") -> Deployment:
    """Give a deployment that answers when nobody looks."""
    return Deployment(deployment=version, version=version, weight=0.0, role="shadow", arm=arm)


def send(settings: Settings, *promotes: Promote) -> None:
    """Produce desired states."""
    with Sender(settings) as sender:
        for one in promotes:
            sender.send("promote", encode(one), key=one.endpoint.encode(), append_ms=one.at_ms)


class Client:
    """One kept connection."""

    def __init__(self, port: int) -> None:
        self.port = port
        self._connection = http.client.HTTPConnection("127.0.0.1", port, timeout=20)

    def ask(self, method: str, path: str, body: bytes | None = None) -> tuple[int, Any, http.client.HTTPMessage]:
        """Give status, body (JSON decoded where it is JSON) and headers."""
        self._connection.request(method, path, body)
        answer = self._connection.getresponse()
        said = answer.read()
        is_json = (answer.headers.get("content-type") or "").startswith("application/json")
        return answer.status, json.loads(said) if is_json else said.decode(), answer.headers

    def predict(self, **said: Any) -> tuple[int, Any]:
        """Ask for a prediction."""
        status, answer, _ = self.ask("POST", "/v1/predict", json.dumps(said).encode())
        return status, answer

    def endpoint(self) -> Any:
        """Ask for the endpoint's state."""
        return self.ask("GET", "/v1/endpoint")[1]

    def close(self) -> None:
        """Close the connection."""
        self._connection.close()


@contextlib.contextmanager
def serving(settings: Settings, *, flush_s: float = 10.0) -> Iterator[Client]:
    """Run serving while the block lasts; it must end without an error."""
    stop, bound = threading.Event(), threading.Event()
    port: list[int] = []
    failed: list[BaseException] = []

    def listening(number: int) -> None:
        port.append(number)
        bound.set()

    def target() -> None:
        try:
            run(settings, stop, listening=listening, flush_s=flush_s)
        except BaseException as error:
            failed.append(error)
        finally:
            bound.set()

    thread = threading.Thread(target=target, name="serve")
    thread.start()
    client = None
    try:
        assert bound.wait(60)
        if not failed:
            client = Client(port[0])
            yield client
    finally:
        if client is not None:
            client.close()
        stop.set()
        thread.join(60)
    assert not thread.is_alive()
    if failed:
        raise failed[0]


def until(done: Callable[[], Any], patience_s: float = 30.0) -> Any:
    """Wait until something is true and give it."""
    deadline = time.monotonic() + patience_s
    while True:
        found = done()
        if found:
            return found
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.01)


def quiet(client: Client) -> bool:
    """Whether every event of every answer is in Kafka."""
    state = client.endpoint()
    return bool(state["outbox"]["pending"] == 0 and state["shadow"]["pending"] == 0)


def serves(client: Client, revision: int) -> bool:
    """Whether this revision answers."""
    state = client.endpoint()
    return bool(state["revision"] == revision and state["converged"])


def predictions(settings: Settings) -> list[tuple[Prediction, Message]]:
    """Give the prediction events in Kafka."""
    return [(decode(one.value() or b"", Prediction), one) for one in read_to_end(settings, "predictions")]
