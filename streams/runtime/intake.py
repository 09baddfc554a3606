"""What a worker reads: records into the partitions that they are of, bounded by count and bytes.

Where librdkafka's own queues can be used (`librdkafka.Fetches`), records come packed, many at a time, and only the
group's news through `poll`; elsewhere one by one.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Generic, TypeVar

import structlog
from confluent_kafka import Consumer, KafkaError, KafkaException, Message, TopicPartition

from streams.runtime import librdkafka
from streams.runtime.failures import NotRestored
from streams.runtime.partition import Partition

StateT = TypeVar("StateT")

MOST_FETCHED, FIRST_FETCHED = 50_000, 16
BATCH_BYTES = 16 << 20

_log = structlog.get_logger()


class Intake(Generic[StateT]):
    """Gathers records of a consumer. `events` and `bytes` count what came since `clear`.

    `logical` maps Kafka's topic names to logical ones; `part_of` gives the running partition of a number, None for one
    that was taken away: its records are let go of, its successor reads them.
    """

    def __init__(
        self, consumer: Consumer, logical: Mapping[str, str], part_of: Callable[[int], Partition[StateT] | None]
    ) -> None:
        self.events = self.bytes = 0
        self._consumer, self._logical, self._part_of = consumer, logical, part_of
        self._came = self._came_bytes = 0  # at the last fetch
        usable = librdkafka.usable(consumer)
        self._fetches = librdkafka.Fetches(consumer, MOST_FETCHED) if usable else None

    @property
    def full(self) -> bool:
        """Whether a cycle has as many bytes as it may have."""
        return self.bytes >= BATCH_BYTES

    def assign(self, places: list[TopicPartition]) -> None:
        """Fetch partitions from their positions on."""
        if self._fetches is not None:
            self._fetches.forward([(place.topic, place.partition) for place in places])
        self._consumer.assign(places)

    def clear(self) -> None:
        """Count from nothing: what was gathered is stepped over, or was let go of."""
        self.events = self.bytes = 0

    def close(self) -> None:
        """Let go of librdkafka's queues. May be called twice."""
        if self._fetches is not None:
            self._fetches.close()

    def fetch(self, limit: int, wait_s: float) -> int:
        """Gather records that come within `wait_s`. Gives how many came. Raises as `keep`."""
        if self._fetches is None:
            messages = self._consumer.consume(limit, wait_s)
            for message in messages:
                self.keep(message)
            return len(messages)
        told = self._consumer.poll(0)  # the group's news; records do not come this way
        if told is not None:
            self.keep(told)
        came = came_bytes = 0
        limit = min(limit, self._portion())
        for fetched in self._fetches.take(limit, wait_s):
            came += len(fetched.packed)
            if fetched.error is not None:
                self._refuse(fetched.error, fetched.topic, fetched.partition, fetched.offset)
            elif (part := self._part_of(fetched.partition)) is not None:
                self.events += part.keep_packed(self._logical[fetched.topic], fetched.packed)
                came_bytes += fetched.packed.size
        self.bytes += came_bytes
        self._came, self._came_bytes = came, came_bytes
        return came

    def _portion(self) -> int:
        """Say how many records to take at once: no more bytes than a cycle has room for, if they are like the last.

        How large they are is not known before: an envelope is a record, and may be as large as a thousand. So portions
        begin small, and double.
        """
        room = max(0, BATCH_BYTES - self.bytes)
        like_last = 1 + room * self._came // max(1, self._came_bytes) if self._came else FIRST_FETCHED
        return min(2 * self._came + FIRST_FETCHED, like_last)

    def keep(self, message: Message) -> None:
        """Take one message or piece of news.

        Raises `NotRestored` when the next record to read is gone, `KafkaException` for what is fatal.
        """
        topic, number = message.topic() or "", message.partition() or 0
        error = message.error()
        if error is not None:
            self._refuse(error, topic, number, message.offset() or 0)
        elif (part := self._part_of(number)) is not None and part.keep(self._logical[topic], message):
            self.events += 1
            self.bytes += len(message)

    def _refuse(self, error: KafkaError, topic: str, number: int, offset: int) -> None:
        """Take an event that is no record: the end of a partition, or an error."""
        if error.code() == KafkaError._PARTITION_EOF:
            part = self._part_of(number)
            if part is not None:  # the end lies past transaction markers, which no record shows
                name = self._logical[topic]
                part.position[name] = max(part.position[name], offset)
        elif error.code() == KafkaError._AUTO_OFFSET_RESET:
            raise NotRestored(
                f"{topic}/{number}: the next record to read is gone: {error.str()}",
                fix="retention went by; start the process again: it looks for these records in ClickHouse",
            )
        elif error.fatal() or error.code() in (KafkaError._FATAL, KafkaError.FENCED_INSTANCE_ID):
            raise KafkaException(error)
        else:
            _log.warning("kafka_error", topic=topic, partition=number, reason=error.str())
