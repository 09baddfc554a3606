"""The process: one event loop for requests and shadows, one thread that follows `promote`, one that sends events."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import gc
import socket
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final
from urllib.parse import quote

import structlog
import torch
import uvicorn

from schemas.errors import ENVIRONMENT, WeirError
from schemas.settings import Settings
from services.local.owner import DirectoryInUse, DirectoryOwner
from services.serve.app import make_app
from services.serve.endpoint import Endpoint
from services.serve.figures import Figures
from services.serve.follow import Follower
from services.serve.outbox import FLUSH_S, Outbox
from services.serve.predict import Predictor
from streams.runtime.kafka import make_admin

GRACE_S: Final = 5
"""How long requests and shadows that have begun may take when the process is asked to stop."""

_log = structlog.get_logger()


def run(
    settings: Settings,
    stop: threading.Event,
    *,
    listening: Callable[[int], None] | None = None,
    flush_s: float = FLUSH_S,
) -> None:
    """Serve until `stop` is set, then finish what was begun and hand over the events, as far as `flush_s` allows.

    `listening` is told the port. Raises `WeirError` when the port or the outbox is taken, or a thread has died.
    """
    torch.set_num_threads(1)  # rows are small: more threads cost more than they bring
    with _outbox_directory(settings) as directory, _socket(settings) as listener:
        port: int = listener.getsockname()[1]
        endpoint = Endpoint(settings.serve.endpoint, directory / "served.json")
        outbox = Outbox(settings, directory)
        figures = Figures(endpoint, outbox)
        follower = Follower(settings, endpoint, outbox, f"{socket.gethostname()}:{port}")

        def healthy() -> str:
            dead = [name for name, one in (("follow", follower), ("outbox", outbox)) if not one.alive]
            return f"the thread `{dead[0]}` has ended; see the log" if dead else ""

        ill = ""

        async def serve() -> None:
            nonlocal ill
            predictor = Predictor(settings, endpoint, outbox, figures)
            app = make_app(
                settings,
                endpoint,
                predictor,
                outbox,
                figures,
                admin=make_admin(settings, "serve"),
                healthy=healthy,
            )
            server = _Server(_uvicorn_config(app))
            shadows = asyncio.create_task(predictor.run_shadows())
            watch = asyncio.create_task(_watch(stop, server, healthy))
            try:
                await server.serve(sockets=[listener])
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(GRACE_S):
                        while figures.shadow_pending:
                            await asyncio.sleep(0.01)
            finally:
                ill = healthy()
                shadows.cancel()
                watch.cancel()

        outbox.start()
        follower.start()
        _log.info("listening", host=settings.serve.host, port=port, recovered=outbox.recovered)
        if listening is not None:
            listening(port)
        try:
            gc.collect()
            gc.freeze()  # what is loaded by now stays: no collection need look at it again
            with asyncio.Runner(loop_factory=_uvicorn_config(None).get_loop_factory()) as runner:
                runner.run(serve())
        finally:
            gc.unfreeze()
            follower.stop()
            left = outbox.close(flush_s)
            _log.info("left", stage="serve", waiting_on_disk=left, dropped=outbox.dropped)
        if ill:
            raise WeirError(f"serving ended: {ill}", fix="start it again: events wait in the outbox")


class _Server(uvicorn.Server):
    """Uvicorn without handlers of its own for signals: `stop` is what ends this process."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Leave signals alone."""
        yield


def _uvicorn_config(app: object) -> uvicorn.Config:
    return uvicorn.Config(
        app,  # type: ignore[arg-type]
        lifespan="off",
        log_config=None,
        access_log=False,
        server_header=False,
        timeout_graceful_shutdown=GRACE_S,
        timeout_keep_alive=75,
    )


async def _watch(stop: threading.Event, server: uvicorn.Server, healthy: Callable[[], str]) -> None:
    while not stop.is_set() and not healthy():
        await asyncio.sleep(0.05)
    server.should_exit = True


@contextlib.contextmanager
def _outbox_directory(settings: Settings) -> Iterator[Path]:
    """Own the place on disk of this namespace and endpoint."""
    names = (quote(name, safe="").replace(".", "%2E") for name in (settings.namespace, settings.serve.endpoint))
    directory = settings.data_dir.joinpath("outbox", *names)
    try:
        owner = DirectoryOwner(directory, purpose=f"serving endpoint {settings.serve.endpoint!r}")
    except DirectoryInUse as error:
        raise WeirError(
            str(error), fix="stop the other server, or give this one its own data_dir", code=ENVIRONMENT
        ) from None
    with owner:
        yield directory


@contextlib.contextmanager
def _socket(settings: Settings) -> Iterator[socket.socket]:
    host, port = settings.serve.host, settings.serve.port
    try:
        listener = socket.create_server((host, port), backlog=2048)
    except OSError as error:
        taken = error.errno == errno.EADDRINUSE
        raise WeirError(
            f"cannot listen on {host}:{port}: {error.strerror}",
            fix="another program has this port: stop it, or set serve.port" if taken else "correct serve.host",
            code=ENVIRONMENT,
        ) from None
    with listener:
        yield listener
