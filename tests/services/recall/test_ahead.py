"""Bulks looked up ahead: in their order, again where ClickHouse was away, whatever became of the round before."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from schemas.settings import ClickHouse, Settings
from services.recall.ahead import Ahead, Found
from services.recall.table import Recallable, prepare
from services.record.land import Away, Span, Store
from streams.runtime.records import Records

pytestmark = pytest.mark.clickhouse

COUNT = 60


@pytest.fixture
def settings(at: ClickHouse) -> Settings:
    made = Settings(clickhouse=at)
    prepare(made)
    records = Records()
    for number in range(COUNT):
        records.append(number, 1000, None, b'{"request_id":"r%d","at_ms":1,"label":1}' % number, [])
    store = Store(made)
    store.land("labels", [Span(0, 0, COUNT, records)])
    store.close()
    return made


@pytest.fixture(params=[1, 3])
def ahead(settings: Settings, request: pytest.FixtureRequest) -> Iterator[Ahead]:
    one = Ahead(settings, request.param)
    yield one
    one.close()


BULKS = [[f"r{number}" for number in range(start, start + 10)] for start in range(0, COUNT, 10)]


def test_as_one_after_the_other(settings: Settings, ahead: Ahead) -> None:
    store = Recallable(settings)
    expected = [store.find(ids) for ids in BULKS]
    store.close()
    assert [set(found) for found in expected] == [set(ids) for ids in BULKS]
    assert list(ahead.find(BULKS, lambda call: call())) == expected
    assert list(ahead.find([], lambda call: call())) == []
    rest = ahead.find(BULKS, lambda call: call())
    assert next(rest) == expected[0]
    del rest  # as when the partitions were taken away
    assert list(ahead.find(BULKS[:2], lambda call: call())) == expected[:2]


def test_what_was_away_is_asked_again(ahead: Ahead, monkeypatch: pytest.MonkeyPatch) -> None:
    find, failures = Recallable.find, [Away("not now")] * 4

    def failing(store: Recallable, ids: list[str]) -> Found:
        if failures and ids == BULKS[1]:
            raise failures.pop()
        return find(store, ids)

    tries = 0

    def insist(call: object) -> Found:
        nonlocal tries
        while True:
            tries += 1
            try:
                return call()  # type: ignore[no-any-return, operator]
            except Away:
                continue

    monkeypatch.setattr(Recallable, "find", failing)
    assert [set(found) for found in ahead.find(BULKS, insist)] == [set(ids) for ids in BULKS]
    assert tries == len(BULKS) + 4
