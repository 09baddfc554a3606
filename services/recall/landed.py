"""Below which offsets everything has landed, in tables that were filled from the topics as they are now.

`record` commits what has landed. Its group remembers that even when the database is gone, until `record` starts again;
a look-up in between would find nothing, and say so. So what the tables are filled from (`sources`, where each entry has
the moment it was made) is read before the offsets and again after the look-up, and both times it must be the same.
"""

from __future__ import annotations

from collections.abc import Collection

from confluent_kafka.admin import AdminClient

from schemas.settings import Settings
from schemas.topics import topic_name
from services.recall.answer import TOPICS
from services.recall.table import Incarnation, Recallable
from services.recall.waiting import Place
from streams.runtime import kafka
from streams.runtime.offsets import GroupOffsets


class LandedBelow:
    """Asks `record`'s group, which it never joins. Methods raise `Away` or `KafkaException`: try again."""

    def __init__(self, settings: Settings, store: Recallable) -> None:
        self._store = store
        self._topic = {name: topic_name(settings.namespace, name) for name in TOPICS}
        self._record = GroupOffsets(settings, "record", "recall-landed")
        self._ids: dict[str, str] = {}
        self._incarnation: Incarnation | None = None
        self._whole = False
        self._asked: set[Place] = set()

    def identify(self, admin: AdminClient) -> None:
        """Ask Kafka which topics these are: one that is made anew under its name is another."""
        self._ids = {name: kafka.topic_identity(admin, self._topic[name]) for name in TOPICS}

    def look(self, numbers: Collection[int]) -> dict[Place, int]:
        """Give, for some partitions of each topic, the offset below which everything has landed; absent: nothing."""
        incarnation = self._store.incarnation() if self._incarnation is None or not self._whole else self._incarnation
        places = {(self._topic[name], number): (name, number) for name in TOPICS for number in numbers}
        landed: dict[Place, int] = {}
        for asked, offset in self._record.committed(list(places), patience_s=0.0).items():
            place = places[asked]
            source = incarnation.get(place)
            if source is not None and source[0] == self._ids[place[0]]:
                landed[place] = max(0, offset)
        self._asked = set(places.values())
        self._incarnation, self._whole = incarnation, len(landed) == len(places)
        return landed

    def unchanged(self) -> bool:
        """Say whether the tables are still those that `look` spoke of. Ask after each look-up."""
        before, self._incarnation = self._incarnation, None
        after = self._store.incarnation()
        if before is None or any(before.get(place) != after.get(place) for place in self._asked):
            return False
        self._incarnation = before
        return True

    def close(self) -> None:
        """Let go of the connection to Kafka."""
        self._record.close()
