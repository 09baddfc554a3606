"""Every recallable record once more, ordered by request: what makes looking up thousands of ids at once fast.

The tables of `services.record` are ordered by position, because that is what makes each position count once. To find
the few records of one request there, a granule of 8,192 rows has to be unpacked for each. So views copy the inputs and
feedback, as they land, into `recallable`:

- `hash`: xxHash64 of the request id; the table's order and index. Ids are compared as well, when the rows are read.
- `topic` (index of `services.recall.answer.TOPICS`), `partition`, `offset`: the position, which makes copies merge.
- `record`: topic, partition, position, append_ms, request id, key, body, headers in one string (ClickHouse's
  RowBinary): a look-up costs one read per column, and this way there are two. A position is the offset with the index
  in an envelope above it (`streams.runtime.records.position`), here and in `offset`.

What a look-up costs is unpacking: a granule for each record found that lies apart from the others, which is most of
them as long as merges have not brought them together. So a granule has 32 rows, a compressed block holds one, and LZ4
packs it. The hash costs 8 bytes of memory per granule, where ids would cost their length.

An insert is acknowledged when the views have written too, and `record` commits its offsets only then; it asks
ClickHouse to push an insert that it repeats into the views even where the table below knows it already. So what
`record` says has landed is here.
"""

from __future__ import annotations

import time
from base64 import b64encode
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import structlog
import xxhash

from schemas.errors import ENVIRONMENT, WeirError
from schemas.settings import Settings
from services.clickhouse import Unreachable, connect, database_of, first_line
from services.recall.answer import TOPICS, Stored, unpack
from services.record.land import Away, Store
from services.record.tables import migrate, table_of

if TYPE_CHECKING:
    from clickhouse_connect.driver.httpclient import HttpClient

VERSION = 3
"""Of the packing. Another one is built anew from the landed tables."""

FILL_ROWS = 1_000_000
FILL_S = 600
RESULT_BYTES = 256 << 20
_TOO_MUCH = (241, 396)
_LOOKING = {"max_query_size": 16 << 20, "max_threads": 1}
"""A bulk is one query in one thread: to spread a few thousand seeks over threads costs more than it saves."""

Source = tuple[str, int]
Incarnation = Mapping[tuple[str, int], Source]
"""(logical topic, partition) → (Kafka's id of the topic, since when): what the landed tables were filled from."""

_log = structlog.get_logger()


class Recallable(Store):
    """Looks up records by request id. For one thread. Every method raises `Away` when it may work later."""

    def find(self, request_ids: Sequence[str]) -> dict[str, list[Stored]]:
        """Give what has landed of each request, in no order, perhaps twice; absent: nothing. Asks in bulk."""
        from clickhouse_connect.driver.exceptions import ClickHouseError

        found: dict[str, list[Stored]] = {}
        if not request_ids:
            return found
        settings: dict[str, Any] = dict(_LOOKING)
        if len(request_ids) > 1:
            settings |= {"max_result_bytes": RESULT_BYTES, "result_overflow_mode": "throw"}
        sql = f"SELECT record FROM recallable WHERE hash IN ({_hashes(request_ids)})"
        with self._calling() as client:
            try:
                rows = client.query_arrow(sql, settings=settings, use_strings=False).column(0).to_pylist()
            except ClickHouseError as error:
                if getattr(error, "code", None) not in _TOO_MUCH or len(request_ids) == 1:
                    raise
                rows = None
        if rows is None:
            middle = len(request_ids) // 2
            return {**self.find(request_ids[:middle]), **self.find(request_ids[middle:])}
        wanted = set(request_ids)
        for row in rows:
            request_id, stored = unpack(row)
            if request_id in wanted:
                found.setdefault(request_id, []).append(stored)
        return found

    def incarnation(self) -> Incarnation:
        """Give what the landed tables are filled from. Tables that were made anew have another one."""
        with self._calling() as client:
            rows = client.query("SELECT topic, partition, topic_id, at_ms FROM sources FINAL").result_rows
        return {(str(topic), int(number)): (str(id), int(at_ms)) for topic, number, id, at_ms in rows}

    def prepare(self) -> None:
        """Make the tables of `record` and this one, and fill it with what has landed; at once when that is done.

        Raises `WeirError` for what waiting does not mend.
        """
        try:
            prepare(self._settings)
        except Unreachable as error:
            raise Away(error.message) from None


def _hashes(request_ids: Sequence[str]) -> str:
    """Give the query of the ids' hashes: as one text of bytes, because to parse them one by one takes 6 µs each."""
    packed = b"".join(xxhash.xxh64_digest(request_id.encode())[::-1] for request_id in request_ids)  # little-endian
    return f"SELECT arrayJoin(reinterpret(base64Decode('{b64encode(packed).decode()}'), 'Array(UInt64)'))"


def statements(database: str) -> list[str]:
    """Give the statements that make the table and its views; each may be run again."""
    into = f"`{database}`"
    found = [
        f"CREATE TABLE IF NOT EXISTS {into}.recallable_version (version UInt32, at_ms Int64) ENGINE = MergeTree "
        "ORDER BY at_ms",
        f"CREATE TABLE IF NOT EXISTS {into}.recallable (hash UInt64 CODEC(NONE), topic UInt8, partition Int32, "
        "offset Int64, record String CODEC(LZ4)) ENGINE = ReplacingMergeTree PRIMARY KEY hash "
        "ORDER BY (hash, topic, partition, offset) SETTINGS index_granularity = 32, min_compress_block_size = 4096, "
        "non_replicated_deduplication_window = 1000",
    ]
    found += [
        f"CREATE MATERIALIZED VIEW IF NOT EXISTS {into}.{_view(topic)} TO {into}.recallable AS {copy(database, topic)}"
        for topic in TOPICS
    ]
    return found


def copy(database: str, topic: str) -> str:
    """Give the query that packs the records of a topic. What `record` cannot read may still be an event of a request:
    the join decides, when it gets it back.
    """
    number = TOPICS.index(topic)
    return (
        "WITH if(unreadable = '', request_id, JSONExtractString(ifNull(body, ''), 'request_id')) AS id, "
        "bitOr(came.offset, bitShiftLeft(toInt64(came.idx), 44)) AS place "
        f"SELECT xxHash64(id) AS hash, toUInt8({number}) AS topic, partition, place AS offset, "
        f"formatRowNoNewline('RowBinary', toUInt8({number}), partition, place, append_ms, id, key, body, headers) "
        f"AS record FROM `{database}`.{table_of(topic).name} AS came WHERE id != ''"
    )


def prepare(settings: Settings) -> None:
    """Create the look-up table and fill it from what has landed. Idempotent; two queries when that is done.

    Raises `WeirError` when ClickHouse is away or refuses, or when the table was made by a newer program.
    """
    from clickhouse_connect.driver.exceptions import ClickHouseError
    from urllib3.exceptions import HTTPError

    migrate(settings)
    database = database_of(settings)
    client = connect(settings, answer_s=FILL_S)
    try:
        version = _version(client)
        if version == VERSION:
            return
        if version > VERSION:
            raise WeirError(
                f"the look-up table of database {database} has version {version}; this program knows {VERSION}",
                fix="run the newer Weir that made it",
                code=ENVIRONMENT,
            )
        if version:
            _drop(client)
        for statement in statements(database):
            client.command(statement)
        _await_inserts(client)
        for topic in TOPICS:
            _fill(client, database, topic)
        client.insert("recallable_version", [[VERSION, int(time.time() * 1000)]], column_names=["version", "at_ms"])
    except (ClickHouseError, HTTPError, OSError) as error:
        kind = WeirError if getattr(error, "code", None) else Unreachable  # without a code nobody answered
        raise kind(
            f"the look-up table of database {database} cannot be made: {first_line(error)}",
            fix="the user needs CREATE TABLE, CREATE VIEW, INSERT and SELECT on system.processes, once",
            code=ENVIRONMENT,
        ) from None
    finally:
        client.close()


def _view(topic: str) -> str:
    return f"recallable_{topic}"


def _version(client: HttpClient) -> int:
    there = client.command(
        "SELECT count() FROM system.tables WHERE database = currentDatabase() AND name = 'recallable_version'"
    )
    return int(str(client.command("SELECT max(version) FROM recallable_version"))) if int(str(there)) else 0


def _drop(client: HttpClient) -> None:
    for topic in TOPICS:
        client.command(f"DROP VIEW IF EXISTS {_view(topic)}")
    client.command("DROP TABLE IF EXISTS recallable")


def _await_inserts(client: HttpClient) -> None:
    """Wait for inserts that began before the views were there: what they land is in no view."""
    running = (
        "SELECT query_id FROM system.processes WHERE query_kind = 'Insert' AND current_database = currentDatabase()"
    )
    before = {row[0] for row in client.query(running).result_rows}
    deadline = time.monotonic() + FILL_S
    while before and time.monotonic() < deadline:
        time.sleep(0.1)
        before &= {row[0] for row in client.query(running).result_rows}


def _fill(client: HttpClient, database: str, topic: str) -> None:
    """Copy what landed before the views were there, a range of offsets at a time; what is copied twice merges."""
    table = table_of(topic).name
    spans = client.query(f"SELECT partition, min(offset), max(offset) FROM {table} GROUP BY partition").result_rows
    rows = 0
    for partition, first, last in spans:
        for start in range(first, last + 1, FILL_ROWS):
            part = f"partition = {partition} AND came.offset >= {start} AND came.offset < {start + FILL_ROWS}"
            client.command(f"INSERT INTO recallable {copy(database, topic)} AND {part}")
            rows += min(FILL_ROWS, last + 1 - start)
    if rows:
        _log.info("recallable_filled", topic=topic, offsets=rows)
