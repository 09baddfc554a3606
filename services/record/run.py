"""`weir record`: every topic of the namespace into ClickHouse, each event position once, whatever is killed when.

How once comes about. Kafka's group holds, per partition, the offset a below which everything has landed. Before an
insert the planned range is written beside it: the commit says "a, and b is next" (offset a, metadata `b`). Then the
rows go in; then the commit says "b". Whoever starts after a crash finds a and b, reads exactly [a, b) again and inserts
it with the same token, so ClickHouse drops what it has. Committed records of a closed range never change, so the range
is the same both times. Should a token be forgotten (another worker got some of the partitions, or the window of tokens
has moved on), rows stand twice in the table, and the view shows them once: the position is the table's key.

A flush holds what came in within `FLUSH_S`, or `FLUSH_ROWS`, or `FLUSH_BYTES`; that bounds the memory and the latency.
While ClickHouse is away the same flush is tried again for as long as it takes, fetching is paused and the membership
in the group kept. Offsets move past transaction markers, so a stage that is drained shows no lag.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import TypeVar

import structlog
from confluent_kafka import Consumer, KafkaError, KafkaException, Message, TopicPartition

from schemas.errors import ENVIRONMENT, WeirError
from schemas.settings import Settings
from schemas.topics import TOPICS, topic_name
from services.record.land import Away, Span, Store
from streams.runtime import kafka
from streams.runtime.past import append
from streams.runtime.processor import Records

STAGE = "record"
FLUSH_S = 0.25
FLUSH_ROWS = 20_000
FLUSH_BYTES = 16 << 20
IDLE_S = 0.05
BACKOFF_S = (0.2, 5.0)
QUEUE_KIB = 16_384
FENCED_TIMES, FENCED_S = 3, 60.0

_NOT_OURS = (
    KafkaError.ILLEGAL_GENERATION,
    KafkaError.UNKNOWN_MEMBER_ID,
    KafkaError.REBALANCE_IN_PROGRESS,
    KafkaError._ASSIGNMENT_LOST,
    KafkaError._STATE,
)
_FENCED = (KafkaError._FATAL, KafkaError.FENCED_INSTANCE_ID)

ResultT = TypeVar("ResultT")

_log = structlog.get_logger()
_rdkafka = logging.getLogger("librdkafka")


class Abandoned(Exception):
    """The partitions were taken away, or the process was asked to stop, amid a flush. Whoever is next repeats it."""


class Fenced(Exception):
    """The group takes nothing more from this consumer: a broker that was killed forgot it, or another has our name."""


@dataclass(slots=True)
class Reading:
    """A partition: everything below `landed` has landed, everything below `position` has been read."""

    topic: str
    partition: int
    landed: int
    position: int
    planned: int | None = None
    records: Records = field(default_factory=Records)

    def take(self, message: Message) -> None:
        """Keep a record, unless it lies beyond a plan that has to be repeated as it was."""
        offset = message.offset() or 0
        if offset < self.position:
            return
        if self.planned is not None and offset >= self.planned:
            self.position = self.planned
            return
        append(self.records, message)
        self.position = offset + 1

    def pass_to(self, offset: int) -> None:
        """Move past transaction markers, which are offsets without records."""
        self.position = max(self.position, offset if self.planned is None else min(offset, self.planned))


@dataclass(slots=True)
class Landed:
    """What this process has done so far."""

    rows: int = 0
    flushes: int = 0
    repeated: int = 0
    waits: int = 0


def run(settings: Settings, stop: threading.Event) -> None:
    """Record until `stop` is set. Raises `WeirError` for what waiting does not mend."""
    Recorder(settings, stop).run()


class Recorder:
    """One member of the recorder's group. `run` may be called once. `on_flush` is told of each (tests, figures)."""

    def __init__(
        self, settings: Settings, stop: threading.Event, *, on_flush: Callable[[int, float], None] | None = None
    ) -> None:
        self.settings, self.stop = settings, stop
        self.landed = Landed()
        self._on_flush = on_flush
        self._logical = {topic_name(settings.namespace, name): name for name in TOPICS}
        self._topic = {name: topic for topic, name in self._logical.items()}
        self._store = Store(settings)
        self._reading: dict[kafka.Place, Reading] = {}
        self._pending: list[kafka.Place] | None = None
        self._rows = self._bytes = 0
        self._flushed_at = time.monotonic()
        self._fenced: list[float] = []

    def run(self) -> None:
        """Wait for Kafka and ClickHouse, then gather and flush until asked to stop."""
        settings = self.settings
        if not kafka.wait_for_kafka(settings, self.stop) or not self._wait_for_store():
            return
        kafka.check_topics(settings, TOPICS)
        self._consumer = self._open()
        try:
            while not self.stop.is_set():
                try:
                    self._take_up()
                    self._gather()
                    if self._due():
                        self._flush()
                except Abandoned as error:
                    _log.info("begun_anew", stage=STAGE, reason=str(error) or "the partitions were taken away")
                    self._begin_anew()
                except Fenced as error:
                    self._join_anew(str(error))
            self._last_flush()
        finally:
            self._consumer.close()
            self._store.close()
        _log.info("left", stage=STAGE, rows=self.landed.rows, flushes=self.landed.flushes)

    def _open(self) -> Consumer:
        client = f"{STAGE}-{self.settings.runtime.worker}"
        properties = kafka.consumer_properties(
            self.settings, client, kafka.group_id(self.settings.namespace, STAGE), instance=client
        )
        consumer = Consumer({**properties, "queued.max.messages.kbytes": QUEUE_KIB}, logger=_rdkafka)
        consumer.subscribe(
            list(self._logical), on_assign=self._assigned, on_revoke=self._revoked, on_lost=self._revoked
        )
        return consumer

    # --- assignment

    def _assigned(self, consumer: Consumer, given: list[TopicPartition]) -> None:
        consumer.assign([])  # nothing is fetched before it is known where to begin
        self._pending = [(tp.topic, tp.partition) for tp in given]

    def _revoked(self, consumer: Consumer, taken: list[TopicPartition]) -> None:
        consumer.unassign()
        self._pending = None
        self._forget()

    def _forget(self) -> None:
        """Drop what has not landed; it is read again."""
        self._reading = {}
        self._rows = self._bytes = 0

    def _begin_anew(self) -> None:
        """Go back to what is committed. When the partitions are still ours, nobody will tell us again."""
        self._forget()
        if self._pending is None:
            self._pending = [(tp.topic, tp.partition) for tp in self._consumer.assignment()] or None

    def _join_anew(self, reason: str) -> None:
        """Become a new member of the group. Raises `WeirError` when that is needed again and again."""
        now = time.monotonic()
        self._fenced = [*(at for at in self._fenced if now - at < FENCED_S), now]
        if len(self._fenced) > FENCED_TIMES:
            raise WeirError(
                f"this recorder cannot go on as worker {self.settings.runtime.worker!r}: {reason}",
                fix="another `weir record` with the same runtime.worker may run: stop one, or name it otherwise",
                code=ENVIRONMENT,
            )
        _log.warning("joined_anew", stage=STAGE, reason=reason)
        self._consumer.close()
        self._pending = None
        self._forget()
        self._consumer = self._open()

    def _take_up(self) -> None:
        """Begin where the group left off: first repeat what was planned and may not have landed, then go on."""
        places = self._pending
        if places is None:
            return
        reading = self._begin(places)
        planned = {place: one for place, one in reading.items() if one.planned is not None}
        if planned:
            self._repeat(planned)
        if self._pending is not places:
            raise Abandoned
        self._pending, self._reading = None, reading
        self._fetch(reading)
        _log.info("assigned", stage=STAGE, partitions=len(places), repeated=len(planned))

    def _begin(self, places: list[kafka.Place]) -> dict[kafka.Place, Reading]:
        """Give where each partition stands; one that this database has never seen is read from its beginning."""
        first, ids = self._insist(lambda: self._ask(places))
        known = self._insist(self._store.sources)
        asked = [TopicPartition(*place) for place in places]
        committed = self._insist(lambda: self._consumer.committed(asked, timeout=30))
        reading: dict[kafka.Place, Reading] = {}
        new: dict[tuple[str, int], str] = {}
        for tp in committed:
            if tp.error is not None:
                raise KafkaException(tp.error)
            place, logical = (tp.topic, tp.partition), self._logical[tp.topic]
            seen = known.get((logical, tp.partition))
            if seen is None:
                new[logical, tp.partition] = ids[tp.topic]
                reading[place] = Reading(logical, tp.partition, first[place], first[place])
                continue
            if seen != ids[tp.topic]:
                raise WeirError(
                    f"Kafka's topic {tp.topic} was made anew: the database holds events of another one of this name",
                    fix="use another namespace, or set clickhouse.database to an empty one",
                    code=ENVIRONMENT,
                )
            start = max(tp.offset, first[place])
            if start > tp.offset >= 0:
                _log.error(
                    "events_gone",
                    topic=tp.topic,
                    partition=tp.partition,
                    offsets=[tp.offset, start],
                    effect="they were deleted before they landed",
                    fix="lengthen retention.ms of the topic beyond the longest downtime",
                )
            said = tp.metadata or ""
            plan = int(said) if said.isdecimal() and int(said) > start else None
            reading[place] = Reading(logical, tp.partition, start, start, plan)
        if new:  # the group may remember offsets of a database that is gone: forget them first
            self._commit({place: one.landed for place, one in reading.items() if (one.topic, one.partition) in new})
            self._insist(lambda: self._store.remember(new))
        return reading

    def _fetch(self, reading: dict[kafka.Place, Reading]) -> None:
        places = [TopicPartition(*place, one.position) for place, one in reading.items()]
        self._consumer.assign(places)
        self._consumer.resume(places)  # a pause outlives the assignment in which it was made

    def _ask(self, places: list[kafka.Place]) -> tuple[dict[kafka.Place, int], dict[str, str]]:
        """Ask Kafka where partitions begin and which topics these are.

        With a client of its own: one that has seen a broker die may be refused for minutes (FENCED_LEADER_EPOCH),
        because librdkafka does not look for the leader again.
        """
        admin = kafka.make_admin(self.settings, STAGE)
        first = kafka.earliest(admin, places)
        return first, {topic: kafka.topic_identity(admin, topic) for topic in {topic for topic, _ in places}}

    def _repeat(self, planned: dict[kafka.Place, Reading]) -> None:
        """Land planned ranges again, exactly as planned."""
        self._reading = planned
        self._fetch(planned)
        while any(one.position < (one.planned or 0) for one in planned.values()):
            self._keep(self._consumer.consume(1000, IDLE_S))
            if self.stop.is_set() or self._reading is not planned:
                raise Abandoned
        self._consumer.assign([])
        before = self.landed.rows
        self._flush()
        self.landed.repeated += self.landed.rows - before
        for one in planned.values():
            one.planned = None

    # --- gathering

    def _gather(self) -> None:
        left_s = self._flushed_at + FLUSH_S - time.monotonic()
        self._keep(self._consumer.consume(1000, max(0.0, left_s) if self._rows else IDLE_S))
        while self._rows < FLUSH_ROWS and self._bytes < FLUSH_BYTES:
            messages = self._consumer.consume(1000, 0)
            if not messages:
                break
            self._keep(messages)

    def _keep(self, messages: list[Message]) -> None:
        for message in messages:
            one = self._reading.get((message.topic() or "", message.partition() or 0))
            error = message.error()
            if error is not None:
                if error.code() == KafkaError._PARTITION_EOF:
                    if one is not None:
                        one.pass_to(message.offset() or 0)
                else:
                    self._refuse(message, error)
            elif one is not None:
                before = len(one.records)
                one.take(message)
                if len(one.records) > before:
                    self._rows += 1
                    self._bytes += len(message)

    def _refuse(self, message: Message, error: KafkaError) -> None:
        if error.fatal() or error.code() in _FENCED:
            raise Fenced(error.str())
        if error.code() == KafkaError._AUTO_OFFSET_RESET:  # retention overtook us: begin anew at what is left
            _log.error("events_gone", topic=message.topic(), partition=message.partition(), reason=error.str())
            raise Abandoned(error.str())
        _log.warning("kafka_error", topic=message.topic(), partition=message.partition(), reason=error.str())

    def _due(self) -> bool:
        if self._rows >= FLUSH_ROWS or self._bytes >= FLUSH_BYTES:
            return True
        if time.monotonic() - self._flushed_at < FLUSH_S:
            return False
        return any(one.position > one.landed for one in self._reading.values())

    # --- flushing

    def _flush(self) -> None:
        """Plan, land, commit. Raises `Abandoned`; then nothing is lost, only repeated."""
        began = time.monotonic()
        reading = self._reading
        moved = {place: one for place, one in reading.items() if one.position > one.landed}
        ends = {place: one.planned or one.position for place, one in moved.items()}
        by_topic: dict[str, list[Span]] = {}
        starts = {place: one.landed for place, one in moved.items() if one.records}
        for place in starts:
            one = moved[place]
            by_topic.setdefault(one.topic, []).append(Span(one.partition, one.landed, ends[place], one.records))
            one.records = Records()
        rows, self._rows, self._bytes = self._rows, 0, 0
        if any(moved[place].planned is None for place in starts):
            self._commit(starts, {place: ends[place] for place in starts})
        for topic, spans in by_topic.items():
            self._insist(partial(self._store.land, topic, spans))
        self._commit(ends)
        for place, end in ends.items():
            moved[place].landed = end
        self._flushed_at = time.monotonic()
        self.landed.rows += rows
        self.landed.flushes += 1
        if self._on_flush is not None:
            self._on_flush(rows, self._flushed_at - began)

    def _last_flush(self) -> None:
        """Land what is held; what does not land at once is left to the next start."""
        if self._rows:
            try:
                self._flush()
            except (Abandoned, Fenced):
                _log.info("left_unlanded", stage=STAGE, effect="the next start reads it again")

    def _commit(self, offsets: Mapping[kafka.Place, int], plans: Mapping[kafka.Place, int] | None = None) -> None:
        """Commit, as often as it takes. Raises `Abandoned` when the group has given our partitions to others."""
        plans = plans or {}
        positions = [
            TopicPartition(*place, offset, metadata=str(plans.get(place, ""))) for place, offset in offsets.items()
        ]

        def commit() -> None:
            try:
                done = self._consumer.commit(offsets=positions, asynchronous=False)
            except KafkaException as error:
                if error.args[0].fatal() or error.args[0].code() in _FENCED:
                    raise Fenced(kafka.reason(error)) from None
                if error.args[0].code() in _NOT_OURS:
                    raise Abandoned(kafka.reason(error)) from None
                raise
            for tp in done or ():
                if tp.error is not None:
                    raise Away(tp.error.str())

        self._insist(commit)

    def _insist(self, call: Callable[[], ResultT]) -> ResultT:
        """Call until it works, with back-off, keeping the membership alive. Raises `Abandoned`."""
        wait_s, began = BACKOFF_S[0], time.monotonic()
        while True:
            try:
                result = call()
            except (Away, KafkaException) as error:
                self.landed.waits += 1
                why = str(error) if isinstance(error, Away) else f"Kafka: {kafka.reason(error)}"
                _log.warning("waiting", stage=STAGE, reason=why, waited_s=round(time.monotonic() - began, 1))
                self._wait(wait_s)
                wait_s = min(2 * wait_s, BACKOFF_S[1])
            else:
                if wait_s > BACKOFF_S[0]:
                    _log.info("works_again", stage=STAGE, waited_s=round(time.monotonic() - began, 1))
                return result

    def _wait(self, seconds: float) -> None:
        """Wait without fetching. Raises `Abandoned` when there is no point in trying again."""
        reading, pending = self._reading, self._pending
        places = [TopicPartition(*place) for place in reading]
        self._consumer.pause(places)
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            self._keep(self._consumer.consume(1, min(0.1, seconds)))
            if self.stop.is_set() or self._reading is not reading or self._pending is not pending:
                raise Abandoned
        self._consumer.resume(places)

    def _wait_for_store(self) -> bool:
        wait_s, began = BACKOFF_S[0], time.monotonic()
        while not self.stop.is_set():
            try:
                self._store.prepare()
            except Away as error:
                _log.warning("waiting", stage=STAGE, reason=str(error), waited_s=round(time.monotonic() - began, 1))
                self.stop.wait(wait_s)
                wait_s = min(2 * wait_s, BACKOFF_S[1])
            else:
                return True
        return False
