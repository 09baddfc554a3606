"""chDB as a library of three verbs: query, stream, insert.

What shapes this file (chDB 4.4, measured): one process owns one directory; a *handle* on it costs 0.07 ms, runs one
statement at a time, and carries the state that ClickHouse calls a session (`SET`, `USE`, temporary tables). Statements
on different handles run in parallel, and the interpreter's lock is free while they run. So every request gets a handle
of its own and throws it away: nothing leaks from one request into the next. Only a session that really holds state
(see `Sessions`) keeps its handle.

Inserts go through a file in memory (`services.local.spool`) and `INSERT … FROM INFILE`. chDB's streaming insert would
save that copy and must not be used: an error at the moment of writing the part (measured: disk full) is swallowed, and
the call reports rows that are nowhere. The spool has a second merit: the data is complete before the insert begins, so
a client that vanishes half way has inserted nothing.

`async_insert` is on by default in this engine; here it is off. An insert that returned has written its part: the file
is complete and renamed into place, so it survives the death of the process (`kill -9`). Like a ClickHouse server with
default settings, it does not wait for the disk: a power cut may take the last seconds.
"""

from __future__ import annotations

import contextlib
import importlib
import re
import struct
import threading
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Protocol, cast
from urllib.parse import urlencode

from services.local.chdb_statement import InsertHead, queue_engine

_CODE = re.compile(r"Code: (\d+)\. DB::")
_SPOOL_PATH = re.compile(r"\(in file/uri /proc/self/fd/\d+\)")
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_.]*\Z")
_EOS = b"\xff\xff\xff\xff\x00\x00\x00\x00"  # the end-of-stream marker of the Arrow IPC stream format

NOT_IMPLEMENTED, NETWORK_ERROR, UNKNOWN_EXCEPTION, SYNTAX_ERROR = 48, 210, 1002, 62
SESSION_IS_LOCKED, READONLY, TOO_MANY_SESSIONS = 373, 164, 202

# A block that the engine hands out is a whole document of its format. Only these formats can be joined block by block.
JOINABLE = frozenset({"Native", "TabSeparated", "TSV", "CSV", "RowBinary", "JSONEachRow", "ArrowStream"})


class EngineError(Exception):
    """A failure as ClickHouse tells it. `code` is ClickHouse's number, the text starts with `Code: N.`."""

    def __init__(self, code: int, text: str) -> None:
        super().__init__(text)
        self.code = code

    @classmethod
    def of(cls, error: BaseException, version: str = "") -> EngineError:
        """The engine's exception with its code read from the text; what is no ClickHouse error gets code 1002."""
        text = _SPOOL_PATH.sub("(in the request's data)", str(error))
        found = _CODE.search(text)
        if found and (again := _CODE.match(text, found.end() + len("Exception: "))):
            found = again  # the engine wrapped its own error
        text = text[found.start() :] if found else f"Code: {UNKNOWN_EXCEPTION}. DB::Exception: {text}"
        if version and "(version " not in text:
            text += f" (version {version})"
        return cls(int(found[1]) if found else UNKNOWN_EXCEPTION, text)

    @classmethod
    def made(cls, code: int, name: str, text: str) -> EngineError:
        """An error of ours in ClickHouse's words.

        >>> str(EngineError.made(516, "AUTHENTICATION_FAILED", "Wrong password"))
        'Code: 516. DB::Exception: Wrong password. (AUTHENTICATION_FAILED)'
        """
        return cls(code, f"Code: {code}. DB::Exception: {text}. ({name})")


class _View(Protocol):
    def view(self) -> memoryview: ...


class Result(Protocol):
    """A finished result. `get_memview().view()` is the engine's own buffer; it lives as long as the result."""

    def get_memview(self) -> _View: ...
    def bytes(self) -> bytes: ...
    def size(self) -> int: ...
    def rows_read(self) -> int: ...
    def bytes_read(self) -> int: ...
    def storage_rows_read(self) -> int: ...
    def storage_bytes_read(self) -> int: ...
    def rows_written(self) -> int: ...
    def bytes_written(self) -> int: ...
    def elapsed(self) -> float: ...


class Handle:
    """One engine handle: one statement at a time, by one thread at a time."""

    def __init__(self, raw: Any, version: str) -> None:
        self._raw, self._version = raw, version

    def query(self, sql: str, output: str = "TabSeparated", params: Mapping[str, str] | None = None) -> Result:
        """Run a statement to its end. `params` are raw texts in ClickHouse's escaped form, bound by the engine."""
        with self._errors():
            text: Any = sql if sql.isascii() else sql.encode("utf-8", "surrogateescape")
            return cast(Result, self._raw.query(text, output, params=dict(params or {})))

    def stream(self, sql: str, output: str, params: Mapping[str, str]) -> Iterator[bytes]:
        """The result block by block, in one of the `JOINABLE` formats. Closing the iterator cancels the query."""
        with self._errors():
            text: Any = sql if sql.isascii() else sql.encode("utf-8", "surrogateescape")
            stream = self._raw.send_query(text, output, params=dict(params))
        blocks = self._blocks(stream)
        return _joined_arrow(blocks) if output == "ArrowStream" else blocks

    def _blocks(self, stream: Any) -> Iterator[bytes]:
        ended = False
        try:
            while True:
                with self._errors():
                    block = self._raw.streaming_fetch_result(stream)
                if not block.size():
                    ended = True
                    return
                yield block.bytes()
        finally:
            if not ended:
                with contextlib.suppress(Exception):
                    self._raw.streaming_cancel_query(stream)

    def insert(self, insert: InsertHead, path: str, params: Mapping[str, str]) -> Result:
        """Insert what the file at `path` holds. Malformed data or an error while writing raises and leaves nothing.

        An insert is one part per partition up to 1,048,449 rows, where ClickHouse cuts a larger one; like with any
        ClickHouse, a larger one is whole per part only.
        """
        file = f"FROM INFILE {quoted(path)} COMPRESSION 'none'"
        return self.query(f"{insert.into} {file} {insert.settings} FORMAT {insert.format}", params=params)

    def set(self, settings: Mapping[str, str]) -> None:
        """Apply settings to this handle; ClickHouse's own error for one it does not know."""
        if settings:
            for name in settings:
                if not _NAME.match(name):
                    raise EngineError.made(115, "UNKNOWN_SETTING", f"A setting's name is a plain word, got {name!r}")
            self.query("SET " + ", ".join(f"{name} = {quoted(value)}" for name, value in settings.items()))

    def use(self, database: str) -> None:
        """Make `database` the one that unqualified names mean. Error 81 when there is none of that name."""
        self.query("USE {database:Identifier}", params={"database": database})

    def statement_class(self, sql: str) -> tuple[str, int]:
        """(`READ_ONLY`, `MUTATING`, `CONTROL`, …, number of statements in the text), by the engine's own parser."""
        with self._errors():
            report = self._raw.classify_query(sql, "")
            return str(report["query_class"].name), int(report["statement_count"])

    def close(self) -> None:
        """Give the handle back; a running stream is cancelled. Idempotent."""
        raw, self._raw = self._raw, None
        if raw is not None:
            with contextlib.suppress(Exception):
                raw.close()

    @contextlib.contextmanager
    def _errors(self) -> Iterator[None]:
        try:
            yield
        except RuntimeError as error:
            raise EngineError.of(error, self._version) from None


def quoted(value: str) -> str:
    r"""An SQL string literal.

    >>> quoted("it's a \\")
    "'it\\'s a \\\\'"
    """
    return "'" + value.replace("\\", "\\\\").replace("'", "\\'") + "'"


def _joined_arrow(blocks: Iterator[bytes]) -> Iterator[bytes]:
    """One Arrow stream out of many: the first schema, every batch, one end.

    Each block is `schema, batches, end of stream`. A schema message has no body, so its length is in its first 8 bytes.
    """
    first = True
    for block in blocks:
        if not block.endswith(_EOS):
            raise EngineError.made(UNKNOWN_EXCEPTION, "UNKNOWN_EXCEPTION", "An Arrow block without its end marker")
        start = 0 if first else 8 + struct.unpack_from("<i", block, 4)[0]
        first = False
        if start < len(block) - len(_EOS):
            yield block[start : -len(_EOS)]
    if not first:
        yield _EOS


class Engine:
    """The engine of this process, on `directory`. At most one per process; see the head of the file."""

    def __init__(self, directory: Path, settings: Mapping[str, str]) -> None:
        connect = importlib.import_module("chdb._chdb").connect
        self._target = f"{directory}?{urlencode({'async_insert': '0', **settings})}"
        self._connect = connect
        self.version = self.timezone = ""
        self._root = self.open()  # keeps the engine up while no request holds a handle
        line = self._root.query("SELECT version(), timezone()").bytes().decode().strip()
        self.version, self.timezone = line.split("\t")

    def open(self) -> Handle:
        """A fresh handle: default database, default settings."""
        try:
            return Handle(self._connect(self._target), self.version)
        except RuntimeError as error:
            raise EngineError.of(error) from None

    def close(self) -> None:
        """Stop merges and let go of the directory."""
        self._root.close()


def refuse_unsafe(sql: str) -> None:
    """Error 48 for what would break the directory; see `chdb_statement.QUEUE_ENGINES`."""
    if engine := queue_engine(sql):
        text = f"The embedded ClickHouse has no {engine} tables: write to a MergeTree table, or use a ClickHouse server"
        raise EngineError.made(NOT_IMPLEMENTED, "NOT_IMPLEMENTED", text)


class Sessions:
    """Handles that outlive a request, by session id.

    `clickhouse-connect` names a session in every request and almost never puts anything into it; such a session is
    only a name and costs nothing. The first SET, USE or temporary table makes it real. A real session runs one
    request at a time (error 373 for a second), and is dropped `timeout_s` seconds after its last one.
    """

    def __init__(self, engine: Engine, *, timeout_s: float = 60.0, limit: int = 256) -> None:
        self._engine, self._timeout_s, self._limit = engine, timeout_s, limit
        self._lock = threading.Lock()
        self._held: dict[str, tuple[Handle, threading.Lock]] = {}
        self._last: dict[str, float] = {}

    @contextlib.contextmanager
    def handle(self, session_id: str, keeps_state: bool) -> Iterator[tuple[Handle, bool]]:
        """The handle for one request, and whether it outlives it."""
        kept = self._find(session_id, keeps_state) if session_id else None
        if kept is None:
            handle = self._engine.open()
            try:
                yield handle, False
            finally:
                handle.close()
            return
        handle, busy = kept
        if not busy.acquire(blocking=False):
            raise EngineError.made(SESSION_IS_LOCKED, "SESSION_IS_LOCKED", f"Session {session_id} is locked")
        try:
            yield handle, True
        finally:
            busy.release()

    def _find(self, session_id: str, keeps_state: bool) -> tuple[Handle, threading.Lock] | None:
        now = time.monotonic()
        with self._lock:
            for name in [name for name, last in self._last.items() if now - last > self._timeout_s]:
                handle, busy = self._held[name]
                if busy.acquire(blocking=False):
                    del self._held[name], self._last[name]
                    handle.close()
            if session_id not in self._held:
                if not keeps_state:
                    return None
                if len(self._held) >= self._limit:
                    text = f"At most {self._limit} sessions may hold settings or temporary tables at a time"
                    raise EngineError.made(TOO_MANY_SESSIONS, "TOO_MANY_SIMULTANEOUS_QUERIES", text)
                self._held[session_id] = (self._engine.open(), threading.Lock())
            self._last[session_id] = now
            return self._held[session_id]


@contextlib.contextmanager
def settings_for_one_request(handle: Handle, settings: Mapping[str, str], kept: bool) -> Iterator[None]:
    """Settings that hold for one statement: on a kept handle the former values come back afterwards."""
    if not settings or not kept:
        handle.set(settings)
        yield
        return
    names = ", ".join(quoted(name) for name in settings)
    listing = handle.query(f"SELECT name, value FROM system.settings WHERE changed AND name IN ({names})").bytes()
    former = dict(line.split("\t", 1) for line in listing.decode().splitlines())
    try:
        handle.set(settings)
        yield
    finally:
        for name in settings:
            handle.query(f"SET {name} = " + (f"'{former[name]}'" if name in former else "DEFAULT"))
