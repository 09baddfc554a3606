"""What has landed is believed only of tables that were filled from the topics as they are now."""

from __future__ import annotations

from typing import Any, cast

import pytest
from confluent_kafka import TopicPartition

from schemas.settings import Settings
from services.recall.answer import TOPICS
from services.recall.landed import LandedBelow
from services.recall.table import Recallable
from streams.runtime import kafka


class _Group:
    """Says what `record` has committed: 10 times the partition's number, and nothing of partition 0."""

    def committed(self, asked: list[TopicPartition], timeout: float) -> list[TopicPartition]:
        return [TopicPartition(tp.topic, tp.partition, 10 * tp.partition or -1001) for tp in asked]


class _Store:
    def __init__(self, since: int, *numbers: int) -> None:
        self.since, self.numbers = since, numbers

    def incarnation(self) -> dict[tuple[str, int], tuple[str, int]]:
        return {(topic, number): (f"id-{topic}", self.since) for topic in TOPICS for number in self.numbers}


@pytest.fixture
def made(monkeypatch: pytest.MonkeyPatch) -> tuple[LandedBelow, _Store]:
    monkeypatch.setattr(kafka, "make_consumer", lambda *_: _Group())
    monkeypatch.setattr(kafka, "topic_identity", lambda _, topic: f"id-{topic.rpartition('.')[2]}")
    store = _Store(5, 0, 1, 2)
    landed = LandedBelow(Settings(), cast(Recallable, store))
    landed.identify(cast(Any, None))
    return landed, store


def test_what_record_committed_has_landed(made: tuple[LandedBelow, _Store]) -> None:
    landed, store = made
    assert landed.look([0, 2]) == {(topic, number): 10 * number for topic in TOPICS for number in (0, 2)}
    assert landed.unchanged()
    store.numbers = (1, 2)  # partition 0 is not asked for any more
    assert landed.look([2])
    assert landed.unchanged()


def test_tables_made_anew_are_not_believed(made: tuple[LandedBelow, _Store]) -> None:
    landed, store = made
    assert landed.look([1])
    store.since = 6
    assert not landed.unchanged()
    assert landed.look([1])
    assert landed.unchanged()


def test_where_record_has_not_begun_nothing_has_landed(made: tuple[LandedBelow, _Store]) -> None:
    landed, store = made
    store.numbers = (1,)
    assert {number for _, number in landed.look([1, 2])} == {1}
    assert landed.unchanged(), "partition 1 may be answered meanwhile"
    store.numbers = (1, 2)
    assert {number for _, number in landed.look([1, 2])} == {1, 2}
