"""Has anything been lost or counted twice between Kafka, the join and the record?

`join` counts every position it reads in exactly one class; its cumulative counters travel in each step, beside the
offsets up to which they hold. `record` reads the same topics on its own. So, per input and partition, the sum of the
classes minus the distinct positions that landed below those offsets is 0; anything else is lost (positive) or unread
by the join (negative).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from schemas.settings import Settings
from schemas.topics import INPUTS, topic_name
from services.clickhouse import connect
from streams.join.verify import is_class

if TYPE_CHECKING:
    from clickhouse_connect.driver.httpclient import HttpClient

STAGE = "join"


@dataclass(frozen=True, slots=True)
class Residual:
    """One input of one partition at one step of the join: what it counted, what has landed below the same offset."""

    topic: str
    partition: int
    step: int
    offset: int
    counted: int
    landed: int

    @property
    def value(self) -> int:
        """0 when right."""
        return self.counted - self.landed


def residuals(
    settings: Settings,
    client: HttpClient | None = None,
    passed: Mapping[tuple[str, int], int] | None = None,
) -> list[Residual]:
    """Give the residuals at the newest step of each partition whose offsets have landed; empty before the first.

    `passed` says below which offset of each (logical topic, partition) everything has landed, for who knows it already.

    Raises `WeirError` when ClickHouse is away, `KafkaException` when Kafka is.
    """
    own = client is None
    client = client or connect(settings)
    try:
        passed = landed_offsets(settings, INPUTS) if passed is None else passed
        steps = _steps(client, settings.partitions, passed)
        return [found for topic in INPUTS for found in _of_topic(client, topic, steps)]
    finally:
        if own:
            client.close()


def total(found: Iterable[Residual]) -> dict[str, int]:
    """Sum over partitions, by input.

    >>> total([Residual("labels", 0, 7, 90, 80, 80), Residual("labels", 1, 7, 50, 41, 40)])
    {'predictions': 0, 'labels': 1, 'signals': 0}
    """
    sums = dict.fromkeys(INPUTS, 0)
    for one in found:
        sums[one.topic] += one.value
    return sums


def landed_offsets(settings: Settings, topics: Iterable[str]) -> dict[tuple[str, int], int]:
    """Give the offset below which everything has landed, of each (logical topic, partition).

    Raises `KafkaException` when Kafka does not answer within half a minute.
    """
    from services.kafka import places_of
    from streams.runtime.offsets import GroupOffsets

    logical = {topic_name(settings.namespace, name): name for name in topics}
    places = [place for name in logical.values() for place in places_of(settings, name)]
    with GroupOffsets(settings, "record", "landed") as group:
        found = group.committed(places)
    return {(logical[topic], partition): max(0, offset) for (topic, partition), offset in found.items()}


Step = tuple[int, Mapping[str, int], Mapping[str, int]]
"""Number, offsets, counters."""


def _steps(client: HttpClient, partitions: int, passed: Mapping[tuple[str, int], int]) -> dict[int, Step]:
    reached = " OR ".join(
        f"(partition = {number} AND "
        + " AND ".join(f"offsets['{topic}'] <= {passed.get((topic, number), 0)}" for topic in INPUTS)
        + ")"
        for number in range(partitions)
    )
    rows = client.query(
        "SELECT partition, number, offsets, counters FROM landed_steps "
        f"WHERE stage = '{STAGE}' AND unreadable = '' AND ({reached}) ORDER BY number DESC LIMIT 1 BY partition"
    ).result_rows
    return {int(partition): (int(number), offsets, counters) for partition, number, offsets, counters in rows}


def _of_topic(client: HttpClient, topic: str, steps: Mapping[int, Step]) -> list[Residual]:
    if not steps:
        return []
    below = " OR ".join(
        f"(partition = {p} AND offset < {offsets.get(topic, 0)})" for p, (_, offsets, _) in steps.items()
    )
    rows = client.query(f"SELECT partition, count() FROM {topic} WHERE {below} GROUP BY partition").result_rows
    landed = {int(partition): int(count) for partition, count in rows}
    return [
        Residual(topic, partition, number, offsets.get(topic, 0), counted(topic, counters), landed.get(partition, 0))
        for partition, (number, offsets, counters) in sorted(steps.items())
    ]


def counted(topic: str, counters: Mapping[str, int]) -> int:
    """Sum the classes of an input.

    >>> counted("labels", {"labels.joined": 3, "labels.dead": 1, "predictions.open": 9, "keys.differ": 2})
    4
    """
    return sum(count for name, count in counters.items() if is_class(name) and name.startswith(f"{topic}."))
