"""What a group has committed, asked in one way by everybody.

The admin client's question (`list_consumer_group_offsets`) is not used: on a fresh broker, or when a coordinator moves,
librdkafka dereferences NULL and the whole process ends (confluentinc/librdkafka#5040). A consumer that bears the
group's name and never subscribes may ask as well, and joins nothing.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from types import TracebackType
from typing import NamedTuple, Self

from confluent_kafka import Consumer, KafkaException, TopicPartition

from schemas.settings import Settings
from streams.runtime import kafka
from streams.runtime.kafka import Place

PATIENCE_S = 30.0
TRY_S = 5.0
PAUSE_S = 0.05


class Commit(NamedTuple):
    """What a group committed of one partition: the next offset, negative where there is none, and what it said."""

    offset: int
    metadata: str


def committed(member: Consumer, places: Sequence[Place], *, patience_s: float = PATIENCE_S) -> dict[Place, Commit]:
    """Ask through a consumer of the group, joined or not, again while the coordinator is being found or moves.

    Raises `KafkaException` when there is no answer within `patience_s` and one last try of at most `TRY_S`.
    """
    deadline = time.monotonic() + patience_s
    while True:
        try:
            answered = member.committed([TopicPartition(*place) for place in places], timeout=TRY_S) if places else []
            for tp in answered:
                if tp.error is not None:
                    raise KafkaException(tp.error)
            return {(tp.topic, tp.partition): Commit(tp.offset, tp.metadata or "") for tp in answered}
        except KafkaException:
            if time.monotonic() >= deadline:
                raise
            time.sleep(PAUSE_S)


class GroupOffsets:
    """Asks what a stage's group has committed, and never joins it. Close it, or use it as `with …`."""

    def __init__(self, settings: Settings, stage: str, client: str) -> None:
        self._consumer = kafka.make_consumer(settings, client, kafka.group_id(settings.namespace, stage))

    def committed(self, places: Sequence[Place], *, patience_s: float = PATIENCE_S) -> dict[Place, int]:
        """Give the next offset of each place, negative where nothing was committed; see `committed`."""
        found = committed(self._consumer, places, patience_s=patience_s)
        return {place: commit.offset for place, commit in found.items()}

    def close(self) -> None:
        """Let go of the connection."""
        self._consumer.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
