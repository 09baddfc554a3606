"""What Kafka alone costs a Python process: reading both topics and dropping them, or writing rows in transactions.

Nothing joins faster than this with the same client. The last line is JSON: messages, CPU and wall seconds of the last
four fifths.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Iterator

from confluent_kafka import Consumer, Producer, TopicPartition

LEFT_OUT = 0.2
COMMIT_S = 0.1
ROW = b'{"label":1,"label_kind":"explicit","labelled_at_ms":1700000000000,"row":"' + b"x" * 430 + b'"}'


def consume(bootstrap: str, topics: list[str], partitions: int) -> Iterator[int]:
    """Read everything, key and value taken, nothing decoded; yields how many messages came."""
    consumer = Consumer(
        {
            "bootstrap.servers": bootstrap,
            "group.id": "bench.probe",
            "isolation.level": "read_committed",
            "enable.auto.commit": False,
            "fetch.queue.backoff.ms": 5,
        }
    )
    consumer.assign([TopicPartition(topic, partition, 0) for topic in topics for partition in range(partitions)])
    while True:
        count = 0
        for message in consumer.consume(20_000, 0.1):
            if message.error() is None:
                _ = message.key(), message.value()
                count += 1
        yield count


def produce(bootstrap: str, topic: str, partitions: int) -> Iterator[int]:
    """Write rows in transactions of 100 ms, the partition given; yields how many."""
    producer = Producer(
        {
            "bootstrap.servers": bootstrap,
            "transactional.id": "bench.probe",
            "linger.ms": 5,
            "compression.type": "lz4",
            "queue.buffering.max.messages": 1_000_000,
        }
    )
    producer.init_transactions(30)
    key = b"0" * 36
    while True:
        producer.begin_transaction()
        count, until = 0, time.monotonic() + COMMIT_S
        while time.monotonic() < until:
            for _ in range(500):
                try:
                    producer.produce(topic, ROW, key, count % partitions)
                except BufferError:
                    producer.poll(0.01)
                    break
                count += 1
        producer.commit_transaction(30)
        yield count


def main() -> None:
    """Run one of the two."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("what", choices=("consume", "produce"))
    parser.add_argument("--bootstrap", required=True)
    parser.add_argument("--topics", nargs="+", required=True)
    parser.add_argument("--partitions", type=int, required=True)
    parser.add_argument("--messages", type=int, required=True)
    given = parser.parse_args()
    counts = (
        consume(given.bootstrap, given.topics, given.partitions)
        if given.what == "consume"
        else produce(given.bootstrap, given.topics[0], given.partitions)
    )
    done, begun = 0, (0, 0.0, 0.0)
    while done < given.messages:
        done += next(counts)
        if not begun[0] and done >= given.messages * LEFT_OUT:
            begun = done, time.process_time(), time.monotonic()
    messages, cpu_s, wall_s = done - begun[0], time.process_time() - begun[1], time.monotonic() - begun[2]
    print(json.dumps({"messages": messages, "cpu_s": cpu_s, "wall_s": wall_s}))


if __name__ == "__main__":
    main()
