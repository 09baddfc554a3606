"""Small readers and writers of the namespace's topics, for everything that is not a transactional stage."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from types import TracebackType
from typing import Any, Self

from confluent_kafka import KafkaError, KafkaException, Message, TopicPartition

from schemas.errors import ENVIRONMENT, WeirError
from schemas.settings import Settings
from schemas.topics import topic_name, width
from streams.runtime.kafka import (
    LARGE_MESSAGE_BYTES,
    earliest,
    ends,
    make_admin,
    make_producer,
    make_reader,
    reason,
    wait_for_kafka,
)

FLUSH_S = 30.0
ANSWER_S = 5.0
"""How long Kafka may be silent before a person is told."""
_TOO_LARGE = "is more than the topic takes"


class Sender:
    """An idempotent producer for commands and single events: what `close` has not complained of, Kafka has.

    Keys go through Java's hash, so that any other client finds the same partition. Raises `WeirError` from `close` (or
    the end of a `with` block) that says how many records were not taken, and why.
    """

    def __init__(self, settings: Settings, client: str = "sender") -> None:
        wait_for_kafka(settings, timeout_s=ANSWER_S)
        self._settings = settings
        self._producer = make_producer(settings, client, large=True)
        self._refused: list[str] = []
        self._virtual = settings.clock == "virtual"

    def send(
        self,
        topic: str,
        value: bytes | None,
        *,
        key: bytes | None = None,
        partition: int | None = None,
        headers: Sequence[tuple[str, bytes | None]] = (),
        append_ms: int | None = None,
    ) -> None:
        """Queue one record for a logical topic. `append_ms` is its time where the clock is virtual; elsewhere the
        broker's clock decides. Raises `WeirError` for a record that no broker would take.
        """
        placed: dict[str, Any] = {} if partition is None else {"partition": partition}
        if self._virtual and append_ms is not None:
            placed["timestamp"] = append_ms
        name = topic_name(self._settings.namespace, topic)
        while True:
            try:
                self._producer.produce(
                    name, value=value, key=key, headers=list(headers), on_delivery=self._delivered, **placed
                )
            except BufferError:
                self._producer.poll(0.1)
            except KafkaException as error:
                size = len(value or b"")
                raise WeirError(
                    f"a record of {size} bytes cannot be sent to {name}: {reason(error)}",
                    fix=f"a record has at most {LARGE_MESSAGE_BYTES} bytes, key and headers included",
                ) from None
            else:
                self._producer.poll(0)
                return

    def flush(self) -> None:
        """Wait until Kafka has everything. Raises `WeirError` when it has not."""
        left = self._producer.flush(FLUSH_S)
        refused, self._refused = self._refused, []
        if left or refused:
            why = refused[0] if refused else f"no answer within {FLUSH_S:g} s"
            raise WeirError(
                f"Kafka at {self._settings.kafka.bootstrap} did not take {left + len(refused)} records: {why}",
                fix="send less, or raise the topic's max.message.bytes"
                if _TOO_LARGE in why
                else "check that it runs and that the topics exist (weir topics plan), then try again",
                code=ENVIRONMENT,
            )

    def close(self) -> None:
        """Flush; the sender is of no use afterwards."""
        self.flush()

    def _delivered(self, error: KafkaError | None, message: Message) -> None:
        if error is not None:
            large = error.code() == KafkaError.MSG_SIZE_TOO_LARGE
            why = f"a value of {len(message.value() or b'')} bytes {_TOO_LARGE}" if large else error.str()
            self._refused.append(f"{message.topic()}: {why}")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is None:
            self.close()


def places_of(settings: Settings, topic: str) -> list[tuple[str, int]]:
    """Give every (Kafka topic, partition) of a logical topic."""
    count = width(topic, partitions=settings.partitions, measures_partitions=settings.measures_partitions)
    return [(topic_name(settings.namespace, topic), partition) for partition in range(count)]


def read_to_end(settings: Settings, topic: str, *, client: str = "reader") -> Iterator[Message]:
    """Give every committed record of a logical topic, up to where it ended when this was called.

    Records come in offset order per partition, partitions mixed. Joins no group and commits nothing. Raises `WeirError`
    when Kafka does not answer or the topic does not exist.
    """
    wait_for_kafka(settings, timeout_s=ANSWER_S)
    admin = make_admin(settings, client)
    places = places_of(settings, topic)
    try:
        first, last = earliest(admin, places), ends(admin, places)
    except KafkaException as error:
        raise WeirError(
            f"cannot read {topic_name(settings.namespace, topic)} at {settings.kafka.bootstrap}: {reason(error)}",
            fix="start Kafka, set kafka.bootstrap, or create the topics: weir topics apply",
            code=ENVIRONMENT,
        ) from None
    open_places = {place for place in places if first[place] < last[place][0]}
    if not open_places:
        return
    reader = make_reader(settings, client)
    try:
        reader.assign([TopicPartition(*place, first[place]) for place in open_places])
        while open_places:
            for message in reader.consume(10_000, timeout=0.2):
                place = (str(message.topic()), int(message.partition() or 0))
                event = message.error()
                at_end = event is not None and event.code() == KafkaError._PARTITION_EOF
                if event is not None and not at_end:
                    raise WeirError(f"reading {place[0]}[{place[1]}] failed: {event.str()}", code=ENVIRONMENT)
                if place not in open_places:
                    continue
                # An end-of-partition event carries the position: markers of transactions fill the last offsets.
                position = int(message.offset() or 0) + (0 if at_end else 1)
                if not at_end and position <= last[place][0]:
                    yield message
                if position >= last[place][0]:
                    open_places.discard(place)
    finally:
        reader.close()
