"""The recorder on real parts: each position once, through kills, absences, poison, and a database that is gone."""

import os
import random
import signal
import time
from pathlib import Path
from threading import Event, Thread

import pytest
from clickhouse_connect.driver.exceptions import DatabaseError
from confluent_kafka import TopicPartition
from pydantic import SecretStr

from schemas.errors import ENVIRONMENT, WeirError
from schemas.settings import ClickHouse, Settings
from schemas.topics import INPUTS, TOPICS, topic_name
from services.clickhouse import connect, database_of
from services.local.clickhouse import LocalClickHouse
from services.local.kafka import LocalKafka
from services.record.land import Span, Store
from services.record.run import Recorder
from services.record.tables import migrate
from streams.runtime import kafka as ours
from streams.runtime.backlog import lags
from streams.runtime.kafka import End
from streams.runtime.offsets import Commit, GroupOffsets
from streams.runtime.topics import ensure_topics
from tests.services.record.harness import (
    alive,
    ask,
    label,
    landed,
    positions,
    prediction,
    recording,
    send,
    start,
    until,
)

pytestmark = [pytest.mark.kafka, pytest.mark.clickhouse]


def assert_each_once(settings: Settings, *topics: str) -> None:
    for topic in topics:
        assert landed(settings, topic) == positions(settings, topic), topic


def drained(settings: Settings) -> bool:
    return not any(lags(settings, "record", list(TOPICS)).values())


def test_every_event_lands_once_and_quickly(namespace: Settings) -> None:
    send(namespace, "predictions", [prediction(n, features={"x": n, "c": "a"}) for n in range(500)])
    with recording(namespace) as recorder:
        until(lambda: recorder.landed.rows >= 500, "what was there before")
        send(namespace, "labels", [label(n) for n in range(100)])
        until(lambda: recorder.landed.rows >= 600, "what came later")
        until(lambda: drained(namespace), "no lag, transaction markers included")
    assert_each_once(namespace, "predictions", "labels")
    assert ask(namespace, "SELECT sum(features['x']) FROM predictions") == sum(range(500))
    assert ask(namespace, "SELECT max(landed_ms - append_ms) < 10000 FROM labels") == 1
    with recording(namespace) as recorder:  # a clean stop leaves nothing to repeat
        send(namespace, "signals", [{"request_id": "s", "at_ms": 1, "signal": "click"}])
        until(lambda: recorder.landed.rows, "one more")
        assert (recorder.landed.rows, recorder.landed.repeated) == (1, 0)


def test_only_committed_records_land(namespace: Settings) -> None:
    topic = topic_name(namespace.namespace, "labels")
    producer = ours.make_producer(namespace, "t", f"{namespace.namespace}.t")
    producer.init_transactions(30)
    for number, ends in enumerate((producer.commit_transaction, producer.abort_transaction) * 3):
        producer.begin_transaction()
        producer.produce(topic, b"{}", b"%d" % number, 0)
        producer.flush(10)
        ends(30)
    with recording(namespace) as recorder:
        until(lambda: recorder.landed.rows >= 3 and drained(namespace), "the committed ones")
    assert landed(namespace, "labels", "key") == [("0",), ("2",), ("4",)]
    assert_each_once(namespace, "labels")


@pytest.mark.parametrize("point", ["planned", "inserted", "halfway"])
def test_a_kill_amid_a_flush(namespace: Settings, point: str) -> None:
    for number in range(3):
        send(namespace, "predictions", [prediction(n) for n in range(number * 50, number * 50 + 50)])
        send(namespace, "labels", [label(n) for n in range(number * 50, number * 50 + 50)])
        count = 2 if point == "halfway" else 1
        victim = start(namespace, "-m", "tests.services.record.victim", point, str(count))
        assert victim.wait(60) == -signal.SIGKILL
    with recording(namespace) as recorder:
        until(lambda: recorder.landed.rows > 0 and drained(namespace), "all")
        assert recorder.landed.repeated > 0, "the planned range is read again"
    assert_each_once(namespace, "predictions", "labels")
    # The tokens let ClickHouse drop what it had: not even the table under the view has anything twice.
    assert ask(namespace, "SELECT count() FROM landed_predictions") == 150


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_kills_at_random_moments(namespace: Settings) -> None:
    seeded, sent, going = random.Random(5), 0, True

    def feed() -> None:
        nonlocal sent
        while going:
            numbers = range(sent, sent + 100)
            send(namespace, "predictions", [prediction(n) for n in numbers])
            send(namespace, seeded.choice(INPUTS[1:]), [label(n, signal="click") for n in numbers])
            sent += 100
            time.sleep(0.02)

    feeder = Thread(target=feed)
    feeder.start()
    try:
        for _ in range(12):
            recorder = start(namespace, "-m", "services.cli", "record")
            try:
                until(lambda: _rows(namespace) > 0, "the first rows")
                time.sleep(seeded.uniform(0.2, 2.0))
            finally:
                recorder.kill()
                recorder.wait()
    finally:
        going = False
        feeder.join()
    with recording(namespace):
        until(lambda: drained(namespace), "all")
    assert sent > 1000
    assert_each_once(namespace, *INPUTS)


def _rows(settings: Settings) -> int:
    try:
        return int(ask(settings, "SELECT count() FROM landed_predictions"))
    except (WeirError, DatabaseError):  # no database yet, or no table in it yet
        return 0


def test_rows_that_stand_twice_are_seen_once(namespace: Settings) -> None:
    send(namespace, "predictions", [prediction(n) for n in range(40)])
    with recording(namespace) as recorder:
        until(lambda: recorder.landed.rows >= 40, "rows")
    ask(namespace, "INSERT INTO landed_predictions SELECT * FROM landed_predictions")
    assert ask(namespace, "SELECT count() FROM landed_predictions") == 80
    assert ask(namespace, "SELECT count() FROM predictions") == 40
    assert_each_once(namespace, "predictions")


def test_what_cannot_be_read_lands_and_holds_nothing_up(namespace: Settings) -> None:
    producer = ours.make_producer(namespace, "t")
    bad: list[bytes | None] = [None, b"", b"not json", b"\xff\xfe", b'{"request_id": 5}', b'{"score": NaN}', b"[]"]
    for value in bad:
        producer.produce(topic_name(namespace.namespace, "predictions"), value, b"k", 1, headers=[("h", b"\xff")])
    producer.produce(topic_name(namespace.namespace, "metrics"), b"{}", b"k", 0)
    assert producer.flush(30) == 0
    send(namespace, "predictions", [prediction(1)])
    with recording(namespace) as recorder:
        until(lambda: recorder.landed.rows >= len(bad) + 2, "rows")
    assert_each_once(namespace, "predictions", "metrics")
    assert ask(namespace, "SELECT count() FROM predictions WHERE unreadable != ''") == len(bad)
    assert ask(namespace, "SELECT countIf(body IS NULL) FROM predictions") == 1
    assert ask(namespace, "SELECT countIf(hex(body) = 'FFFE') FROM predictions") == 1
    assert ask(namespace, "SELECT unreadable FROM metrics") == "Object missing required field `id`"


def test_two_recorders_share_and_take_over(namespace: Settings) -> None:
    other = namespace.model_copy(update={"runtime": namespace.runtime.model_copy(update={"worker": "1"})})
    send(namespace, "predictions", [prediction(n) for n in range(300)])
    with recording(namespace) as one:
        until(lambda: one.landed.rows >= 300, "rows")
        with recording(other) as two:
            for batch in range(200):
                send(namespace, "predictions", [prediction(n) for n in range(batch * 20, batch * 20 + 20)])
                if two.landed.rows and one.landed.rows > 300:
                    break
            assert two.landed.rows, "both work"
    with recording(namespace):
        until(lambda: drained(namespace), "all")
    assert_each_once(namespace, "predictions")


def test_clickhouse_away_for_a_while(namespace: Settings, tmp_path: Path) -> None:
    server = LocalClickHouse(tmp_path / "ch", restart=False).start()
    at = ClickHouse(host=server.host, port=server.port, user=server.user, password=SecretStr(server.password))
    settings = namespace.model_copy(update={"clickhouse": at})
    port = server.port
    server.stop()
    send(settings, "predictions", [prediction(n) for n in range(100)])
    try:
        with recording(settings) as recorder:
            time.sleep(0.5)  # it starts without ClickHouse
            server = LocalClickHouse(tmp_path / "ch", port=port, restart=False).start()
            until(lambda: recorder.landed.rows >= 100, "the first rows")
            server.stop()
            send(settings, "predictions", [prediction(n) for n in range(100, 30_100)])
            until(lambda: recorder.member.waits >= 2, "two tries in vain")
            assert recorder.landed.rows == 100
            server = LocalClickHouse(tmp_path / "ch", port=port, restart=False).start()
            until(lambda: recorder.landed.rows >= 30_100, "the rest")
        assert_each_once(settings, "predictions")
    finally:
        server.stop()


def test_it_stops_while_clickhouse_is_away(namespace: Settings, tmp_path: Path) -> None:
    server = LocalClickHouse(tmp_path / "ch", restart=False).start()
    at = ClickHouse(host=server.host, port=server.port, user=server.user, password=SecretStr(server.password))
    settings = namespace.model_copy(update={"clickhouse": at})
    with recording(settings) as recorder:
        send(settings, "predictions", [prediction(1)])
        until(lambda: recorder.landed.rows, "a row")
        server.stop()
        send(settings, "predictions", [prediction(2)])
        until(lambda: recorder.member.waits, "a try in vain")


def test_a_database_that_is_gone_is_filled_again(namespace: Settings) -> None:
    send(namespace, "predictions", [prediction(n) for n in range(40)])
    with recording(namespace) as recorder:
        until(lambda: recorder.landed.rows >= 40, "rows")
    client = connect(namespace)
    client.command(f"DROP DATABASE {database_of(namespace)}")
    client.close()
    with recording(namespace) as recorder:
        until(lambda: recorder.landed.rows >= 40, "the same rows")
    assert_each_once(namespace, "predictions")


def test_tables_that_go_while_it_runs_end_it_with_what_to_do(namespace: Settings) -> None:
    send(namespace, "predictions", [prediction(1)])

    def broken() -> None:
        with recording(namespace) as recorder:
            until(lambda: recorder.landed.rows, "a row")
            ask(namespace, f"DROP DATABASE {database_of(namespace)}")
            send(namespace, "predictions", [prediction(2)])
            until(lambda: not alive(recorder), "its end")

    with pytest.raises(WeirError, match="are gone"):
        broken()


def test_a_topic_made_anew_is_refused(namespace: Settings) -> None:
    send(namespace, "predictions", [prediction(1)])
    with recording(namespace) as recorder:
        until(lambda: recorder.landed.rows, "a row")
    ask(namespace, "INSERT INTO sources SELECT topic, partition, 'another', at_ms + 1 FROM sources")

    def again() -> None:
        with recording(namespace) as recorder:
            until(lambda: not alive(recorder), "its end")

    with pytest.raises(WeirError, match="made anew"):
        again()


def append(settings: Settings, count: int) -> None:
    """Append labels to partition 0, whatever their keys."""
    producer = ours.make_producer(settings, "t")
    for number in range(count):
        producer.produce(topic_name(settings.namespace, "labels"), b"{}", b"%d" % number, 0)
    assert producer.flush(30) == 0


def as_if_landed(settings: Settings, commit: TopicPartition) -> None:
    """Let the database know the place of a commit, and make the commit, as a recorder does that went before."""
    store = Store(settings)
    store.prepare()
    store.remember({("labels", 0): ours.topic_identity(ours.make_admin(settings), commit.topic)})
    store.close()
    consumer = ours.make_consumer(settings, "t", ours.group_id(settings.namespace, "record"))
    consumer.commit(offsets=[commit], asynchronous=False)
    consumer.close()


def ended(settings: Settings) -> WeirError:
    """Give the error with which a recorder ends."""

    def run() -> None:
        with recording(settings) as recorder:
            until(lambda: not alive(recorder), "its end")

    with pytest.raises(WeirError) as error:
        run()
    return error.value


@pytest.mark.parametrize(
    ("offset", "planned", "said"),
    [(50, "", "committed 50, the log ended at 7"), (5, "9", "committed 5, planned up to 9, the log ended at 7")],
)
def test_a_log_that_lost_its_tail_is_refused(namespace: Settings, offset: int, planned: str, said: str) -> None:
    topic = topic_name(namespace.namespace, "labels")
    append(namespace, 7)
    as_if_landed(namespace, TopicPartition(topic, 0, offset, metadata=planned))
    for _ in range(2):  # started again it says the same, though the log has grown past what was lost
        error = ended(namespace)
        assert error.code == ENVIRONMENT
        assert "lost its tail" in error.message
        assert f"{topic}/0: {said}" in error.message
        append(namespace, 60)
    assert landed(namespace, "labels") == []
    with GroupOffsets(namespace, "record", "t") as group:
        assert group.committed([(topic, 0)]) == {(topic, 0): offset}, "nobody moved it"
    ask(namespace, f"DROP DATABASE {database_of(namespace)}")
    with recording(namespace) as recorder:
        until(lambda: recorder.landed.rows >= 127 and drained(namespace), "what is left, in an empty database")
    assert_each_once(namespace, "labels")


@pytest.mark.parametrize("planned", ["", "4"])
def test_an_open_transaction_is_no_lost_tail(namespace: Settings, planned: str) -> None:
    """The commit is at the log's end, which lies past an open transaction, and so is the plan."""
    topic = topic_name(namespace.namespace, "labels")
    append(namespace, 3)
    producer = ours.make_producer(namespace, "t", f"{namespace.namespace}.t")
    producer.init_transactions(30)
    producer.begin_transaction()
    producer.produce(topic, b"{}", b"open", 0)
    assert producer.flush(30) == 0
    assert ours.ends(ours.make_admin(namespace), [(topic, 0)]) == {(topic, 0): (3, 4)}
    as_if_landed(namespace, TopicPartition(topic, 0, 2 if planned else 4, metadata=planned))
    with recording(namespace) as recorder:
        until(lambda: recorder._reading, "its beginning")
        producer.commit_transaction(30)
        append(namespace, 1)
        until(lambda: recorder.landed.rows >= (3 if planned else 1) and drained(namespace), "what comes after it")
    assert landed(namespace, "labels", "offset") == ([(2,), (3,), (5,)] if planned else [(5,)])


@pytest.mark.parametrize(("later", "cut"), [(End(60, 3), True), (End(60, 4), False), (End(40, 4), True)])
def test_only_a_later_leader_knows_better(
    namespace: Settings, monkeypatch: pytest.MonkeyPatch, later: End, cut: bool
) -> None:
    """The first answer may come from a broker that leads no more; a log that grows again is cut all the same."""
    place = (topic_name(namespace.namespace, "labels"), 0)
    monkeypatch.setattr("services.record.run.CUT_S", 0.1)
    recorder = Recorder(namespace, Event())
    monkeypatch.setattr(recorder, "_ask", lambda places: ({}, dict.fromkeys(places, later), {}))
    monkeypatch.setattr(recorder.member, "wait", lambda seconds: None)
    found = recorder._cut({place: Commit(50, "")}, {place: End(40, 3)})
    assert found == ({place: "cut: committed 50, the log ended at 40"} if cut else {})


@pytest.mark.slow
@pytest.mark.timeout(240)
def test_a_broker_that_lost_a_tail_on_its_disk(namespace: Settings, tmp_path: Path) -> None:
    """As after a power failure: the recorder was committed up to what the disk never had."""
    with LocalKafka(tmp_path / "k") as kafka:
        at = namespace.kafka.model_copy(update={"bootstrap": kafka.bootstrap})
        settings = namespace.model_copy(update={"kafka": at})
        ensure_topics(settings)
        topic = topic_name(settings.namespace, "labels")
        append(settings, 7)
        segment = next((tmp_path / "k").rglob(f"{topic}-0/{0:020}.log"))
        whole = segment.stat().st_size
        append(settings, 5)
        before = ours.high_ends(ours.make_admin(settings), [(topic, 0)])[topic, 0]

        def run() -> None:
            with recording(settings) as recorder:
                until(lambda: recorder.landed.rows >= 12 and drained(settings), "all")
                kafka.kill()
                os.truncate(segment, whole)
                kafka.start()
                until(lambda: not alive(recorder), "its end")

        with pytest.raises(WeirError, match=f"{topic}/0: committed 12, the log ended at 7"):
            run()
        assert landed(settings, "labels") == [(0, offset) for offset in range(12)]
        after = ours.high_ends(ours.make_admin(settings), [(topic, 0)])[topic, 0]
        assert (before.offset, after.offset) == (12, 7)
        assert after.epoch > before.epoch >= 0, "Kafka says whose answer it is"


@pytest.mark.slow
@pytest.mark.timeout(240)
@pytest.mark.parametrize("away_s", [0.0, 11.0])
def test_kafka_away_at_the_start_and_killed_amid_a_flush(namespace: Settings, tmp_path: Path, away_s: float) -> None:
    """Short enough that the group still knows the recorder, and long enough that it has given the recorder up."""
    with LocalKafka(tmp_path / "k") as kafka:
        at = namespace.kafka.model_copy(update={"bootstrap": kafka.bootstrap})
        settings = namespace.model_copy(update={"kafka": at})
        ensure_topics(settings)
        kafka.stop()
        with recording(settings) as recorder:
            time.sleep(0.5)  # it starts without Kafka
            kafka.start()
            land, kills = recorder._store.land, iter([True])

            def land_amid_a_kill(topic: str, spans: list[Span]) -> int:
                if next(kills, False):
                    kafka.kill()
                return land(topic, spans)

            recorder._store.land = land_amid_a_kill  # type: ignore[method-assign]
            send(settings, "labels", [label(n) for n in range(50)])
            until(lambda: not kafka.alive, "the kill")
            time.sleep(away_s)
            kafka.start()
            send(settings, "labels", [label(n) for n in range(50, 100)])
            until(lambda: recorder.landed.rows >= 100, "all of it")
        assert_each_once(settings, "labels")
        assert ask(settings, "SELECT count() FROM landed_labels") == 100


def test_retention_that_overtook_it_is_survived(namespace: Settings) -> None:
    send(namespace, "labels", [label(n) for n in range(100)])
    with recording(namespace) as recorder:
        until(lambda: recorder.landed.rows >= 100, "rows")
    send(namespace, "labels", [label(n) for n in range(100, 200)])
    admin = ours.make_admin(namespace)
    topic = topic_name(namespace.namespace, "labels")
    ends = ours.ends(admin, [(topic, p) for p in range(4)])
    gone = [TopicPartition(topic, p, ends[topic, p][0] - 1) for p in range(4)]
    for future in admin.delete_records(gone).values():
        future.result()
    with recording(namespace) as recorder:
        until(lambda: recorder.landed.rows >= 4 and drained(namespace), "what is left")
    migrate(namespace)
    assert ask(namespace, "SELECT count() FROM labels") == 104
