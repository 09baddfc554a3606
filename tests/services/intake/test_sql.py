"""Queries: polled with a cursor that survives restarts, each row once, late ones and equal cursors included."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from datetime import date, datetime, timedelta
from decimal import Decimal
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas.errors import WeirError
from schemas.mapping import SqlSource
from schemas.settings import Settings
from services.intake import state
from services.intake.database import Away, QueryFailed, connected, plain
from services.intake.sql import Polling, earlier, read, written
from tests.services.intake.harness import LABELS, database, events, letters, loaded, mapper, process, taking
from tests.services.intake.harness import written as file_of
from tests.services.record.harness import until


def source(path: Path, **more: Any) -> SqlSource:
    given: dict[str, Any] = {"kind": "sql", "url": f"sqlite:///{path}", "query": "SELECT * FROM chargebacks;"}
    return SqlSource.model_validate({**given, "cursor": "id", "overlap": 0, **more})


@pytest.fixture
def table(tmp_path: Path) -> Iterator[sqlite3.Connection]:
    connection = database(tmp_path / "labels.db")
    yield connection
    connection.close()


def insert(table: sqlite3.Connection, *rows: tuple[Any, str]) -> None:
    for cursor, order_id in rows:
        table.execute("INSERT INTO chargebacks VALUES (?, ?, 1, '2026-01-01 00:00:00')", (cursor, order_id))
    table.commit()


def polled(polling: Polling) -> list[str]:
    with connected(polling.source) as connection:
        return [row.document["order_id"] for taken in polling.poll(connection) for row in taken]


def again(polling: Polling) -> Polling:
    """Begin anew from what was kept, as a successor does."""
    kept = None if not polling.state.number else polling.state
    return Polling.begin(polling.source, polling.mapper, "x", kept)


def test_rows_come_once_in_the_order_of_the_cursor(table: sqlite3.Connection, tmp_path: Path) -> None:
    polling = Polling.begin(source(tmp_path / "labels.db", batch=2), mapper(LABELS), "x", None)
    insert(table, (3, "c"), (1, "a"), (2, "b"))
    assert polled(polling) == ["a", "b", "c"]
    assert polled(polling) == []
    insert(table, (3, "d"), (4, "e"))
    assert polled(polling) == ["d", "e"], "an equal cursor is no reason to miss a row"
    assert polling.state.rows == 5


def test_a_row_that_becomes_visible_late_is_taken_within_the_overlap(table: sqlite3.Connection, tmp_path: Path) -> None:
    polling = Polling.begin(source(tmp_path / "labels.db", overlap=10), mapper(LABELS), "x", None)
    insert(table, (100, "first"))
    assert polled(polling) == ["first"]
    insert(table, (91, "late"), (85, "too late"))
    assert polled(again(polling)) == ["late"]


def test_many_rows_of_one_cursor_and_small_batches(table: sqlite3.Connection, tmp_path: Path) -> None:
    insert(table, *[(7, f"r{number}") for number in range(50)])
    polling = Polling.begin(source(tmp_path / "labels.db", batch=3), mapper(LABELS), "x", None)
    with connected(polling.source) as connection:
        batches = polling.poll(connection)
        first = [row.document["order_id"] for row in next(batches)]
    assert len(first) == 3
    rest = polled(again(polling))
    assert sorted(first + rest) == sorted(f"r{number}" for number in range(50))


@given(
    st.lists(st.lists(st.tuples(st.integers(0, 20), st.integers(0, 10**6)), max_size=6), max_size=6),
    st.integers(0, 5),
    st.integers(1, 4),
    st.data(),
)
def test_every_row_within_the_overlap_comes_once_whatever_is_restarted(
    waves: list[list[tuple[int, int]]], overlap: int, batch: int, data: st.DataObject
) -> None:
    memory = sqlite3.connect(":memory:")
    memory.execute("CREATE TABLE chargebacks (id INTEGER, order_id TEXT, fraud INTEGER, decided_at TEXT)")
    asked = source(Path("unused"), overlap=overlap, batch=batch)
    from services.intake.database import Connection

    connection = Connection(asked, memory, "qmark", sqlite3.Error)
    polling = Polling.begin(asked, mapper(LABELS), "x", None)
    kept, taken, due, greatest = polling.state, [], set(), None
    for wave in waves:
        for cursor, number in wave:
            insert(memory, (cursor, f"r{number}-{cursor}"))
            if greatest is None or cursor >= greatest - overlap:
                due.add(f"r{number}-{cursor}")
        for rows in polling.poll(connection):
            if data.draw(st.booleans(), "killed before the commit"):
                polling = Polling.begin(asked, polling.mapper, "x", kept if kept.number else None)
                break
            kept = polling.state
            taken += [row.document["order_id"] for row in rows]
        while True:  # a restart asks once more
            more = [row.document["order_id"] for rows in polling.poll(connection) for row in rows]
            kept = polling.state
            taken += more
            if not more:
                break
        greatest = polling.greatest
    memory.close()
    assert len(taken) == len(set(taken))
    assert due <= set(taken)


CURSORS = [
    (100, 10, 90),
    (1.5, 1, 0.5),
    (Decimal("10.5"), 1, Decimal("9.5")),
    (datetime(2026, 1, 1, 0, 0, 30), 60, datetime(2025, 12, 31, 23, 59, 30)),
    (date(2026, 1, 2), 1, date(2026, 1, 1)),
    ("2026-01-01 00:00:30", 60, "2025-12-31 23:59:30"),
    ("2026-01-01T00:00:30.250Z", 60, "2025-12-31T23:59:30.250Z"),
    ("2026-01-01T00:00:30+02:00", 60, "2025-12-31T23:59:30+02:00"),
    ("2026-01-02", 86_400, "2026-01-01"),
    ("01ARZ3NDEKTSV4RRFFQ69G5FAV", 60, "01ARZ3NDEKTSV4RRFFQ69G5FAV"),
]


@pytest.mark.parametrize(("cursor", "overlap", "expected"), CURSORS)
def test_cursors_of_every_type_go_back_and_are_kept(cursor: Any, overlap: float, expected: Any) -> None:
    from services.intake.sql import kind_of

    assert earlier(cursor, overlap) == expected
    assert read(kind_of(cursor), written(cursor)) == cursor


@given(st.datetimes(datetime(1990, 1, 1), datetime(2090, 1, 1)), st.sampled_from(["T", " "]), st.integers(0, 90_000))
def test_a_text_cursor_goes_back_as_far_as_a_time_does(moment: datetime, separator: str, overlap: int) -> None:
    for digits in ("seconds", "milliseconds", "microseconds"):
        text = moment.isoformat(separator, digits)
        before = earlier(text, overlap)
        assert datetime.fromisoformat(text) - datetime.fromisoformat(before) == timedelta(seconds=overlap)
        assert len(before) == len(text)
        assert before <= text


def test_queries_that_cannot_work_are_named(table: sqlite3.Connection, tmp_path: Path) -> None:
    path = tmp_path / "labels.db"
    insert(table, (1, "a"), ("text", "b"))
    with (
        connected(source(path, cursor="updated_at")) as one,
        pytest.raises(QueryFailed, match="no column 'updated_at'"),
    ):
        one.columns()
    with (
        connected(source(path, query="SELECT nothing FROM nowhere")) as one,
        pytest.raises(QueryFailed, match="refuses"),
    ):
        one.columns()
    with (
        connected(source(path, query="SELECT id, id FROM chargebacks")) as one,
        pytest.raises(QueryFailed, match="twice"),
    ):
        one.columns()
    with pytest.raises(Away, match="no file"), connected(source(tmp_path / "none.db")):
        pass
    with (
        pytest.raises(WeirError, match="not installed"),
        connected(
            SqlSource.model_validate({"kind": "sql", "driver": "no_such_driver", "query": "SELECT 1", "cursor": "a"})
        ),
    ):
        pass
    with pytest.raises(WeirError, match="CAST"):
        polled(Polling.begin(source(path), mapper(LABELS), "x", None))
    insert(table, (None, "c"))
    with connected(source(path)) as one:
        assert one.unreachable() == 1


def test_any_dbapi_driver_will_do(table: sqlite3.Connection, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LABELS_DB", str(tmp_path / "labels.db"))
    insert(table, (1, "a"), (2, "b"))
    driven = SqlSource.model_validate(
        {
            "kind": "sql",
            "driver": "sqlite3",
            "connect": {"database": "env:LABELS_DB"},
            "query": "SELECT * FROM chargebacks WHERE order_id NOT LIKE 'z%'",
            "cursor": "id",
        }
    )
    polling = Polling.begin(driven, mapper(LABELS), "x", None)
    assert polled(polling) == ["a", "b"]
    insert(table, (3, "c"))
    assert polled(again(polling)) == ["c"]


def test_values_of_drivers_become_json() -> None:
    found = plain({"a": [Decimal("2"), b"\x00", timedelta(seconds=2)], "b": float("inf"), "c": date(2026, 1, 2)})
    assert found == {"a": [2, "AA==", 2.0], "b": None, "c": "2026-01-02"}
    # Written out, they would take all the memory, or could not be written at all.
    assert [plain(Decimal(text)) for text in ("1e999999999", "-1e5000", "NaN", "sNaN", "1e-400")] == [*[None] * 4, 0.0]


@pytest.mark.kafka
def test_labels_in_sqlite_reach_kafka_once_across_restarts(
    on_kafka: Settings, table: sqlite3.Connection, tmp_path: Path
) -> None:
    asked = {**LABELS["source"], "url": f"sqlite:///{tmp_path / 'labels.db'}", "every_s": 0.1}
    mapping = loaded(tmp_path / "m", {**LABELS, "source": asked})
    insert(table, *[(number, f"o-{number}") for number in range(30)])
    table.execute("INSERT INTO chargebacks VALUES (30, NULL, 1, '2026-01-01 00:00:00')")
    table.execute("INSERT INTO chargebacks VALUES (31, 'o-31', NULL, '2026-01-01 00:00:00')")
    table.commit()
    with taking(on_kafka, mapping):
        until(lambda: len(events(on_kafka, "labels")) == 30, "the labels")
        until(lambda: letters(on_kafka), "the row without an order")
    insert(table, (32, "o-32"))
    with taking(on_kafka, mapping) as intake:
        until(lambda: len(events(on_kafka, "labels")) == 31, "the new one")
        until(lambda: intake.progress.ready, "readiness")
    found = events(on_kafka, "labels")
    assert len({one["event_id"] for one in found}) == 31
    assert found[0]["source"] == "chargebacks"
    (letter,) = letters(on_kafka)
    assert (letter.reason, letter.topic, letter.offset) == ("missing_field", "intake.chargebacks", 30)
    kept = state.read_state(on_kafka, "chargebacks", 0, lambda: None)
    assert kept is not None
    assert (kept.value, kept.kind, kept.rows) == ("32", "int", 33)
    with pytest.raises(WeirError, match="records of it were deleted"):
        state.read_state(on_kafka, "chargebacks", kept.number + 1, lambda: None)


@pytest.mark.kafka
def test_a_database_that_is_away_is_waited_for(on_kafka: Settings, tmp_path: Path) -> None:
    path = tmp_path / "labels.db"
    asked = {**LABELS["source"], "url": f"sqlite:///{path}", "every_s": 0.1}
    with taking(on_kafka, loaded(tmp_path / "m", {**LABELS, "source": asked})) as intake:
        until(lambda: intake._wait_s > 0.5, "waiting")
        assert not intake.progress.ready
        made = database(path)
        insert(made, (1, "o-1"))
        made.close()
        until(lambda: events(on_kafka, "labels"), "the label")
        until(lambda: intake.progress.ready, "readiness")


@pytest.mark.kafka
def test_kills_amid_a_query_repeat_nothing(on_kafka: Settings, table: sqlite3.Connection, tmp_path: Path) -> None:
    asked = {**LABELS["source"], "url": f"sqlite:///{tmp_path / 'labels.db'}", "every_s": 0.1, "batch": 40}
    file = file_of(tmp_path / "m", {**LABELS, "source": asked})
    insert(table, *[(number // 3, f"o-{number}") for number in range(6_000)])

    def reached(target: int) -> bool:
        return len(events(on_kafka, "labels")) >= target

    for target in (1, 2_000):
        with process(on_kafka, "intake", "run", str(file)):
            until(partial(reached, target), "some of them")
    with process(on_kafka, "intake", "run", str(file)):
        until(lambda: len(events(on_kafka, "labels")) >= 6_000, "all of them")
    found = [one["request_id"] for one in events(on_kafka, "labels")]
    assert sorted(found) == sorted(f"o-{number}" for number in range(6_000))
