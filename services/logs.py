"""Structured logs: one JSON object a line, or coloured text when a person watches. Never a feature value."""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Callable
from typing import Any

import structlog

from streams.runtime.stderr import LossyStderr


class Sparing(logging.Filter):
    """Lets one line of a kind through each `every_s` seconds: a broker that is away makes dozens a second.

    A kind is a logger and the first words of the line, up to the first colon.
    """

    def __init__(self, every_s: float = 10.0, clock: Callable[[], float] = time.monotonic) -> None:
        super().__init__()
        self._every_s, self._clock = every_s, clock
        self._last: dict[tuple[str, str], float] = {}

    def filter(self, record: logging.LogRecord) -> bool:
        """Say whether the line may pass."""
        kind = (record.name, record.getMessage().split(":")[0][:40])
        now = self._clock()
        if now - self._last.get(kind, -self._every_s) < self._every_s:
            return False
        self._last[kind] = now
        return True


def configure(process: str, level: str = "info", *, human: bool | None = None) -> None:
    """Set up logging of this process to standard error. `human` None means: text on a terminal, JSON elsewhere.

    Raises `ValueError` for a level that logging does not know.
    """
    number = logging.getLevelNamesMapping().get(level.upper())
    if number is None:
        raise ValueError(f"unknown log level {level!r}; use debug, info, warning or error")
    to_person = sys.stderr.isatty() if human is None else human
    lines: Any = LossyStderr()
    renderer: Any = structlog.dev.ConsoleRenderer() if to_person else structlog.processors.JSONRenderer()
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.format_exc_info,
            renderer,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(number),
        logger_factory=structlog.PrintLoggerFactory(lines),
        cache_logger_on_first_use=True,
    )
    structlog.contextvars.bind_contextvars(process=process)
    logging.getLogger("librdkafka").addFilter(Sparing())
    logging.basicConfig(level=max(number, logging.WARNING), stream=lines, format=f"{process} %(name)s: %(message)s")
