"""A query, asked again and again: new rows become documents, each once, across restarts.

The rows from the greatest cursor less the overlap on, that cursor included, are read again each time; those that have
been seen are known by their hash. So a row that becomes visible late (its transaction committed after one with a
greater cursor) is taken as long as its cursor lies within the overlap, and any number of rows may share a cursor.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import date, datetime, timedelta
from decimal import Decimal
from typing import Any

import msgspec
from xxhash import xxh3_64_intdigest

from schemas.errors import USAGE, WeirError
from schemas.mapping import SqlSource
from services.intake.database import Connection
from services.intake.mapper import Mapper
from services.intake.state import Cursor, packed, unpacked

_canonical = msgspec.json.Encoder(order="deterministic").encode


def kind_of(value: Any) -> str:
    """Give the type of a cursor as it is stored. Raises `WeirError` for one that has no order or no text."""
    if isinstance(value, bool):
        pass
    elif isinstance(value, (int, Decimal)):
        return "int" if isinstance(value, int) else "decimal"
    elif isinstance(value, float) and math.isfinite(value):
        return "float"
    elif isinstance(value, str):
        return "text"
    elif isinstance(value, datetime):
        return "datetime"
    elif isinstance(value, date):
        return "date"
    raise WeirError(
        f"the cursor column holds a {type(value).__name__}, which says no order",
        fix="take a column of numbers, times or texts that only grows, such as updated_at",
        code=USAGE,
    )


def written(value: Any) -> str:
    """Write a cursor as text."""
    return value.isoformat() if isinstance(value, (datetime, date)) else str(value)


def read(kind: str, text: str) -> Any:
    """Read it.

    >>> read("int", written(5)), read("datetime", written(datetime(2026, 1, 1)))
    (5, datetime.datetime(2026, 1, 1, 0, 0))
    """
    readers: dict[str, Any] = {"int": int, "float": float, "decimal": Decimal, "text": str}
    readers |= {"datetime": datetime.fromisoformat, "date": date.fromisoformat}
    return readers[kind](text)


def earlier(value: Any, overlap: float) -> Any:
    """Give a cursor that lies the overlap before another: seconds where it is a time, also one that is text.

    Text that is no ISO 8601 time, or is written in a way that cannot be kept, stays: then only rows of the same cursor
    are read again.

    >>> earlier(100, 60), earlier("2026-01-01 00:00:30.500", 60), earlier("b7", 60)
    (40, '2025-12-31 23:59:30.500', 'b7')
    """
    if isinstance(value, int):
        return value - math.ceil(overlap)
    if isinstance(value, float):
        return value - overlap
    if isinstance(value, Decimal):
        return value - Decimal(str(overlap))
    try:
        if isinstance(value, datetime):
            return value - timedelta(seconds=overlap)
        if isinstance(value, date):
            return value - timedelta(days=math.ceil(overlap / 86_400))
        return _earlier_text(value, overlap)
    except OverflowError:
        return value


def _earlier_text(value: str, overlap: float) -> str:
    try:
        moment = datetime.fromisoformat(value)
    except ValueError:
        return value
    before = _as(moment - timedelta(seconds=overlap), value)
    return before if _as(moment, value) == value else value


def _as(moment: datetime, like: str) -> str:
    """Write a time the way another is written: the same separator, digits and zone."""
    if len(like) == 10:
        return moment.date().isoformat()
    body = moment.replace(tzinfo=None).isoformat(like[10], "microseconds")
    zone = like[19:].lstrip(".0123456789")
    digits = len(like) - 19 - len(zone)
    return body[:19] + body[19 : 19 + digits] + zone


@dataclass(frozen=True, slots=True)
class Taken:
    """A row that has not been seen: its document, protected, and its number."""

    document: Any
    offset: int


@dataclass(slots=True)
class Polling:
    """How far a query has been read: `state` is what to keep with the rows that were last given."""

    source: SqlSource
    mapper: Mapper
    state: Cursor
    greatest: Any = None
    seen: dict[int, Any] = field(default_factory=dict)

    @classmethod
    def begin(cls, source: SqlSource, mapper: Mapper, name: str, state: Cursor | None) -> Polling:
        """Go on from a state, or begin."""
        if state is None:
            return cls(source, mapper, Cursor(name=name, number=0, rows=0))
        greatest = read(state.kind, state.value) if state.kind else None
        return cls(source, mapper, state, greatest, dict.fromkeys(unpacked(state.seen), greatest))

    @property
    def bound(self) -> Any:
        """The least cursor that is read again; None at first."""
        return None if self.greatest is None else earlier(self.greatest, self.source.overlap)

    def poll(self, connection: Connection) -> Iterator[list[Taken]]:
        """Ask once. Gives the unseen rows of each batch that has some; `state` is then the one to keep with them."""
        for batch in connection.rows(self.bound):
            taken = self._take(batch)
            if taken:
                yield taken

    def _take(self, batch: list[tuple[Any, dict[str, Any]]]) -> list[Taken]:
        taken: list[Taken] = []
        rows = self.state.rows
        for cursor, row in batch:
            if self.greatest is not None and kind_of(cursor) != kind_of(self.greatest):
                raise WeirError(
                    f"the cursor {self.source.cursor!r} is a {kind_of(cursor)} in one row and a "
                    f"{kind_of(self.greatest)} in another, which no order covers",
                    fix="CAST it to one type in the query",
                    code=USAGE,
                )
            kind_of(cursor)
            document = self.mapper.protection.apply(row)
            digest = xxh3_64_intdigest(_canonical(document))
            self.greatest = cursor if self.greatest is None else max(self.greatest, cursor)
            if digest in self.seen:
                continue
            self.seen[digest] = cursor
            taken.append(Taken(document, rows + len(taken)))
        if taken:
            bound = self.bound
            self.seen = {digest: cursor for digest, cursor in self.seen.items() if cursor >= bound}
            self.state = Cursor(
                name=self.state.name,
                number=self.state.number + 1,
                rows=rows + len(taken),
                kind=kind_of(self.greatest),
                value=written(self.greatest),
                seen=packed(self.seen),
            )
        return taken
