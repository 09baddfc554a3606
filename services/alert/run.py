"""`weir alert`: Kafka's alerts become rows, rows become deliveries; a kill at any moment loses none.

The store holds, in one transaction, what alerts lead to and the offset up to which they were read; only then is the
offset committed in Kafka. So after a kill the same alerts may be read again, which the store knows by their ids, and an
attempt whose answer was not written is made again, which the receiver knows by its webhook-id.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence

import msgspec
import structlog
from confluent_kafka import Consumer, KafkaError, KafkaException, Message, TopicPartition

from schemas.errors import ENVIRONMENT, WeirError
from schemas.event import decode
from schemas.lifecycle import Alert
from schemas.settings import Settings
from schemas.topics import topic_name
from services.alert.courier import Courier
from services.alert.desk import Desk, Place, check
from services.alert.plan import HOUR_MS
from services.alert.store import NAME, Store
from services.local.owner import DirectoryInUse, DirectoryOwner
from streams.runtime import kafka
from streams.runtime.member import cannot_go_on
from streams.runtime.offsets import committed
from streams.runtime.topics import await_topics

STAGE = "alert"
TOPIC = "alerts"
BATCH = 500
IDLE_S = 0.2
LOOK_S = 5.0
PATIENCE_S = 1.0

_log = structlog.get_logger()


def run(settings: Settings, stop: threading.Event) -> None:
    """Deliver until `stop` is set. Raises `WeirError` for what waiting does not mend."""
    check(settings.alert)
    try:
        owner = DirectoryOwner(settings.data_dir / STAGE, purpose="the delivery of alerts")
    except DirectoryInUse as error:
        raise WeirError(str(error), fix="one `weir alert` per data_dir", code=ENVIRONMENT) from None
    with owner:
        store = Store(settings.data_dir / NAME)
        try:
            _Process(settings, stop, store).run()
        finally:
            store.close()


def wall_ms() -> int:
    """Give the wall clock's milliseconds."""
    return time.time_ns() // 1_000_000


class _Process:
    """The reader of the topic and a thread per endpoint."""

    def __init__(self, settings: Settings, stop: threading.Event, store: Store) -> None:
        self._settings, self._stop, self._store = settings, stop, store
        self._desk = Desk(settings.namespace, settings.alert, store, wall_ms)
        self._pending: list[kafka.Place] | None = None
        self._ids: dict[str, str] = {}
        self._wakes: list[threading.Event] = []
        self._failed: list[BaseException] = []
        self._tidied_ms = 0

    def run(self) -> None:
        """Start the couriers, then read; what is pending leaves even while Kafka is away."""
        if not self._settings.alert.webhooks:
            _log.warning("no_webhooks", effect="alerts are grouped and told to nobody", fix="set alert.webhooks")
        threads = [self._start(webhook.name, index) for index, webhook in enumerate(self._settings.alert.webhooks)]
        try:
            self._read()
        finally:
            self._stop.set()
            for wake in self._wakes:
                wake.set()
            for thread in threads:
                thread.join()
        if self._failed:
            raise self._failed[0]
        _log.info("left", stage=STAGE)

    # --- couriers

    def _start(self, name: str, index: int) -> threading.Thread:
        wake = threading.Event()
        self._wakes.append(wake)
        thread = threading.Thread(target=self._deliver, args=(index, wake), name=f"courier-{name}")
        thread.start()
        return thread

    def _deliver(self, index: int, wake: threading.Event) -> None:
        settings = self._settings.alert
        try:
            with Courier(
                settings.webhooks[index], self._store, timeout_s=settings.timeout_s, now_ms=wall_ms
            ) as courier:
                why = self._store.disabled(courier.name)
                if why:
                    fix = "change its url in alert.webhooks, or give it another name"
                    _log.error("endpoint_is_disabled", endpoint=courier.name, reason=why, fix=fix)
                while not self._stop.is_set():
                    wake.clear()
                    if courier.deliver() is None:
                        due_ms = courier.next_due_ms()
                        wait_s = LOOK_S if due_ms is None else (due_ms - wall_ms()) / 1000
                        wake.wait(min(max(wait_s, 0.001), LOOK_S))
        except BaseException as error:
            self._failed.append(error)
            self._stop.set()

    # --- alerts

    def _read(self) -> None:
        settings, stop = self._settings, self._stop
        if not await_topics(settings, stop, [TOPIC]):
            return
        client = f"{STAGE}-{settings.runtime.worker}"
        group = kafka.group_id(settings.namespace, STAGE)
        consumer = kafka.make_consumer(settings, client, group, instance=client)
        name = topic_name(settings.namespace, TOPIC)
        consumer.subscribe([name], on_assign=self._assigned, on_revoke=self._revoked, on_lost=self._revoked)
        try:
            while not stop.is_set():
                self._take_up(consumer)
                messages = consumer.consume(1, IDLE_S)
                if messages:
                    messages += consumer.consume(BATCH, 0)
                told = self._take(consumer, messages) + self._desk.remind()
                if told:
                    for wake in self._wakes:
                        wake.set()
                if wall_ms() - self._tidied_ms > HOUR_MS:
                    self._tidied_ms = wall_ms()
                    self._store.tidy(self._tidied_ms)
        finally:
            consumer.close()

    def _assigned(self, consumer: Consumer, given: list[TopicPartition]) -> None:
        consumer.assign([])  # nothing is fetched before it is known where to begin
        self._pending = [(tp.topic, tp.partition) for tp in given]

    def _revoked(self, consumer: Consumer, taken: list[TopicPartition]) -> None:
        consumer.unassign()
        self._pending = None

    def _take_up(self, consumer: Consumer) -> None:
        """Begin after what is stored, here or by whoever committed in Kafka; at first at the beginning."""
        places = self._pending
        if places is None:
            return
        try:
            admin = kafka.make_admin(self._settings, STAGE)  # one that saw a broker die may never look again
            first, last = kafka.earliest(admin, places), kafka.ends(admin, places)
            self._ids = {topic: kafka.topic_identity(admin, topic) for topic, _ in places}
            commits = committed(consumer, places, patience_s=0.0)
        except KafkaException as error:
            _log.warning("waiting", stage=STAGE, reason=kafka.reason(error))
            self._stop.wait(PATIENCE_S)
            return
        starts = []
        for place, commit in commits.items():
            stored = self._store.position(*place)
            if stored is not None and stored[0] != self._ids[place[0]]:
                _log.warning("topic_made_anew", topic=place[0], effect="it is read from its beginning")
                start = first[place]
            else:
                start = max(first[place], commit.offset, stored[1] if stored else -1)
                if start > last[place][1]:  # Kafka lost its end: what is known is known by its id
                    _log.error("alerts_lost_by_kafka", topic=place[0], offsets=[last[place][1], start])
                    start = first[place]
            starts.append(TopicPartition(*place, start))
        self._pending = None
        consumer.assign(starts)
        _log.info("assigned", stage=STAGE, offsets=[tp.offset for tp in starts])

    def _take(self, consumer: Consumer, messages: Sequence[Message]) -> int:
        """Store what came, then commit. Give the number of notices that it led to."""
        alerts: list[Alert] = []
        ends: dict[kafka.Place, int] = {}
        for message in messages:
            place, offset = (message.topic() or "", message.partition() or 0), message.offset() or 0
            error = message.error()
            if error is None:
                alert = _read_alert(message)
                if alert is not None:
                    alerts.append(alert)
                ends[place] = offset + 1
            elif error.code() == KafkaError._PARTITION_EOF:  # carries the position: it lies behind markers
                ends[place] = max(offset, ends.get(place, 0))
            else:
                self._refuse(place, error)
        moved = [self._moved(place, end) for place, end in ends.items()]
        places = [place for place in moved if place is not None]
        if not places and not alerts:
            return 0
        told = self._desk.take(alerts, places)
        self._commit(consumer, places)
        return told

    def _moved(self, place: kafka.Place, end: int) -> Place | None:
        stored = self._store.position(*place)
        id = self._ids[place[0]]
        return None if stored == (id, end) else (*place, id, end)

    def _commit(self, consumer: Consumer, places: Sequence[Place]) -> None:
        """Tell Kafka how far we are. Where that fails nothing is lost: the store knows, and the next commit says it."""
        try:
            consumer.commit(
                offsets=[TopicPartition(topic, partition, offset) for topic, partition, _, offset in places],
                asynchronous=False,
            )
        except KafkaException as error:
            _log.warning("not_committed", stage=STAGE, reason=kafka.reason(error))

    def _refuse(self, place: kafka.Place, error: KafkaError) -> None:
        if error.fatal():
            raise cannot_go_on(self._settings, STAGE, error.str())
        if error.code() == KafkaError._AUTO_OFFSET_RESET:
            fix = "lengthen retention.ms of the topic beyond the longest downtime"
            _log.error("alerts_gone", topic=place[0], reason=error.str(), fix=fix)
            self._pending = [place]
            return
        _log.warning("kafka_error", topic=place[0], partition=place[1], reason=error.str())


def _read_alert(message: Message) -> Alert | None:
    try:
        return decode(message.value() or b"", Alert)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        _log.error("alert_unreadable", topic=message.topic(), offset=message.offset(), reason=str(error)[:200])
        return None
