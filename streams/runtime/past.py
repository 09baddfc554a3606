"""What a restore reads again: recorded steps, and the records between their vectors.

From Kafka; where retention has taken them away there, from the history that `record` keeps, if there is one. Records
have one order, that of their offsets, so what comes first is always the history's, and Kafka's follows.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TypeVar

import msgspec
import structlog
from confluent_kafka import Consumer, KafkaError, KafkaException, Message, TopicPartition
from confluent_kafka.admin import AdminClient

from schemas.records import Step
from schemas.settings import Settings
from schemas.topics import topic_name
from streams.runtime import kafka
from streams.runtime.failures import NotRestored
from streams.runtime.history import History, HistoryAway
from streams.runtime.records import Records

ResultT = TypeVar("ResultT")

PATIENCE_S = 60.0
"""How long nothing may come of a log in which something must be, before the restore gives up."""

_log = structlog.get_logger()
_steps = msgspec.json.Decoder(Step)


class Gone(NotRestored):
    """What is needed is neither in Kafka nor in the history."""


class Past:
    """The past of one partition of one stage. `low` is the first offset of each input that Kafka still has.

    `reader` gives a consumer for each of two numbers; `alive` is called between reads and may raise.
    """

    def __init__(
        self,
        settings: Settings,
        stage: str,
        inputs: Sequence[str],
        partition: int,
        admin: AdminClient,
        reader: Callable[[int], Consumer],
        alive: Callable[[], None],
        history: History | None,
    ) -> None:
        self._stage, self._partition, self._admin = stage, partition, admin
        self._reader, self._alive, self._history = reader, alive, history
        self._topics = {topic_name(settings.namespace, name): name for name in inputs}
        self._steps = topic_name(settings.namespace, "steps")
        self.where = "Kafka" if history is None else f"Kafka and {history.where}"
        low = kafka.earliest(admin, [(topic, partition) for topic in self._topics])
        self.low = {name: low[topic, partition] for topic, name in self._topics.items()}

    def last(self) -> tuple[int, Step] | None:
        """Give the last step that is recorded in Kafka."""
        place = self._steps, self._partition
        stable, high = kafka.ends(self._admin, [place])[place]
        last = None
        if min(stable, high) > kafka.earliest(self._admin, [place])[place]:
            for found in self.recorded(0, None):
                last = found
        return last

    def steps(self, after: int, after_offset: int, number: int) -> Iterator[tuple[int, Step]]:
        """Give the steps after one up to another, each with its offset in `steps`, none left out.

        Raises `Gone` when some are neither in Kafka nor in the history.
        """
        expected = after + 1
        for offset, step in self.recorded(after_offset + 1, number):
            if expected < step.number:
                yield from self._remembered(expected, step.number - 1)
            if expected <= step.number:
                yield offset, step
                expected = step.number + 1
        if expected <= number:
            yield from self._remembered(expected, number)

    def first(self) -> int | None:
        """Give the number of the first step that can be read; None when there is none."""
        found = next((step.number for _, step in self.recorded(0, None)), None)
        if found != 1 and self._history is not None:
            history = self._history
            if _asked(history, lambda: next(history.steps(self._stage, self._partition, 1, 1), None)) is not None:
                return 1
        return found

    def beginning(self) -> dict[str, int]:
        """Give the vector before the first step: where Kafka begins, or the history when Kafka has lost something."""
        if self._history is None or not any(self.low.values()):
            return dict(self.low)
        return dict.fromkeys(self.low, 0)

    def at(self, number: int) -> Step:
        """Give a step. Raises `Gone`."""
        if self._history is not None:
            history = self._history
            for _, step in _asked(history, lambda: list(history.steps(self._stage, self._partition, number, number))):
                return step
        return next(step for _, step in self.steps(number - 1, -1, number))

    def before(self, clock_ms: int, number: int) -> tuple[int, Step] | None:
        """Give the last step up to a number whose clock was at most `clock_ms`, with its offset."""
        if self._history is not None:
            history = self._history
            return _asked(history, lambda: history.step_before(self._stage, self._partition, clock_ms))
        found = None
        for offset, step in self.recorded(0, number):
            if step.clock_ms > clock_ms:
                break
            found = offset, step
        return found

    def records(self, start: Mapping[str, int]) -> Between:
        """Give the records from a vector on, of the inputs that it names. Raises `Gone` when some are in no place."""
        owed = {name: offset for name, offset in start.items() if offset < self.low[name]}
        chunks = {name: self.remembered(name, offset, self.low[name]) for name, offset in owed.items()}
        kept = {name: max(offset, self.low[name]) for name, offset in start.items()}
        topics = {topic: name for topic, name in self._topics.items() if name in start}
        return Between(self._reader(1), topics, self._partition, kept, chunks, self._alive)

    def remembered(self, name: str, start: int, end: int) -> Iterator[Records]:
        """Give an input's records in [start, end) from the history. Raises `Gone` when it does not hold them."""
        place = f"{name}/{self._partition}"
        history = self._needed(f"records of {place} from offset {start} to {end - 1}")
        landed = _asked(history, lambda: history.landed(name, self._partition))
        if landed < end:
            raise Gone(
                f"records of {place} from offset {max(start, landed)} to {end - 1} are gone from Kafka, and in "
                f"{history.where} only those below {landed} have landed",
                fix="retention was shorter than the downtime of `weir record`; to go on without them, use another "
                "namespace",
            )
        _log.info("read_from_history", place=place, offsets=[start, end], history=history.where)
        return _each(history, history.records(name, self._partition, start, end))

    def recorded(self, offset: int, number: int | None) -> Iterator[tuple[int, Step]]:
        """Yield this stage's steps from an offset of `steps` on, as far as Kafka has them.

        Up to a number, which is waited for while it may still become visible, or to the end (None).
        """
        place = self._steps, self._partition
        reader = self._reader(0)
        _, high = kafka.ends(self._admin, [place])[place]
        first = max(offset, kafka.earliest(self._admin, [place])[place])
        if first >= high:
            return
        reader.assign([TopicPartition(*place, first)])
        stage = self._stage.encode()
        patience = Patience(f"step {number} of partition {self._partition} in `steps`")
        while True:
            self._alive()
            for message in draw(reader, 1_000):
                error = message.error()
                if error is not None:
                    ended = error.code() == KafkaError._PARTITION_EOF
                    # What is committed lies below the end that Kafka named just now.
                    if ended and (number is None or (message.offset() or 0) >= high):
                        return
                    refuse(error, f"{self._steps}/{self._partition}")
                    continue
                patience.renew()
                if message.key() == stage:
                    step = _steps.decode(message.value() or b"")
                    if number is not None and step.number > number:
                        return
                    yield message.offset() or 0, step
                    if step.number == number:
                        return
            patience.check()

    def _remembered(self, first: int, last: int) -> Iterator[tuple[int, Step]]:
        history = self._needed(f"steps {first} to {last} of partition {self._partition}")
        expected = first
        for offset, step in _each(history, history.steps(self._stage, self._partition, first, last)):
            if step.number != expected:
                break
            yield offset, step
            expected += 1
        if expected <= last:
            raise Gone(
                f"step {expected} of partition {self._partition} is gone from `steps`, and {history.where} does not "
                "hold it",
                fix="retention of `steps` was shorter than needed; without a snapshot, use another namespace",
            )

    def _needed(self, what: str) -> History:
        if self._history is None:
            raise Gone(
                f"{what} are needed and gone from Kafka",
                fix="retention was shorter than the snapshots' age or the downtime; ClickHouse would have them (set "
                "clickhouse.*, run `weir record`); to go on without them, use another namespace",
            )
        return self._history


class Between:
    """The inputs of one partition from a vector on, handed out up to each next vector.

    `chunks` gives those that Kafka no longer has: they come first.
    """

    def __init__(
        self,
        reader: Consumer,
        topics: Mapping[str, str],
        partition: int,
        start: Mapping[str, int],
        chunks: Mapping[str, Iterator[Records]],
        alive: Callable[[], None],
    ) -> None:
        self._reader, self._topics, self._partition, self._alive = reader, topics, partition, alive
        self._chunks = dict(chunks)
        self._held: dict[str, tuple[Records, int]] = {}
        self._waiting: dict[str, deque[Message]] = {name: deque() for name in topics.values()}
        self._read = dict(start)  # every record below has come, in Kafka
        reader.assign([TopicPartition(topic, partition, start[name]) for topic, name in topics.items()])

    def up_to(self, vector: Mapping[str, int]) -> dict[str, Records]:
        """Give each input's records below its offset in the vector, without those given before."""
        patience = Patience(f"inputs of partition {self._partition} up to {dict(vector)}")
        while any(self._read[name] < offset for name, offset in vector.items() if name in self._read):
            self._alive()
            for message in draw(self._reader, 10_000):
                patience.renew()
                self._keep(message)
            patience.check()
        return {name: self._below(name, vector.get(name, 0)) for name in self._waiting}

    def _keep(self, message: Message) -> None:
        name = self._topics[message.topic() or ""]
        offset = message.offset() or 0
        error = message.error()
        if error is None:
            self._waiting[name].append(message)
            self._read[name] = offset + 1
        elif error.code() == KafkaError._PARTITION_EOF:
            self._read[name] = max(self._read[name], offset)
        else:
            refuse(error, f"{message.topic()}/{self._partition}")

    def _below(self, name: str, end: int) -> Records:
        records, waiting = Records(), self._waiting[name]
        while name in self._chunks and self._remembered(name, records, end):
            self._alive()
        while waiting and (waiting[0].offset() or 0) < end:
            message = waiting.popleft()
            append(records, message)
        return records

    def _remembered(self, name: str, records: Records, end: int) -> bool:
        """Move records of the history below `end` into columns. True: there may be more."""
        held, place = self._held.pop(name, (Records(), 0))
        if place == len(held):
            chunk = next(self._chunks[name], None)
            if chunk is None:
                del self._chunks[name]
                return False
            held, place = chunk, 0
        while place < len(held) and held.offsets[place] < end:
            beside = held.headers.get(place), held.indexes.get(place, 0)
            records.append(held.offsets[place], held.append_ms[place], held.keys[place], held.values[place], *beside)
            place += 1
        self._held[name] = held, place
        return place == len(held)


class Patience:
    """A deadline that moves with every sign of life."""

    def __init__(self, what: str) -> None:
        self._what = what
        self.renew()

    def renew(self) -> None:
        """Begin anew."""
        self._deadline = time.monotonic() + PATIENCE_S

    def check(self) -> None:
        """Raise `NotRestored` when it has passed."""
        if time.monotonic() > self._deadline:
            raise NotRestored(
                f"nothing came for {PATIENCE_S:g} s while reading {self._what}",
                fix="see whether the brokers of these partitions are up and whether a transaction is left open there",
            )


def draw(reader: Consumer, limit: int) -> list[Message]:
    """Give what there is, waiting a little for the first: `consume` alone waits for the limit or the whole time."""
    return (first := reader.consume(1, 0.1)) and first + reader.consume(limit, 0)


def append(records: Records, message: Message) -> None:
    """Add a message to columns."""
    headers = message.headers()
    records.append(
        message.offset() or 0,
        message.timestamp()[1],
        message.key(),
        message.value(),
        headers or None,  # type: ignore[arg-type]  # consumed headers are (str, bytes | None) pairs
    )


def refuse(error: KafkaError, place: str) -> None:
    """Take an event that is no record. Raises `NotRestored` for records that are gone, `KafkaException` for good."""
    if error.code() == KafkaError._AUTO_OFFSET_RESET:
        raise NotRestored(
            f"{place}: records that a step read are gone: {error.str()}",
            fix="retention went by meanwhile: start the process again; it looks for them in ClickHouse",
        )
    if error.fatal():
        raise KafkaException(error)
    if error.code() != KafkaError._PARTITION_EOF:
        _log.warning("kafka_error", place=place, reason=error.str())


def _asked(history: History, question: Callable[[], ResultT]) -> ResultT:
    try:
        return question()
    except HistoryAway as error:
        raise Gone(
            f"what is gone from Kafka is needed from {history.where}, which cannot be asked: {error}",
            fix="start ClickHouse, or correct clickhouse.* in the settings; then start this process again",
        ) from None


def _each(history: History, found: Iterator[ResultT]) -> Iterator[ResultT]:
    ended = object()
    while (one := _asked(history, lambda: next(found, ended))) is not ended:
        yield one  # type: ignore[misc]  # it is not the mark of the end
