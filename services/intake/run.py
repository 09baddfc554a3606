"""`weir intake`: each mapping at work, exactly once from Kafka, and from a query with its cursor.

A mapping is a consumer group of its own (`NAMESPACE.intake.NAME`) over the team's topic and our `intake-retries`.
Events, dead letters, a query's cursor and the consumed offsets become visible in one Kafka transaction, or never.
Whatever leaves its outcome unknown ends the process (`streams.runtime.failures`); its successor goes on from what is
committed.

A query is asked by the member that has the partition of `intake-retries`, so by one at a time: its cursor goes into
`intake-state` with the group's generation in the same transaction, and the number of that state stands in the metadata
of the offset, so that a successor knows which state to wait for.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import defaultdict
from collections.abc import Iterator, Sequence

import structlog
from confluent_kafka import Consumer, KafkaError, KafkaException, Message, TopicPartition

from schemas.errors import ENVIRONMENT, USAGE, WeirError
from schemas.mapping import KafkaSource, SqlSource
from schemas.settings import Settings
from schemas.topics import INPUTS, topic_name
from services.intake import state
from services.intake.check import advice, require_topic
from services.intake.database import Away, QueryFailed, connected
from services.intake.letters import RETRIES, Place, read_retry
from services.intake.load import Loaded, load_all
from services.intake.records import Conversion, about_record
from services.intake.registry import Unanswered
from services.intake.sql import Polling, Taken
from services.intake.starts import starts_of
from streams.runtime import kafka
from streams.runtime.failures import Fenced, KafkaFailed
from streams.runtime.health import PartitionProgress, Progress, serve
from streams.runtime.offsets import committed
from streams.runtime.processor import Output
from streams.runtime.topics import await_topics
from streams.runtime.transaction import Transactions

BATCH = 5_000
SHOW_S, BACKOFF_S = 1.0, (0.5, 30.0)
ENOUGH = 1_000
"""After so many documents a protected path that met none is named."""
QUERY_MS = 1_800_000
"""How long a query may take before the group gives its place to another."""

_log = structlog.get_logger()
_rdkafka = logging.getLogger("librdkafka")


def run(settings: Settings, stop: threading.Event) -> None:
    """Run the mappings that settings name until `stop` is set. Raises `WeirError`."""
    if not settings.intake.mappings:
        raise WeirError(
            "no mapping to run",
            fix='name them: weir intake run FILE…, or `mappings = ["FILE"]` under [intake] in weir.toml',
            code=USAGE,
        )
    run_all(settings, load_all(settings.intake.mappings, max_event_bytes=settings.join.max_event_bytes), stop)


def run_all(settings: Settings, loaded: Sequence[Loaded], stop: threading.Event) -> None:
    """Run mappings side by side, a thread each; the first error stops all of them and is raised.

    Health is served for each: the first at `runtime.health_port`, the next one above, and so on; 0 takes free ones.
    """
    errors: list[BaseException] = []

    def one(number: int) -> None:
        port = settings.runtime.health_port
        try:
            Intake(settings, loaded[number], stop, health_port=port and port + number).run()
        except BaseException as error:
            errors.append(error)
        finally:
            stop.set()

    threads = [
        threading.Thread(target=one, args=(number,), name=each.name, daemon=True) for number, each in enumerate(loaded)
    ]  # daemons: a second Ctrl-C does not wait for them
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if errors:
        raise errors[0]


class Intake:
    """One mapping, one member of its group. `run` may be called once. `health_port` None serves no HTTP."""

    def __init__(
        self, settings: Settings, loaded: Loaded, stop: threading.Event, *, health_port: int | None = None
    ) -> None:
        self.settings, self.loaded, self.stop = settings, loaded, stop
        self.conversion = Conversion(loaded)
        self.progress = Progress(loaded.stage, settings.runtime.worker)
        self.health = serve(self.progress, settings.runtime, health_port)
        self._source = loaded.live
        self._retries = topic_name(settings.namespace, RETRIES)
        self._topic = self._source.topic if isinstance(self._source, KafkaSource) else ""
        self._pending: list[kafka.Place] | None = None
        self._positions: dict[kafka.Place, int] = {}
        self._committed: dict[kafka.Place, int] = {}
        self._polling: Polling | None = None
        self._stray: list[Message] = []
        self._due_at = self._shown_at = 0.0
        self._wait_s = BACKOFF_S[0]
        self._looked = self._asked = self._said_unmet = False

    def run(self) -> None:
        """Wait for Kafka, then map until asked to stop."""
        settings = self.settings
        try:
            if not await_topics(settings, self.stop, [*INPUTS, "dead-letters", RETRIES, state.TOPIC]):
                return
            if isinstance(self._source, KafkaSource):
                require_topic(settings, self._source.topic)
            for said in advice(settings, self.loaded.mapping):
                _log.warning("source", mapping=self.loaded.name, advice=said)
            self._out = Transactions(settings, self.loaded.stage)
            self._out.take_slot()
            self._consumer = self._open()
            port = None if self.health is None else self.health.port
            _log.info("working", stage=self.loaded.stage, worker=settings.runtime.worker, health_port=port)
            while not self.stop.is_set():
                self._turn()
            self._consumer.close()
            self._out.close()
            _log.info("left", stage=self.loaded.stage, **self.conversion.counts)
        except KafkaException as error:
            fenced = error.args[0].code() in (KafkaError.FENCED_INSTANCE_ID, KafkaError._FENCED)
            if fenced or "fenced" in error.args[0].str():
                raise Fenced(f"{self.loaded.stage}-{settings.runtime.worker}", kafka.reason(error)) from error
            raise KafkaFailed(kafka.reason(error)) from error
        finally:
            self.progress.ready = False
            if self.health is not None:
                self.health.close()

    # --- membership

    def _open(self) -> Consumer:
        client = f"{self.loaded.stage}-{self.settings.runtime.worker}"
        group = kafka.group_id(self.settings.namespace, self.loaded.stage)
        properties = kafka.consumer_properties(self.settings, client, group, instance=client)
        if isinstance(self._source, SqlSource):
            properties["max.poll.interval.ms"] = QUERY_MS
        consumer = Consumer(properties, logger=_rdkafka)
        topics = [self._retries, *([self._topic] if self._topic else [])]
        consumer.subscribe(topics, on_assign=self._assigned, on_revoke=self._revoked, on_lost=self._revoked)
        return consumer

    def _assigned(self, consumer: Consumer, given: list[TopicPartition]) -> None:
        consumer.assign([])  # nothing is fetched before it is known where to begin
        self._pending = [(tp.topic, tp.partition) for tp in given]

    def _revoked(self, consumer: Consumer, taken: list[TopicPartition]) -> None:
        """Nothing is open here: a transaction begins and ends between two polls."""
        consumer.unassign()
        self._pending, self._positions, self._committed, self._polling = None, {}, {}, None
        self._stray = []  # read again: taken now, it would move the position past what comes before it
        self.progress.partitions, self.progress.ready = {}, False

    def _take_up(self) -> None:
        places = self._pending
        if places is None:
            return
        found = committed(self._consumer, places)
        starts = starts_of(self.settings, self.loaded.stage, self._source, self._consumer, found, self.stop)
        own = (self._retries, 0)
        if isinstance(self._source, SqlSource) and own in starts:
            number = int(found[own].metadata) if found[own].metadata.isdigit() else 0
            kept = state.read_state(self.settings, self.loaded.name, number, self._alive)
            self._polling = Polling.begin(self._source, self.loaded.mapper, self.loaded.name, kept)
        if self._pending is not places or self.stop.is_set():
            return
        self._pending, self._positions, self._stray = None, starts, []
        self._committed = {place: offset for place, offset in starts.items() if found[place].offset == offset}
        assigned = [TopicPartition(*place, offset) for place, offset in starts.items()]
        self._consumer.assign(assigned)
        self._consumer.resume(assigned)  # a pause outlives the assignment in which it was made
        self._commit([])  # where a group began is committed at once: a restart must not begin anew at a later end
        self.progress.ready = True
        _log.info("assigned", stage=self.loaded.stage, offsets={f"{t}/{p}": at for (t, p), at in starts.items()})

    def _alive(self) -> None:
        self.progress.polled_at = time.monotonic()

    # --- one turn

    def _turn(self) -> None:
        self._take_up()
        most = min(BATCH, self.settings.runtime.batch_events)
        stray, self._stray = self._stray, []
        messages = stray + self._consumer.consume(most, max(0.01, self.settings.runtime.commit_ms / 1000))
        self.progress.polled_at = time.monotonic()
        if not self._prepared(messages):
            return
        outputs = self._take(messages)
        if outputs or any(self._moved(place) for place in self._positions if self._is_due()):
            self._commit(outputs)
        if self._polling is not None and time.monotonic() >= self._due_at and not self.stop.is_set():
            self._poll(self._polling)
        if self._is_due():
            self._show()

    def _prepared(self, messages: Sequence[Message]) -> bool:
        """Ask for what the format needs to read these, as often as it takes, keeping the membership.

        False: the process was asked to stop, or the partitions were taken away.
        """
        form = self.loaded.format
        values = [message.value() for message in messages if message.error() is None]
        if form is None or not values:
            return True
        positions, wait_s = self._positions, BACKOFF_S[0]
        while True:
            try:
                form.prepare(values)
            except Unanswered as error:
                self.progress.ready = False
                fix = "start it, or correct `source.format`"
                _log.warning("waiting", stage=self.loaded.stage, reason=str(error), again_in_s=wait_s, fix=fix)
            else:
                self.progress.ready = True
                return True
            places = [TopicPartition(*place) for place in positions]
            self._consumer.pause(places)
            until = time.monotonic() + wait_s
            while time.monotonic() < until and not self.stop.is_set() and self._positions is positions:
                self._stray += self._consumer.consume(1, 0.1)  # what comes in spite of the pause is next
                self.progress.polled_at = time.monotonic()
            if self.stop.is_set() or self._positions is not positions:
                return False
            self._consumer.resume(places)
            wait_s = min(2 * wait_s, BACKOFF_S[1])

    def _is_due(self) -> bool:
        return time.monotonic() - self._shown_at >= SHOW_S

    def _moved(self, place: kafka.Place) -> bool:
        return self._positions[place] != self._committed.get(place, -1)

    def _take(self, messages: Sequence[Message]) -> list[Output]:
        outputs: list[Output] = []
        now_ms, conversion, positions = int(time.time() * 1000), self.conversion, self._positions
        for message in messages:
            error = message.error()
            topic, offset = str(message.topic()), message.offset() or 0
            place = Place(message.partition() or 0, offset)
            at = (topic, place.partition)
            if error is not None:
                self._event(error, at, offset)
                continue
            if at not in positions or offset < positions[at]:
                continue  # of an assignment that has ended
            positions[at] = offset + 1
            headers: Sequence[tuple[str, bytes | None]] = message.headers() or ()  # type: ignore[assignment]
            if topic == self._retries:
                again = read_retry(self.loaded.name, headers, message.value())
                if again is not None:
                    outputs += conversion.retry(again, now_ms)
                continue
            time_ms = message.timestamp()[1]
            about = about_record(conversion, topic, place, time_ms if time_ms > 0 else now_ms, message.key(), headers)
            outputs += conversion.record(message.value(), place, about, now_ms)
        return outputs

    def _event(self, error: KafkaError, place: kafka.Place, offset: int) -> None:
        """Take what comes in place of a record: the end of a partition, which carries the position, or an error."""
        if error.code() == KafkaError._PARTITION_EOF:
            if place in self._positions:
                self._positions[place] = max(self._positions[place], offset)
        elif error.fatal() or error.code() in (KafkaError._FATAL, KafkaError.FENCED_INSTANCE_ID):
            raise KafkaException(error)
        elif error.code() == KafkaError._AUTO_OFFSET_RESET:  # retention overtook us: begin anew at what is left
            self._pending = list(self._positions)
        elif error.code() == KafkaError.TOPIC_AUTHORIZATION_FAILED:
            raise WeirError(
                f"reading {place[0]} is not allowed: {error.str()}",
                fix=f"grant READ on the topic {place[0]} and on groups of {self.settings.namespace}.intake.*",
                code=ENVIRONMENT,
            )
        else:
            _log.warning("kafka_error", topic=place[0], partition=place[1], reason=error.str())

    def _commit(self, outputs: Sequence[Output]) -> None:
        """Make outputs and positions visible together. The retries' position goes with a query's state, always."""
        moved = {place: offset for place, offset in self._positions.items() if self._moved(place)}
        own = (self._retries, 0)
        numbers: defaultdict[int, int] = defaultdict(int)
        if self._polling is not None:
            numbers[0] = self._polling.state.number
            moved[own] = self._positions[own]
        if not outputs and not moved:
            return
        self._out.send(outputs, int(time.time() * 1000))
        self._out.commit(self._consumer, moved, numbers)
        self._committed.update(moved)
        self.progress.commits += 1
        self.progress.outputs += len(outputs)
        self.progress.committed_at = time.monotonic()

    # --- a query

    def _poll(self, polling: Polling) -> None:
        """Ask the query once; each batch is a transaction of its own. While the database is away, wait."""
        assert isinstance(self._source, SqlSource)
        try:
            with connected(self._source) as connection:
                if not self._looked:
                    connection.columns()
                    if hidden := connection.unreachable():
                        what = f"{hidden} rows have no {self._source.cursor}, and are never read"
                        _log.warning("source", mapping=self.loaded.name, advice=what)
                    self._looked = True
                for taken in polling.poll(connection):
                    self._rows(polling, taken)
                    if self.stop.is_set() or self._polling is not polling:
                        return
                    self._look_up()
                    if self._polling is not polling:
                        return
        except (Away, QueryFailed) as error:
            if isinstance(error, QueryFailed) and not self._asked:
                raise
            self.progress.ready = False
            fix = "start the database, or correct `url` or `connect`" if isinstance(error, Away) else error.fix
            _log.warning("waiting", stage=self.loaded.stage, reason=str(error), again_in_s=self._wait_s, fix=fix)
            self._due_at = time.monotonic() + self._wait_s
            self._wait_s = min(2 * self._wait_s, BACKOFF_S[1])
            return
        self._asked, self.progress.ready = True, True
        self._wait_s = BACKOFF_S[0]
        self._due_at = time.monotonic() + self._source.every_s

    def _rows(self, polling: Polling, taken: Sequence[Taken]) -> None:
        now_ms = int(time.time() * 1000)
        outputs: list[Output] = []
        for row in taken:
            outputs += self.conversion.row(row.document, Place(0, row.offset), {"time": now_ms}, now_ms)
        self._commit([*outputs, state.output(polling.state, now_ms)])

    def _look_up(self) -> None:
        """Keep the membership, and take retries, between two batches of a long answer."""
        outputs = self._take(self._consumer.consume(100, 0))
        self.progress.polled_at = time.monotonic()
        if outputs and self._polling is not None:
            self._commit(outputs)

    # --- what is shown

    def _show(self) -> None:
        self._shown_at = time.monotonic()
        counts = self.conversion.counts
        self.progress.events = counts["read"]
        if not self.progress.partitions or self._positions:
            self.progress.partitions = dict(self._partitions())
        if counts["read"] >= ENOUGH and not self._said_unmet and (unmet := self.conversion.unmet()):
            _log.warning(
                "protect_unmet",
                mapping=self.loaded.name,
                paths=unmet,
                advice=f"none of {counts['read']} documents has them: mistyped paths protect nothing",
            )
            self._said_unmet = True

    def _partitions(self) -> Iterator[tuple[int, PartitionProgress]]:
        numbers = sorted({partition for _, partition in self._positions})
        for number in numbers:
            mine = {topic: offset for (topic, partition), offset in self._positions.items() if partition == number}
            ends = {
                topic: max(0, int(self._consumer.get_watermark_offsets(TopicPartition(topic, number), cached=True)[1]))
                for topic in mine
            }
            counters = dict(self.conversion.counts) if number == numbers[0] else {}
            yield number, PartitionProgress(0, 0, mine, ends, counters, {})
