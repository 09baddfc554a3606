"""What the page shows of alerts and their deliveries: the store, read-only, from any process on this machine."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

import msgspec

from services.alert.store import NAME


class Attempt(msgspec.Struct, frozen=True, kw_only=True):
    """One try: when, how long, what was answered. `status` is null when no HTTP answer came."""

    number: int
    at_ms: int
    took_ms: int
    status: int | None
    said: str


class DeliveryRow(msgspec.Struct, frozen=True, kw_only=True):
    """A notice to one endpoint. `next_attempt_ms` is null when it is over; `why` is the last answer or the reason."""

    webhook_id: str
    endpoint: str
    alert_id: str
    fingerprint: str
    rule: str
    status: str
    repeat: int
    state: str
    created_ms: int
    finished_ms: int | None
    next_attempt_ms: int | None
    why: str
    attempts: list[Attempt]


class EndpointRow(msgspec.Struct, frozen=True, kw_only=True):
    """An endpoint: what waits, what arrived, what was given up, and why it is disabled, if it is."""

    name: str
    pending: int
    delivered: int
    dead: int
    not_before_ms: int
    disabled_ms: int | None
    disabled_why: str


class EpisodeRow(msgspec.Struct, frozen=True, kw_only=True):
    """A fingerprint that fires. `grouped` alerts of it were not told apart."""

    fingerprint: str
    since_ms: int
    told_ms: int
    repeats: int
    grouped: int


class View(msgspec.Struct, frozen=True, kw_only=True):
    """The newest deliveries first, all endpoints, all that fires; encode it with `msgspec.json.encode`."""

    deliveries: list[DeliveryRow] = []
    endpoints: list[EndpointRow] = []
    firing: list[EpisodeRow] = []


def look(data_dir: Path, limit: int = 100) -> View:
    """Read the store of this data directory; empty where `weir alert` has not run yet. Never blocks its writer.

    Raises `sqlite3.Error` when the file is not a store.
    """
    path = data_dir / NAME
    if not path.exists():
        return View()
    with closing(sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True, timeout=5)) as connection:
        connection.execute("BEGIN")
        (version,) = connection.execute("PRAGMA user_version").fetchone()
        if not version:
            return View()
        return View(
            deliveries=_deliveries(connection, limit), endpoints=_endpoints(connection), firing=_firing(connection)
        )


def _deliveries(connection: sqlite3.Connection, limit: int) -> list[DeliveryRow]:
    rows = connection.execute(
        "SELECT seq, webhook_id, endpoint, alert_id, fingerprint, rule, status, repeat, state, created_ms, finished_ms,"
        " next_attempt_ms, coalesce(why, '') FROM deliveries ORDER BY seq DESC LIMIT ?",
        (limit,),
    ).fetchall()
    tried = "SELECT number, at_ms, took_ms, status, said FROM attempts WHERE seq = ? ORDER BY number"
    found = []
    for row in rows:
        attempts = [
            Attempt(number=number, at_ms=at_ms, took_ms=took_ms, status=status, said=said)
            for number, at_ms, took_ms, status, said in connection.execute(tried, row[:1])
        ]
        found.append(
            DeliveryRow(
                webhook_id=row[1],
                endpoint=row[2],
                alert_id=row[3],
                fingerprint=row[4],
                rule=row[5],
                status=row[6],
                repeat=row[7],
                state=row[8],
                created_ms=row[9],
                finished_ms=row[10],
                next_attempt_ms=row[11] if row[8] == "pending" else None,
                why=row[12],
                attempts=attempts,
            )
        )
    return found


def _endpoints(connection: sqlite3.Connection) -> list[EndpointRow]:
    counts = {
        (endpoint, state): count
        for endpoint, state, count in connection.execute(
            "SELECT endpoint, state, count(*) FROM deliveries GROUP BY endpoint, state"
        )
    }
    query = "SELECT name, not_before_ms, disabled_ms, coalesce(disabled_why, '') FROM endpoints ORDER BY name"
    return [
        EndpointRow(
            name=name,
            pending=counts.get((name, "pending"), 0),
            delivered=counts.get((name, "delivered"), 0),
            dead=counts.get((name, "dead"), 0),
            not_before_ms=not_before_ms,
            disabled_ms=disabled_ms,
            disabled_why=disabled_why,
        )
        for name, not_before_ms, disabled_ms, disabled_why in connection.execute(query)
    ]


def _firing(connection: sqlite3.Connection) -> list[EpisodeRow]:
    query = "SELECT fingerprint, since_ms, told_ms, repeats, grouped FROM episodes WHERE firing ORDER BY since_ms"
    return [
        EpisodeRow(fingerprint=fingerprint, since_ms=since_ms, told_ms=told_ms, repeats=repeats, grouped=grouped)
        for fingerprint, since_ms, told_ms, repeats, grouped in connection.execute(query)
    ]
