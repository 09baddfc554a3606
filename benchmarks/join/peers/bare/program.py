# mypy: ignore-errors
"""A loop, a dict and transactions; what waits is lost with the process."""

import argparse
import signal
import time
from collections import deque

import orjson
from confluent_kafka import Consumer, Producer

parser = argparse.ArgumentParser()
for name in ("bootstrap", "predictions", "labels", "output", "group", "state"):
    parser.add_argument(f"--{name}", required=True)
parser.add_argument("--partitions", type=int)
parser.add_argument("--timeout-ms", type=int)
given = parser.parse_args()

running = True
COMMIT_S = 0.1


def stop(*_):
    global running
    running = False


signal.signal(signal.SIGTERM, stop)
consumer = Consumer(
    {
        "bootstrap.servers": given.bootstrap,
        "group.id": given.group,
        "isolation.level": "read_committed",
        "enable.auto.commit": False,
        "auto.offset.reset": "earliest",
        "session.timeout.ms": 10_000,
        "fetch.queue.backoff.ms": 5,  # the default of 1 s starves a fast reader
    }
)
producer = Producer(
    {
        "bootstrap.servers": given.bootstrap,
        "transactional.id": given.group,
        "partitioner": "murmur2_random",
        "linger.ms": 5,
        "compression.type": "lz4",
        "queue.buffering.max.messages": 1_000_000,
    }
)
producer.init_transactions(30)
consumer.subscribe([given.predictions, given.labels])

waiting = {}  # request id → prediction
early = {}  # request id → label that came first
answered = {}  # request id → None, so that a second copy of a label gives no row
due = deque()  # (deadline, request id), in the order of time
forget = deque()
seen_ms = {}  # (topic, partition) → Kafka timestamp last read


def emit(prediction, label, kind, labelled_at_ms):
    row = {
        **prediction,
        "label": label,
        "label_kind": kind,
        "predicted_at_ms": prediction["at_ms"],
        "labelled_at_ms": labelled_at_ms,
    }
    key = prediction["request_id"]
    while True:
        try:
            producer.produce(given.output, orjson.dumps(row), key)
            return
        except BufferError:
            producer.poll(0.05)


def take(message):
    request = message.key()
    seen_ms[message.topic(), message.partition()] = message.timestamp()[1]
    if message.topic() == given.predictions:
        prediction = orjson.loads(message.value())
        label = early.pop(request, None)
        if label is not None:
            emit(prediction, label["label"], "explicit", label["at_ms"])
            answered[request] = None
            forget.append((prediction["at_ms"] + given.timeout_ms, request))
        else:
            waiting[request] = prediction
            due.append((prediction["at_ms"] + given.timeout_ms, request))
    else:
        label = orjson.loads(message.value())
        prediction = waiting.pop(request, None)
        if prediction is not None:
            emit(prediction, label["label"], "explicit", label["at_ms"])
            answered[request] = None
            forget.append((prediction["at_ms"] + given.timeout_ms, request))
        elif request not in answered:
            early[request] = label


def expire(now_ms):
    while due and due[0][0] < now_ms:
        _, request = due.popleft()
        prediction = waiting.pop(request, None)
        if prediction is not None:
            emit(prediction, 0, "timeout", None)
            answered[request] = None
            forget.append((now_ms + given.timeout_ms, request))
    while forget and forget[0][0] < now_ms:
        answered.pop(forget.popleft()[1], None)


while running:
    begun, took = False, 0
    until = time.monotonic() + COMMIT_S
    while took < 20_000 and (left := until - time.monotonic()) > 0:
        messages = consumer.consume(20_000 - took, min(left, 0.02))
        if messages and not begun:
            producer.begin_transaction()
            begun = True
        for message in messages:
            if message.error() is None:
                take(message)
        took += len(messages)
    if len(seen_ms) == 2 * given.partitions:
        # Both topics have been read up to here; when nothing comes, the wall clock goes on.
        now_ms = min(seen_ms.values()) if took else int(time.time() * 1000)
        if not begun and due and due[0][0] < now_ms:
            producer.begin_transaction()
            begun = True
        if begun:
            expire(now_ms)
    if begun:
        producer.send_offsets_to_transaction(
            consumer.position(consumer.assignment()), consumer.consumer_group_metadata(), 10
        )
        producer.commit_transaction(10)
consumer.close()
