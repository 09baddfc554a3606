"""The end of a process whose call into Kafka's client never comes back.

`send_offsets_to_transaction` has a timeout and may ignore it: measured, a broker that restarts between two commits
leaves the call waiting for ever (librdkafka 2.x). Nobody can take such a call back, and what it did is unknown in any
case, so the process ends as after any other unknown outcome, and its successor finds out.
"""

from __future__ import annotations

import contextlib
import os
import threading
import time
from collections.abc import Callable, Iterator

from streams.runtime.failures import UNKNOWN_OUTCOME, UnknownOutcome
from streams.runtime.stderr import LossyStderr

LOOK_S = 0.5


def end_process(error: UnknownOutcome) -> None:
    """Say why, and end this process at once."""
    print(f"weir: {error}", file=LossyStderr(), flush=True)
    os._exit(UNKNOWN_OUTCOME)


class Overdue:
    """Calls `end` when a block under `watch` takes longer than `limit_s`. Its thread runs until `close`."""

    def __init__(self, what: str, limit_s: float, end: Callable[[UnknownOutcome], None] = end_process) -> None:
        self._what, self._limit_s, self._end = what, limit_s, end
        self._began: float | None = None
        self._closed = threading.Event()
        self._thread: threading.Thread | None = None

    @contextlib.contextmanager
    def watch(self) -> Iterator[None]:
        """Bound what happens in this block."""
        if self._thread is None:
            self._thread = threading.Thread(target=self._look, name="overdue", daemon=True)
            self._thread.start()
        self._began = time.monotonic()
        try:
            yield
        finally:
            self._began = None

    def close(self) -> None:
        """Look no more."""
        self._closed.set()

    def _look(self) -> None:
        while not self._closed.wait(LOOK_S):
            began = self._began
            if began is not None and time.monotonic() - began > self._limit_s:
                self._end(UnknownOutcome(self._what, f"no answer, and no timeout either, for {self._limit_s:g} s"))
                return
