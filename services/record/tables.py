"""One table per topic, keyed by position, and a view over it that is exact whatever happened.

`landed_predictions` holds a row per position (partition, offset, idx), sometimes twice after a crash; the view
`predictions` shows each position once (FINAL merges equal keys). Read the views. Column by column:

- `partition`, `offset`, `idx` (index in a batch of one record): the position; the topic is the table.
- `append_ms` Kafka's timestamp; `landed_ms` this machine's time of landing, for latencies only.
- `key`, `body`, `headers`: the record as it came, byte for byte.
- `unreadable`: empty, or why the body is no event of this topic (the typed columns then hold their defaults).
- `unknown_fields` (inputs only): how many fields at the top of the body the contract does not have.
- the event's own columns (`services.record.columns`).

`sources` remembers which Kafka topic (by Kafka's own id) each partition's rows came from, so that a topic made anew
under an old name is refused instead of mixed in. `schema_version` says what was migrated, for which namespace.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any

import msgspec
import pyarrow as pa
import xxhash

from schemas.control import Control
from schemas.errors import ENVIRONMENT, WeirError
from schemas.event import Input
from schemas.feedback import Feedback
from schemas.inputs import Label, Prediction, Signal
from schemas.lifecycle import Alert, Approval, Candidate, Promote, Retrain, RolloutStatus
from schemas.measures import Drift, Forecast, Gate, Measures, Metric, Review, Trial
from schemas.recall import Recalled, RecallRequested
from schemas.records import DeadLetter, Step
from schemas.settings import Settings
from schemas.topics import TOPICS
from services.clickhouse import connect, database_of, first_line
from services.record.columns import Column, as_json, columns_of

if TYPE_CHECKING:
    from clickhouse_connect.driver.httpclient import HttpClient

__all__ = ["EVENTS", "POSITION", "SCHEMA_VERSION", "Table", "migrate", "table_of"]

SCHEMA_VERSION = 1

EVENTS: dict[str, Any] = {
    "control": Control,
    "predictions": Prediction,
    "labels": Label,
    "signals": Signal,
    "feedback": Feedback,
    "steps": Step,
    "measures": Measures,
    "trials": Trial,
    "metrics": Metric,
    "gates": Gate,
    "drift": Drift,
    "reviews": Review,
    "forecasts": Forecast,
    "retrain": Retrain,
    "candidates": Candidate,
    "approvals": Approval,
    "promote": Promote,
    "rollout-status": RolloutStatus,
    "alerts": Alert,
    "dead-letters": DeadLetter,
    "recall-requests": RecallRequested,
    "recalled": Recalled,
}
"""Logical topic → what its records hold. Every topic has to be here."""

_OMIT = {
    Step: ("partition",),
    DeadLetter: ("key", "value", "headers"),
    RecallRequested: ("partition",),
    Recalled: ("partition",),
}
_RENAME = {
    DeadLetter: {
        "topic": "source_topic",
        "partition": "source_partition",
        "offset": "source_offset",
        "index": "source_idx",
        "append_ms": "source_append_ms",
    }
}

HEADERS = pa.list_(pa.struct([("name", pa.string()), ("value", pa.binary())]))
POSITION: dict[str, tuple[str, pa.DataType]] = {
    "partition": ("Int32", pa.int32()),
    "offset": ("Int64 CODEC(Delta, ZSTD(1))", pa.int64()),
    "idx": ("UInt32 CODEC(ZSTD(1))", pa.uint32()),
    "append_ms": ("Int64 CODEC(Delta, ZSTD(1))", pa.int64()),
    "landed_ms": ("Int64 CODEC(Delta, ZSTD(1))", pa.int64()),
    "key": ("Nullable(String) CODEC(ZSTD(1))", pa.binary()),
    "body": ("Nullable(String) CODEC(ZSTD(1))", pa.binary()),
    "headers": ("Array(Tuple(name String, value Nullable(String)))", HEADERS),
    "unreadable": ("String CODEC(ZSTD(1))", pa.string()),
}


@dataclass(frozen=True, slots=True)
class Table:
    """The table of one topic. `known` are the contract's fields where unknown ones are counted, else None."""

    topic: str
    columns: tuple[Column, ...]
    known: frozenset[str] | None

    @property
    def view(self) -> str:
        """The exact view: `rollout_status`."""
        return self.topic.replace("-", "_")

    @property
    def name(self) -> str:
        """The table under it: `landed_rollout_status`."""
        return f"landed_{self.view}"

    def written(self) -> dict[str, str]:
        """Give every column with its type and codec, in order."""
        found = {name: kind for name, (kind, _) in POSITION.items()}
        if self.known is not None:
            found["unknown_fields"] = "UInt32 CODEC(ZSTD(1))"
        for column in self.columns:
            codec = " CODEC(Delta, ZSTD(1))" if column.type == "Int64" else ""
            if column.type in ("String", "Float64", "Nullable(Float64)", "Nullable(Int64)"):
                codec = " CODEC(ZSTD(1))"
            found[column.name] = column.type + codec
        return found


@cache
def table_of(topic: str) -> Table:
    """Give the table of a logical topic. Raises `KeyError` for a topic without one."""
    event = EVENTS[topic]
    if topic == "control":
        return Table(topic, _control_columns(), None)
    known = None
    if issubclass(event, Input):
        known = frozenset(field.encode_name for field in msgspec.structs.fields(event))
    return Table(topic, tuple(columns_of(event, omit=_OMIT.get(event, ()), rename=_RENAME.get(event))), known)


def _control_columns() -> tuple[Column, ...]:
    def about(event: Any) -> Any:
        return getattr(event, "policy", None) or getattr(event, "reference", None) or event

    def named(event: Any) -> str:
        subject = about(event)
        return str(getattr(subject, "id", "") or getattr(subject, "name", "") or getattr(subject, "layer", ""))

    words = "LowCardinality(String)", pa.string()
    return (
        Column("kind", *words, lambda event: str(event.__struct_config__.tag), ""),
        Column("model", *words, lambda event: getattr(about(event), "model", ""), ""),
        Column("name", *words, named, ""),
        Column("version", "String", pa.string(), lambda event: _plain_text(getattr(about(event), "version", None)), ""),
        Column("at_ms", "Int64", pa.int64(), lambda event: getattr(event, "at_ms", None) or _now_of(event), 0),
    )


def _plain_text(value: Any) -> str:
    return value if isinstance(value, str) else as_json(value)


def _now_of(event: Any) -> int:
    return int(getattr(event, "now_ms", 0))


def statements(database: str) -> list[str]:
    """Give the statements that make what is missing; each may be run again."""
    into = f"`{database}`"
    found = [
        f"CREATE DATABASE IF NOT EXISTS {into}",
        f"CREATE TABLE IF NOT EXISTS {into}.schema_version (version UInt32, digest String, namespace String, "
        "at_ms Int64) ENGINE = MergeTree ORDER BY at_ms",
        f"CREATE TABLE IF NOT EXISTS {into}.sources (topic String, partition Int32, topic_id String, at_ms Int64) "
        "ENGINE = ReplacingMergeTree(at_ms) ORDER BY (topic, partition)",
    ]
    for topic in TOPICS:
        table = table_of(topic)
        written = table.written()
        lines = [f"`{name}` {kind}" for name, kind in written.items()]
        lines += [f"INDEX by_{name} {name} TYPE minmax" for name in ("append_ms", "at_ms") if name in written]
        if "request_id" in written:
            lines.append("INDEX by_request request_id TYPE bloom_filter(0.01)")
        found.append(
            f"CREATE TABLE IF NOT EXISTS {into}.{table.name} ({', '.join(lines)}) ENGINE = ReplacingMergeTree "
            "ORDER BY (partition, offset, idx) SETTINGS non_replicated_deduplication_window = 1000"
        )
    return found


def additions(database: str) -> list[str]:
    """Give the statements that add to older tables the columns that events have got since."""
    found = []
    for table in map(table_of, TOPICS):
        added = [f"ADD COLUMN IF NOT EXISTS `{name}` {kind}" for name, kind in table.written().items()]
        found.append(f"ALTER TABLE `{database}`.{table.name} {', '.join(added)}")
    return found


def view_statements(database: str) -> list[str]:
    """Give the statements that make the exact views, and `outcomes`: the last revision of each outcome."""
    into = f"`{database}`"
    made = [
        f"CREATE OR REPLACE VIEW {into}.{table.view} AS SELECT * FROM {into}.{table.name} FINAL"
        for table in map(table_of, TOPICS)
    ]
    made.append(
        f"CREATE OR REPLACE VIEW {into}.outcomes AS SELECT * FROM {into}.feedback WHERE unreadable = '' "
        "ORDER BY revision DESC LIMIT 1 BY request_id, model, deployment, name, item"
    )
    return made


def migrate(settings: Settings) -> None:
    """Create the namespace's database, tables and views, or add what they lack. Idempotent; one query when up to date.

    Raises `WeirError` when the database is newer than this program, belongs to another namespace, or ClickHouse is
    away or refuses.
    """
    from clickhouse_connect.driver.exceptions import ClickHouseError

    database = database_of(settings)
    tables, views = statements(database), view_statements(database)
    digest = _digest(tables + views)
    client = connect(settings, database=False)
    try:
        before = _migrated(client, settings)
        if before == digest:
            return
        for statement in tables + (additions(database) if before else []) + views:
            client.command(statement)
        row = [SCHEMA_VERSION, digest, settings.namespace, int(time.time() * 1000)]
        names = ["version", "digest", "namespace", "at_ms"]
        client.insert("schema_version", [row], column_names=names, database=database)
    except ClickHouseError as error:
        raise WeirError(
            f"the tables of database {database} cannot be made: {first_line(error)}",
            fix="the user needs CREATE DATABASE, CREATE TABLE, ALTER TABLE and CREATE VIEW, once",
            code=ENVIRONMENT,
        ) from None
    finally:
        client.close()


def is_migrated(client: HttpClient, settings: Settings) -> bool:
    """Say whether tables and views are as this program makes them. Raises `WeirError` as `migrate` does."""
    database = database_of(settings)
    return _migrated(client, settings) == _digest(statements(database) + view_statements(database))


def _digest(made: list[str]) -> str:
    return xxhash.xxh3_128_hexdigest("\n".join(made).encode())


def _migrated(client: HttpClient, settings: Settings) -> str | None:
    """Give the digest of what the database was last brought to; None when there is nothing yet."""
    database = database_of(settings)
    there = client.command(
        "SELECT count() FROM system.tables WHERE database = {d:String} AND name = 'schema_version'", {"d": database}
    )
    if not int(str(there)):
        return None
    rows = client.query(
        f"SELECT version, namespace, digest FROM `{database}`.schema_version ORDER BY at_ms"
    ).result_rows
    others = {str(namespace) for _, namespace, _ in rows} - {settings.namespace}
    if others:
        raise WeirError(
            f"database {database} holds the namespace {others.pop()!r}, and this is {settings.namespace!r}",
            fix="set clickhouse.database to one of its own (WEIR_CLICKHOUSE__DATABASE)",
            code=ENVIRONMENT,
        )
    version = max((int(version) for version, _, _ in rows), default=0)
    if version > SCHEMA_VERSION:
        raise WeirError(
            f"database {database} has schema version {version}; this program knows {SCHEMA_VERSION} and would miss "
            "columns",
            fix="run the newer Weir that made it, or set clickhouse.database to another one",
            code=ENVIRONMENT,
        )
    return str(rows[-1][2]) if rows else None
