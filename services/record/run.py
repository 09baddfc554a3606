"""`weir record`: every topic of the namespace into ClickHouse, each event position once, whatever is killed when.

How once comes about. Kafka's group holds, per partition, the offset a below which everything has landed. Before an
insert the planned range is written beside it: the commit says "a, and b is next" (offset a, metadata `b`). Then the
rows go in; then the commit says "b". Whoever starts after a crash finds a and b, reads exactly [a, b) again and inserts
it with the same token, so ClickHouse drops what it has. Committed records of a closed range never change, so the range
is the same both times. Should a token be forgotten (another worker got some of the partitions, or the window of tokens
has moved on), rows stand twice in the table, and the view shows them once: the position is the table's key.

That holds while a log only grows. One that ends below a or b has lost its tail (a lone broker after a power failure, an
unclean election): new events would take positions that may have landed, and what lies below a would never be read. So
`record` writes that into the commit's metadata, in place of b, and ends, now and at every later start: the log may grow
again. One that grew past a and b before anybody looked is not told apart from a whole one.

A flush holds what came in within `FLUSH_S`, or `FLUSH_ROWS`, or `FLUSH_BYTES`; that bounds the memory and the latency.
While ClickHouse is away the same flush is tried again for as long as it takes, fetching is paused and the membership
in the group kept. Offsets move past transaction markers, so a stage that is drained shows no lag.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial

import structlog
from confluent_kafka import KafkaError, Message

from schemas.errors import ENVIRONMENT, WeirError
from schemas.settings import Settings
from schemas.topics import TOPICS, topic_name
from services.record.land import Away, Span, Store
from streams.runtime import kafka
from streams.runtime.kafka import End, Place
from streams.runtime.member import Member, PutOut, TakenAway
from streams.runtime.offsets import Commit
from streams.runtime.past import append
from streams.runtime.records import Records
from streams.runtime.topics import await_topics

STAGE = "record"
FLUSH_S = 0.25
FLUSH_ROWS = 20_000
FLUSH_BYTES = 16 << 20
IDLE_S = 0.05
QUEUE_KIB = 16_384
CUT = "cut: "
"""How the metadata of a commit begins whose log was found to end before it."""
CUT_S, CUT_PAUSE_S = 3.0, 0.5
"""For how long it is asked whether a later leader knows more of such a log."""
REPEAT_S = 30.0
"""After this long without a record or an end of those that are to be repeated it is asked anew what there is."""

_log = structlog.get_logger()


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
        self._store = Store(settings)
        self.member = Member(
            settings,
            STAGE,
            list(TOPICS),
            stop,
            forget=self._forget,
            late=self._keep,
            away=(Away,),
            properties={"queued.max.messages.kbytes": QUEUE_KIB},
        )
        self._reading: dict[Place, Reading] = {}
        self._rows = self._bytes = 0
        self._flushed_at = time.monotonic()

    def run(self) -> None:
        """Wait for Kafka and ClickHouse, then gather and flush until asked to stop."""
        if not await_topics(self.settings, self.stop, TOPICS) or not self.member.wait_for(self._store.prepare):
            return
        try:
            with self.member:
                self.member.run(self._turn)
                self._last_flush()
        finally:
            self._store.close()
        _log.info("left", stage=STAGE, rows=self.landed.rows, flushes=self.landed.flushes)

    def _turn(self) -> None:
        self._take_up()
        self._gather()
        if self._due():
            self._flush()

    # --- assignment

    def _forget(self) -> None:
        """Drop what has not landed; it is read again."""
        self._reading = {}
        self._rows = self._bytes = 0

    def _take_up(self) -> None:
        """Begin where the group left off: first repeat what was planned and may not have landed, then go on."""
        places = self.member.pending
        if places is None:
            return
        reading = self._begin(places)
        planned = {place: one for place, one in reading.items() if one.planned is not None}
        if planned:
            self._repeat(planned)
        self.member.begin(places, {place: one.position for place, one in reading.items()})
        self._reading = reading
        _log.info("assigned", stage=STAGE, partitions=len(places), repeated=len(planned))

    def _begin(self, places: list[Place]) -> dict[Place, Reading]:
        """Give where each partition stands; one that this database has never seen is read from its beginning."""
        commits = self.member.committed(places)  # before the ends are asked: a log may only be ahead of them
        first, ends, ids = self.member.insist(lambda: self._ask(places))
        known = self.member.insist(self._store.sources)
        reading: dict[Place, Reading] = {}
        new: dict[tuple[str, int], str] = {}
        for place, commit in commits.items():
            logical = self._logical[place[0]]
            seen = known.get((logical, place[1]))
            if seen is None:
                new[logical, place[1]] = ids[place[0]]
                reading[place] = Reading(logical, place[1], first[place], first[place])
                continue
            if seen != ids[place[0]]:
                raise WeirError(
                    f"Kafka's topic {place[0]} was made anew: the database holds events of another one of this name",
                    fix="use another namespace, or set clickhouse.database to an empty one",
                    code=ENVIRONMENT,
                )
            reading[place] = _resumed(logical, place, commit, first[place])
        fresh = {place: one.landed for place, one in reading.items() if (one.topic, one.partition) in new}
        self._refuse_cut({place: commit for place, commit in commits.items() if place not in fresh}, ends)
        if new:  # the group may remember offsets of a database that is gone: forget them first
            self.member.commit(fresh)
            self.member.insist(lambda: self._store.remember(new))
        return reading

    def _refuse_cut(self, commits: dict[Place, Commit], ends: dict[Place, End]) -> None:
        """Raise `WeirError` for logs that lost their tail, now or before: the commit says so from then on."""
        cut = {place: one.metadata for place, one in commits.items() if one.metadata.startswith(CUT)}
        found = self._cut({place: one for place, one in commits.items() if place not in cut}, ends)
        if found:
            self.member.commit({place: commits[place].offset for place in found}, found)
        if cut := cut | found:
            said = [f"{topic}/{number}: {cut[topic, number].removeprefix(CUT)}" for topic, number in sorted(cut)]
            raise WeirError(
                "the log ends before what was committed: it lost its tail\n    " + "\n    ".join(said),
                fix="use another namespace, or set clickhouse.database to an empty one, where all that is left lands "
                "anew; do not move the offsets instead: new events take positions of lost ones that may have landed",
                code=ENVIRONMENT,
            )

    def _cut(self, commits: dict[Place, Commit], ends: dict[Place, End]) -> dict[Place, str]:
        """Say of each log that ends before what was committed or planned of it what is so.

        A broker that was the leader may have answered. So it is asked again, and a later leader knows better; but one
        that grew meanwhile under the same leader is cut all the same.
        """
        short = {place: one for place, one in commits.items() if _reach(one) > ends[place].offset}
        deadline = time.monotonic() + CUT_S
        while short and time.monotonic() < deadline:
            self.member.wait(CUT_PAUSE_S)
            _, now, _ = self.member.insist(partial(self._ask, list(short)))
            for place, end in now.items():
                if end.epoch > ends[place].epoch and end.offset >= _reach(short[place]):
                    del short[place]
        return {place: f"{CUT}{_beyond(one, ends[place].offset)}" for place, one in short.items()}

    def _ask(self, places: list[Place]) -> tuple[dict[Place, int], dict[Place, End], dict[str, str]]:
        """Ask Kafka where partitions begin and end, and which topics these are.

        The end is the high watermark: a transaction that is open holds the last stable offset back.

        With a client of its own: one that has seen a broker die may be refused for minutes (FENCED_LEADER_EPOCH),
        because librdkafka does not look for the leader again.
        """
        admin = kafka.make_admin(self.settings, STAGE)
        first = kafka.earliest(admin, places)
        ends = kafka.high_ends(admin, places)
        return first, ends, {topic: kafka.topic_identity(admin, topic) for topic in {topic for topic, _ in places}}

    def _repeat(self, planned: dict[Place, Reading]) -> None:
        """Land planned ranges again, exactly as planned. Raises `TakenAway` when they do not come."""
        generation, self._reading = self.member.generation, planned
        self.member.fetch({place: one.position for place, one in planned.items()})
        read, deadline = -1, time.monotonic() + REPEAT_S
        while any(one.position < (one.planned or 0) for one in planned.values()):
            self._keep(self.member.consume(1000, IDLE_S))
            self.member.still(generation)
            if (now := sum(one.position for one in planned.values())) > read:
                read, deadline = now, time.monotonic() + REPEAT_S
            elif time.monotonic() > deadline:
                raise TakenAway(f"nothing came for {REPEAT_S:g} s of what was planned")
        self.member.fetch({})
        before = self.landed.rows
        self._flush()
        self.landed.repeated += self.landed.rows - before
        for one in planned.values():
            one.planned = None

    # --- gathering

    def _gather(self) -> None:
        left_s = self._flushed_at + FLUSH_S - time.monotonic()
        self._keep(self.member.consume(1000, max(0.0, left_s) if self._rows else IDLE_S))
        while self._rows < FLUSH_ROWS and self._bytes < FLUSH_BYTES:
            messages = self.member.consume(1000, 0)
            if not messages:
                break
            self._keep(messages)

    def _keep(self, messages: Sequence[Message]) -> None:
        for message in messages:
            one = self._reading.get((message.topic() or "", message.partition() or 0))
            error = message.error()
            if error is not None:
                if error.code() == KafkaError._PARTITION_EOF:
                    if one is not None:
                        one.pass_to(message.offset() or 0)
                else:
                    self.member.refuse(message, error)
            elif one is not None:
                before = len(one.records)
                one.take(message)
                if len(one.records) > before:
                    self._rows += 1
                    self._bytes += len(message)

    def _due(self) -> bool:
        if self._rows >= FLUSH_ROWS or self._bytes >= FLUSH_BYTES:
            return True
        if time.monotonic() - self._flushed_at < FLUSH_S:
            return False
        return any(one.position > one.landed for one in self._reading.values())

    # --- flushing

    def _flush(self) -> None:
        """Plan, land, commit. Raises `TakenAway`; then nothing is lost, only repeated."""
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
            self.member.commit(starts, {place: str(ends[place]) for place in starts})
        for topic, spans in by_topic.items():
            self.member.insist(partial(self._store.land, topic, spans))
        self.member.commit(ends)
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
            except (TakenAway, PutOut):
                _log.info("left_unlanded", stage=STAGE, effect="the next start reads it again")


def _resumed(logical: str, place: Place, commit: Commit, first: int) -> Reading:
    """Give where a partition goes on, and up to where a planned range has to be repeated."""
    start = max(commit.offset, first)
    if start > commit.offset >= 0:
        _log.error(
            "events_gone",
            topic=place[0],
            partition=place[1],
            offsets=[commit.offset, start],
            effect="they were deleted before they landed",
            fix="lengthen retention.ms of the topic beyond the longest downtime",
        )
    planned = _planned(commit)
    return Reading(logical, place[1], start, start, planned if planned > start else None)


def _planned(commit: Commit) -> int:
    """Give up to where a commit says that it is planned, 0 when it says nothing."""
    return int(commit.metadata) if commit.metadata.isdecimal() else 0


def _reach(commit: Commit) -> int:
    """Give the offset that the log had reached when this was committed."""
    return max(commit.offset, _planned(commit))


def _beyond(commit: Commit, end: int) -> str:
    planned = f", planned up to {_planned(commit)}" if _planned(commit) > commit.offset else ""
    return f"committed {commit.offset}{planned}, the log ended at {end}"
