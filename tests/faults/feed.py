"""Feeds a plan behind a barrier: records at a pace, then, when the join is drained, the next time of day.

What every feed has in common is `Feed`; `tests.faults.live` has the one for a broker's clock.
"""

from __future__ import annotations

import threading
import time
from abc import abstractmethod
from collections import Counter
from collections.abc import Callable

from confluent_kafka import KafkaException

from schemas.control import ClockAdvanced
from schemas.errors import WeirError
from schemas.event import encode
from schemas.settings import Settings
from schemas.topics import INPUTS
from services.kafka import Sender
from streams.runtime.backlog import Backlog
from streams.runtime.clock import RECALLED
from tests.faults.plan import DAY_MS, Chunk, Plan
from tests.streams.join.histories import Arrival

BURST = 6
PAUSE_S = 0.07
DRAIN_S = 180.0
ASK_S = 0.03
END_MS = 30 * DAY_MS
BACK_MS = 60_000


class Feed:
    """A thread that feeds: a few records every `pause_s` seconds; 0 comes to an end at once.

    `down` is set when it waits for everybody to be down; `away` tells it that they are, and it clears `down` when three
    days have passed. `error` is what ended it, if anything did.
    """

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self.pause_s = PAUSE_S
        self._stop = threading.Event()
        self.down, self.away = threading.Event(), threading.Event()
        self.sent: Counter[str] = Counter()
        self.clocks = self.jumps = self.downtimes = 0
        self.done = False
        self.error: BaseException | None = None
        self._backlog: Backlog | None = None
        self._thread = threading.Thread(target=self._run, name="feed", daemon=True)

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    @property
    def share(self) -> float:
        """How much of what it has to send has been sent; 0 for one that has no end of its own."""
        return 0.0

    def stop(self) -> None:
        """End at once."""
        self._stop.set()
        self._thread.join(60)

    def check(self) -> None:
        """Raise what ended the thread."""
        if self.error is not None:
            raise self.error

    # --- the thread

    def _run(self) -> None:
        try:
            with Sender(self._settings, "feed") as sender:
                self._feed(sender)
            self.done = not self._stop.is_set()
        except BaseException as error:
            self.error = error
        finally:
            if self._backlog is not None:
                self._backlog.close()

    @abstractmethod
    def _feed(self, sender: Sender) -> None:
        """Send everything and wait until the join is done with it, or until `_stop`."""

    def _send(self, sender: Sender, one: Arrival) -> None:
        sender.send(
            one.topic, one.value, key=one.key, partition=one.partition, headers=one.headers, append_ms=one.append_ms
        )
        self.sent[one.topic] += 1

    def _flush(self, sender: Sender) -> None:
        def taken() -> bool:
            sender.flush()
            return True

        self._insist("Kafka to take records", taken)

    def _drained(self, what: str) -> None:
        self._insist(f"the join to be done with {what}", self._is_drained)

    def _insist(self, what: str, done: Callable[[], bool]) -> None:
        deadline = time.monotonic() + DRAIN_S
        while not self._stop.is_set():
            try:
                if done():
                    return
            except (KafkaException, WeirError):  # the broker is being killed, just now
                self._backlog = None
            if time.monotonic() > deadline:
                raise WeirError(f"waited {DRAIN_S:g} s for {what}", fix="see the log of the workers")
            time.sleep(ASK_S)

    def _is_drained(self) -> bool:
        self._backlog = self._backlog or Backlog(self._settings, "join", ("control", RECALLED, *INPUTS))
        return self._backlog.drained()

    def _answered(self) -> None:
        """Wait until the join has nothing left to ask. Its questions come with the commit of what made them."""
        if self._settings.recall.enabled:
            self._insist("every question to be answered", self._is_answered)

    def _is_answered(self) -> bool:
        with Backlog(self._settings, "recall", ("recall-requests",)) as questions:
            asked = questions.drained() and self._is_drained() and questions.drained()
        return asked and self._is_drained()


class Planned(Feed):
    """Feeds a plan, in a namespace with a virtual clock."""

    def __init__(self, settings: Settings, plan: Plan) -> None:
        super().__init__(settings)
        self._plan = plan

    @property
    def share(self) -> float:
        """How much of the plan's records has been sent."""
        return (sum(self.sent.values()) - self.clocks) / self._plan.records

    def _feed(self, sender: Sender) -> None:
        for chunk in self._plan.chunks:
            self._send_chunk(sender, chunk)
            if self._stop.is_set():
                return
        self._advance(sender, self._plan.chunks[-1].now_ms + END_MS)
        self._drained("the last deadline")
        self._answered()

    def _send_chunk(self, sender: Sender, chunk: Chunk) -> None:
        for number, arrival in enumerate(chunk.arrivals):
            if self._stop.is_set():
                return
            self._send(sender, arrival)
            if number % BURST == 0:
                time.sleep(self.pause_s)
        self._flush(sender)
        self._drained(f"{sum(self.sent.values())} records")
        if chunk.down:
            self.down.set()
            while not self.away.wait(0.05):
                if self._stop.is_set():
                    return
            self.downtimes += 1
        self.jumps += chunk.jump_ms > 0
        self._advance(sender, chunk.now_ms)
        self.away.clear()
        self.down.clear()
        self._drained("the clock")  # records from after it may only be there when it has been read

    def _advance(self, sender: Sender, now_ms: int) -> None:
        """Say what time it is, in every partition; and sometimes an earlier time, which must not count."""
        moments = (now_ms, now_ms - BACK_MS) if now_ms % 3 == 0 else (now_ms,)
        for moment_ms in moments:
            for partition in range(self._settings.partitions):
                value = encode(ClockAdvanced(now_ms=moment_ms))
                sender.send("control", value, partition=partition, append_ms=now_ms)
                self.sent["control"] += 1
                self.clocks += 1
        self._flush(sender)
