"""`python -m streams.decide`: run decide until SIGINT or SIGTERM.

Waits for Kafka and says so. Exit codes: 0 stopped, 1 and above as `schemas.errors` and `streams.runtime.failures`.
"""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import sys
import threading
from typing import Any

import structlog

from schemas.errors import OK, WeirError
from schemas.settings import Settings
from streams.runtime.failures import KafkaFailed, ProcessorFailed
from streams.runtime.stderr import LossyStderr
from streams.runtime.topics import await_topics

STOP_S = 2.5
_log = structlog.get_logger()


def main() -> int:
    """Run, and give the exit code."""
    settings = Settings()
    _configure_logs(settings.log_level)
    try:
        return asyncio.run(_run(settings))
    except WeirError as error:
        print(f"decide: {error}", file=sys.stderr, flush=True)
        return error.code


async def _run(settings: Settings) -> int:
    from streams.decide.agents import build
    from streams.decide.progress import ProgressServer
    from streams.decide.reading import INPUTS, OUTPUTS

    stop = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    if not await _kafka_answers(settings, stop, {*INPUTS, *OUTPUTS, "decide-state"}):
        return OK
    app = build(settings)
    server = ProgressServer(app.progress, settings.data_dir)
    _log.info("working", stage="decide", worker=settings.runtime.worker, health_port=server.port)
    try:
        starting = asyncio.ensure_future(app.start())
        ending = asyncio.ensure_future(app.wait_until_stopped())
        stopping = asyncio.ensure_future(stop.wait())
        await asyncio.wait({starting, stopping}, return_when=asyncio.FIRST_COMPLETED)
        if starting.done():
            starting.result()
            await asyncio.wait({ending, stopping}, return_when=asyncio.FIRST_COMPLETED)
        crashed: Any = app.crash_reason
        app.progress.ready = False
        if crashed is None:
            await app.quiesce()
        try:
            async with asyncio.timeout(STOP_S):
                await app.stop()
        except TimeoutError:
            _log.warning("slow_stop", waited_s=STOP_S)
        if crashed is not None:
            raise _why(crashed) from crashed
        if not stop.is_set():
            raise KafkaFailed("the app ended by itself")
        return OK
    finally:
        server.close()


def _why(crashed: BaseException) -> WeirError:
    """Tell what Kafka did from what we did wrong."""
    from aiokafka.errors import KafkaError
    from faust.exceptions import ProducerSendError

    said = f"{type(crashed).__name__}: {crashed}"
    if isinstance(crashed, (KafkaError, ProducerSendError, OSError)):
        return KafkaFailed(said)
    return ProcessorFailed(f"decide cannot go on, and nothing of the last batch is committed: {said}")


async def _kafka_answers(settings: Settings, stop: asyncio.Event, topics: set[str]) -> bool:
    """Wait for Kafka and check the topics. False: `stop` was set first. Raises `WeirError` for topics not as planned.

    In a thread of its own, because a look-up blocks for seconds while Kafka is away.
    """
    answer: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
    loop, quit_ = asyncio.get_running_loop(), threading.Event()

    def wait() -> None:
        try:
            result: Any = await_topics(settings, quit_, topics)
        except BaseException as error:
            result = error
        if not loop.is_closed():
            loop.call_soon_threadsafe(_set, answer, result)

    threading.Thread(target=wait, name="kafka-wait", daemon=True).start()
    stopping: asyncio.Future[Any] = asyncio.ensure_future(stop.wait())
    either: set[asyncio.Future[Any]] = {answer, stopping}
    await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
    stopping.cancel()
    if not answer.done():
        quit_.set()
        return False
    return answer.result()


def _set(answer: asyncio.Future[bool], result: Any) -> None:
    if answer.done():
        return
    if isinstance(result, BaseException):
        answer.set_exception(result)
    else:
        answer.set_result(result)


def _configure_logs(level: str) -> None:
    """Write one JSON object a line to standard error, as the other processes do (their set-up is `services`')."""
    number = logging.getLevelNamesMapping().get(level.upper(), logging.INFO)
    lines: Any = LossyStderr()
    structlog.configure(
        processors=[
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.format_exc_info,
            structlog.processors.JSONRenderer(),
        ],
        wrapper_class=structlog.make_filtering_bound_logger(number),
        logger_factory=structlog.PrintLoggerFactory(lines),
    )
    structlog.contextvars.bind_contextvars(process="decide")
    logging.basicConfig(level=max(number, logging.WARNING), stream=lines, format="decide %(name)s: %(message)s")


if __name__ == "__main__":
    code = main()
    sys.stderr.flush()
    os._exit(code)  # threads of the drivers may still wait for a broker that is gone
