"""A real `weir api` in a thread, asked over HTTP."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import httpx2
from pydantic import SecretStr

from schemas.settings import Api, Settings
from services.api.run import run
from services.record.run import Recorder
from tests.services.threads import in_thread

TOKEN = "weir_test-token"
DEADLINE_S = 60.0


def until(condition: Callable[[], Any], what: str) -> Any:
    """Wait for a condition and give what it gave. Fails at the deadline."""
    deadline = time.monotonic() + DEADLINE_S
    while not (found := condition()):
        assert time.monotonic() < deadline, f"waited {DEADLINE_S:g} s for {what}"
        time.sleep(0.05)
    return found


class Asker:
    """Asks one server, as somebody who has the token."""

    def __init__(self, settings: Settings) -> None:
        at = settings.api
        self.url = f"http://{at.host}:{at.port}"
        self.settings = settings
        self.client = httpx2.Client(
            base_url=self.url, headers={"Authorization": f"Bearer {TOKEN}"}, timeout=30, trust_env=False
        )

    def get(self, path: str, **parameters: Any) -> Any:
        """Give the JSON of an answer that must be right."""
        answer = self.client.get(f"/v1/{path}", params=parameters)
        assert answer.status_code == 200, answer.text
        return answer.json()

    def ready(self) -> bool:
        """Say whether it follows Kafka and reaches ClickHouse."""
        try:
            return self.client.get("/readyz").status_code == 200
        except httpx2.TransportError:
            return False


def at_free_port(settings: Settings) -> Settings:
    """Give settings with a port that nobody has, and the token."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    return settings.model_copy(update={"api": Api(port=port, token=SecretStr(TOKEN))})


@contextmanager
def serving(settings: Settings) -> Iterator[Asker]:
    """Run the api until the block ends; raises what it raised."""
    if not settings.api.token.get_secret_value():
        settings = at_free_port(settings)
    stop = threading.Event()
    with in_thread(lambda: run(settings, stop), stop):
        asker = Asker(settings)
        until(asker.ready, "the api to be ready")
        try:
            yield asker
        finally:
            asker.client.close()


@contextmanager
def recording(settings: Settings) -> Iterator[None]:
    """Run the recorder until the block ends."""
    stop = threading.Event()
    with in_thread(Recorder(settings, stop).run, stop):
        yield
