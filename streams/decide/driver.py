"""Faust's driver, made to suit: committed records only, whole batches, offsets that pass markers.

Faust 0.15.3 brings membership, a table with its changelog, standbys and restarts. Eight things of it are replaced, here
and in `streams.decide.app`, each because of something measured:

- **Isolation.** Its consumer reads uncommitted records unless Faust's own transactions are on. `_create_consumer` says
  read_committed, and asks the broker to answer a fetch within 100 ms (1.5 s is written into the driver).
- **Batches.** Faust spends about 0.3 ms on every message. Here one poll of one partition is one message, whose value is
  a `Records`; a metric then costs a few microseconds.
- **Offsets.** Faust commits the first run of consecutive offsets, and marks gaps up to and including the message being
  delivered; so behind a transactional producer (a marker after every transaction) commits stand still, or pass what is
  in progress. Here each delivery remembers the consumer's position after it, markers included, and the position behind
  the acknowledged prefix is committed. A drained input therefore has lag 0.
- **Assignment.** A table must have as many partitions as what feeds it, and decide's inputs differ. `OneActive` gives
  every input to one member; the others keep warm copies of the table and take over when it dies.
- **Rebalance.** The batch in progress is finished before a partition is given away (`App.quiesce`).
- **Resuming.** Faust resumes twice when it has restored a table, and empties the agents' queues each time: a batch read
  in between, two milliseconds after the seek, was let go of. Only a flow that stood still is emptied here.
- **Restoring.** Faust asks for the changelog from its beginning while a fetch may be on its way; what that fetch then
  gave was of the old assignment and let go of, and a standby that took over waited for those rows for ever. Here a
  seek waits for the fetch, and rows are let go of only when a seek of the changelog follows.
- **Livelock warnings** are left out: they take a topic with nothing but markers at its end for stuck.

Never used: Faust's `exactly_once` and its confluent driver.
"""

from __future__ import annotations

import asyncio
import time
from collections import defaultdict, deque
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple, cast

import faust
from faust.transport.drivers import aiokafka
from faust.types import TP, ConsumerMessage

if TYPE_CHECKING:
    from streams.decide.app import App

FETCH_WAIT_MS = 100
POLL_S = 0.1
STUCK_S = 15.0
RESTORE_STUCK_S = 60.0


class Records(NamedTuple):
    """What one poll gave of one partition, in the order of offsets; each is an aiokafka `ConsumerRecord`.

    `epoch` is that of the consumer at the poll: after a seek or rebalance these records are read again, or by another.
    """

    topic: str
    partition: int
    records: list[Any]
    epoch: int


class BatchSchema(faust.Schema[Any, Any]):
    """Hands a `Records` to the agent as it is."""

    def loads_key(self, app: Any, message: Any, **kwargs: Any) -> None:
        """Give nothing: each record has its own key."""

    def loads_value(self, app: Any, message: Any, **kwargs: Any) -> Any:
        """Give the `Records`."""
        return message.value


class BatchTopic(faust.Topic):
    """Topics whose messages are whole polls. `maxsize` counts these."""

    def __init__(self, app: Any, **kwargs: Any) -> None:
        super().__init__(app, **{"maxsize": 8, "schema": BatchSchema(), **kwargs})


class Fetched(dict[Any, Any]):
    """What a fetch gave by partition, the position of every partition after it, and the epochs before it."""

    positions: Mapping[Any, int] = {}
    epoch: int = -1
    restoring: int = -1


class ConsumerThread(aiokafka.AIOKafkaConsumerThread):
    """The thread of aiokafka's loop.

    A fetch that straddled a seek would give records from behind it that Faust then takes for those from before it, and
    tell of positions that hold no longer; so the two take turns.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.turn = asyncio.Lock()

    async def seek_to_committed(self) -> Mapping[TP, int]:
        """Begin again behind what is committed."""
        committed: Mapping[TP, int] = await self.call_thread(self._seek_in_turn)
        return committed

    async def _seek_in_turn(self) -> Any:
        async with self.turn:
            consumer = self._ensure_consumer()
            committed = await consumer.seek_to_committed()
            # aiokafka leaves a partition where it is when nothing, or 0, is committed of it, though Faust may have
            # read on and let go of what it read.
            inputs = cast("App", self.app).inputs
            if anew := [tp for tp, offset in committed.items() if tp.topic in inputs and not (offset and offset > 0)]:
                await consumer.seek_to_beginning(*anew)
            cast(Consumer, self.consumer).epoch += 1
            return committed

    async def _seek_wait(self, consumer: Any, partitions: Any) -> None:
        # Faust asks for this only to read a table's changelog, from the beginning or on from where it was.
        async with self.turn:
            await super()._seek_wait(consumer, partitions)
            cast(Consumer, self.consumer).restoring += 1

    def _create_consumer(self, loop: asyncio.AbstractEventLoop) -> Any:
        consumer = super()._create_consumer(loop)
        consumer._isolation_level = "read_committed"
        consumer._fetch_max_wait_ms = FETCH_WAIT_MS
        return consumer

    async def _fetch_records(
        self, consumer: Any, active_partitions: Any, timeout: float | None = None, max_records: int | None = None
    ) -> Any:
        async with self.turn:
            return await self._fetch_in_turn(consumer, active_partitions, timeout, max_records)

    async def _fetch_in_turn(self, consumer: Any, active: Any, timeout: float | None, max_records: int | None) -> Any:
        ours = cast(Consumer, self.consumer)
        epoch, restoring = ours.epoch, ours.restoring
        fetched = Fetched(await super()._fetch_records(consumer, active, timeout=timeout, max_records=max_records))
        fetched.epoch, fetched.restoring = epoch, restoring
        # Nothing is awaited between the fetch and here, so a position lies exactly behind what has been given out.
        subscription = consumer._subscription.subscription
        if subscription is not None and subscription.assignment is not None:
            consumed = subscription.assignment.all_consumed_offsets()
            fetched.positions = {TP(tp.topic, tp.partition): at.offset for tp, at in consumed.items()}
        return fetched

    def verify_event_path(self, now: float, tp: Any) -> None:
        """Say nothing: `progress` tells of a stuck loop."""


class Consumer(aiokafka.Consumer):
    """Gives out batches, and commits the position behind the acknowledged ones.

    `delivered` holds per partition what is in progress, as (last offset, position behind it); `settled` the position
    behind everything acknowledged. Both are of the present `epoch`, which ends with every seek and rebalance: Faust
    lets go of records on their way when either happens, and what was said of positions before says nothing after.
    """

    app: App

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self.delivered: dict[TP, deque[tuple[int, int]]] = defaultdict(deque)
        self.settled: dict[TP, int] = {}
        self.epoch = self.restoring = 0
        self._of_epoch = 0
        self._moved_at = self._restored_at = time.monotonic()
        self._left = 0
        super().__init__(*args, **kwargs)
        self._read_offset = _NothingRead(self.app.inputs)

    def _new_consumer_thread(self) -> ConsumerThread:
        return ConsumerThread(self, loop=self.loop, beacon=self.beacon)

    async def _getmany(self, active_partitions: Any, timeout: float) -> Any:
        fetched: Any = await super()._getmany(active_partitions, min(timeout, POLL_S))
        progress, inputs = self.app.progress, self.app.inputs
        progress.polled_at = time.monotonic()
        self._begin()
        await self._watch(progress.polled_at)
        for tp in list(fetched):  # what a seek has followed, or will, is read again; nothing else may be let go
            held = fetched.epoch == self.epoch if tp.topic in inputs else fetched.restoring == self.restoring
            if not held:
                del fetched[tp]
        if fetched.epoch != self.epoch:
            return fetched
        for tp, position in fetched.positions.items():
            if tp.topic not in inputs:
                continue
            records = fetched.get(tp)
            if records:
                fetched[tp] = [Records(inputs[tp.topic], tp.partition, records, fetched.epoch)]
                self.delivered[tp].append((records[-1].offset, position))
                progress.positions.setdefault(tp, records[0].offset)  # who asks must not miss a partition
            elif not self.delivered[tp]:
                self.settled[tp] = progress.positions[tp] = position
        return fetched

    async def _watch(self, now: float) -> None:
        """End the process when what was given out never arrived; its successor reads it again."""
        left = cast(Any, self.app.tables).recovery.active_remaining_total() if self.app.in_recovery else 0
        if left <= 0 or left != self._left:
            self._left, self._restored_at = left, now
        elif now - self._restored_at > RESTORE_STUCK_S:
            await self.app.crash(RuntimeError(f"no row of {left} came from the changelog in {RESTORE_STUCK_S:g} s"))
        if self.app.busy.locked() or not any(self.delivered.values()):
            self._moved_at = now
        elif now - self._moved_at > STUCK_S:
            await self.app.crash(RuntimeError(f"a batch given out {STUCK_S:g} s ago never arrived at the agent"))

    def _to_message(self, tp: TP, record: Any) -> ConsumerMessage:
        if not isinstance(record, Records):
            return super()._to_message(tp, record)
        last = record.records[-1]
        return ConsumerMessage(
            tp.topic,
            tp.partition,
            last.offset,
            last.timestamp / 1000.0,
            last.timestamp_type,
            None,
            None,
            record,  # type: ignore[arg-type]
            None,
            0,
            0,
            tp,
            generation_id=self.app.consumer_generation_id,
        )

    def _begin(self) -> None:
        """Forget what was said in another epoch."""
        if self._of_epoch != self.epoch:
            self._of_epoch = self.epoch
            self.delivered.clear()
            self.settled.clear()
            self._acked_index.clear()
            self.app.progress.positions.clear()

    def settle(self, tp: TP) -> int | None:
        """Move `settled` behind the acknowledged prefix and give it."""
        self._begin()
        delivered, acked = self.delivered[tp], self._acked_index[tp]
        while delivered and delivered[0][0] in acked:
            offset, position = delivered.popleft()
            acked.discard(offset)
            self.settled[tp] = self.app.progress.positions[tp] = position
        self._acked[tp].clear()
        return self.settled.get(tp)

    def _new_offset(self, tp: TP) -> int | None:
        return self.settle(tp)

    def _filter_tps_with_pending_acks(self, topics: Any = None) -> Iterator[TP]:
        self._begin()
        known = {*self.settled, *self.delivered}
        return (tp for tp in known if topics is None or tp in topics or tp.topic in topics)

    async def _add_gap(self, tp: TP, offset_from: int, offset_to: int) -> None:
        # The position says it all; where a gap is tracked, its end must leave out the message being delivered.
        if tp.topic not in self.app.inputs:
            await super()._add_gap(tp, offset_from, offset_to - 1)

    async def on_partitions_revoked(self, revoked: set[TP]) -> None:
        """Finish the batch in progress, commit, give the partitions away."""
        await self.app.quiesce()
        await self.commit()
        self.epoch += 1
        await super().on_partitions_revoked(revoked)


class _NothingRead(defaultdict[TP, Any]):
    """Faust's note of what it has read, which stays empty for our inputs: it would drop a batch that is read again.

    Whether a record has been applied is known to the rows.
    """

    def __init__(self, inputs: Mapping[str, str]) -> None:
        super().__init__(lambda: None)
        self._inputs = inputs

    def __setitem__(self, tp: TP, offset: Any) -> None:
        super().__setitem__(tp, None if tp.topic in self._inputs else offset)

    def update(self, *args: Any, **kwargs: Any) -> None:
        """Set each."""
        for tp, offset in dict(*args, **kwargs).items():
            self[tp] = offset


class Transport(aiokafka.Transport):
    """Faust's aiokafka transport with this consumer."""

    Consumer = Consumer
