"""The look-up table on a real ClickHouse: packed and read back byte for byte, filled late, whole after a crash."""

from __future__ import annotations

import pytest

from schemas.settings import ClickHouse, Settings
from services.clickhouse import connect
from services.recall import table
from services.recall.answer import Stored
from services.recall.table import Recallable, prepare
from services.record.land import Span, Store
from streams.runtime.records import Records

pytestmark = pytest.mark.clickhouse

IDS = ["r1", "it's", "back\\slash", "ü" * 64, "tab\tnew\nline", "r2"]


@pytest.fixture
def settings(at: ClickHouse) -> Settings:
    return Settings(clickhouse=at)


def spans(topic: str, *bodies: bytes | None, partition: int = 2, start: int = 10) -> list[Span]:
    records = Records()
    for index, body in enumerate(bodies):
        headers: list[tuple[str, bytes | None]] = [("weir-hop", b"\xff\x00"), ("none", None)] if index == 0 else []
        records.append(start + index, 1000 + index, None if index == 1 else b"k\xfe", body, headers)
    return [Span(partition, start, start + len(bodies), records)]


def label(request_id: str) -> bytes:
    from schemas.event import encode
    from schemas.inputs import Label

    return b"  " + encode(Label(request_id=request_id, at_ms=5, label=1))


def test_records_come_back_byte_for_byte(settings: Settings) -> None:
    prepare(settings)
    store, recallable = Store(settings), Recallable(settings)
    bodies = [label(request_id) for request_id in IDS]
    store.land("labels", spans("labels", *bodies))
    store.land("feedback", spans("feedback", b'{"request_id":"r1","v":"?"}', b"not json", None, partition=3))
    found = recallable.find([*IDS, "nobody"])
    assert set(found) == set(IDS)
    assert found["it's"] == [Stored(1, 2, 11, 1001, None, bodies[1], [])]
    assert found["r1"] == [
        Stored(1, 2, 10, 1000, b"k\xfe", bodies[0], [("weir-hop", b"\xff\x00"), ("none", None)]),
        Stored(3, 3, 10, 1000, b"k\xfe", b'{"request_id":"r1","v":"?"}', [("weir-hop", b"\xff\x00"), ("none", None)]),
    ]
    for one in (store, recallable):
        one.close()


def test_what_landed_before_is_filled_in_once(settings: Settings) -> None:
    store, recallable = Store(settings), Recallable(settings)
    store.prepare()
    store.land("predictions", spans("predictions", b'{"request_id":"old","at_ms":1,"model":"m"}'))
    recallable.prepare()
    recallable.prepare()
    store.land("predictions", spans("predictions", b'{"request_id":"new","at_ms":1,"model":"m"}', start=11))
    assert {name: len(rows) for name, rows in recallable.find(["old", "new"]).items()} == {"old": 1, "new": 1}
    for one in (store, recallable):
        one.close()


def test_a_table_of_an_older_version_is_built_anew(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    store, recallable = Store(settings), Recallable(settings)
    with monkeypatch.context() as before:
        before.setattr(table, "VERSION", table.VERSION - 1)
        recallable.prepare()
    store.land("labels", spans("labels", label("r1")))
    client = connect(settings)
    client.command("ALTER TABLE recallable DELETE WHERE 1 SETTINGS mutations_sync = 1")
    assert recallable.find(["r1"]) == {}
    recallable.prepare()
    assert len(recallable.find(["r1"])["r1"]) == 1, "it is filled from what has landed"
    store.land("labels", spans("labels", label("r2"), start=11))
    assert len(recallable.find(["r1", "r2"])) == 2, "and its views are there"
    for one in (client, store, recallable):
        one.close()


def test_a_repeated_insert_reaches_the_table_that_missed_it(settings: Settings) -> None:
    """As after a crash between the two: the landed table knows the insert, the look-up table does not."""
    prepare(settings)
    store, recallable = Store(settings), Recallable(settings)
    given = spans("labels", label("r1"), label("r2"))
    store.land("labels", given)
    client = connect(settings)
    client.command("TRUNCATE TABLE recallable")
    client.command("ALTER TABLE recallable MODIFY SETTING non_replicated_deduplication_window = 1000")
    assert recallable.find(["r1"]) == {}
    store.land("labels", given)
    assert len(recallable.find(["r1", "r2"])) == 2
    assert client.command("SELECT count() FROM landed_labels") == 2
    for one in (client, store, recallable):
        one.close()


def test_a_bulk_that_is_too_large_is_asked_in_halves(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    prepare(settings)
    store, recallable = Store(settings), Recallable(settings)
    store.land("labels", spans("labels", *(label(f"r{number}") for number in range(40))))
    monkeypatch.setattr(table, "RESULT_BYTES", 500)
    assert len(recallable.find([f"r{number}" for number in range(40)])) == 40
    for one in (store, recallable):
        one.close()
