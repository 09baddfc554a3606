"""Events on their way to Kafka: `put` never blocks an answer, and nothing is lost while Kafka is away.

One thread takes what was put, appends it to the log on disk (`segments`), hands it to librdkafka, and moves the log's
cursor when Kafka has acknowledged. librdkafka's queue is bounded and its messages do not expire; when it is full, or
sending has failed, the thread is *behind*: it reads on from the log, in order, whenever there is room.

**Delivery.** Each event at least once, in the order of `put` per partition; after a failure or a kill some are sent
again, and every event has an `event_id` by which the join knows them. What was put survives the death of the process
but for the last milliseconds before it, and a loss of power but for about the last two seconds (the log is forced to
disk each second while Kafka has not acknowledged what is a second old). Beyond `limit_bytes` on disk new events are
dropped, counted and complained of: answering goes on. When the disk is full, events go to librdkafka without the log,
and are dropped only when that takes no more.
"""

from __future__ import annotations

import contextlib
import functools
import logging
import threading
import time
from collections import deque
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import structlog
from confluent_kafka import KafkaError, KafkaException, Message, Producer

from schemas.settings import Settings
from schemas.topics import topic_name
from services.serve.segments import SEGMENT_BYTES, Record, Segments
from streams.runtime.kafka import producer_properties, reason

PREDICTIONS, STATUS = 0, 1
LOGICAL: Final = ("predictions", "rollout-status")

QUEUE_MESSAGES: Final = 10_000
FLUSH_S: Final = 5.0
_POLL_S, _IDLE_S, _TICK_S, _SAY_S = 0.01, 0.5, 1.0, 30.0
_BACKOFF_S = (0.5, 10.0)
_BATCH = 1_000
_REFUSED = (KafkaError.MSG_SIZE_TOO_LARGE, KafkaError.INVALID_RECORD)
_PURGED = (KafkaError._PURGE_QUEUE, KafkaError._PURGE_INFLIGHT)
_rdkafka = logging.getLogger("librdkafka")

_log = structlog.get_logger()


class Outbox:
    """The way out of one process; `put` from any thread, everything else from the one that owns it.

    `recovered` events of an earlier run are sent first. `acknowledged`, `dropped` (nowhere to keep them) and `refused`
    (by Kafka, one by one, kept in the file `refused`) only grow. Raises `OSError` when the directory cannot be used.
    """

    def __init__(self, settings: Settings, directory: Path) -> None:
        self._settings = settings
        self._limit = settings.serve.outbox_bytes
        self._log = Segments(directory, segment_bytes=max(1, min(SEGMENT_BYTES, self._limit // 4)))
        self._names = [topic_name(settings.namespace, logical) for logical in LOGICAL]
        self._virtual = settings.clock == "virtual"
        self.recovered = self._log.waiting
        self.acknowledged = self.dropped = self.refused = 0
        self._put, self._finished = self.recovered, 0
        self._lock = threading.Lock()
        self._incoming: deque[tuple[int, int, bytes, bytes]] = deque()
        self._wake, self._idle = threading.Event(), False
        self._seq = self._log.next_seq
        self._sent_to = self._log.cursor
        """What is on disk below this number was handed to librdkafka."""
        self._behind = self.recovered > 0
        self._reader: Iterator[Record] | None = None
        self._held: Record | None = None
        self._done: set[int] = set()
        """Numbers from the cursor on that the log need not keep."""
        self._retry_at: float | None = None
        self._backoff_s = _BACKOFF_S[0]
        self._ticked_at, self._ticked_seq = 0.0, self._seq
        self._said: dict[str, float] = {}
        self._closing, self._flush_until = threading.Event(), 0.0
        self._producer = self._open()
        self._thread = threading.Thread(target=self._run, name="outbox", daemon=True)

    @property
    def pending(self) -> int:
        """How many events were put and are not acknowledged by Kafka yet, those on disk included."""
        return self._put - self._finished

    @property
    def bytes_on_disk(self) -> int:
        """The size of the log."""
        return self._log.size

    @property
    def behind(self) -> bool:
        """Whether events wait on disk because librdkafka takes no more, or sending failed."""
        return self._behind

    def start(self) -> None:
        """Begin to send."""
        self._thread.start()

    def put(self, topic: int, key: bytes, value: bytes, at_ms: int) -> None:
        """Take an event for `LOGICAL[topic]`. `at_ms` becomes its Kafka time where the clock is virtual."""
        with self._lock:
            self._put += 1
            self._incoming.append((topic, at_ms if self._virtual else -1, key, value))
        if self._idle:
            self._wake.set()

    def close(self, flush_s: float = FLUSH_S) -> int:
        """Wait until Kafka has everything, at most `flush_s`, and give how many events are left on disk for later."""
        self._flush_until = time.monotonic() + flush_s
        self._closing.set()
        self._wake.set()
        self._thread.join()
        return self.pending

    @property
    def alive(self) -> bool:
        """Whether the thread runs. When it does not, unasked, the process should end and begin again from the log."""
        return self._thread.is_alive()

    # --- the thread

    def _run(self) -> None:
        while not (self._closing.is_set() and (self.pending == 0 or time.monotonic() >= self._flush_until)):
            self._take()
            self._retry()
            if self._behind and self._retry_at is None:
                self._catch_up()
            self._producer.poll(_POLL_S if self._behind or len(self._producer) else 0)
            self._tick()
            if not self._behind and not len(self._producer):
                self._rest()
        self._take()
        self._purge()
        with contextlib.suppress(OSError):
            self._log.close()

    def _rest(self) -> None:
        """Sleep until somebody puts something. Who puts between our look and our sleep sees `_idle` and wakes us."""
        self._idle = True
        if not self._incoming and not self._closing.is_set():
            self._wake.wait(_IDLE_S)
        self._idle = False
        self._wake.clear()

    def _take(self) -> None:
        """Number what was put, write it to disk, and hand it over unless we are behind."""
        while self._incoming:
            batch: list[Record] = []
            size = 0
            while self._incoming and len(batch) < _BATCH:
                topic, at_ms, key, value = self._incoming.popleft()
                batch.append(Record(self._seq, at_ms, topic, key, value))
                size += batch[-1].size
                self._seq += 1
            if self._written(batch, size):
                for record in batch:
                    if self._behind:
                        break
                    if self._produce(record, logged=True):
                        self._sent_to = record.seq + 1
                    else:
                        self._behind = True
            else:
                self._done.update(record.seq for record in batch)
                lost = sum(1 for record in batch if not self._produce(record, logged=False))
                self._drop(lost)
                if not self._behind:
                    self._sent_to = self._seq

    def _written(self, batch: list[Record], size: int) -> bool:
        if self._log.size + size > self._limit:
            self._say("outbox_full", bytes=self._log.size, effect="new events are dropped until Kafka takes the old")
            return False
        try:
            self._log.append(batch)
        except OSError as error:
            self._say("outbox_not_written", reason=str(error), effect="events go to Kafka without a copy on disk")
            return False
        return True

    def _catch_up(self) -> None:
        """Send on from the log until librdkafka takes no more or the end is reached."""
        fresh = False
        while True:
            if self._reader is None:
                self._reader, fresh = self._log.read(self._sent_to), True
            record = self._held or next(self._reader, None)
            if record is None:
                self._reader = None
                if not fresh:  # it saw what was on disk when it was made
                    continue
                self._pass_over(self._seq)
                self._behind = False
                return
            self._held = record
            self._pass_over(record.seq)
            if record.seq not in self._done and not self._produce(record, logged=True):
                return
            self._held, self._sent_to = None, record.seq + 1

    def _pass_over(self, seq: int) -> None:
        """Go on at `seq`: the numbers up to there are not on disk, so that the log need not keep them."""
        self._done.update(range(self._sent_to, seq))
        self._sent_to = seq

    def _produce(self, record: Record, *, logged: bool) -> bool:
        """Hand one record to librdkafka; False when it takes no more."""
        placed: dict[str, Any] = {"timestamp": record.at_ms} if record.at_ms >= 0 else {}
        done = functools.partial(self._delivered, record, logged)
        try:
            self._producer.produce(self._names[record.topic], record.value, record.key, on_delivery=done, **placed)
        except BufferError:
            return False
        except KafkaException as error:
            if error.args[0].code() not in _REFUSED:
                self._fail(reason(error))
                return False
            self._delivered(record, logged, error.args[0], None)
        return True

    def _delivered(self, record: Record, logged: bool, error: KafkaError | None, _: Message | None) -> None:
        if error is None:
            self.acknowledged += 1
            self._backoff_s = _BACKOFF_S[0]
        elif error.code() in _REFUSED:
            self._refuse(record, error)
        elif logged:
            if error.code() not in _PURGED:
                self._fail(error.str())
            return
        else:
            self._drop(1)
            return
        self._finished += 1
        if logged:
            self._done.add(record.seq)

    # --- when something does not work

    def _fail(self, why: str) -> None:
        """Send again, from the first event that is not acknowledged, with a new producer, after a while."""
        self._behind = True
        if self._retry_at is None:
            self._retry_at = time.monotonic() + self._backoff_s
            self._backoff_s = min(2 * self._backoff_s, _BACKOFF_S[1])
            self._say("outbox_sends_again", reason=why, pending=self.pending)

    def _retry(self) -> None:
        if self._retry_at is not None and time.monotonic() >= self._retry_at:
            self._purge()
            self._producer = self._open()
            self._reader, self._held, self._retry_at = None, None, None
            self._sent_to = self._log.cursor

    def _purge(self) -> None:
        """Take back what librdkafka holds; the log still has it."""
        self._producer.purge()
        self._producer.flush(5)

    def _refuse(self, record: Record, error: KafkaError) -> None:
        self.refused += 1
        self._say("event_refused", reason=error.str(), key=record.key.decode(), bytes=len(record.value))
        try:
            with (self._log.directory / "refused").open("ab") as file:
                file.write(record.value + b"\n")
        except OSError as failed:
            self._say("refused_event_not_kept", reason=str(failed))

    def _drop(self, count: int) -> None:
        self.dropped += count
        self._finished += count
        if count:
            self._say("events_dropped", total=self.dropped, fix="bring Kafka back, or raise serve.outbox_bytes")

    def _say(self, event: str, **more: object) -> None:
        """Log, each kind of event at most twice a minute."""
        now = time.monotonic()
        if now - self._said.get(event, -_SAY_S) >= _SAY_S:
            self._said[event] = now
            _log.error(event, **more)

    def _tick(self) -> None:
        """Move the log's cursor; once a second note it, and force to disk what Kafka has had no time to take."""
        cursor = self._log.cursor
        while cursor in self._done:
            self._done.remove(cursor)
            cursor += 1
        self._log.pass_to(cursor)
        now = time.monotonic()
        if now - self._ticked_at < _TICK_S:
            return
        try:
            if cursor < self._ticked_seq:
                self._log.sync()
            self._log.write_cursor()
        except OSError as error:
            self._say("outbox_not_forced_to_disk", reason=str(error))
        self._ticked_at, self._ticked_seq = now, self._seq

    def _open(self) -> Producer:
        properties = {
            **producer_properties(self._settings, "serve"),
            "queue.buffering.max.messages": QUEUE_MESSAGES,
            "message.timeout.ms": 0,  # events do not expire
            "reconnect.backoff.max.ms": 1_000,
            "error_cb": self._erred,
        }
        return Producer(properties, logger=_rdkafka)

    def _erred(self, error: KafkaError) -> None:
        if error.fatal():
            self._fail(error.str())
