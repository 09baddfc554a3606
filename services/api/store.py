"""ClickHouse for many requests at once: a few clients, and an answer that several people ask for is fetched once.

A client serves one thread at a time, so a query borrows one. `recent` remembers answers for a moment, because every
open page asks the same questions.
"""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable, Mapping
from queue import Empty, LifoQueue
from typing import TYPE_CHECKING, Any, TypeVar

from schemas.errors import WeirError
from schemas.settings import Settings
from services.clickhouse import Unreachable, connect, database_of, first_line

if TYPE_CHECKING:
    from clickhouse_connect.driver.httpclient import HttpClient

CLIENTS = 4
ANSWER_S = 20
REMEMBERED = 256
_GONE = (60, 81)

AnswerT = TypeVar("AnswerT")
Row = dict[str, Any]


class Store:
    """Reads the namespace's database. Raises `Unreachable` when waiting may help, else `WeirError`."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._idle: LifoQueue[HttpClient] = LifoQueue()
        self._turns = threading.BoundedSemaphore(CLIENTS)

    def rows(self, sql: str, **parameters: Any) -> list[Row]:
        """Give the rows of a query by column name; `{name:Type}` in it are its parameters."""
        from clickhouse_connect.driver.exceptions import ClickHouseError
        from urllib3.exceptions import HTTPError

        with self._turns:
            client = self._client()
            try:
                answer = client.query(sql, parameters=parameters)
            except (ClickHouseError, HTTPError, OSError) as error:
                client.close()
                raise self._explained(error) from None
            self._idle.put(client)
        names = answer.column_names
        return [dict(zip(names, map(plain, row), strict=True)) for row in answer.result_rows]

    def close(self) -> None:
        """Let go of the connections."""
        while True:
            try:
                self._idle.get_nowait().close()
            except Empty:
                return

    def _client(self) -> HttpClient:
        try:
            return self._idle.get_nowait()
        except Empty:
            return connect(self._settings, answer_s=ANSWER_S)

    def _explained(self, error: Exception) -> WeirError:
        code = getattr(error, "code", None)
        if code in _GONE:
            return Unreachable(
                f"database {database_of(self._settings)} has no tables yet: {first_line(error)}",
                fix="start `weir record` (it makes them), then try again",
            )
        if code is None:
            return Unreachable(
                f"ClickHouse did not answer: {first_line(error)}", fix="wait, or look at it: weir up, clickhouse.host"
            )
        return WeirError(f"ClickHouse refused a query: {first_line(error)}", fix="see the log of `weir api`")


def plain(value: Any) -> Any:
    """Make a value that JSON has: no NaN, no infinity, no bytes.

    >>> [plain(value) for value in (1.5, float("nan"), b"ab", {"a": float("inf")})]
    [1.5, None, 'ab', {'a': None}]
    """
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, bytes):
        return value.decode(errors="replace")
    if isinstance(value, Mapping):
        return {str(key): plain(inner) for key, inner in value.items()}
    return value


class Recent:
    """Remembers answers for `seconds`. Who asks while another fetches the same waits for that one's answer."""

    def __init__(self, seconds: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._seconds, self._clock = seconds, clock
        self._lock = threading.Lock()
        self._known: dict[Any, tuple[float, Any]] = {}
        self._asking: dict[Any, threading.Lock] = {}

    def of(self, key: Any, fetch: Callable[[], AnswerT]) -> AnswerT:
        """Give the remembered answer, or fetch it. An error is not remembered."""
        with self._lock:
            asking = self._asking.setdefault(key, threading.Lock())
        with asking:
            now = self._clock()
            known = self._known.get(key)
            if known is not None and now - known[0] < self._seconds:
                answer: AnswerT = known[1]
                return answer
            answer = fetch()
            with self._lock:
                if len(self._known) >= REMEMBERED:
                    self._known.clear()
                    self._asking = {key: asking}
                self._known[key] = (self._clock(), answer)
            return answer
