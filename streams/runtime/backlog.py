"""How far a stage is behind, for drivers and tests that wait until it is drained.

Committed offsets are asked through a consumer of the group that never subscribes. The admin client's question
(`list_consumer_group_offsets`) can end the whole process: on a fresh broker, or when a coordinator moves, librdkafka
dereferences NULL (confluentinc/librdkafka#5040).
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from types import TracebackType
from typing import Self

from confluent_kafka import Consumer, KafkaException, TopicPartition
from confluent_kafka.admin import AdminClient

from schemas.settings import Settings
from schemas.topics import topic_name
from streams.runtime.kafka import Place, earliest, ends, group_id, make_admin, make_consumer, partition_counts

CONTROL = "control"
ANSWER_S = 30.0
PAUSE_S = 0.05


class Backlog:
    """The backlog of one stage's inputs. Keeps its connections between questions; close it, or use it as `with …`."""

    def __init__(self, settings: Settings, stage: str, inputs: Sequence[str], admin: AdminClient | None = None) -> None:
        self._admin = admin or make_admin(settings, "backlog")
        self._consumer = make_consumer(settings, "backlog", group_id(settings.namespace, stage))
        counts = partition_counts(self._admin, settings)
        widths = {name: counts.get(topic_name(settings.namespace, name), 0) for name in inputs}
        # Control may have more partitions than what it comes with: a stage reads as many as it has of the rest.
        widest = max((width for name, width in widths.items() if name != CONTROL), default=widths.get(CONTROL, 0))
        self._places: dict[Place, str] = {
            (topic_name(settings.namespace, name), partition): name
            for name, width in widths.items()
            for partition in range(min(width, widest))
        }

    def lags(self, *inputs: str) -> dict[Place, int]:
        """Give how many offsets of each input (all, or those named) are not committed, transaction markers included.

        A stage is drained when all are 0: its loop commits past markers too. Open transactions count as unread. Raises
        `KafkaException` when Kafka does not answer within half a minute.
        """
        places = [place for place, name in self._places.items() if not inputs or name in inputs]
        committed = self._committed(places)
        first = earliest(self._admin, places)
        high = {place: high for place, (_, high) in ends(self._admin, places).items()}
        return {place: high[place] - max(committed[place], first[place]) for place in places}

    def drained(self, *inputs: str) -> bool:
        """Say whether nothing is left to commit of the inputs (all, or those named)."""
        return not any(self.lags(*inputs).values())

    def _committed(self, places: Sequence[Place]) -> dict[Place, int]:
        return _ask(self._consumer, places)

    def close(self) -> None:
        """Close the connections."""
        self._consumer.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class Committed:
    """What a stage's group has committed, asked through one connection. Close it, or use it as `with …`."""

    def __init__(self, settings: Settings, stage: str) -> None:
        self._member = make_consumer(settings, "backlog", group_id(settings.namespace, stage))

    def of(self, places: Sequence[Place]) -> dict[Place, int]:
        """Give the offset of each place, negative where there is none.

        Raises `KafkaException` when Kafka does not answer within half a minute.
        """
        return _ask(self._member, places)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._member.close()


def committed(settings: Settings, stage: str, places: Sequence[Place]) -> dict[Place, int]:
    """Give the offset that a stage's group has committed of each place, negative where there is none; asks once.

    Raises `KafkaException` when Kafka does not answer within half a minute.
    """
    member = make_consumer(settings, "backlog", group_id(settings.namespace, stage))
    try:
        return _ask(member, places)
    finally:
        member.close()


def _ask(member: Consumer, places: Sequence[Place]) -> dict[Place, int]:
    deadline = time.monotonic() + ANSWER_S
    while True:
        try:
            answered = member.committed([TopicPartition(*place) for place in places], timeout=5)
            return {(tp.topic, tp.partition): tp.offset for tp in answered}
        except KafkaException:  # the group's coordinator is being found, or moves
            if time.monotonic() > deadline:
                raise
            time.sleep(PAUSE_S)


def lags(settings: Settings, stage: str, inputs: Sequence[str], admin: AdminClient | None = None) -> dict[Place, int]:
    """Ask once; see `Backlog.lags`."""
    with Backlog(settings, stage, inputs, admin) as backlog:
        return backlog.lags()
