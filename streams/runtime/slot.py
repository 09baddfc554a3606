"""What one worker slot works with: its clients, its snapshots, and the states that whoever takes it brings along.

A slot is a number in settings (`runtime.worker`). Its transactional id and its static membership have one name, and of
two processes that use it the later one fences the earlier. A standby opens all this long before it takes the slot.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Generic, TypeVar

from confluent_kafka import Consumer
from confluent_kafka.admin import AdminClient

from schemas.errors import WeirError
from schemas.settings import Settings
from schemas.topics import topic_name, width
from streams.runtime import kafka, librdkafka
from streams.runtime.clock import CONTROL
from streams.runtime.health import Progress
from streams.runtime.keeping import Keeping
from streams.runtime.phase import Untold
from streams.runtime.processor import Processor
from streams.runtime.restore import Restored
from streams.runtime.snapshot import SnapshotStore
from streams.runtime.topics import check_topics
from streams.runtime.transaction import Transactions

StateT = TypeVar("StateT")


@dataclass(slots=True)
class Slot(Generic[StateT]):
    """Taken with `out.take_slot`; joined when `consumer` subscribes.

    `keeping` writes its snapshots. `kept` are states of committed steps by partition. `silent_at` is when the worker
    before gave its last sign of life (`time.monotonic`), for a slot that was taken over.
    """

    admin: AdminClient
    snapshots: SnapshotStore
    keeping: Keeping[StateT]
    out: Transactions
    consumer: Consumer
    kept: dict[int, Restored[StateT]] = field(default_factory=dict)
    silent_at: float | None = None

    @classmethod
    def of(cls, processor: Processor[StateT], settings: Settings, progress: Progress, phase: Untold) -> Slot[StateT]:
        """Open everything, without taking the slot. Raises `WeirError` for topics that are not as the stage needs."""
        librdkafka.warm()  # loading compiled code takes up to seconds, which a slot that was taken has not
        stage, inputs = processor.stage, processor.inputs
        check_topics(settings, {*inputs, "steps"})
        counts = {"partitions": settings.partitions, "measures_partitions": settings.measures_partitions}
        widths = {width(name, **counts) for name in shared(inputs)}
        if len(widths) != 1 or max(widths) > settings.partitions:
            raise WeirError(
                f"the inputs of {stage} ({', '.join(shared(inputs))}) have {sorted(widths)} partitions, "
                f"and `steps` has {settings.partitions}",
                fix="inputs of one stage need one partition count, not above settings.partitions",
            )
        admin = kafka.make_admin(settings, client_name(settings, stage))
        log = kafka.topic_identity(admin, topic_name(settings.namespace, "steps"))
        snapshots = SnapshotStore.of(settings, stage, log)
        keeping = Keeping(processor, snapshots, settings.runtime.snapshot_s, progress, phase)
        return cls(admin, snapshots, keeping, Transactions(settings, stage, phase), member(settings, stage))


def shared(inputs: Sequence[str]) -> tuple[str, ...]:
    """Give the inputs that the group shares out: all but control, which has a copy in every partition.

    >>> shared(["control", "predictions", "labels"]), shared(["control"])
    (('predictions', 'labels'), ('control',))
    """
    return tuple(name for name in inputs if name != CONTROL) or tuple(inputs)


def client_name(settings: Settings, stage: str) -> str:
    """Name a slot's clients, for the broker's logs and metrics."""
    return f"{stage}-{settings.runtime.worker}"


def member(settings: Settings, stage: str) -> Consumer:
    """Open the slot's member of the stage's group: it joins when it subscribes, and fences the one before."""
    group, instance = kafka.group_id(settings.namespace, stage), kafka.transactional_id(settings, stage)
    return kafka.make_consumer(settings, client_name(settings, stage), group, instance)
