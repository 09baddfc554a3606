"""A webhook receiver on loopback that verifies every delivery as a stranger would, with the standard's own library."""

from __future__ import annotations

import json
import secrets
import threading
from base64 import b64encode
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any, Self

from standardwebhooks.webhooks import Webhook, WebhookVerificationError


class Receiver:
    """Listens on a free port with a fresh secret. `verified` and `refused` count deliveries; repeats count once."""

    def __init__(self) -> None:
        self.secret = "whsec_" + b64encode(secrets.token_bytes(32)).decode()
        self.verified: dict[str, dict[str, Any]] = {}
        self.refused = 0
        verifier, receiver = Webhook(self.secret), self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers.get("content-length") or 0))
                try:
                    verifier.verify(body, {name.lower(): value for name, value in self.headers.items()})
                except WebhookVerificationError:
                    receiver.refused += 1
                    self.send_response(401)
                else:
                    receiver.verified[self.headers["webhook-id"]] = json.loads(body)
                    self.send_response(204)
                self.end_headers()

            def log_message(self, format: str, *args: Any) -> None:
                return

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._thread = threading.Thread(target=self._server.serve_forever, name="receiver", daemon=True)

    @property
    def url(self) -> str:
        """Where to deliver."""
        return f"http://127.0.0.1:{self._server.server_address[1]}/"

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join(5)
