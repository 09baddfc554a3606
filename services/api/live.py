"""Tails of the topics that people watch, kept for a while, and handed to any number of listeners.

One thread reads; a listener walks through what is kept, in the order in which it was read. Nobody waits for a slow one:
who falls out of the kept span is told to fetch afresh (`Behind`).

**Mark.** Where a listener stands is the next offset of every partition, written into the id of each event that it gets.
An id therefore means the same to this process after a restart and to another one beside it. `weir api` starts reading
`BACKLOG` records before the end, so that a listener who was here a moment ago misses nothing.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections import deque
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from typing import Any

import msgspec
import structlog
from confluent_kafka import Consumer, KafkaError, KafkaException, TopicPartition
from xxhash import xxh3_64_hexdigest

from schemas.settings import Settings
from services.kafka import places_of
from streams.runtime import kafka

TOPICS = (
    "metrics",
    "drift",
    "gates",
    "reviews",
    "retrain",
    "candidates",
    "approvals",
    "promote",
    "rollout-status",
    "alerts",
)
KEPT = 20_000
BACKLOG = 1_000
FRESH_S = 30.0
AT_ONCE = 500
_RETRY_S = 1.0
_SAY_S = 30.0
_log = structlog.get_logger()


class Behind(Exception):
    """What a listener has not heard yet is no longer kept: fetch everything again."""


class _About(msgspec.Struct):
    model: str = ""


_about = msgspec.json.Decoder(_About)


@dataclass(frozen=True, slots=True)
class Told:
    """One record: where it stands, the model it is about, its JSON text. `heard_at` is monotonic (−inf: backlog)."""

    place: int
    topic: str
    offset: int
    model: str
    text: str
    heard_at: float


class Tail:
    """Keeps the newest records of `TOPICS`. `positions` are the next offsets to read."""

    def __init__(self, settings: Settings, stop: threading.Event, *, kept: int = KEPT, backlog: int = BACKLOG) -> None:
        self.settings = settings
        self.places = [(topic, place) for topic in TOPICS for place in places_of(settings, topic)]
        stamped = repr((settings.namespace, [place for _, place in self.places]))
        self._stamp = xxh3_64_hexdigest(stamped.encode())[:8]
        self._index = {place: number for number, (_, place) in enumerate(self.places)}
        self._stop, self._backlog = stop, backlog
        self._kept: deque[Told] = deque()
        self._most = kept
        self._lock = threading.Lock()
        self._count = 0  # how many were ever kept; the first in `_kept` is number `_count - len(_kept)`
        self._floor = [0] * len(self.places)
        self._ends = [0] * len(self.places)
        self.positions = [0] * len(self.places)
        self.ready = False
        self.unreadable = 0
        self.problem = "Kafka has not answered yet"
        self._waiting: set[tuple[asyncio.AbstractEventLoop, asyncio.Event]] = set()
        self._thread = threading.Thread(target=self._run, name="tail", daemon=True)

    def start(self) -> None:
        """Begin to read."""
        self._thread.start()

    def join(self) -> None:
        """Wait for the end, once `stop` is set."""
        self._wake()
        self._thread.join(2)  # a daemon: it may wait for a Kafka that is away

    # --- listening

    def mark(self, positions: list[int]) -> str:
        """Write where a listener stands.

        >>> import threading
        >>> tail = Tail(Settings(namespace="a"), threading.Event())
        >>> tail.read_mark(tail.mark([0] * 9 + [255])) == [0] * 9 + [255]
        True
        """
        return self._stamp + "~" + ".".join(f"{position:x}" for position in positions)

    def read_mark(self, text: str) -> list[int] | None:
        """Give the positions of a mark; None for one of another namespace or layout."""
        stamp, _, rest = text.partition("~")
        try:
            positions = [int(part, 16) for part in rest.split(".")]
        except ValueError:
            return None
        return positions if stamp == self._stamp and len(positions) == len(self.places) else None

    async def listen(self, since: str | None = None, model: str = "") -> AsyncIterator[tuple[str, Told] | None]:
        """Give each record with the mark after it, from `since` on, or from what was heard in the last half minute.

        None comes first, when the listener is connected, and whenever nothing has come for a while. Raises `Behind`.
        """
        loop, woken = asyncio.get_running_loop(), asyncio.Event()
        mine = (loop, woken)
        with self._lock:
            self._waiting.add(mine)
        try:
            while not self.ready and not self._stop.is_set():
                yield None
                await self._wait(woken)
            number, positions = self._begin(since)
            yield None
            while not self._stop.is_set():
                woken.clear()
                number, found = self._after(number)
                for told in found:
                    if told.offset < positions[told.place]:
                        continue
                    positions[told.place] = told.offset + 1
                    if not model or told.model in ("", model):
                        yield self.mark(positions), told
                if not found:
                    await self._wait(woken)
                    yield None
        finally:
            with self._lock:
                self._waiting.discard(mine)

    async def _wait(self, woken: asyncio.Event) -> None:
        try:
            await asyncio.wait_for(woken.wait(), 5.0)
        except TimeoutError:
            return

    def _begin(self, since: str | None) -> tuple[int, list[int]]:
        with self._lock:
            first = self._count - len(self._kept)
            if since is None:
                recent = time.monotonic() - FRESH_S
                old = next((place for place, told in enumerate(self._kept) if told.heard_at >= recent), None)
                return (self._count if old is None else first + old), list(self._floor)
            positions = self.read_mark(since)
            if positions is None:
                raise Behind("the mark is of another namespace or layout")
            # Just after a start the ends lie ahead of what has been read.
            inside = zip(self._floor, positions, map(max, self.positions, self._ends), strict=True)
            if not all(floor <= position <= end for floor, position, end in inside):
                raise Behind("what came since is no longer kept")
            return first, positions

    def _after(self, number: int) -> tuple[int, list[Told]]:
        with self._lock:
            first = self._count - len(self._kept)
            if number < first:
                raise Behind("too slow: what came meanwhile is no longer kept")
            skip = number - first
            found = [self._kept[place] for place in range(skip, min(len(self._kept), skip + AT_ONCE))]
        return number + len(found), found

    # --- reading

    def _run(self) -> None:
        said = 0.0
        while not self._stop.is_set():
            try:
                self._read()
            except Exception as error:
                self.ready = False
                if self._stop.is_set():
                    break  # nobody waits for it any more
                self.problem = f"Kafka at {self.settings.kafka.bootstrap}: {_reason(error)}"
                if time.monotonic() - said > _SAY_S:
                    said = time.monotonic()
                    _log.warning("tail_waits", reason=self.problem)
                self._stop.wait(_RETRY_S)
        self._wake()

    def _read(self) -> None:
        """Read until `stop`, or until something has to be begun anew. Raises what Kafka says."""
        admin = kafka.make_admin(self.settings, "api")
        places = [place for _, place in self.places]
        first = kafka.earliest(admin, places)
        ends = {place: high for place, (high, _) in kafka.ends(admin, places, patience_s=5.0).items()}
        reader = kafka.make_reader(self.settings, "api")
        try:
            self._place(first, ends)
            reader.assign([TopicPartition(*place, self.positions[n]) for n, place in enumerate(places)])
            self.ready, self.problem = True, ""
            self._wake()
            while not self._stop.is_set():
                self._keep(reader)
        finally:
            reader.close()

    def _place(self, first: Mapping[kafka.Place, int], ends: Mapping[kafka.Place, int]) -> None:
        """Choose where to begin: where the last reading ended, else a little before the end."""
        with self._lock:
            for number, (_, place) in enumerate(self.places):
                low, end, known = first[place], ends[place], self.positions[number]
                if not low <= known <= end or (known == 0 and not self.ready):
                    known = max(low, end - self._backlog)
                    self._floor[number] = known
                self.positions[number], self._ends[number] = known, end

    def _keep(self, reader: Consumer) -> None:
        found = []
        for message in reader.consume(1_000, timeout=0.1):
            number = self._index[str(message.topic()), int(message.partition() or 0)]
            offset, error = int(message.offset() or 0), message.error()
            if error is not None:
                if error.code() == KafkaError._PARTITION_EOF:
                    self.positions[number] = max(self.positions[number], offset)
                    continue
                raise KafkaException(error)
            found.append((number, offset, message.value()))
        if found:
            now = time.monotonic()
            with self._lock:
                for number, offset, value in found:
                    self._add(number, offset, value, now)
            self._wake()

    def _add(self, number: int, offset: int, value: bytes | None, now: float) -> None:
        self.positions[number] = offset + 1
        try:
            text = (value or b"").decode()
            about = _about.decode(text)
        except (UnicodeDecodeError, msgspec.DecodeError):
            self.unreadable += 1
            return
        heard_at = now if offset >= self._ends[number] else float("-inf")
        self._kept.append(Told(number, self.places[number][0], offset, about.model, text, heard_at))
        self._count += 1
        if len(self._kept) > self._most:
            gone = self._kept.popleft()
            self._floor[gone.place] = max(self._floor[gone.place], gone.offset + 1)

    def _wake(self) -> None:
        with self._lock:
            waiting = list(self._waiting)
        for loop, woken in waiting:
            try:
                loop.call_soon_threadsafe(woken.set)
            except RuntimeError:  # its loop has ended
                continue

    def status(self) -> dict[str, Any]:
        """Say how it goes, for `/readyz` and `/metrics`."""
        return {"ready": self.ready, "problem": self.problem, "kept": len(self._kept), "listeners": len(self._waiting)}


def _reason(error: Exception) -> str:
    return kafka.reason(error) if isinstance(error, KafkaException) else str(error)
