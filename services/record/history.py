"""What `record` keeps, as the past of the join and the judge: a `streams.runtime.history.History`.

Every table holds the records as they came: key, body, headers, Kafka's timestamp, by position. So a step can be taken
again with records that Kafka no longer has, and gives the same bytes. Nothing is asked before a restore needs it.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import msgspec

from schemas.errors import WeirError
from schemas.records import Step
from schemas.settings import Settings
from schemas.topics import topic_name
from services.clickhouse import connect, database_of, first_line
from streams.runtime import kafka
from streams.runtime.history import HistoryAway
from streams.runtime.records import Headers, Records

if TYPE_CHECKING:
    import pyarrow as pa
    from clickhouse_connect.driver.httpclient import HttpClient

ANSWER_S = 300
STEPS = 20_000
OFFSETS = 20_000
PORTION_BYTES = 64 << 20
"""About how much one portion of records may have: the next asks for fewer offsets when the last had more."""

_steps = msgspec.json.Decoder(Step)


class RecordedHistory:
    """The history of a namespace in ClickHouse. See `streams.runtime.history.History`; serves one thread."""

    def __init__(self, settings: Settings) -> None:
        at = settings.clickhouse
        self.where = f"ClickHouse at {at.host}:{at.port} (database {database_of(settings)})"
        self._settings = settings
        self._client: HttpClient | None = None
        self._same: set[tuple[str, int]] = set()

    def landed(self, topic: str, partition: int) -> int:
        """Give the offset below which everything of a partition has landed, as the recorder's group has committed."""
        from confluent_kafka import KafkaException

        from streams.runtime.offsets import GroupOffsets

        self._check_same(topic, partition)
        place = topic_name(self._settings.namespace, topic), partition
        try:
            with GroupOffsets(self._settings, "record", "history") as group:
                offset = group.committed([place])[place]
        except KafkaException as error:
            raise HistoryAway(f"what `record` has committed is unknown: {kafka.reason(error)}") from None
        if offset >= 0:
            return offset
        # Kafka forgets the group of a recorder that was away too long. Ranges land in their order.
        asked = f"SELECT max(offset) + 1 FROM {_landed(topic)} WHERE partition = {partition}"
        with self._calling() as client:
            return int(client.query(asked).result_rows[0][0])

    def records(self, topic: str, partition: int, start: int, end: int) -> Iterator[Records]:
        """Give the committed records in [start, end) in offset order, in portions."""
        self._check_same(topic, partition)
        view, offset, width = _view(topic), start, OFFSETS
        while offset < end:
            until = min(offset + width, end)
            table = self._arrow(
                f"SELECT offset, append_ms, key, body, headers, idx FROM {view} WHERE partition = {partition} "
                f"AND offset >= {offset} AND offset < {until} ORDER BY offset, idx"
            )
            if table.num_rows:
                yield _records(table)
            if table.nbytes > PORTION_BYTES:
                width = max(1, width // 2)
            elif table.nbytes < PORTION_BYTES // 4:
                width = min(2 * width, 8 * OFFSETS)
            offset = until

    def steps(self, stage: str, partition: int, first: int, last: int) -> Iterator[tuple[int, Step]]:
        """Give the steps with these numbers that have landed, each with its offset in `steps`."""
        self._check_same("steps", partition)
        after = -1
        while True:
            table = self._arrow(
                f"SELECT offset, body FROM steps WHERE partition = {partition} AND stage = '{stage}' "
                f"AND unreadable = '' AND number >= {first} AND number <= {last} AND offset > {after} "
                f"ORDER BY offset LIMIT {STEPS}"
            )
            yield from _found(table)
            if table.num_rows < STEPS:
                return
            after = int(table.column("offset")[-1].as_py())

    def step_before(self, stage: str, partition: int, clock_ms: int) -> tuple[int, Step] | None:
        """Give the last step whose clock was at most `clock_ms`."""
        self._check_same("steps", partition)
        table = self._arrow(
            f"SELECT offset, body FROM steps WHERE partition = {partition} AND stage = '{stage}' AND unreadable = '' "
            f"AND clock_ms <= {clock_ms} ORDER BY number DESC LIMIT 1"
        )
        return next(_found(table), None)

    def close(self) -> None:
        """Let go of the connection."""
        if self._client is not None:
            self._client.close()
            self._client = None

    def _check_same(self, topic: str, partition: int) -> None:
        """See to it that the rows are of the topic that Kafka has now. Raises `HistoryAway`."""
        if (topic, partition) in self._same:
            return
        name = topic_name(self._settings.namespace, topic)
        with self._calling() as client:
            rows = client.query(
                "SELECT topic_id FROM sources FINAL WHERE topic = {t:String} AND partition = {p:Int32}",
                {"t": topic, "p": partition},
            ).result_rows
        if not rows:
            raise HistoryAway(f"it holds nothing of {topic}/{partition}: `weir record` has not read it")
        now = kafka.topic_identity(kafka.make_admin(self._settings, "history"), name)
        if str(rows[0][0]) != now:
            raise HistoryAway(f"it holds records of another topic that was once named {name}")
        self._same.add((topic, partition))

    def _arrow(self, statement: str) -> pa.Table:
        with self._calling() as client:
            return client.query_arrow(statement, use_strings=False)

    @contextlib.contextmanager
    def _calling(self) -> Iterator[HttpClient]:
        from clickhouse_connect.driver.exceptions import ClickHouseError
        from urllib3.exceptions import HTTPError

        try:
            if self._client is None:
                self._client = connect(self._settings, answer_s=ANSWER_S)
            yield self._client
        except WeirError as error:
            raise HistoryAway(error.message) from None
        except (ClickHouseError, HTTPError, OSError) as error:
            self.close()
            raise HistoryAway(first_line(error)) from None


def _view(topic: str) -> str:
    from services.record.tables import table_of  # with pyarrow: not before it is needed

    return table_of(topic).view


def _landed(topic: str) -> str:
    from services.record.tables import table_of

    return table_of(topic).name


def _found(table: pa.Table) -> Iterator[tuple[int, Step]]:
    for offset, body in zip(table.column("offset").to_pylist(), table.column("body").to_pylist(), strict=True):
        yield offset, _steps.decode(body)


def _records(table: pa.Table) -> Records:
    import pyarrow.compute as pc

    columns = [table.column(name).to_pylist() for name in ("offset", "append_ms", "key", "body", "idx")]
    records = Records()
    carried: dict[int, Headers] = {}
    if pc.any(pc.greater(pc.list_value_length(table.column("headers")), 0)).as_py():
        carried = {place: _headers(said) for place, said in enumerate(table.column("headers").to_pylist()) if said}
    for place, (offset, append_ms, key, body, index) in enumerate(zip(*columns, strict=True)):
        records.append(offset, append_ms, key, body, carried.get(place), index)
    return records


def _headers(said: list[dict[str, Any]]) -> Headers:
    return [(header["name"].decode(), header["value"]) for header in said]
