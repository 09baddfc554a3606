"""A real receiver on loopback that answers by a script and verifies with the standard's own library, and alerts."""

from __future__ import annotations

import base64
import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Literal

from pydantic import SecretStr
from standardwebhooks.webhooks import Webhook as Verifier

from schemas.lifecycle import Alert
from schemas.settings import Webhook

SECRET = "whsec_" + base64.b64encode(bytes(range(32))).decode()


@dataclass(frozen=True)
class Reply:
    """What the receiver says. `before` runs when the request is there and before the answer leaves."""

    status: int = 204
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes = b""
    before: Callable[[], Any] | None = None


@dataclass(frozen=True)
class Post:
    """What came: the path, headers in lower case, the raw body and what the library made of it."""

    path: str
    headers: dict[str, str]
    body: bytes
    event: dict[str, Any]

    @property
    def id(self) -> str:
        return self.headers["webhook-id"]

    @property
    def at_s(self) -> int:
        return int(self.headers["webhook-timestamp"])


class Receiver:
    """Gives the next reply of `script`, then `otherwise`. A request whose signature is wrong is in `forged`."""

    def __init__(self, *script: Reply, otherwise: Reply | None = None) -> None:
        self.script, self.otherwise = list(script), otherwise or Reply()
        self.posts: list[Post] = []
        self.forged: list[str] = []
        receiver = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                length = int(self.headers["content-length"])
                body = self.rfile.read(length)
                if len(body) < length:  # the other side was killed while it sent: nobody asked for anything
                    self.close_connection = True
                    return
                headers = {name.lower(): value for name, value in self.headers.items()}
                try:
                    Verifier(SECRET).verify(body, headers)
                except Exception as error:
                    receiver.forged.append(str(error))
                receiver.posts.append(Post(self.path, headers, body, json.loads(body)))
                reply = receiver.script.pop(0) if receiver.script else receiver.otherwise
                if reply.before is not None:
                    reply.before()
                self.send_response(reply.status)
                for name, value in reply.headers.items():
                    self.send_header(name, value)
                self.send_header("content-length", str(len(reply.body)))
                self.end_headers()
                self.wfile.write(reply.body)

            def handle(self) -> None:
                try:
                    super().handle()
                except ConnectionError:
                    return  # the other side was killed, which is what some tests are about

            def log_message(self, format: str, *args: Any) -> None:
                return

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.port = int(self.server.server_address[1])

    def webhook(self, name: str = "ops", *, host: str = "127.0.0.1", **more: Any) -> Webhook:
        """Give the settings of this receiver."""
        url = f"http://{host}:{self.port}/{name}"
        return Webhook(name=name, url=url, secret=SecretStr(SECRET), **{"allow_private": True, **more})

    @property
    def told(self) -> list[tuple[str, str]]:
        """What came, in order: (fingerprint, status)."""
        return [(post.event["data"]["fingerprint"], post.event["data"]["status"]) for post in self.posts]


@contextmanager
def receiving(*script: Reply, otherwise: Reply | None = None) -> Iterator[Receiver]:
    """Run a receiver until the block ends; then no request may have been wrongly signed."""
    receiver = Receiver(*script, otherwise=otherwise)
    thread = threading.Thread(target=receiver.server.serve_forever, args=(0.02,), name="receiver")
    thread.start()
    try:
        yield receiver
    finally:
        receiver.server.shutdown()
        receiver.server.server_close()
        thread.join(5)
    assert receiver.forged == []


def alert(
    id: str,
    fingerprint: str = "f",
    status: Literal["firing", "resolved"] = "firing",
    **more: Any,
) -> Alert:
    """Give an alert."""
    known = {"rule": "drift:score", "model": "m", "summary": f"{fingerprint} is {status}", "at_ms": 1_700_000_000_123}
    return Alert(id=id, fingerprint=fingerprint, status=status, **{**known, **more})
