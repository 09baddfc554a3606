"""`weir recall`: questions of the join, answered in bulk from what has landed.

When a question may be answered. It names the offsets of the inputs that its step had read; below them everything must
have landed, which is what `record` commits. What the join had said by then is in `feedback` before the question can be
read (their transaction was flushed before it was committed), so the end of `feedback` as asked after reading the
question, with what is still open in it, bounds that: it must have landed too.

What a kill leaves. Offsets are committed when answers are with Kafka, so questions may be answered again, with the same
bytes. Answers go out in the order of the questions of a partition, into the partition of the same number.

While ClickHouse is away, or `record` behind, questions wait in memory; beyond `WAITING` of them fetching is paused.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

import structlog
from confluent_kafka import Consumer, KafkaError, KafkaException, Message, TopicPartition

from schemas.errors import ENVIRONMENT, WeirError
from schemas.settings import Settings
from schemas.topics import topic_name
from services.kafka import Sender
from services.recall.answer import KINDS, TOPICS, BadQuestion, answer, read_question
from services.recall.landed import LandedBelow
from services.recall.refusal import refusal
from services.recall.table import Recallable
from services.recall.waiting import Lines, Place, Waiting
from services.record.land import Away
from streams.runtime import kafka
from streams.runtime.health import HealthServer, PartitionProgress, Progress

STAGE = "recall"
REQUESTS, ANSWERS = "recall-requests", "recalled"
WAITING = 50_000
BATCH = 5_000
IDLE_S, LOOK_S, SHOW_S, SAY_S = 0.1, 0.05, 1.0, 10.0
AGAIN_S = 2.0
BACKOFF_S = (0.2, 5.0)
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
    """The partitions were taken away, or the process was asked to stop. Whoever is next answers."""


class Fenced(Exception):
    """The group takes nothing more from this consumer: a broker that was killed forgot it, or another has our name."""


@dataclass(slots=True)
class Answered:
    """What this process has done so far."""

    questions: int = 0
    bulks: int = 0
    unfound: int = 0
    refused: int = 0
    waits: int = 0


def run(settings: Settings, stop: threading.Event) -> None:
    """Answer until `stop` is set. Raises `WeirError` for what waiting does not mend.

    Health is served on a free port of 127.0.0.1, which the log names (`working`).
    """
    Recaller(settings, stop, health_port=0).run()


class Recaller:
    """One member of the group. `run` may be called once. `health_port` None serves no HTTP, 0 takes a free port."""

    def __init__(self, settings: Settings, stop: threading.Event, *, health_port: int | None = None) -> None:
        self.settings, self.stop = settings, stop
        self.answered = Answered()
        self.progress = Progress(STAGE, settings.runtime.worker)
        self.health = None if health_port is None else HealthServer(self.progress, health_port)
        self._topic = {name: topic_name(settings.namespace, name) for name in (REQUESTS, ANSWERS, *TOPICS)}
        self._store = Recallable(settings)
        self._lines = Lines()
        self._pending: list[int] | None = None
        self._committed: dict[int, int] = {}
        self._landed: Mapping[Place, int] = {}
        self._paused = False
        self._looked_at = self._shown_at = self._said_at = 0.0
        self._fenced: list[float] = []

    def run(self) -> None:
        """Wait for Kafka and ClickHouse, then answer until asked to stop."""
        settings = self.settings
        try:
            if not kafka.wait_for_kafka(settings, self.stop) or not self._wait_for_store():
                return
            kafka.check_topics(settings, [REQUESTS, ANSWERS, *TOPICS])
            self._admin = kafka.make_admin(settings, STAGE)
            self._landed_below = LandedBelow(settings, self._store)
            self._sender = Sender(settings, STAGE)
            self._consumer = self._open()
            try:
                port = None if self.health is None else self.health.port
                _log.info("working", stage=STAGE, worker=settings.runtime.worker, health_port=port)
                self._loop()
            finally:
                self._consumer.close()
                self._landed_below.close()
        finally:
            self.progress.ready = False
            self._store.close()
            if self.health is not None:
                self.health.close()
        _log.info("left", stage=STAGE, questions=self.answered.questions, waiting=len(self._lines))

    def _loop(self) -> None:
        while not self.stop.is_set():
            try:
                self._take_up()
                self._gather()
                self._answer()
                self._show()
            except Abandoned as error:
                if not self.stop.is_set():
                    _log.info("begun_anew", stage=STAGE, reason=str(error) or "the partitions were taken away")
                self._begin_anew()
            except Fenced as error:
                self._join_anew(str(error))

    def _open(self) -> Consumer:
        client = f"{STAGE}-{self.settings.runtime.worker}"
        consumer = kafka.make_consumer(
            self.settings, client, kafka.group_id(self.settings.namespace, STAGE), instance=client
        )
        consumer.subscribe(
            [self._topic[REQUESTS]], on_assign=self._assigned, on_revoke=self._revoked, on_lost=self._revoked
        )
        return consumer

    # --- assignment

    def _assigned(self, consumer: Consumer, given: list[TopicPartition]) -> None:
        consumer.assign([])  # nothing is fetched before it is known where to begin
        self._pending = [tp.partition for tp in given]

    def _revoked(self, consumer: Consumer, taken: list[TopicPartition]) -> None:
        consumer.unassign()
        self._pending = None
        self._lines, self._paused = Lines(), False

    def _begin_anew(self) -> None:
        """Go back to what is committed. When the partitions are still ours, nobody will tell us again."""
        numbers = list(self._lines.by_partition)
        self._lines, self._paused = Lines(), False
        if self._pending is None:
            self._pending = numbers or None

    def _join_anew(self, reason: str) -> None:
        """Become a new member of the group. Raises `WeirError` when that is needed again and again."""
        now = time.monotonic()
        self._fenced = [*(at for at in self._fenced if now - at < FENCED_S), now]
        if len(self._fenced) > FENCED_TIMES:
            raise WeirError(
                f"this process cannot go on as worker {self.settings.runtime.worker!r}: {reason}",
                fix="another `weir recall` with the same runtime.worker may run: stop one, or name it otherwise",
                code=ENVIRONMENT,
            )
        _log.warning("joined_anew", stage=STAGE, reason=reason)
        self._consumer.close()
        self._pending = None
        self._lines, self._paused = Lines(), False
        self._consumer = self._open()

    def _take_up(self) -> None:
        """Begin where the group left off; at first at the beginning."""
        numbers = self._pending
        if numbers is None:
            return
        topic = self._topic[REQUESTS]
        places = [(topic, number) for number in numbers]
        first = self._insist(lambda: kafka.earliest(self._admin, places))
        asked = [TopicPartition(*place) for place in places]
        committed = self._insist(lambda: self._consumer.committed(asked, timeout=10))
        self._insist(lambda: self._landed_below.identify(self._admin))
        starts: dict[int, int] = {}
        for tp in committed:
            if tp.error is not None:
                raise KafkaException(tp.error)
            starts[tp.partition] = max(tp.offset, first[topic, tp.partition])
            if 0 <= tp.offset < starts[tp.partition]:
                _log.error(
                    "questions_gone",
                    partition=tp.partition,
                    offsets=[tp.offset, starts[tp.partition]],
                    effect="the join waits for answers that do not come until it asks again",
                    fix=f"lengthen retention.ms of {topic} beyond the longest downtime",
                )
        self._lines, self._paused, self._pending = Lines(starts), False, None
        self._committed = {tp.partition: tp.offset for tp in committed}
        assigned = [TopicPartition(topic, number, start) for number, start in starts.items()]
        self._consumer.assign(assigned)
        self._consumer.resume(assigned)  # a pause outlives the assignment in which it was made
        self.progress.ready = True
        _log.info("assigned", stage=STAGE, offsets=starts)

    # --- questions

    def _gather(self) -> None:
        """Take what came. Waits for more only when there is nothing to do."""
        room = WAITING - len(self._lines)
        self._pause(room <= 0 or (self._paused and room < WAITING // 2))
        busy = bool(self._lines.bulk(self._landed, 1))
        wait_s = 0.0 if busy else LOOK_S if self._lines else IDLE_S
        messages = self._consumer.consume(1, wait_s)
        if messages and not self._paused:
            messages += self._consumer.consume(min(BATCH, max(1, room)), 0)
        self.progress.polled_at = time.monotonic()
        self._keep(messages)

    def _pause(self, wanted: bool) -> None:
        if wanted == self._paused:
            return
        places = [TopicPartition(self._topic[REQUESTS], number) for number in self._lines.by_partition]
        self._consumer.pause(places) if wanted else self._consumer.resume(places)
        self._paused = wanted

    def _keep(self, messages: Sequence[Message]) -> None:
        records = [message for message in messages if message.error() is None]
        ends: Mapping[Place, int] = {}
        if records:
            lines, numbers = self._lines, {message.partition() or 0 for message in records}
            ends = self._insist(lambda: self._ends(numbers))
            if self._lines is not lines:
                return
        for message in records:
            number, offset = message.partition() or 0, message.offset() or 0
            self._take(message, number, offset, ends)
            self._lines.moved(number, offset + 1)
        self._keep_ends([message for message in messages if message.error() is not None])

    def _keep_ends(self, messages: Sequence[Message]) -> None:
        """Take events that are no records: ends of partitions, and errors."""
        for message in messages:
            error = message.error()
            if error is None:
                raise Abandoned("a record came in spite of a pause: it is read again")
            if error.code() == KafkaError._PARTITION_EOF:  # carries the position: it lies behind markers
                self._lines.moved(message.partition() or 0, message.offset() or 0)
            else:
                self._refuse(message, error)

    def _take(self, message: Message, number: int, offset: int, ends: Mapping[Place, int]) -> None:
        line = self._lines.by_partition.get(number)
        if line is None or offset < line.position:
            return
        try:
            question = read_question(message.value(), number, self.settings.partitions)
            needs: dict[str, int] = {topic: question.offsets[topic] for topic in KINDS}
            if any(needs[topic] > ends[topic, number] for topic in KINDS):
                self._wait(AGAIN_S)  # a broker that has just become the leader may not know its end yet
                ends = self._insist(lambda: self._ends({number}))
            ahead = [f"{topic} {needs[topic]} of {ends[topic, number]}" for topic in KINDS]
            if any(needs[topic] > ends[topic, number] for topic in KINDS):
                raise BadQuestion("beyond_end", f"its offsets lie beyond the end of a topic: {', '.join(ahead)}")
        except BadQuestion as error:
            self._bury(message, error)
            return
        needs["feedback"] = ends["feedback", number]
        self._lines.add([Waiting(offset, message.timestamp()[1], question, needs)])

    def _ends(self, numbers: Collection[int]) -> dict[Place, int]:
        """Ask where the topics of some partitions end, open transactions included."""
        places = {(self._topic[name], number): (name, number) for name in TOPICS for number in numbers}
        try:
            found = kafka.ends(self._admin, list(places), patience_s=5.0)
        except KafkaException:
            self._admin = kafka.make_admin(self.settings, STAGE)  # one that saw a broker die may never look again
            raise
        return {place: found[asked][1] for asked, place in places.items()}

    def _bury(self, message: Message, error: BadQuestion) -> None:
        """Put a question that nobody can answer into the dead letters."""
        place, letter = refusal(message, error, REQUESTS)
        self._sender.send("dead-letters", letter, key=place.encode(), append_ms=message.timestamp()[1])
        self._flush()
        self.answered.refused += 1
        _log.error("question_refused", place=place, reason=error.reason, detail=str(error))

    def _refuse(self, message: Message, error: KafkaError) -> None:
        if error.fatal() or error.code() in _FENCED:
            raise Fenced(error.str())
        if error.code() == KafkaError._AUTO_OFFSET_RESET:  # retention overtook us: begin anew at what is left
            raise Abandoned(error.str())
        _log.warning("kafka_error", topic=message.topic(), partition=message.partition(), reason=error.str())

    # --- answers

    def _answer(self) -> None:
        """Answer what may be answered, a bulk at a time."""
        if not self._lines:
            self._said_at = time.monotonic()
            if time.monotonic() - self._shown_at >= SHOW_S:
                self._commit()
            return
        if time.monotonic() - self._looked_at >= LOOK_S:
            numbers = [number for number, line in self._lines.by_partition.items() if line.waiting]
            self._landed = self._insist(lambda: self._landed_below.look(numbers))
            self._looked_at = time.monotonic()
        bulk = self._lines.bulk(self._landed, self.settings.recall.bulk)
        if not bulk:
            self._say()
            return
        lines, ids = self._lines, list({one.question.request_id for one in bulk})
        found = self._insist(lambda: self._store.find(ids))
        if not self._insist(self._landed_below.unchanged):
            _log.warning("tables_made_anew", stage=STAGE, effect="nothing is answered before they are filled again")
            self._landed, self._looked_at = {}, 0.0
            return
        for one in bulk:
            parts = answer(one.question, found.get(one.question.request_id, ()))
            self.answered.unfound += not found.get(one.question.request_id)
            for value in parts:
                self._sender.send(
                    ANSWERS,
                    value,
                    key=one.question.request_id.encode(),
                    partition=one.question.partition,
                    append_ms=max(1, one.question.clock_ms),
                )
            self.progress.outputs += len(parts)
        self._flush()
        if self._lines is not lines:
            return
        lines.pop(bulk)
        self._commit()
        self.answered.questions += len(bulk)
        self.answered.bulks += 1
        self.progress.events += len(bulk)
        self._said_at = time.monotonic()

    def _flush(self) -> None:
        """Wait until Kafka has what was sent. Raises `Abandoned` when it has not: then all of it is sent again."""
        try:
            self._sender.flush()
        except WeirError as error:
            _log.warning("waiting", stage=STAGE, reason=error.message)
            self._wait(BACKOFF_S[0])
            raise Abandoned(error.message) from None

    def _commit(self) -> None:
        """Commit what is answered, markers of transactions included, so that an idle stage shows no lag."""
        moved = {
            number: line.answered
            for number, line in self._lines.by_partition.items()
            if line.answered > self._committed.get(number, -1)
        }
        if not moved:
            return
        positions = [TopicPartition(self._topic[REQUESTS], number, offset) for number, offset in moved.items()]
        lines = self._lines

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
                    raise KafkaException(tp.error)

        self._insist(commit)
        if self._lines is lines:
            self._committed.update(moved)
        self.progress.commits += 1
        self.progress.committed_at = time.monotonic()

    # --- patience

    def _say(self) -> None:
        """Say what is waited for, every few seconds."""
        now = time.monotonic()
        if now - self._said_at < SAY_S:
            return
        self._said_at = now
        lacks = [
            f"{topic}/{one.question.partition} {landed} of {need}"
            for one in self._lines.heads()
            for topic, (landed, need) in one.lacks(self._landed).items()
        ]
        _log.warning(
            "waiting",
            stage=STAGE,
            questions=len(self._lines),
            reason=f"not yet landed: {', '.join(lacks[:8])}",
            fix="check that `weir record` runs",
        )

    def _insist(self, call: Callable[[], ResultT]) -> ResultT:
        """Call until it works, with back-off, keeping the membership alive. Raises `Abandoned`."""
        wait_s, began = BACKOFF_S[0], time.monotonic()
        while True:
            try:
                result = call()
            except (Away, KafkaException) as error:
                self.answered.waits += 1
                self.progress.ready = False
                why = str(error) if isinstance(error, Away) else f"Kafka: {kafka.reason(error)}"
                _log.warning("waiting", stage=STAGE, reason=why, waited_s=round(time.monotonic() - began, 1))
                self._wait(wait_s)
                wait_s = min(2 * wait_s, BACKOFF_S[1])
            else:
                if wait_s > BACKOFF_S[0]:
                    self.progress.ready = True
                    _log.info("works_again", stage=STAGE, waited_s=round(time.monotonic() - began, 1))
                return result

    def _wait(self, seconds: float) -> None:
        """Wait without fetching. Raises `Abandoned` when there is no point in trying again."""
        lines, pending = self._lines, self._pending
        self._pause(True)
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            late = self._consumer.consume(1, min(0.1, seconds))
            self.progress.polled_at = time.monotonic()
            if self.stop.is_set() or self._lines is not lines or self._pending is not pending:
                raise Abandoned
            self._keep_ends(late)

    def _wait_for_store(self) -> bool:
        wait_s, began = BACKOFF_S[0], time.monotonic()
        while not self.stop.is_set():
            self.progress.polled_at = time.monotonic()
            try:
                self._store.prepare()
            except Away as error:
                _log.warning("waiting", stage=STAGE, reason=str(error), waited_s=round(time.monotonic() - began, 1))
                self.stop.wait(wait_s)
                wait_s = min(2 * wait_s, BACKOFF_S[1])
            else:
                return True
        return False

    # --- what is shown

    def _show(self) -> None:
        now = time.monotonic()
        if now - self._shown_at < SHOW_S:
            return
        self._shown_at = now
        shown: dict[int, PartitionProgress] = {}
        for number, line in self._lines.by_partition.items():
            place = TopicPartition(self._topic[REQUESTS], number)
            _, end = self._consumer.get_watermark_offsets(place, cached=True)
            held: dict[str, str] = {}
            if line.waiting:
                held = dict.fromkeys(line.waiting[0].lacks(self._landed), "not landed")
            counters = {"waiting": len(line.waiting)}
            shown[number] = PartitionProgress(0, 0, {REQUESTS: line.answered}, {REQUESTS: max(end, 0)}, counters, held)
        self.progress.partitions = shown
