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

import threading
import time
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

import structlog
from confluent_kafka import KafkaError, Message

from schemas.errors import WeirError
from schemas.settings import Settings
from schemas.topics import topic_name
from services.kafka import Sender
from services.recall.ahead import Ahead, Found
from services.recall.answer import KINDS, TOPICS, BadQuestion, answer, read_question
from services.recall.landed import LandedBelow
from services.recall.refusal import refusal
from services.recall.table import Recallable
from services.recall.waiting import Lines, Place, Waiting
from services.record.land import Away
from streams.runtime import kafka
from streams.runtime.health import PartitionProgress, serve
from streams.runtime.member import BACKOFF_S, Member, TakenAway
from streams.runtime.topics import await_topics

STAGE = "recall"
REQUESTS, ANSWERS = "recall-requests", "recalled"
WAITING = 50_000
AT_ONCE = 4
"""So many bulks are answered before questions are read again: while one is answered the next is looked up."""
BATCH = 5_000
IDLE_S, LOOK_S, SHOW_S, SAY_S = 0.1, 0.05, 1.0, 10.0
AGAIN_S = 2.0

_log = structlog.get_logger()


@dataclass(slots=True)
class Answered:
    """What this process has done so far."""

    questions: int = 0
    bulks: int = 0
    unfound: int = 0
    refused: int = 0


def run(settings: Settings, stop: threading.Event) -> None:
    """Answer until `stop` is set. Raises `WeirError` for what waiting does not mend.

    Health is served on a free port of 127.0.0.1, which the log names (`working`).
    """
    Recaller(settings, stop, health_port=settings.runtime.health_port).run()


class Recaller:
    """One member of the group. `run` may be called once. `health_port` None serves no HTTP, 0 takes a free port."""

    def __init__(self, settings: Settings, stop: threading.Event, *, health_port: int | None = None) -> None:
        self.settings, self.stop = settings, stop
        self.answered = Answered()
        self._lines = Lines()
        self.member = Member(settings, STAGE, [REQUESTS], stop, forget=self._forget, late=self._keep_ends, away=(Away,))
        self.progress = self.member.progress
        self.health = serve(self.progress, settings.runtime, health_port)
        self._topic = {name: topic_name(settings.namespace, name) for name in (REQUESTS, ANSWERS, *TOPICS)}
        self._store = Recallable(settings)
        self._committed: dict[int, int] = {}
        self._landed: Mapping[Place, int] = {}
        self._looked_at = self._shown_at = self._said_at = 0.0

    def run(self) -> None:
        """Wait for Kafka and ClickHouse, then answer until asked to stop."""
        settings = self.settings
        try:
            named = [REQUESTS, ANSWERS, *TOPICS]
            if not await_topics(settings, self.stop, named) or not self.member.wait_for(self._store.prepare):
                return
            self._inquiry = kafka.Inquiry(settings, STAGE)
            self._landed_below = LandedBelow(settings, self._store)
            self._sender = Sender(settings, STAGE)
            self._ahead = Ahead(settings)
            try:
                with self.member:
                    port = None if self.health is None else self.health.port
                    _log.info("working", stage=STAGE, worker=settings.runtime.worker, health_port=port)
                    self.member.run(self._turn)
            finally:
                self._ahead.close()
                self._landed_below.close()
        finally:
            self.progress.ready = False
            self._store.close()
            if self.health is not None:
                self.health.close()
        _log.info("left", stage=STAGE, questions=self.answered.questions, waiting=len(self._lines))

    def _turn(self) -> None:
        self._take_up()
        self._gather()
        self._answer()
        self._show()

    # --- assignment

    def _forget(self) -> None:
        """Drop what is not answered; it is read again."""
        self._lines = Lines()

    def _take_up(self) -> None:
        """Begin where the group left off; at first at the beginning."""
        places = self.member.pending
        if places is None:
            return
        first = self.member.insist(lambda: self._inquiry.ask(lambda admin: kafka.earliest(admin, places)))
        committed = self.member.committed(places)
        self.member.insist(lambda: self._inquiry.ask(self._landed_below.identify))
        starts: dict[kafka.Place, int] = {}
        for place, commit in committed.items():
            starts[place] = max(commit.offset, first[place])
            if 0 <= commit.offset < starts[place]:
                _log.error(
                    "questions_gone",
                    partition=place[1],
                    offsets=[commit.offset, starts[place]],
                    effect="the join waits for answers that do not come until it asks again",
                    fix=f"lengthen retention.ms of {place[0]} beyond the longest downtime",
                )
        self.member.begin(places, starts)
        by_number = {number: start for (_, number), start in starts.items()}
        self._lines = Lines(by_number)
        self._committed = {number: commit.offset for (_, number), commit in committed.items()}
        _log.info("assigned", stage=STAGE, offsets=by_number)

    # --- questions

    def _gather(self) -> None:
        """Take what came. Waits for more only when there is nothing to do."""
        room = WAITING - len(self._lines)
        self.member.pause(room <= 0 or (self.member.paused and room < WAITING // 2))
        busy = bool(self._lines.bulk(self._landed, 1))
        wait_s = 0.0 if busy else LOOK_S if self._lines else IDLE_S
        messages = self.member.consume(1, wait_s)
        if messages and not self.member.paused:
            messages += self.member.consume(min(BATCH, max(1, room)), 0)
        self._keep(messages)

    def _keep(self, messages: Sequence[Message]) -> None:
        records = [message for message in messages if message.error() is None]
        ends: Mapping[Place, int] = {}
        if records:
            numbers = {message.partition() or 0 for message in records}
            ends = self.member.insist(lambda: self._ends(numbers))
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
                raise TakenAway("a record came in spite of a pause: it is read again")
            if error.code() == KafkaError._PARTITION_EOF:  # carries the position: it lies behind markers
                self._lines.moved(message.partition() or 0, message.offset() or 0)
            else:
                self.member.refuse(message, error)

    def _take(self, message: Message, number: int, offset: int, ends: Mapping[Place, int]) -> None:
        line = self._lines.by_partition.get(number)
        if line is None or offset < line.position:
            return
        try:
            question = read_question(message.value(), number, self.settings.partitions)
            needs: dict[str, int] = {topic: question.offsets[topic] for topic in KINDS}
            if any(needs[topic] > ends[topic, number] for topic in KINDS):
                self.member.wait(AGAIN_S)  # a broker that has just become the leader may not know its end yet
                ends = self.member.insist(lambda: self._ends({number}))
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
        found = self._inquiry.ask(lambda admin: kafka.ends(admin, list(places), patience_s=5.0))
        return {place: found[asked][1] for asked, place in places.items()}

    def _bury(self, message: Message, error: BadQuestion) -> None:
        """Put a question that nobody can answer into the dead letters."""
        place, letter = refusal(message, error, REQUESTS)
        self._sender.send("dead-letters", letter, key=place.encode(), append_ms=message.timestamp()[1])
        self._flush()
        self.answered.refused += 1
        _log.error("question_refused", place=place, reason=error.reason, detail=str(error))

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
            self._landed = self.member.insist(lambda: self._landed_below.look(numbers))
            self._looked_at = time.monotonic()
        most = self.settings.recall.bulk
        waiting = self._lines.bulk(self._landed, AT_ONCE * most)
        if not waiting:
            self._say()
            return
        bulks = [waiting[start : start + most] for start in range(0, len(waiting), most)]
        ids = [list({one.question.request_id for one in bulk}) for bulk in bulks]
        for bulk, found in zip(bulks, self._ahead.find(ids, self.member.insist), strict=True):
            if not self.member.insist(self._landed_below.unchanged):
                _log.warning("tables_made_anew", stage=STAGE, effect="nothing is answered before they are filled again")
                self._landed, self._looked_at = {}, 0.0
                return
            self._send(bulk, found)
            if self.stop.is_set():
                return

    def _send(self, bulk: Sequence[Waiting], found: Found) -> None:
        """Answer a bulk, and commit when Kafka has it."""
        for one in bulk:
            stored = found.get(one.question.request_id, ())
            parts = answer(one.question, stored)
            self.answered.unfound += not stored
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
        self._lines.pop(bulk)
        self._commit()
        self.answered.questions += len(bulk)
        self.answered.bulks += 1
        self.progress.events += len(bulk)
        self._said_at = time.monotonic()

    def _flush(self) -> None:
        """Wait until Kafka has what was sent. Raises `TakenAway` when it has not: then all of it is sent again."""
        try:
            self._sender.flush()
        except WeirError as error:
            _log.warning("waiting", stage=STAGE, reason=error.message)
            self.member.wait(BACKOFF_S[0])
            raise TakenAway(error.message) from None

    def _commit(self) -> None:
        """Commit what is answered, markers of transactions included, so that an idle stage shows no lag."""
        moved = {
            number: line.answered
            for number, line in self._lines.by_partition.items()
            if line.answered > self._committed.get(number, -1)
        }
        if not moved:
            return
        self.member.commit({(self._topic[REQUESTS], number): offset for number, offset in moved.items()})
        self._committed.update(moved)

    # --- what is shown

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

    def _show(self) -> None:
        now = time.monotonic()
        if now - self._shown_at < SHOW_S:
            return
        self._shown_at = now
        shown: dict[int, PartitionProgress] = {}
        for number, line in self._lines.by_partition.items():
            end = self.member.end_of((self._topic[REQUESTS], number))
            held: dict[str, str] = {}
            if line.waiting:
                held = dict.fromkeys(line.waiting[0].lacks(self._landed), "not landed")
            counters = {"waiting": len(line.waiting)}
            shown[number] = PartitionProgress(0, 0, {REQUESTS: line.answered}, {REQUESTS: max(end, 0)}, counters, held)
        self.progress.partitions = shown
