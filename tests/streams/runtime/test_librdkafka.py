"""Batches out of librdkafka: the same records as one by one, where they lie, and nothing of them after the end."""

from __future__ import annotations

import ctypes
import mmap
import time
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import pytest
from confluent_kafka import TopicPartition

from schemas.topics import topic_name
from services.local.kafka import LocalKafka
from streams.runtime import kafka as ours
from streams.runtime import librdkafka
from streams.runtime.librdkafka import ROW, VALUE, VALUE_SIZE, Fetches
from streams.runtime.native import Words, address
from streams.runtime.records import PACKED_WORDS, Records
from tests.streams.runtime.harness import DEADLINE_S, everything, fresh

PAGE = 4096


def test_a_value_is_copied_where_the_bytes_behind_it_may_not_be_there() -> None:
    area = np.frombuffer(mmap.mmap(-1, 2 * PAGE), dtype=np.uint8)
    area[:] = np.arange(2 * PAGE) % 251
    sizes = (0, 1, 7, 8, 100)
    places = [(end - size, size) for end in (300, *range(PAGE - 10, PAGE + 10)) for size in sizes]
    rows: Words = np.zeros((len(places), ROW), dtype=np.int64)
    rows[:, VALUE] = [address(area) + start for start, _ in places]
    rows[:, VALUE_SIZE] = [size for _, size in places]
    body = np.empty(librdkafka._bytes_of(address(rows), len(rows)) + 8, dtype=np.uint8)
    table: Words = np.zeros((len(rows), PACKED_WORDS), dtype=np.int64)
    librdkafka._carry(address(rows), len(rows), address(body), address(table))
    copied = 0
    for (start, size), (value, value_size, *_) in zip(places, table.tolist(), strict=True):
        assert value_size == size
        assert ctypes.string_at(value, size) == area[start : start + size].tobytes()
        if size and (start + size - 1) // PAGE != (start + size + 7) // PAGE:
            assert address(body) <= value <= address(body) + len(body) - size - 8
            copied += size
        else:
            assert value == address(area) + start
    assert 0 < copied == len(body) - 8


@pytest.mark.kafka
def test_batches_hold_what_is_read_one_by_one(kafka: LocalKafka, tmp_path: Path) -> None:
    settings = fresh(kafka.bootstrap, tmp_path, partitions=1)
    topic = topic_name(settings.namespace, "predictions")
    random = Random(5)
    producer = ours.make_producer(settings, "test")
    for number in range(3_000):
        value = None if number % 97 == 0 else random.randbytes(random.choice((0, 1, 30, 400, 5_000)))
        key = None if number % 89 == 0 else b"k%d" % number
        headers: list[tuple[str, str | bytes | None]] = []
        if number % 50 == 0:
            headers = [("h", b"%d" % number), ("none", None)]
        producer.produce(topic, value, key, 0, headers=headers)
    assert producer.flush(30) == 0
    expected = Records()
    for message in everything(settings, "predictions"):
        found_headers: Any = tuple(message.headers() or ()) or None
        expected.append(message.offset() or 0, message.timestamp()[1], message.key(), message.value(), found_headers)

    reader = ours.make_reader(settings, "test")
    fetches = Fetches(reader, 1_000)
    fetches.forward([(topic, 0)])
    reader.assign([TopicPartition(topic, 0, 0)])
    found, taken, deadline = Records(), [], time.monotonic() + DEADLINE_S
    while len(found) < 3_000 and time.monotonic() < deadline:
        reader.poll(0)
        for fetched in fetches.take(1_000, 0.1):
            taken.append(fetched)  # so that all of them are still lent when they are read
            found.extend(fetched.packed)
    assert sum(fetched.packed.size for fetched in taken) == sum(
        len(part or b"") for part in (*expected.keys, *expected.values)
    )
    assert found == expected
    fetches.close()  # gives back what is still held: a consumer with messages outside would never end
    reader.close()
    assert taken
