"""What must not be forgotten: SQLite in `data_dir/alert.db`, one process at a time, written ahead and synced.

A row of `deliveries` is one notice to one endpoint, with the bytes that are sent, the number of attempts and when the
next is due. Notices of one fingerprint to one endpoint leave in their order: "resolved" waits for "firing", or a
receiver that was away would believe for ever that it fires. Everything between `with store.writing():` and its end
happens whole or not at all, whatever is killed.

The file is the promise: where it is lost, so are the deliveries that were still pending. It may be read by others at
any time (see `look`).
"""

from __future__ import annotations

import os
import sqlite3
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from schemas.errors import ENVIRONMENT, WeirError
from schemas.event import decode, encode
from schemas.lifecycle import Alert
from services.alert.plan import Answer, Episode, Fate

NAME = "alert.db"
KEEP_MS = 31 * 86_400_000
"""How long finished deliveries and ids stay: longer than the topic keeps alerts."""

_SCHEMA = (
    """
    CREATE TABLE offsets (topic TEXT, partition INTEGER, topic_id TEXT, offset INTEGER,
        PRIMARY KEY (topic, partition)) WITHOUT ROWID;
    CREATE TABLE seen (id TEXT PRIMARY KEY, at_ms INTEGER NOT NULL) WITHOUT ROWID;
    CREATE TABLE episodes (fingerprint TEXT PRIMARY KEY, firing INTEGER NOT NULL, alert BLOB NOT NULL,
        since_ms INTEGER NOT NULL, told_ms INTEGER NOT NULL, worst TEXT NOT NULL, repeats INTEGER NOT NULL,
        grouped INTEGER NOT NULL) WITHOUT ROWID;
    CREATE TABLE endpoints (name TEXT PRIMARY KEY, url_hash TEXT NOT NULL, disabled_ms INTEGER, disabled_why TEXT,
        not_before_ms INTEGER NOT NULL DEFAULT 0) WITHOUT ROWID;
    CREATE TABLE deliveries (seq INTEGER PRIMARY KEY, webhook_id TEXT NOT NULL UNIQUE, endpoint TEXT NOT NULL,
        alert_id TEXT NOT NULL, fingerprint TEXT NOT NULL, rule TEXT NOT NULL, status TEXT NOT NULL,
        repeat INTEGER NOT NULL, body BLOB NOT NULL, created_ms INTEGER NOT NULL, attempts INTEGER NOT NULL DEFAULT 0,
        next_attempt_ms INTEGER NOT NULL, state TEXT NOT NULL DEFAULT 'pending', finished_ms INTEGER, why TEXT);
    CREATE INDEX open_deliveries ON deliveries (endpoint, fingerprint, seq) WHERE state = 'pending';
    CREATE TABLE attempts (seq INTEGER NOT NULL REFERENCES deliveries (seq) ON DELETE CASCADE, number INTEGER NOT NULL,
        at_ms INTEGER NOT NULL, took_ms INTEGER NOT NULL, status INTEGER, said TEXT NOT NULL,
        PRIMARY KEY (seq, number)) WITHOUT ROWID;
    """,
)
"""The statements that lead from each version of the schema to the next; a released one is never changed."""

_HEADS = """
    SELECT seq, webhook_id, fingerprint, body, attempts, next_attempt_ms FROM deliveries AS one
    WHERE endpoint = ? AND state = 'pending' AND NOT EXISTS (
        SELECT 1 FROM deliveries AS before WHERE before.state = 'pending' AND before.endpoint = one.endpoint
        AND before.fingerprint = one.fingerprint AND before.seq < one.seq)
    ORDER BY next_attempt_ms, seq LIMIT 1
"""


Execute = Callable[..., sqlite3.Cursor]


@dataclass(frozen=True, slots=True)
class Planned:
    """A notice to one endpoint, as it goes into the store."""

    webhook_id: str
    endpoint: str
    alert: Alert
    repeat: int
    body: bytes


@dataclass(frozen=True, slots=True)
class Delivery:
    """A pending delivery that none of its fingerprint precedes."""

    seq: int
    webhook_id: str
    fingerprint: str
    body: bytes
    attempts: int
    next_attempt_ms: int


class Store:
    """The open file; its methods may be called from any thread. Raises `WeirError` when the file cannot be used."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._lock = threading.RLock()
        self._nested = False
        with self._explained():
            path.parent.mkdir(parents=True, exist_ok=True)
            os.close(os.open(path, os.O_RDWR | os.O_CREAT, 0o600))  # it holds what receivers answered
            self._connection = sqlite3.connect(path, isolation_level=None, check_same_thread=False, timeout=10)
            for pragma in ("journal_mode = WAL", "synchronous = FULL", "foreign_keys = ON"):
                self._connection.execute(f"PRAGMA {pragma}")
        self._migrate()

    def _migrate(self) -> None:
        with self.writing() as execute:
            (version,) = execute("PRAGMA user_version").fetchone()
            if version > len(_SCHEMA):
                raise WeirError(
                    f"{self.path} has schema version {version}; this program knows up to {len(_SCHEMA)}",
                    fix="run the newer program, or give this one another data_dir",
                    code=ENVIRONMENT,
                )
            for script in _SCHEMA[version:]:
                for statement in script.split(";"):
                    execute(statement)
            execute(f"PRAGMA user_version = {len(_SCHEMA)}")

    @contextmanager
    def writing(self) -> Iterator[Execute]:
        """One transaction: on disk when the block ends, nothing of it when it raises. Blocks may be nested."""
        with self._lock, self._explained():
            if self._nested:
                yield self._connection.execute
                return
            self._nested = True
            try:
                self._connection.execute("BEGIN IMMEDIATE")
                yield self._connection.execute
                self._connection.execute("COMMIT")
            except BaseException:
                if self._connection.in_transaction:
                    self._connection.execute("ROLLBACK")
                raise
            finally:
                self._nested = False

    @contextmanager
    def _explained(self) -> Iterator[None]:
        try:
            yield
        except (sqlite3.Error, OSError) as error:
            raise WeirError(
                f"the alert store {self.path} cannot be used: {error}",
                fix="check that the disk has space and that data_dir is ours to write; what was pending is still there",
                code=ENVIRONMENT,
            ) from error

    def close(self) -> None:
        """Close the file."""
        with self._lock:
            self._connection.close()

    # --- where we are in Kafka

    def position(self, topic: str, partition: int) -> tuple[str, int] | None:
        """Give Kafka's id of the topic and the offset below which every alert is stored."""
        with self.writing() as execute:
            query = "SELECT topic_id, offset FROM offsets WHERE topic = ? AND partition = ?"
            row = execute(query, (topic, partition)).fetchone()
        return (str(row[0]), int(row[1])) if row else None

    def move(self, topic: str, partition: int, topic_id: str, offset: int) -> None:
        """Say that every alert below this offset is stored."""
        with self.writing() as execute:
            execute("INSERT OR REPLACE INTO offsets VALUES (?, ?, ?, ?)", (topic, partition, topic_id, offset))

    # --- episodes

    def first_time(self, alert_id: str, now_ms: int) -> bool:
        """Say whether this alert is new, and remember it."""
        with self.writing() as execute:
            return execute("INSERT OR IGNORE INTO seen VALUES (?, ?)", (alert_id, now_ms)).rowcount == 1

    def episode(self, fingerprint: str) -> Episode | None:
        """Give what is known of a fingerprint."""
        with self.writing() as execute:
            row = execute("SELECT * FROM episodes WHERE fingerprint = ?", (fingerprint,)).fetchone()
        return _episode(row) if row else None

    def firing(self) -> list[Episode]:
        """Give the episodes that have not ended."""
        with self.writing() as execute:
            return [_episode(row) for row in execute("SELECT * FROM episodes WHERE firing").fetchall()]

    def keep(self, episode: Episode) -> None:
        """Replace what is known of a fingerprint."""
        one = episode
        row = (one.fingerprint, one.firing, encode(one.alert), one.since_ms, one.told_ms, one.worst)
        with self.writing() as execute:
            execute("INSERT OR REPLACE INTO episodes VALUES (?,?,?,?,?,?,?,?)", (*row, one.repeats, one.grouped))

    # --- deliveries

    def add(self, planned: Planned, now_ms: int) -> None:
        """Plan a delivery, due at once. To a disabled endpoint it is dead from the start; twice is once."""
        alert = planned.alert
        row = (planned.webhook_id, planned.endpoint, alert.id, alert.fingerprint, alert.rule, alert.status)
        with self.writing() as execute:
            execute(
                "INSERT OR IGNORE INTO deliveries (webhook_id, endpoint, alert_id, fingerprint, rule, status, repeat,"
                " body, created_ms, next_attempt_ms) VALUES (?,?,?,?,?,?,?,?,?,?)",
                (*row, planned.repeat, planned.body, now_ms, now_ms),
            )
            disabled = execute(
                "SELECT disabled_why FROM endpoints WHERE name = ? AND disabled_ms IS NOT NULL", (planned.endpoint,)
            ).fetchone()
            if disabled:
                self._bury(planned.endpoint, str(disabled[0]), now_ms)

    def awaits(self, endpoint: str, fingerprint: str) -> bool:
        """Say whether something of this fingerprint is still on its way to an endpoint."""
        query = "SELECT 1 FROM deliveries WHERE state = 'pending' AND endpoint = ? AND fingerprint = ? LIMIT 1"
        with self.writing() as execute:
            return execute(query, (endpoint, fingerprint)).fetchone() is not None

    def next_delivery(self, endpoint: str) -> Delivery | None:
        """Give the delivery that is due first; its moment respects what the endpoint asked for."""
        with self.writing() as execute:
            row = execute(_HEADS, (endpoint,)).fetchone()
            held = execute("SELECT not_before_ms FROM endpoints WHERE name = ?", (endpoint,)).fetchone()
        if row is None:
            return None
        seq, webhook_id, fingerprint, body, attempts, next_attempt_ms = row
        due_ms = max(next_attempt_ms, held[0] if held else 0)
        return Delivery(seq, webhook_id, fingerprint, body, attempts, due_ms)

    def settled(self, delivery: Delivery, endpoint: str, answer: Answer, fate: Fate, at_ms: int) -> None:
        """Write an attempt and what becomes of its delivery and endpoint."""
        number, finished_ms = delivery.attempts + 1, None if fate.state == "pending" else at_ms
        with self.writing() as execute:
            log = (delivery.seq, number, at_ms, answer.took_ms, answer.status, answer.said)
            execute("INSERT OR REPLACE INTO attempts VALUES (?,?,?,?,?,?)", log)
            execute(
                "UPDATE deliveries SET attempts = ?, next_attempt_ms = ?, state = ?, finished_ms = ?, why = ? "
                "WHERE seq = ?",
                (number, fate.next_attempt_ms, fate.state, finished_ms, str(answer), delivery.seq),
            )
            if fate.hold_until_ms:
                execute("UPDATE endpoints SET not_before_ms = ? WHERE name = ?", (fate.hold_until_ms, endpoint))
            if fate.disable:
                why = f"the endpoint is disabled: it answered {answer}"
                execute("UPDATE endpoints SET disabled_ms = ?, disabled_why = ? WHERE name = ?", (at_ms, why, endpoint))
                self._bury(endpoint, why, at_ms)

    def register(self, endpoints: dict[str, str], now_ms: int) -> None:
        """Take up the endpoints of the settings, name → hash of the URL. A new URL enables a disabled one again;
        what waits for a name that is no longer there is dead.
        """
        with self.writing() as execute:
            for name, url_hash in endpoints.items():
                execute(
                    "INSERT INTO endpoints (name, url_hash) VALUES (?, ?) ON CONFLICT (name) DO UPDATE SET "
                    "url_hash = excluded.url_hash, disabled_ms = NULL, disabled_why = NULL, not_before_ms = 0 "
                    "WHERE url_hash <> excluded.url_hash",
                    (name, url_hash),
                )
            for (name,) in execute("SELECT DISTINCT endpoint FROM deliveries WHERE state = 'pending'").fetchall():
                if name not in endpoints:
                    self._bury(name, "the settings have no webhook of this name any more", now_ms)

    def disabled(self, endpoint: str) -> str:
        """Say why an endpoint gets nothing any more; empty: it does."""
        with self.writing() as execute:
            query = "SELECT disabled_why FROM endpoints WHERE name = ? AND disabled_ms IS NOT NULL"
            row = execute(query, (endpoint,)).fetchone()
        return str(row[0]) if row else ""

    def tidy(self, now_ms: int) -> None:
        """Forget what ended long ago."""
        before_ms = now_ms - KEEP_MS
        with self.writing() as execute:
            execute("DELETE FROM deliveries WHERE state <> 'pending' AND finished_ms < ?", (before_ms,))
            execute("DELETE FROM seen WHERE at_ms < ?", (before_ms,))
            execute("DELETE FROM episodes WHERE NOT firing AND told_ms < ?", (before_ms,))

    def _bury(self, endpoint: str, why: str, now_ms: int) -> None:
        with self.writing() as execute:
            execute(
                "UPDATE deliveries SET state = 'dead', finished_ms = ?, why = ? "
                "WHERE endpoint = ? AND state = 'pending'",
                (now_ms, why, endpoint),
            )


def _episode(row: tuple[str, int, bytes, int, int, str, int, int]) -> Episode:
    fingerprint, firing, alert, since_ms, told_ms, worst, repeats, grouped = row
    return Episode(fingerprint, bool(firing), decode(alert, Alert), since_ms, told_ms, worst, repeats, grouped)
