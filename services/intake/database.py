"""Databases, through Python's DB-API: sqlite3 from the standard library, any other driver that is installed.

The one seam to SQL. A query is asked as written, within `SELECT * FROM (…)`, so that order and condition are ours. What
is passing (the server is away, the database locked) is `Away`; what is wrong with the query is `QueryFailed`.
"""

from __future__ import annotations

import base64
import importlib
import math
import sqlite3
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

from schemas.errors import ENVIRONMENT, USAGE, WeirError
from schemas.mapping import SqlSource
from services.intake.load import secret

ALIAS = "weir_rows"
BUSY_S = 5.0
_MOST_DIGITS = 308
"""A decimal beyond a double is no number that an event could carry, and written out it may take all the memory."""
_PLACEHOLDERS = {"qmark": "?", "format": "%s", "pyformat": "%s", "numeric": ":1", "named": ":bound"}


class Away(Exception):
    """The database cannot be asked now."""


class QueryFailed(WeirError):
    """The database refuses the query."""


class Connection:
    """One connection, for one thread."""

    def __init__(self, source: SqlSource, raw: Any, style: str, error: type[Exception]) -> None:
        self._source, self._raw, self._error = source, raw, error
        self._placeholder = _PLACEHOLDERS.get(style, "?")
        self._named = style == "named"
        self._escaped = style in ("format", "pyformat")

    def columns(self) -> list[str]:
        """Give the columns of the query. Raises `QueryFailed` for one that fails or lacks the cursor."""
        cursor = self._execute("*", "1 = 0", None, "")
        names = [str(column[0]) for column in cursor.description]
        bare = [name.partition(":")[0] for name in names]  # SQLite calls the second `id` of a subquery `id:1`
        twice = sorted({name for name in bare if bare.count(name) > 1})
        if self._source.cursor not in names or twice:
            what = f"has {', '.join(twice)} twice" if twice else f"gives no column {self._source.cursor!r}, its cursor"
            raise QueryFailed(
                f"the query {what}; its columns are {', '.join(names)}",
                fix="name each column once, the cursor among them: SELECT …, updated_at FROM …",
                code=USAGE,
            )
        return names

    def unreachable(self) -> int:
        """Count rows whose cursor is null: no condition on it can ever find them."""
        found = self._execute("COUNT(*)", f"{ALIAS}.{self._source.cursor} IS NULL", None, "").fetchone()
        return int(found[0])

    def rows(self, bound: Any, *, latest: bool = False) -> Iterator[list[tuple[Any, dict[str, Any]]]]:
        """Give batches of (cursor as the driver gave it, row in JSON types), from `bound` on, the bound included.

        Ordered by the cursor; the greatest first if `latest`. Raises `Away`, `QueryFailed`.
        """
        name = f"{ALIAS}.{self._source.cursor}"
        condition = f"{name} IS NOT NULL" if bound is None else f"{name} >= {self._placeholder}"
        cursor = self._execute("*", condition, bound, f" ORDER BY {name}{' DESC' if latest else ''}")
        columns = [str(column[0]) for column in cursor.description]
        place = columns.index(self._source.cursor) if self._source.cursor in columns else None
        if place is None:
            self.columns()
        while batch := self._fetch(cursor):
            yield [(row[place or 0], dict(zip(columns, map(plain, row), strict=True))) for row in batch]

    def _fetch(self, cursor: Any) -> Sequence[Any]:
        try:
            found: Sequence[Any] = cursor.fetchmany(self._source.batch)
        except self._error as error:
            raise Away(_words(error)) from None
        return found

    def _execute(self, what: str, condition: str, bound: Any, order: str) -> Any:
        query = self._source.query.strip().rstrip(";")
        if bound is not None and self._escaped:
            query = query.replace("%", "%%")
        statement = f"SELECT {what} FROM (\n{query}\n) AS {ALIAS} WHERE {condition}{order}"
        parameters: Any = None if bound is None else {"bound": bound} if self._named else (bound,)
        try:
            cursor = self._raw.cursor()
            cursor.execute(statement) if parameters is None else cursor.execute(statement, parameters)
        except self._error as error:
            if "locked" in str(error) or "busy" in str(error):
                raise Away(_words(error)) from None
            raise QueryFailed(
                f"the database refuses the query: {_words(error)}",
                fix="`query` is one SELECT that stands alone, without ORDER BY on anything but the cursor; "
                "`weir intake check` tries it",
                code=USAGE,
            ) from None
        return cursor


@contextmanager
def connected(source: SqlSource) -> Iterator[Connection]:
    """Connect until the block ends. Raises `Away` when the database does not answer, `WeirError` for a bad driver."""
    opened: tuple[Any, str, type[Exception]]
    if source.url is not None:
        opened = _sqlite(source.url.removeprefix("sqlite:///")), "qmark", sqlite3.Error
    else:
        opened = _driven(source)
    raw, style, error = opened
    try:
        yield Connection(source, raw, style, error)
    finally:
        raw.close()


def _sqlite(name: str) -> sqlite3.Connection:
    path = Path(name).absolute()
    if not path.is_file():
        raise Away(f"there is no file {path}")
    try:
        raw = sqlite3.connect(f"{path.as_uri()}?mode=ro", uri=True, timeout=BUSY_S)
        raw.text_factory = lambda held: held.decode("utf-8", "replace")
        raw.execute("SELECT 1 FROM sqlite_master LIMIT 1").fetchall()
    except sqlite3.Error as error:
        raise Away(f"{path}: {_words(error)}") from None
    return raw


def _driven(source: SqlSource) -> tuple[Any, str, type[Exception]]:
    driver = source.driver or ""
    try:
        module = importlib.import_module(driver)
        connect, error = module.connect, module.Error
    except ImportError:
        raise WeirError(
            f"the database driver {driver!r} is not installed",
            fix=f"pip install {driver.split('.')[0]}, or name another DB-API module as `driver`",
            code=ENVIRONMENT,
        ) from None
    except AttributeError:
        raise WeirError(
            f"{driver!r} is no DB-API driver: it has no `connect` or no `Error`",
            fix="name a DB-API module, such as psycopg",
            code=USAGE,
        ) from None
    arguments = {
        name: secret(value, f"connect.{name}") if str(value).startswith(("env:", "file:")) else value  # type: ignore[arg-type]
        for name, value in source.connect.items()
    }
    try:
        return connect(**arguments), getattr(module, "paramstyle", "qmark"), error
    except error as failed:
        raise Away(_words(failed)) from None
    except TypeError as failed:
        raise WeirError(
            f"{driver}.connect does not take these arguments: {failed}", fix="correct `connect`", code=USAGE
        ) from None


def plain(value: Any) -> Any:
    """Give a column's value in JSON types: times in ISO 8601, decimals as numbers, bytes in base64, NaN as null.

    >>> plain(Decimal("1.50")), plain(datetime(2026, 1, 1)), plain(float("nan"))
    (1.5, '2026-01-01T00:00:00', None)
    """
    if value is None or isinstance(value, (str, bool, int)):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Decimal):
        if not value.is_finite() or value.adjusted() > _MOST_DIGITS:
            return None
        return plain(float(value)) if value != value.to_integral_value() else int(value)
    if isinstance(value, (datetime, date, time)):
        return value.isoformat()
    if isinstance(value, timedelta):
        return value.total_seconds()
    if isinstance(value, (bytes, bytearray, memoryview)):
        return base64.b64encode(bytes(value)).decode("ascii")
    if isinstance(value, (list, tuple)):
        return [plain(one) for one in value]
    if isinstance(value, dict):
        return {str(name): plain(one) for name, one in value.items()}
    return str(value) if isinstance(value, uuid.UUID) else repr(value)


def _words(error: BaseException) -> str:
    return " ".join(str(error).split())[:300] or type(error).__name__
