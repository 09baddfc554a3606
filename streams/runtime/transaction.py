"""The transactional producer of one worker slot: outputs, step records and offsets become visible together, or never.

Nothing is ever aborted here. Whatever fails or takes too long ends the process, because its outcome is unknown: the
successor's `init_transactions` settles it. A transaction begins with the first record sent, so thinking about the first
step of a cycle does not count against `transaction.timeout.ms`.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial

from confluent_kafka import TIMESTAMP_LOG_APPEND_TIME, Consumer, KafkaError, KafkaException, Message, TopicPartition

from schemas.event import encode
from schemas.records import Step
from schemas.settings import Settings
from schemas.topics import topic_name, width
from streams.runtime import kafka, librdkafka
from streams.runtime.enclose import with_envelopes
from streams.runtime.failures import Fenced, ProcessorFailed, UnknownOutcome
from streams.runtime.native import address
from streams.runtime.overdue import Overdue
from streams.runtime.phase import Phase, Untold
from streams.runtime.processor import Block, Output, Outputs

RECORD_OVERHEAD_BYTES = 512
"""What a record costs beyond key, value and headers, generously."""

SETTLING_S = 0.05
"""How long a client is given to take the slot before we look why it has not."""

CHUNK = 20_000
MOST_QUEUED, MOST_QUEUED_BYTES = 900_000, 768 << 20
"""Below librdkafka's limits on its queue (`kafka.producer_properties`, and a gigabyte)."""

REQUEST_BYTES, EASE_S = 1_000_000, 0.01
"""How large a request of librdkafka's becomes (`batch.size`), and how long one may take while others are behind it."""

OVERDUE_S = 3.0
"""How much longer than its timeouts a commit may take."""

_FENCED = frozenset({KafkaError._FENCED, KafkaError.FENCED_INSTANCE_ID, KafkaError.INVALID_PRODUCER_EPOCH, 90})


class Transactions:
    """Sends and commits for one slot. `moment_ms` is the append time of the last step record, by the broker's clock."""

    def __init__(self, settings: Settings, stage: str, phase: Untold | None = None) -> None:
        self._phase = phase or Untold()
        self._slot = kafka.transactional_id(settings, stage)
        self._timeout_s = settings.runtime.transaction_timeout_ms / 1000
        client = f"{stage}-{settings.runtime.worker}"
        largest = int(kafka.producer_properties(settings, client, self._slot, large=True)["message.max.bytes"])
        self._make = partial(kafka.make_producer, settings, client, self._slot, large=True)
        self._producer = self._make()
        self._virtual = settings.clock == "virtual"
        self._names = {name: topic_name(settings.namespace, name) for name in _every_topic()}
        self._limits = {name: min(largest, kafka.record_bytes(name)) - RECORD_OVERHEAD_BYTES for name in self._names}
        counts = {"partitions": settings.partitions, "measures_partitions": settings.measures_partitions}
        self._widths = {name: width(name, **counts) for name in self._names}
        self._envelopes = settings.join.feedback_envelopes
        self._open = False
        self._blocks: librdkafka.Sends | None = None
        self._queued_bytes = 0  # of blocks, since the queue was seen empty
        self._sent_bytes = 0  # since the last commit
        self._overdue = Overdue("a commit", 3 * self._timeout_s + OVERDUE_S)
        self.moment_ms: int | None = None
        self._moment_at = 0.0

    def take_slot(self) -> None:
        """Fence whoever had the slot and settle the transaction it left. Raises `UnknownOutcome`.

        Settling takes the broker milliseconds, but librdkafka asks again only after half a second. A new client asks
        at once; the old one is gone by then, so the two cannot fence one another.
        """
        deadline = time.monotonic() + max(30.0, 3 * self._timeout_s)
        while True:
            try:
                self._producer.init_transactions(SETTLING_S)
                return
            except KafkaException as error:
                reason = error.args[0]
                if not reason.retriable() or time.monotonic() > deadline:
                    raise self._failed("taking the worker slot", error) from error
                settling = reason.code() == KafkaError.CONCURRENT_TRANSACTIONS
            if settling:
                del self._producer
                self._producer = self._make()

    def send(self, outputs: Sequence[Output], clock_ms: int) -> None:
        """Queue a step's outputs. Raises `ProcessorFailed` for one that no broker takes, `UnknownOutcome`, `Fenced`."""
        if self._envelopes:
            outputs = with_envelopes(outputs)
        for output in outputs.pieces if isinstance(outputs, Outputs) else outputs:
            name = self._names.get(output.topic)
            if name is None:
                raise ProcessorFailed(f"an output names the topic {output.topic!r}, which does not exist")
            if isinstance(output, Block):
                if self._virtual or not librdkafka.usable(self._producer):  # a batch cannot set timestamps
                    self.send(list(output), clock_ms)
                else:
                    self._send_block(name, output)
                continue
            size = len(output.key or b"") + len(output.value)
            for header, value in output.headers:
                size += len(header) + len(value)
            limit = self._limits[output.topic]
            if size > limit:
                raise ProcessorFailed(
                    f"an output to {output.topic!r} with key {output.key!r} has {size} bytes; at most {limit} fit"
                )
            if output.partition is None and output.key is None and self._widths[output.topic] > 1:
                raise ProcessorFailed(f"an output to {output.topic!r} has neither key nor partition")
            self._sent_bytes += size
            self._produce(
                name,
                output.value,
                output.key,
                -1 if output.partition is None else output.partition,
                list(output.headers),
                self._stamp(clock_ms if output.append_ms is None else output.append_ms),
            )

    def _send_block(self, name: str, block: Block) -> None:
        largest = int((block.spans[:, 1] + block.spans[:, 3]).max())
        if largest > self._limits[block.topic]:
            raise ProcessorFailed(
                f"an output to {block.topic!r} has {largest} bytes; at most {self._limits[block.topic]} fit"
            )
        if self._blocks is None:
            self._blocks = librdkafka.Sends(self._producer)
        messages = self._blocks.messages(address(block.body), block.spans)
        sizes = block.spans[:, 1] + block.spans[:, 3]
        self._sent_bytes += int(sizes.sum())
        try:
            self._begin()
            for start in range(0, len(messages), CHUNK):
                chunk = messages[start : start + CHUNK]
                self._make_room(len(chunk), int(sizes[start : start + CHUNK].sum()))
                if self._blocks.send(name, block.partition, chunk) < len(chunk):
                    # Later ones may have been taken: sending the rest now would change the order of a request's.
                    raise UnknownOutcome("a produce", "the queue was full")
        except KafkaException as error:
            raise self._failed(f"a produce to {name}", error) from error

    def _make_room(self, count: int, size: int) -> None:
        """Wait until the queue surely takes so many records of so many bytes together."""
        deadline = time.monotonic() + self._timeout_s
        self._producer.poll(0)
        while queued := len(self._producer):
            if queued + count <= MOST_QUEUED and self._queued_bytes + size <= MOST_QUEUED_BYTES:
                break
            if time.monotonic() > deadline:
                raise UnknownOutcome("a produce", f"the queue stayed full for {self._timeout_s:g} s")
            self._producer.flush(0.01)  # nothing lingers now
        else:
            self._queued_bytes = 0
        self._queued_bytes += size

    def send_step(self, step: Step, written: Callable[[int], None]) -> None:
        """Queue a step's record. `written` is told its offset in `steps` at the latest when the commit returns."""
        self._produce(
            self._names["steps"],
            encode(step),
            step.stage.encode(),
            step.partition,
            [],
            self._stamp(step.clock_ms),
            partial(self._acknowledged, written),
        )

    def commit(self, consumer: Consumer, offsets: Mapping[kafka.Place, int], steps: Mapping[int, int]) -> None:
        """Commit what was sent with the inputs' offsets; `steps` gives each partition's step number (the metadata).

        Raises `UnknownOutcome` or `Fenced`.
        """
        positions = [
            TopicPartition(topic, partition, offset, metadata=str(steps[partition]))
            for (topic, partition), offset in offsets.items()
        ]
        try:
            with self._overdue.watch(), _plainly():
                self._phase.enter(Phase.FLUSH)
                self._begin()
                metadata = consumer.consumer_group_metadata()
                self._producer.send_offsets_to_transaction(positions, metadata, self._timeout_s)
                self._ease()
                if left := self._producer.flush(self._timeout_s):
                    raise UnknownOutcome("a flush", f"{left} records were not taken within {self._timeout_s:g} s")
                self._phase.enter(Phase.COMMIT)
                self._producer.commit_transaction(self._timeout_s)
        except KafkaException as error:
            raise self._failed("a commit", error) from error
        self._open = False
        with _plainly():
            self._producer.poll(0)

    def _ease(self) -> None:
        """Wait until no full request is on its way: while a flush waits for several, librdkafka's thread spins.

        What is left when nothing has come back for a moment lingers, and the flush sends it.
        """
        left = len(self._producer) if self._sent_bytes > REQUEST_BYTES else 0
        while left:
            self._producer.poll(EASE_S)
            before, left = left, len(self._producer)
            if left == before:
                break
        self._sent_bytes = 0

    def estimate_ms(self, now: float) -> int | None:
        """Guess the broker's time at `now` (`time.monotonic`), never ahead of it: good for scheduling only."""
        return None if self.moment_ms is None else self.moment_ms + int((now - self._moment_at) * 1000)

    def close(self) -> None:
        """Let go. Nothing may be open."""
        self._overdue.close()
        self._producer.flush(self._timeout_s)
        if self._blocks is not None:
            self._blocks.close()

    def _begin(self) -> None:
        if not self._open:
            self._producer.begin_transaction()
            self._open = True

    def _stamp(self, at_ms: int) -> int:
        # librdkafka takes 0 for "now"; with a broker clock the broker stamps.
        return max(1, at_ms) if self._virtual else 0

    def _produce(
        self,
        topic: str,
        value: bytes,
        key: bytes | None,
        partition: int,
        headers: list[tuple[str, str | bytes | None]],
        at_ms: int,
        on_delivery: Callable[[KafkaError | None, Message], None] | None = None,
    ) -> None:
        deadline = None
        while True:
            try:
                self._begin()
                self._producer.produce(
                    topic, value, key, partition, on_delivery=on_delivery, timestamp=at_ms, headers=headers
                )
            except BufferError:  # the queue is full: let it drain
                self._producer.flush(0.05)
                deadline = deadline or time.monotonic() + self._timeout_s
                if time.monotonic() > deadline:
                    raise UnknownOutcome("a produce", f"the queue stayed full for {self._timeout_s:g} s") from None
            except KafkaException as error:
                raise self._failed(f"a produce to {topic}", error) from error
            else:
                return

    def _acknowledged(self, written: Callable[[int], None], error: KafkaError | None, message: Message) -> None:
        if error is not None:
            return  # the commit fails and says why
        written(message.offset() or 0)
        kind, append_ms = message.timestamp()
        if kind == TIMESTAMP_LOG_APPEND_TIME and append_ms > (self.moment_ms or 0):
            self.moment_ms, self._moment_at = append_ms, time.monotonic()

    def _failed(self, what: str, error: KafkaException) -> UnknownOutcome | Fenced:
        code = error.args[0].code() if error.args and isinstance(error.args[0], KafkaError) else None
        if code == KafkaError._FATAL:  # `produce` says only that; a transactional call names the cause
            try:
                self._producer.begin_transaction()
            except KafkaException as cause:
                error, code = cause, cause.args[0].code()
        if code in _FENCED:
            return Fenced(self._slot, kafka.reason(error))
        return UnknownOutcome(what, kafka.reason(error))


@contextlib.contextmanager
def _plainly() -> Iterator[None]:
    """Let a fatal error through as itself: one that meets a delivery report comes wrapped as the interpreter's."""
    try:
        yield
    except SystemError as error:
        if isinstance(error.__cause__, KafkaException):
            raise error.__cause__ from None
        raise


def _every_topic() -> Sequence[str]:
    from schemas.topics import INTERNAL, TOPICS

    return (*TOPICS, *INTERNAL)
