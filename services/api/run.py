"""`weir api`: the page, JSON and SSE, until `stop` is set."""

from __future__ import annotations

import contextlib
import secrets
import socket
import sys
import threading
from collections.abc import Iterator

import structlog
import uvicorn
from pydantic import SecretStr

from schemas.errors import ENVIRONMENT, WeirError
from schemas.settings import Settings
from services.api.app import build
from services.api.auth import check_binding

GRACE_S = 3
_log = structlog.get_logger()


class _Server(uvicorn.Server):
    """A server that leaves signals to whoever set `stop` to them."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


def run(settings: Settings, stop: threading.Event) -> None:
    """Serve until `stop` is set; open streams end within seconds.

    Without `api.token`, on loopback, a token is made up and the page's address printed. Raises `WeirError` for an
    address that others reach without a token, and for a port that is taken.
    """
    check_binding(settings)
    at = settings.api
    with _bound(at.host, at.port) as listening:
        port = listening.getsockname()[1]
        if not at.token.get_secret_value():
            at = at.model_copy(update={"token": SecretStr("weir_" + secrets.token_urlsafe(24))})
            print(f"page  http://{at.host}:{port}/#token={at.token.get_secret_value()}", file=sys.stderr, flush=True)
        app = build(settings.model_copy(update={"api": at}), stop)
        server = _Server(
            uvicorn.Config(
                app, log_config=None, access_log=False, server_header=False, timeout_graceful_shutdown=GRACE_S
            )
        )

        def watch() -> None:
            stop.wait()
            server.should_exit = True

        threading.Thread(target=watch, name="watch-stop", daemon=True).start()
        _log.info("listening", host=at.host, port=port)
        try:
            server.run(sockets=[listening])
        finally:
            stop.set()


@contextlib.contextmanager
def _bound(host: str, port: int) -> Iterator[socket.socket]:
    try:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        listening = socket.create_server((host, port), family=family, backlog=512)
    except OSError as error:
        raise WeirError(
            f"cannot listen on {host}:{port}: {error.strerror or error}",
            fix="stop what uses the port, or set api.port (WEIR_API__PORT)",
            code=ENVIRONMENT,
        ) from None
    with listening:
        yield listening
