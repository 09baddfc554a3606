"""Making room: when a worker's state is larger than it may be, the oldest of it is put away.

Only what has landed is put away (for the join, `weir record` keeps it in ClickHouse), so that it can be asked for again
whatever happens to Kafka's log. A thread of its own finds out what has: it takes a mark (each partition's committed
vector, its clock, and then the end of its outputs), and waits until the lander has committed past all of that. From
then on whatever the partition had read and said by that clock has landed, and the loop may cut there. How far a cut
goes is reckoned from the age of the oldest, as if events came evenly; the next second says whether it was enough. One
cut takes a small share, so that no step is long.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterable, Mapping
from functools import partial
from typing import Any

import structlog
from confluent_kafka import KafkaException

from schemas.settings import Settings
from schemas.topics import INPUTS, topic_name
from streams.runtime import kafka
from streams.runtime.offsets import GroupOffsets
from streams.runtime.partition import Partition
from streams.runtime.processor import Evictable, Processor

CLIENT = "room"
LEAST_SHARE, MOST_SHARE = 0.02, 0.2
"""Of the span between the oldest and the mark, at one cut of one partition."""
LOW_WATER = 0.9
"""Room is made until the state has this share of what it may have."""
ASK_S = 0.5
SAY_S = 60.0
CLOSE_S = 1.0

_log = structlog.get_logger()

Mark = Mapping[int, tuple[int, Mapping[str, int]]]
"""Partition → its clock, and the vector up to which it had read."""


class Room:
    """The room of one worker. `look` is for the loop's thread; close it afterwards."""

    def __init__(self, processor: Evictable[Any], settings: Settings) -> None:
        self._processor, self._settings = processor, settings
        self._limit = settings.recall.hot_mb * (1 << 20)
        self._landed: dict[int, int] = {}
        self._cuts: dict[int, int] = {}
        self._mark: Mark = {}
        self._wanted = threading.Event()
        self._stop = threading.Event()
        self._said_at = 0.0
        self._making = False
        self._thread = threading.Thread(target=self._watch, name="room", daemon=True)
        self._thread.start()

    @classmethod
    def of(cls, processor: Processor[Any], settings: Settings) -> Room | None:
        """Give the room of a worker whose state is bounded; None for others."""
        recall = settings.recall
        if not (recall.enabled and recall.hot_mb and isinstance(processor, Evictable)):
            return None
        return cls(processor, settings)

    def close(self) -> None:
        """Stop the thread. A broker that does not answer it is not waited for."""
        self._stop.set()
        self._wanted.set()
        self._thread.join(CLOSE_S)

    def look(self, partitions: Iterable[Partition[Any]]) -> None:
        """Give the partitions their cuts when the state takes too much. Call it about once a second."""
        partitions = list(partitions)
        used = sum(self._processor.used_bytes(part.at.state) for part in partitions)
        bound = self._limit * LOW_WATER if self._making else self._limit
        self._making = used > bound
        if not self._making:
            return
        share = min(MOST_SHARE, max(LEAST_SHARE, 1 - self._limit * LOW_WATER / used))
        cuts = {part.number: self._cut(part, share) for part in partitions}
        for part in partitions:
            part.cut_ms = cuts[part.number]
        if not any(cuts.values()) and time.monotonic() - self._said_at > SAY_S:
            self._said_at = time.monotonic()
            _log.warning(
                "no_room", used_mb=used >> 20, hot_mb=self._settings.recall.hot_mb, reason="nothing more has landed"
            )
        if not self._wanted.is_set():
            self._mark = {part.number: (part.at.clock.ms, dict(part.at.offsets)) for part in partitions}
            self._wanted.set()

    def _cut(self, part: Partition[Any], share: float) -> int:
        landed_ms, oldest_ms = self._landed.get(part.number, 0), self._processor.oldest_ms(part.at.state)
        if oldest_ms is None:
            return 0
        from_ms = max(oldest_ms, self._cuts.get(part.number, 0))  # what stayed there must stay for longer
        if from_ms >= landed_ms:
            return 0
        cut_ms = self._cuts[part.number] = from_ms + 1 + int(share * (landed_ms - from_ms))
        return cut_ms

    # --- the thread

    def _watch(self) -> None:
        inquiry = kafka.Inquiry(self._settings, CLIENT)
        with GroupOffsets(self._settings, self._processor.lander, CLIENT) as lander:
            while self._wanted.wait() and not self._stop.is_set():
                mark = self._mark
                try:
                    said = [self._place(self._processor.said, number) for number in mark]
                    ends = inquiry.ask(partial(kafka.ends, places=said, patience_s=0))
                    self._await_landed(mark, ends, lander)
                except KafkaException as error:
                    _log.warning("landing_unknown", reason=kafka.reason(error), effect="nothing is put away")
                    self._stop.wait(ASK_S)
                else:
                    self._landed |= {number: clock_ms for number, (clock_ms, _) in mark.items()}
                if not self._stop.is_set():
                    self._wanted.clear()

    def _await_landed(self, mark: Mark, said: Mapping[kafka.Place, tuple[int, int]], lander: GroupOffsets) -> None:
        """Wait until everything up to the mark has landed, or the room is closed. Raises `KafkaException`."""
        needed = {place: high for place, (_, high) in said.items()}
        needed |= {
            self._place(name, number): offset
            for number, (_, vector) in mark.items()
            for name, offset in vector.items()
            if name in INPUTS
        }
        while not self._stop.is_set():
            landed = lander.committed(list(needed), patience_s=0)
            if all(max(0, landed[place]) >= offset for place, offset in needed.items()):
                return
            self._stop.wait(ASK_S)

    def _place(self, name: str, number: int) -> kafka.Place:
        return topic_name(self._settings.namespace, name), number
