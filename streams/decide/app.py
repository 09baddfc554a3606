"""Faust, made to suit: committed records only, whole batches, offsets that pass markers, one active worker.

Faust 0.15.3 brings membership, a table with its changelog, standbys and restarts. Seven things of it are replaced here,
all of them in the driver, each because of something measured:

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
- **Livelock warnings** are left out: they take a topic with nothing but markers at its end for stuck.

Never used: Faust's `exactly_once` and its confluent driver.
"""

from __future__ import annotations

import asyncio
import time
from collections import defaultdict, deque
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple, cast

import faust
from faust.assignor.client_assignment import ClientAssignment
from faust.assignor.partition_assignor import PartitionAssignor
from faust.transport.drivers import aiokafka as driver
from faust.types import TP, ConsumerMessage
from mode.utils.objects import cached_property
from mode.utils.queues import FlowControlEvent

from schemas.errors import USAGE, WeirError
from schemas.settings import Settings
from schemas.topics import topic_name
from streams.decide.progress import Progress
from streams.decide.reading import INPUTS
from streams.runtime.kafka import LARGE_MESSAGE_BYTES

FETCH_WAIT_MS = 100
POLL_S = 0.1
COMMIT_S = 0.1
SESSION_S = 8.0
QUIESCE_S = 5.0
STUCK_S = 15.0


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
    """What a fetch gave by partition, the position of every partition after it, and the epoch before it."""

    positions: Mapping[Any, int] = {}
    epoch: int = -1


class ConsumerThread(driver.AIOKafkaConsumerThread):
    """The thread of aiokafka's loop.

    A fetch that straddled a seek would tell of positions that hold no longer, so the two take turns.
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
            inputs = cast(App, self.app).inputs
            if anew := [tp for tp, offset in committed.items() if tp.topic in inputs and not (offset and offset > 0)]:
                await consumer.seek_to_beginning(*anew)
            cast(Consumer, self.consumer).epoch += 1
            return committed

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
        epoch = cast(Consumer, self.consumer).epoch
        fetched = Fetched(await super()._fetch_records(consumer, active, timeout=timeout, max_records=max_records))
        fetched.epoch = epoch
        # Nothing is awaited between the fetch and here, so a position lies exactly behind what has been given out.
        subscription = consumer._subscription.subscription
        if subscription is not None and subscription.assignment is not None:
            consumed = subscription.assignment.all_consumed_offsets()
            fetched.positions = {TP(tp.topic, tp.partition): at.offset for tp, at in consumed.items()}
        return fetched

    def verify_event_path(self, now: float, tp: Any) -> None:
        """Say nothing: `progress` tells of a stuck loop."""


class Consumer(driver.Consumer):
    """Gives out batches, and commits the position behind the acknowledged ones.

    `delivered` holds per partition what is in progress, as (last offset, position behind it); `settled` the position
    behind everything acknowledged. Both are of the present `epoch`, which ends with every seek and rebalance: Faust
    lets go of records on their way when either happens, and what was said of positions before says nothing after.
    """

    app: App

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self.delivered: dict[TP, deque[tuple[int, int]]] = defaultdict(deque)
        self.settled: dict[TP, int] = {}
        self.epoch = 0
        self._of_epoch = 0
        self._moved_at = time.monotonic()
        super().__init__(*args, **kwargs)
        self._read_offset = _NothingRead(self.app.inputs)

    def _new_consumer_thread(self) -> ConsumerThread:
        return ConsumerThread(self, loop=self.loop, beacon=self.beacon)

    async def _getmany(self, active_partitions: Any, timeout: float) -> Any:
        fetched: Any = await super()._getmany(active_partitions, min(timeout, POLL_S))
        progress, inputs = self.app.progress, self.app.inputs
        progress.polled_at = time.monotonic()
        if fetched.epoch != self.epoch:
            return {}  # a seek has followed, or will: all of it is read again
        self._begin()
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
        await self._watch(progress.polled_at)
        return fetched

    async def _watch(self, now: float) -> None:
        """End the process when a batch was given out and never arrived; its successor reads it again."""
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


class Transport(driver.Transport):
    """Faust's aiokafka transport with this consumer."""

    Consumer = Consumer


class OneActive(PartitionAssignor):
    """Gives every input and the table to one member; `replicas` others follow the table.

    Who is active stays so while it lives: it claims its partitions whenever it joins again.
    """

    def _perform_assignment(self, cluster: Any, member_metadata: Any) -> Any:
        clients = {member: self._get_client_metadata(one) for member, one in member_metadata.items()}
        self._update_member_urls(clients)
        topics = sorted({topic for one in member_metadata.values() for topic in one.subscription})
        partitions = {topic: sorted(cluster.partitions_for_topic(topic) or ()) for topic in topics}
        active = min(clients, key=lambda member: (not clients[member].assignment.actives, member))
        assignments = {member: ClientAssignment(actives={}, standbys={}) for member in clients}
        assignments[active].actives.update({topic: own for topic, own in partitions.items() if own})
        changelogs = self._table_manager.changelog_topics & set(topics)
        for member in sorted(set(clients) - {active})[: self.replicas]:
            assignments[member].standbys.update({topic: partitions[topic] for topic in changelogs})
        return self._protocol_assignments(
            assignments,
            self._get_changelog_distribution(assignments),
            self._get_external_topic_distribution(assignments),
            dict.fromkeys(topics, 0),
        )


class FlowControl(FlowControlEvent):
    """Tells whether batches may reach the agent. To resume what flows changes nothing: what waits there stays."""

    def resume(self) -> None:
        """Let batches pass again, and empty the queues of those that were read before the flow was stopped."""
        if not self.is_active():
            super().resume()


class StateTable(faust.Table[bytes, bytes]):
    """A table whose changelog is planned in `schemas.topics` under the table's own name."""

    def _changelog_topic_name(self) -> str:
        return topic_name(cast(App, self.app).settings.namespace, self.name)


class App(faust.App):
    """The Faust app of one namespace. `inputs` maps Kafka's topic names to logical ones."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.progress = Progress()
        self.inputs = {topic_name(settings.namespace, name): name for name in INPUTS}
        self.busy = asyncio.Lock()
        super().__init__(
            id=f"{settings.namespace}.decide",
            broker=_broker(settings),
            broker_client_id=f"weir-decide-{settings.runtime.worker}",
            broker_session_timeout=SESSION_S,
            broker_heartbeat_interval=1.0,
            broker_request_timeout=30.0,
            broker_commit_interval=COMMIT_S,
            consumer_auto_offset_reset="earliest",
            consumer_group_instance_id=f"{settings.namespace}.decide.{settings.runtime.worker}",
            processing_guarantee="at_least_once",
            producer_acks=-1,
            producer_linger=0.0,
            producer_max_request_size=LARGE_MESSAGE_BYTES,  # a dead letter holds its record in base64
            store="memory://",
            table_standby_replicas=1,
            PartitionAssignor=OneActive,
            Table=StateTable,
            stream_wait_empty=False,
            topic_allow_declare=False,
            topic_disable_leader=True,
            web_enabled=False,
            datadir=str(settings.data_dir / "decide"),
            autodiscover=False,
        )

    @cached_property
    def flow_control(self) -> FlowControl:
        """What Faust stops for a rebalance and resumes after it."""
        return FlowControl(loop=self.loop)

    def _new_transport(self) -> Any:
        return Transport(self.conf.broker_consumer, self)

    async def quiesce(self) -> None:
        """Wait until no batch is in progress; not for ever, because the group waits for us."""
        try:
            async with asyncio.timeout(QUIESCE_S):
                await self.busy.acquire()
        except TimeoutError:
            self.log.warning("a batch has been in progress for %s s; it will be read again", QUIESCE_S)
        else:
            self.busy.release()

    def is_active(self) -> bool:
        """Say whether this member decides; otherwise it only follows the table."""
        return any(tp.topic in self.inputs for tp in self.assignor.assigned_actives())


def _broker(settings: Settings) -> str:
    protocol = settings.kafka.properties.get("security.protocol", "PLAINTEXT").upper()
    if protocol != "PLAINTEXT":
        raise WeirError(
            f"decide speaks to Kafka through another library, which is not told of security.protocol={protocol} yet",
            fix="give decide a listener without TLS and SASL, on loopback or a private network",
            code=USAGE,
        )
    return ";".join(f"kafka://{server.strip()}" for server in settings.kafka.bootstrap.split(","))
