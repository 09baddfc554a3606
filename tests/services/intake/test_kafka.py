"""Intake from real topics: exactly once, re-keyed, with dead letters that can be tried again."""

from __future__ import annotations

import random
import signal
import uuid
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from confluent_kafka import TopicPartition

from schemas.errors import WeirError
from schemas.settings import Settings
from schemas.topics import topic_name
from services.cli import dlq
from services.intake.check import advice
from services.kafka import places_of, read_to_end
from streams.join.partition import partition_of
from streams.runtime import kafka
from streams.runtime.offsets import GroupOffsets
from tests.services.intake.harness import (
    ORDERS,
    SECRET,
    events,
    letters,
    loaded,
    make_topic,
    order,
    process,
    produce,
    taking,
    written,
)
from tests.services.record.harness import until

pytestmark = pytest.mark.kafka


def on(topic: str, **more: Any) -> dict[str, Any]:
    return {**ORDERS, "source": {"kind": "kafka", "topic": topic, "start": "earliest", **more}}


@pytest.fixture
def foreign(on_kafka: Settings) -> str:
    return make_topic(on_kafka, f"shop-{uuid.uuid4().hex[:8]}")


def test_orders_become_predictions_where_the_join_looks_for_them(
    on_kafka: Settings, foreign: str, tmp_path: Path
) -> None:
    produce(on_kafka, foreign, [order(number) for number in range(300)])
    with taking(on_kafka, loaded(tmp_path, on(foreign))) as intake:
        until(lambda: len(events(on_kafka, "predictions")) == 300, "the predictions")
        assert intake.progress.ready
    found = list(read_to_end(on_kafka, "predictions"))
    for message in found:
        assert message.partition() == partition_of(message.key() or b"", on_kafka.partitions)
    body = events(on_kafka, "predictions")[0]
    assert body["features"]["country"] == "DE"
    assert len(body["subject"]) == 32
    assert all(SECRET.encode() not in (message.value() or b"") for message in found)
    assert letters(on_kafka) == []
    with taking(on_kafka, loaded(tmp_path, on(foreign))):  # goes on where it was, and sends nothing twice
        produce(on_kafka, foreign, [order(300)])
        until(lambda: len(events(on_kafka, "predictions")) == 301, "the next one")


def test_a_bad_row_is_a_letter_without_what_is_protected_and_can_be_tried_again(
    on_kafka: Settings, foreign: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    late = order(1)
    seconds = {**order(2), "created_us": late["created_us"] // 1_000_000}
    without = {name: value for name, value in order(3).items() if name != "order_id"}
    produce(on_kafka, foreign, [seconds, without, b"\xffno json " + SECRET.encode(), order(4)])
    with taking(on_kafka, loaded(tmp_path, on(foreign))):
        until(lambda: len(letters(on_kafka)) == 3, "the letters")
        until(lambda: len(events(on_kafka, "predictions")) == 1, "the good one")
    by_reason = {one.reason: one for one in letters(on_kafka)}
    assert set(by_reason) == {"wrong_unit", "missing_field", "unreadable"}
    assert 'say unit = "s"' in by_reason["wrong_unit"].detail
    assert "order_id" in by_reason["missing_field"].detail
    assert by_reason["unreadable"].value is None
    for message in read_to_end(on_kafka, "dead-letters"):
        assert SECRET.encode() not in (message.value() or b"")
    dlq.ls(on_kafka)
    shown = capsys.readouterr().out
    assert SECRET not in shown
    assert "intake.orders/" in shown
    wrong = by_reason["wrong_unit"]
    id = f"{wrong.topic}/{wrong.partition}/{wrong.offset}"
    with pytest.raises(WeirError, match="carries no value"):
        dlq.retry(on_kafka, [f"intake.orders/{by_reason['unreadable'].partition}/{by_reason['unreadable'].offset}"])
    dlq.retry(on_kafka, [id])
    repaired = on(foreign)
    repaired = {**repaired, "events": [{**ORDERS["events"][0], "at_ms": {"path": "created_us", "unit": "s"}}]}
    with taking(on_kafka, loaded(tmp_path, repaired)):
        until(lambda: len(events(on_kafka, "predictions")) == 2, "the repaired one")
    assert {one["request_id"] for one in events(on_kafka, "predictions")} == {"o-000002", "o-000004"}
    subjects = {one["request_id"]: one["subject"] for one in events(on_kafka, "predictions")}
    assert len(set(subjects.values())) == 2
    assert subjects["o-000002"] == subject_of(990_002), "the pseudonym is not made a pseudonym once more"


def subject_of(user: int) -> str | None:
    from services.intake.protect import pseudonym
    from tests.services.intake.harness import KEY

    return pseudonym(KEY.encode(), user)


def test_a_topic_that_is_not_there_is_named_with_what_may_be_meant(
    on_kafka: Settings, foreign: str, tmp_path: Path
) -> None:
    with (
        pytest.raises(WeirError, match="did you mean") as caught,
        taking(on_kafka, loaded(tmp_path, on(foreign + "x"))),
    ):
        pass
    assert foreign in caught.value.fix


def test_what_is_doubtful_about_a_topic_is_said(on_kafka: Settings, tmp_path: Path) -> None:
    name = make_topic(on_kafka, f"shop-{uuid.uuid4().hex[:8]}", 1, **{"cleanup.policy": "compact"})
    said = " ".join(advice(on_kafka, loaded(tmp_path, on(name)).mapping))
    assert "one partition" in said
    assert "compacted" in said


def test_latest_begins_at_the_end_and_a_restart_does_not_begin_anew(
    on_kafka: Settings, foreign: str, tmp_path: Path
) -> None:
    produce(on_kafka, foreign, [order(0)])
    mapping = loaded(tmp_path, on(foreign, start="latest"))
    with taking(on_kafka, mapping) as intake:
        until(lambda: intake.progress.ready, "the assignment")
    produce(on_kafka, foreign, [order(1)])  # while nobody reads
    with taking(on_kafka, mapping):
        until(lambda: events(on_kafka, "predictions"), "what came in between")
    assert [one["request_id"] for one in events(on_kafka, "predictions")] == ["o-000001"]


def test_a_topic_that_ends_before_what_was_read_is_read_whole(on_kafka: Settings, foreign: str, tmp_path: Path) -> None:
    produce(on_kafka, foreign, [order(number) for number in range(30)])
    group = kafka.group_id(on_kafka.namespace, "intake.orders")
    member = kafka.make_consumer(on_kafka, "test", group)
    member.commit(offsets=[TopicPartition(foreign, number, 1_000) for number in range(3)], asynchronous=False)
    member.close()
    mapping = loaded(tmp_path, on(foreign))
    with taking(on_kafka, mapping):
        until(lambda: len(events(on_kafka, "predictions")) == 30, "all of it")
    produce(on_kafka, foreign, [order(30)])
    with taking(on_kafka, mapping):
        until(lambda: len(events(on_kafka, "predictions")) >= 31, "the next one")
    assert len(events(on_kafka, "predictions")) == 31


def test_our_own_topics_are_no_source(on_kafka: Settings, tmp_path: Path) -> None:
    mapping = loaded(tmp_path, on(topic_name(on_kafka.namespace, "labels")))
    with pytest.raises(WeirError, match="Weir's own"), taking(on_kafka, mapping):
        pass


@pytest.mark.timeout(300)
def test_kills_lose_nothing_and_repeat_nothing(on_kafka: Settings, foreign: str, tmp_path: Path) -> None:
    dice, command = random.Random(11), ("intake", "run", str(written(tmp_path, on(foreign))))
    places, admin = places_of(on_kafka, "predictions"), kafka.make_admin(on_kafka)

    def reached(target: int) -> bool:
        return sum(stable for stable, _ in kafka.ends(admin, places).values()) >= target

    def count() -> int:
        return len(list(read_to_end(on_kafka, "predictions")))

    sent = interrupted = 0
    for _ in range(5):
        more = dice.randint(3_000, 6_000)
        produce(on_kafka, foreign, [order(sent + number) for number in range(more)])
        sent += more
        target = sum(stable for stable, _ in kafka.ends(admin, places).values()) + dice.randint(1, 1_500)
        with process(on_kafka, *command):
            until(partial(reached, target), "some of them")
        interrupted += count() < sent
    assert interrupted >= 3, "the kills came too late to interrupt anything"
    with process(on_kafka, *command) as last:
        until(lambda: count() >= sent, "all of them")
        last.send_signal(signal.SIGINT)
        _, said = last.communicate(timeout=30)
        assert last.returncode == 0, said.decode()
    ids = [one["request_id"] for one in events(on_kafka, "predictions")]
    assert len(ids) == len(set(ids)) == sent


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_a_second_worker_takes_over_what_a_killed_one_leaves(on_kafka: Settings, foreign: str, tmp_path: Path) -> None:
    command = ("intake", "run", str(written(tmp_path, on(foreign))))
    other = on_kafka.model_copy(update={"runtime": on_kafka.runtime.model_copy(update={"worker": "1"})})
    total = 20_000

    def count() -> int:
        return len(list(read_to_end(on_kafka, "predictions")))

    with process(other, *command) as stays:
        with GroupOffsets(on_kafka, "intake.orders", "test") as group:
            until(lambda: group.committed([(foreign, 0)])[foreign, 0] >= 0, "the first worker's assignment")
        with process(on_kafka, *command):
            produce(on_kafka, foreign, [order(number) for number in range(total)])
            until(lambda: count() >= total // 4, "some of them")
        until(lambda: count() >= total or stays.poll() is not None, "all of them")
        assert stays.poll() is None, stays.stderr and stays.stderr.read().decode()
    ids = [one["request_id"] for one in events(on_kafka, "predictions")]
    assert len(ids) == len(set(ids)) == total
