"""How far a stage is behind, for drivers and tests that wait until it is drained."""

from __future__ import annotations

from collections.abc import Sequence
from types import TracebackType
from typing import Self

from confluent_kafka.admin import AdminClient

from schemas.settings import Settings
from schemas.topics import topic_name
from streams.runtime.kafka import Place, earliest, ends, make_admin, partition_counts
from streams.runtime.offsets import GroupOffsets

CONTROL = "control"


class Backlog:
    """The backlog of one stage's inputs. Keeps its connections between questions; close it, or use it as `with …`."""

    def __init__(self, settings: Settings, stage: str, inputs: Sequence[str], admin: AdminClient | None = None) -> None:
        self._admin = admin or make_admin(settings, "backlog")
        self._group = GroupOffsets(settings, stage, "backlog")
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
        committed = self._group.committed(places)
        first = earliest(self._admin, places)
        high = {place: high for place, (_, high) in ends(self._admin, places).items()}
        return {place: high[place] - max(committed[place], first[place]) for place in places}

    def drained(self, *inputs: str) -> bool:
        """Say whether nothing is left to commit of the inputs (all, or those named)."""
        return not any(self.lags(*inputs).values())

    def close(self) -> None:
        """Close the connections."""
        self._group.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def lags(settings: Settings, stage: str, inputs: Sequence[str], admin: AdminClient | None = None) -> dict[Place, int]:
    """Ask once; see `Backlog.lags`."""
    with Backlog(settings, stage, inputs, admin) as backlog:
        return backlog.lags()
