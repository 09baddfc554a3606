"""Topics as planned, or a clear refusal; what correctness rests on cannot be set aside."""

from __future__ import annotations

import threading
from concurrent.futures import Future
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import pytest
from confluent_kafka.admin import AdminClient, NewTopic

from schemas.errors import WeirError
from schemas.settings import Settings
from services.local.kafka import LocalKafka
from streams.runtime import kafka as ours
from streams.runtime import topics
from streams.runtime.topics import await_topics, check_topics, ensure_topics, planned
from tests.processes import until
from tests.streams.runtime.harness import configuration


def test_what_correctness_rests_on_wins_over_properties() -> None:
    tampered = {"isolation.level": "read_uncommitted", "partitioner": "random", "linger.ms": "77"}
    settings = Settings(namespace="a", kafka={"properties": tampered})
    producer = ours.producer_properties(settings, "x", ours.transactional_id(settings, "join"))
    consumer = ours.consumer_properties(settings, "x", ours.group_id("a", "join"))
    assert (producer["partitioner"], producer["linger.ms"]) == ("murmur2_random", "77")
    assert producer["transactional.id"] == "a.join.0"
    assert consumer["isolation.level"] == "read_committed"


@pytest.mark.kafka
def test_topics_are_created_once(kafka: LocalKafka, tmp_path: Path) -> None:
    settings = Settings(**configuration(kafka.bootstrap, tmp_path, partitions=3))
    created = ensure_topics(settings)
    assert f"{settings.namespace}.predictions" in created
    assert ensure_topics(settings) == []


@pytest.mark.kafka
def test_wrong_partition_count_is_named(kafka: LocalKafka, tmp_path: Path) -> None:
    given = configuration(kafka.bootstrap, tmp_path)
    ensure_topics(Settings(**given))
    with pytest.raises(WeirError, match=r"predictions: 2 partitions, expected 3"):
        ensure_topics(Settings(**{**given, "partitions": 3}))


@pytest.mark.kafka
def test_wrong_timestamp_type_is_named(kafka: LocalKafka, tmp_path: Path) -> None:
    given = configuration(kafka.bootstrap, tmp_path)
    ensure_topics(Settings(**given))
    with pytest.raises(WeirError, match=r"labels: message.timestamp.type=LogAppendTime, expected CreateTime"):
        ensure_topics(Settings(**{**given, "clock": "virtual"}))


@pytest.mark.kafka
def test_missing_topic_is_named(kafka: LocalKafka, tmp_path: Path) -> None:
    settings = Settings(**configuration(kafka.bootstrap, tmp_path))
    with pytest.raises(WeirError, match=r"steps: missing(.|\n)*weir topics apply"):
        check_topics(settings, ["steps"])


@pytest.mark.kafka
def test_limits_that_are_too_tight_are_named_and_loosened(kafka: LocalKafka, tmp_path: Path) -> None:
    settings = Settings(**configuration(kafka.bootstrap, tmp_path), clock="virtual")
    tight = ("max.message.bytes", "1048588"), ("message.timestamp.after.max.ms", "3600000")
    admin = ours.make_admin(settings)
    made = [
        NewTopic(plan.topic, plan.partitions, 1, config={**plan.config, **dict(tight)}) for plan in planned(settings)
    ]
    for future in admin.create_topics(made).values():
        future.result()
    names = {new.topic for new in made}
    until(lambda: names <= set(ours.partition_counts(admin, settings)), "the topics that were made")
    with pytest.raises(WeirError) as refused:
        check_topics(settings)
    assert "dead-letters: max.message.bytes=1048588, expected at least 4194304" in refused.value.message
    assert "labels: message.timestamp.after.max.ms=3600000, expected at least 9223372036854775807" in str(refused.value)
    assert "labels: max.message.bytes" not in str(refused.value), "an input's limit is its owner's"
    assert ensure_topics(settings) == []
    check_topics(settings)


@pytest.mark.kafka
def test_kafka_that_goes_away_during_the_check_is_waited_for(
    kafka: LocalKafka, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = Settings(**configuration(kafka.bootstrap, tmp_path))
    ensure_topics(settings)
    make = ours.make_admin
    tried: list[str] = []

    def gone(given: Settings) -> AdminClient:
        tried.append(given.kafka.bootstrap)
        elsewhere = given.model_copy(update={"kafka": given.kafka.model_copy(update={"bootstrap": "127.0.0.1:1"})})
        return make(elsewhere if len(tried) == 1 else given)

    monkeypatch.setattr(topics, "make_admin", gone)
    monkeypatch.setattr(ours, "ANSWER_S", 1)
    assert await_topics(settings, threading.Event(), ["steps"])
    assert len(tried) == 2
    stop = threading.Event()
    stop.set()
    assert not await_topics(settings, stop, ["steps"])


def test_kafka_that_is_not_there_is_waited_for_and_named() -> None:
    settings = Settings(namespace="a", kafka={"bootstrap": "127.0.0.1:1"})
    with pytest.raises(WeirError, match=r"127.0.0.1:1 did not answer"):
        ours.wait_for_kafka(settings, timeout_s=0)


def test_topic_identity_is_a_file_name() -> None:
    class Admin:
        def describe_topics(self, topics: object, request_timeout: float) -> dict[str, Future[SimpleNamespace]]:
            future: Future[SimpleNamespace] = Future()
            future.set_result(SimpleNamespace(topic_id="/a+b/c"))
            return {"steps": future}

    assert ours.topic_identity(cast(AdminClient, Admin()), "steps") == "_a-b_c"
