"""Landing: rows of one topic go into its table, with a token that makes the same range count once.

One insert carries the ranges of every partition of one topic in a flush, because a part per partition and flush is what
ClickHouse likes least. Its token names exactly those ranges: the same ranges again are dropped by ClickHouse, other
ranges (a rebalance in between) are inserted and hidden by the view.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import xxhash

from schemas.errors import ENVIRONMENT, WeirError
from schemas.settings import Settings
from services.clickhouse import Unreachable, connect, database_of, first_line
from services.record.rows import to_arrow
from services.record.tables import migrate, table_of
from streams.runtime.records import Records

if TYPE_CHECKING:
    from clickhouse_connect.driver.httpclient import HttpClient

_GONE = (60, 81)
_VIEWS = {"deduplicate_blocks_in_dependent_materialized_views": 1}
"""A repeated insert that the table knows still goes to its views: a crash may have come between the two."""


class Away(Exception):
    """ClickHouse did not take it now: try again later. The text says why."""


@dataclass(frozen=True, slots=True)
class Span:
    """Records of one partition, all that were committed in [start, end)."""

    partition: int
    start: int
    end: int
    records: Records


def token(topic: str, spans: Iterable[Span]) -> str:
    """Give the deduplication token of an insert.

    >>> token("labels", [Span(0, 5, 9, Records())]) == token("labels", [Span(0, 5, 9, Records())])
    True
    """
    ranges = ";".join(f"{span.partition}/{span.start}-{span.end}" for span in sorted(spans, key=lambda s: s.partition))
    return f"{topic}/{xxhash.xxh3_128_hexdigest(ranges.encode())}"


class Store:
    """The namespace's database for one thread. Every method raises `Away` when it may work later."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._client: HttpClient | None = None

    def prepare(self) -> None:
        """Make or mend the tables. Raises `WeirError` for what waiting does not mend (a newer schema, no rights)."""
        try:
            migrate(self._settings)
        except Unreachable as error:
            raise Away(error.message) from None

    def land(self, topic: str, spans: list[Span]) -> int:
        """Insert the ranges of one topic; give the number of rows.

        When it returns, they are on ClickHouse's disk, in tables that views fill from this one (`recallable`) as well.
        """
        table = table_of(topic)
        rows = to_arrow(table, {span.partition: span.records for span in spans}, int(time.time() * 1000))
        with self._calling() as client:
            client.insert_arrow(
                table.name, rows, settings={"insert_deduplication_token": token(topic, spans), **_VIEWS}
            )
        return int(rows.num_rows)

    def sources(self) -> dict[tuple[str, int], str]:
        """Give Kafka's id of the topic that each (logical topic, partition) was read from so far."""
        with self._calling() as client:
            rows = client.query("SELECT topic, partition, topic_id FROM sources FINAL").result_rows
        return {(str(topic), int(partition)): str(topic_id) for topic, partition, topic_id in rows}

    def remember(self, sources: Mapping[tuple[str, int], str]) -> None:
        """Write down where partitions are read from."""
        now_ms = int(time.time() * 1000)
        rows = [[topic, partition, topic_id, now_ms] for (topic, partition), topic_id in sources.items()]
        if rows:
            with self._calling() as client:
                client.insert("sources", rows, column_names=["topic", "partition", "topic_id", "at_ms"])

    def close(self) -> None:
        """Let go of the connection."""
        if self._client is not None:
            self._client.close()
            self._client = None

    @contextlib.contextmanager
    def _calling(self) -> Iterator[HttpClient]:
        from clickhouse_connect.driver.exceptions import ClickHouseError
        from urllib3.exceptions import HTTPError

        try:
            if self._client is None:
                self._client = connect(self._settings)
            yield self._client
        except Unreachable as error:
            raise Away(error.message) from None
        except (ClickHouseError, HTTPError, OSError) as error:
            self.close()
            if getattr(error, "code", None) in _GONE:
                raise WeirError(
                    f"the tables of database {database_of(self._settings)} are gone: {first_line(error)}",
                    fix="start the recorder again: it makes them anew and reads every topic from its beginning",
                    code=ENVIRONMENT,
                ) from None
            raise Away(first_line(error)) from None
