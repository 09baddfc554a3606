"""Small readers and writers of topics: what is sent is there once, what is committed is read, up to its end."""

import os

import pytest

from schemas.errors import ENVIRONMENT, WeirError
from schemas.settings import Settings
from schemas.topics import topic_name
from services.kafka import Sender, places_of, read_to_end
from streams.join.partition import partition_of
from streams.runtime import kafka as ours
from streams.runtime.topics import ensure_topics

pytestmark = pytest.mark.kafka


def test_what_is_sent_is_read_where_java_would_put_it(on_kafka: Settings) -> None:
    keys = [f"r{n}".encode() for n in range(200)]
    with Sender(on_kafka) as sender:
        for key in keys:
            sender.send("labels", b"v" + key, key=key, headers=[("h", b"1"), ("none", None)])
        sender.send("labels", b"there", partition=3)
    found = list(read_to_end(on_kafka, "labels"))
    assert {m.key(): m.partition() for m in found if m.key()} == {key: partition_of(key, 4) for key in keys}
    assert [m.partition() for m in found if m.value() == b"there"] == [3]
    assert found[0].headers() == [("h", b"1"), ("none", None)]
    assert len(found) == 201
    for partition in range(4):
        offsets = [m.offset() for m in found if m.partition() == partition]
        assert offsets == sorted(o for o in offsets if o is not None)


def test_an_empty_topic_and_one_that_ends_in_markers(on_kafka: Settings) -> None:
    assert list(read_to_end(on_kafka, "signals")) == []
    producer = ours.make_producer(on_kafka, "t", f"{on_kafka.namespace}.t")
    producer.init_transactions(30)
    topic = topic_name(on_kafka.namespace, "signals")
    for number, ends in enumerate((producer.commit_transaction, producer.abort_transaction)):
        producer.begin_transaction()
        for partition in range(4):
            producer.produce(topic, b"%d" % number, partition=partition)
        producer.flush(10)
        ends(30)
    assert [m.value() for m in read_to_end(on_kafka, "signals")] == [b"0"] * 4
    producer.begin_transaction()
    producer.produce(topic, b"open", partition=0)
    producer.flush(10)
    assert [m.value() for m in read_to_end(on_kafka, "signals")] == [b"0"] * 4, "an open transaction is not waited for"
    producer.abort_transaction(30)


def test_it_ends_where_the_topic_ended_when_asked(on_kafka: Settings) -> None:
    with Sender(on_kafka) as sender:
        sender.send("alerts", b"1")
    reading = read_to_end(on_kafka, "alerts")
    assert next(reading).value() == b"1"
    with Sender(on_kafka) as sender:
        sender.send("alerts", b"2")
    assert list(reading) == []


def test_a_topic_whose_beginning_is_gone(on_kafka: Settings) -> None:
    from confluent_kafka import TopicPartition

    with Sender(on_kafka) as sender:
        for number in range(10):
            sender.send("alerts", b"%d" % number)
    (place,) = places_of(on_kafka, "alerts")
    admin = ours.make_admin(on_kafka)
    for future in admin.delete_records([TopicPartition(*place, 7)]).values():
        future.result()
    assert [m.value() for m in read_to_end(on_kafka, "alerts")] == [b"7", b"8", b"9"]


def test_errors_say_what_to_do(on_kafka: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("services.kafka.FLUSH_S", 2.0)
    absent = on_kafka.model_copy(update={"namespace": on_kafka.namespace + "x"})
    with pytest.raises(WeirError, match="weir topics apply") as refused:
        list(read_to_end(absent, "labels"))
    assert refused.value.code == ENVIRONMENT
    with pytest.raises(WeirError, match="did not take 1 records"), Sender(absent) as sender:
        sender.send("labels", b"v")
    with pytest.raises(WeirError, match="at most 4000000 bytes"), Sender(on_kafka) as sender:
        sender.send("labels", b"v" * 5_000_000)
    sender = Sender(on_kafka)
    for value in (b"before", os.urandom(2_000_000), b"after"):
        sender.send("labels", value, partition=0)
    with pytest.raises(WeirError, match=r"labels: a value of 2000000 bytes is more(.|\n)*max.message.bytes"):
        sender.close()
    assert [m.value() for m in read_to_end(on_kafka, "labels")] == [b"before", b"after"], "nothing else suffers"
    with pytest.raises(ValueError, match="no topic 'nope'"):
        Sender(on_kafka).send("nope", b"v")


def test_an_error_in_the_block_is_not_hidden(on_kafka: Settings) -> None:
    with pytest.raises(KeyError), Sender(on_kafka):
        raise KeyError


def test_times_are_ours_only_where_the_clock_is_virtual(on_kafka: Settings) -> None:
    virtual = on_kafka.model_copy(update={"namespace": on_kafka.namespace + "v", "clock": "virtual"})
    ensure_topics(virtual)
    for settings in (on_kafka, virtual):
        with Sender(settings) as sender:
            sender.send("labels", b"v", append_ms=12_345)
    times = [next(read_to_end(settings, "labels")).timestamp()[1] for settings in (on_kafka, virtual)]
    assert times[0] > 1_000_000_000_000
    assert times[1] == 12_345
