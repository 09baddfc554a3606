"""A producer that keeps to a schedule, whatever the system under test does: no coordinated omission.

Everything is rendered before the start; the first line says when that was done, and nothing is sent when it was too
late. An event that leaves late keeps the time at which it should have left (its `at_ms`), so a wait anywhere shows as
latency. The last line is JSON: how many were sent, and how late the latest was.
"""

from __future__ import annotations

import argparse
import json
import time

from confluent_kafka import Producer

from benchmarks.join.history import History, Record

SLICE_S = 0.005


def main() -> None:
    """Render, wait for the start, send."""
    parser = argparse.ArgumentParser(description=__doc__)
    for name in ("bootstrap", "predictions", "labels"):
        parser.add_argument(f"--{name}", required=True)
    for name in ("n", "start-ms", "span-ms", "timeout-ms", "seed"):
        parser.add_argument(f"--{name}", type=int, required=True)
    given = parser.parse_args()
    history = History(given.n, given.start_ms, given.span_ms, given.timeout_ms, seed=given.seed)
    records = list(history.records())
    producer = Producer(
        {
            "bootstrap.servers": given.bootstrap,
            "partitioner": "murmur2_random",
            "linger.ms": 5,
            "queue.buffering.max.messages": 1_000_000,
            "delivery.report.only.error": True,
        }
    )
    producer.list_topics(given.predictions, timeout=10)  # metadata before the first event
    ready_ms = int(time.time() * 1000)
    print(json.dumps({"ready_ms": ready_ms}), flush=True)
    if ready_ms > history.first_ms:
        return
    late_ms = _send(producer, records, given.predictions, given.labels)
    left = producer.flush(30)
    print(json.dumps({"sent": len(records) - left, "late_ms": late_ms}))


def _send(producer: Producer, records: list[Record], predictions: str, labels: str) -> int:
    late_ms = sent = 0
    while sent < len(records):
        now_ms = int(time.time() * 1000)
        while sent < len(records) and records[sent].at_ms <= now_ms:
            record = records[sent]
            try:
                producer.produce(labels if record.is_label else predictions, record.value, record.key)
            except BufferError:
                producer.poll(0.01)
                continue
            sent += 1
        if sent:
            late_ms = max(late_ms, int(time.time() * 1000) - records[sent - 1].at_ms)
        producer.poll(0)
        time.sleep(SLICE_S)
    return late_ms


if __name__ == "__main__":
    main()
