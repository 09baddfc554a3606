"""How every process speaks to Kafka: client properties, names of groups, how far a group is behind.

Defaults that only tune come first, then `settings.kafka.properties`, then what correctness rests on: the hash that
pairs a prediction with its labels, isolation, explicit offsets, the transactional id. Nobody can set those aside by
accident.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple, TypeVar

import structlog
from confluent_kafka import (
    Consumer,
    IsolationLevel,
    KafkaError,
    KafkaException,
    Producer,
    TopicCollection,
    TopicPartition,
)
from confluent_kafka.admin import (
    AdminClient,
    ListOffsetsResultInfo,
    OffsetSpec,
)

from schemas import topics
from schemas.errors import ENVIRONMENT, WeirError
from schemas.settings import Settings

MESSAGE_BYTES = 1_000_000
"""Largest record that our producers send to most topics; a little under what brokers accept by default."""
LARGE_MESSAGE_BYTES = 4_000_000
"""Largest one for topics that are planned `large`, and for inputs, whose limit is their owner's."""

_log = structlog.get_logger()
_rdkafka = logging.getLogger("librdkafka")
ANSWER_S = 30.0
_SAY_S = 5.0
_PASSING = (
    KafkaError.NOT_LEADER_FOR_PARTITION,
    KafkaError.LEADER_NOT_AVAILABLE,
    KafkaError.UNKNOWN_TOPIC_OR_PART,
    KafkaError._TIMED_OUT,
    KafkaError._TRANSPORT,
)
STABLE, HIGH = IsolationLevel.READ_COMMITTED, IsolationLevel.READ_UNCOMMITTED

ResultT = TypeVar("ResultT")
Place = tuple[str, int]
"""Kafka's name of a topic, and a partition."""


def group_id(namespace: str, stage: str) -> str:
    """Give the consumer group of a stage.

    >>> group_id("team.prod", "join")
    'team.prod.join'
    """
    return f"{namespace}.{stage}"


def transactional_id(settings: Settings, stage: str) -> str:
    """Give the id of one worker slot: of two processes that use it, the later one fences the earlier."""
    return f"{settings.namespace}.{stage}.{settings.runtime.worker}"


def client_properties(settings: Settings, client: str) -> dict[str, Any]:
    """Give what every client needs. `client` names it in the broker's logs and metrics."""
    return {"client.id": f"weir-{client}", **settings.kafka.properties, "bootstrap.servers": settings.kafka.bootstrap}


def producer_properties(
    settings: Settings, client: str, transactional: str | None = None, *, large: bool = False
) -> dict[str, Any]:
    """Give a producer's properties: idempotent, Java's hash, and with `transactional` that transactional id.

    A batch of several records stays below a broker's default limit (`batch.size`), whatever one record may have. The
    outputs of a stage are not compressed: that took a tenth of the join's CPU. `kafka.properties` may say otherwise.

    Who commits flushes, so nothing waits as long as a transactional producer may linger. Were it short, librdkafka's
    thread would spin: when a partition has five requests on their way, the most that it may, and what comes next has
    lingered long enough, it asks again and again without waiting (a fifth of the join's CPU).
    """
    linger_ms = 5 if transactional is None else settings.runtime.transaction_timeout_ms // 2
    tuning: dict[str, Any] = {
        "linger.ms": linger_ms,
        "compression.type": "lz4" if transactional is None else "none",
        "queue.buffering.max.messages": 1_000_000,
        "message.max.bytes": LARGE_MESSAGE_BYTES if large else MESSAGE_BYTES,
    }
    binding: dict[str, Any] = {"partitioner": "murmur2_random", "enable.idempotence": True, "acks": "all"}
    if transactional is not None:
        binding["transactional.id"] = transactional
        binding["transaction.timeout.ms"] = settings.runtime.transaction_timeout_ms
    return {**tuning, **client_properties(settings, client), **binding}


def consumer_properties(settings: Settings, client: str, group: str, instance: str | None = None) -> dict[str, Any]:
    """Give a consumer's properties: committed records only, nothing committed or reset behind our back.

    With `instance` the member is static: a restart within the session keeps its partitions. `range` gives a worker
    the same partitions of every topic, which `cooperative-sticky` does not.
    """
    tuning: dict[str, Any] = {
        "session.timeout.ms": 10_000,
        "fetch.wait.max.ms": 100,
        "fetch.queue.backoff.ms": 5,
    }
    binding: dict[str, Any] = {
        "group.id": group,
        "isolation.level": "read_committed",
        "enable.auto.commit": False,
        "enable.auto.offset.store": False,
        "auto.offset.reset": "error",
        "partition.assignment.strategy": "range",
        "enable.partition.eof": True,
    }
    if instance is not None:
        binding["group.instance.id"] = instance
    return {**tuning, **client_properties(settings, client), **binding}


def make_admin(settings: Settings, client: str = "admin") -> AdminClient:
    """Open an admin client."""
    return AdminClient(client_properties(settings, client), logger=_rdkafka)


class Inquiry:
    """Questions to Kafka about topics and groups. The client is made anew once it failed: one that saw a broker die may
    be refused for minutes (FENCED_LEADER_EPOCH), because librdkafka does not look for the leader again.
    """

    def __init__(self, settings: Settings, client: str) -> None:
        self._settings, self._client = settings, client
        self._admin = make_admin(settings, client)

    def ask(self, question: Callable[[AdminClient], ResultT]) -> ResultT:
        """Give the answer. Raises the `KafkaException` of the question."""
        try:
            return question(self._admin)
        except KafkaException:
            self._admin = make_admin(self._settings, self._client)
            raise


def make_producer(
    settings: Settings, client: str, transactional: str | None = None, *, large: bool = False
) -> Producer:
    """Open a producer; see `producer_properties`."""
    return Producer(producer_properties(settings, client, transactional, large=large), logger=_rdkafka)


def make_consumer(settings: Settings, client: str, group: str, instance: str | None = None) -> Consumer:
    """Open a member of a group; see `consumer_properties`."""
    return Consumer(consumer_properties(settings, client, group, instance), logger=_rdkafka)


def make_reader(settings: Settings, client: str) -> Consumer:
    """Open a consumer that joins no group: for `assign` with explicit offsets."""
    return make_consumer(settings, client, group_id(settings.namespace, f"{client}.reader"))


def wait_for_kafka(settings: Settings, stop: threading.Event | None = None, *, timeout_s: float | None = None) -> bool:
    """Wait until Kafka answers. False: `stop` was set. Says every few seconds what it waits for.

    Raises `WeirError` when `timeout_s` passed.
    """
    admin = make_admin(settings, "wait")
    began = said = time.monotonic()
    while stop is None or not stop.is_set():
        try:
            admin.list_topics(timeout=2)
        except KafkaException as error:
            waited_s = time.monotonic() - began
            if timeout_s is not None and waited_s >= timeout_s:
                raise WeirError(
                    f"Kafka at {settings.kafka.bootstrap} did not answer within {timeout_s:g} s: {reason(error)}",
                    fix="start it, or set kafka.bootstrap (WEIR_KAFKA__BOOTSTRAP); a system that `weir up` runs is "
                    "found from the directory where it was started, or with --data-dir",
                    code=ENVIRONMENT,
                ) from None
            if time.monotonic() - said < _SAY_S:
                continue
            said = time.monotonic()
            _log.warning("kafka_silent", bootstrap=settings.kafka.bootstrap, waited_s=round(waited_s))
        else:
            return True
    return False


def record_bytes(logical: str) -> int:
    """Give the largest record that we send to a topic, key and headers included.

    >>> record_bytes("dead-letters"), record_bytes("metrics")
    (4000000, 1000000)
    """
    large = logical in topics.INPUTS or (topics.TOPICS.get(logical) or topics.INTERNAL[logical]).large
    return LARGE_MESSAGE_BYTES if large else MESSAGE_BYTES


def topic_identity(admin: AdminClient, topic: str) -> str:
    """Give the id that Kafka gave a topic at its creation: a topic made anew under the same name has another.

    In the URL-safe alphabet of Kafka's own tools; librdkafka's text has `/` in it, which no file name may have.
    """
    description = admin.describe_topics(TopicCollection([topic]), request_timeout=30)[topic].result()
    return str(description.topic_id).replace("/", "_").replace("+", "-")


def earliest(admin: AdminClient, places: Sequence[Place]) -> dict[Place, int]:
    """Give the first offset that is still there, of each place."""
    return _offsets(admin, places, OffsetSpec.earliest(), (HIGH,), 30.0)[0]


def ends(admin: AdminClient, places: Sequence[Place], patience_s: float = 30.0) -> dict[Place, tuple[int, int]]:
    """Give (last stable offset, high watermark) of each place, asked at once.

    They differ while somebody's transaction is open. Raises `KafkaException` when a broker does not answer, or still
    has no leader for a partition after `patience_s`.
    """
    stable = _offsets(admin, places, OffsetSpec.latest(), (STABLE, HIGH), patience_s)
    return {place: (stable[0][place], stable[1][place]) for place in places}


class End(NamedTuple):
    """The high watermark of a partition, and the epoch of the leader that gave it, negative when unknown."""

    offset: int
    epoch: int


def high_ends(admin: AdminClient, places: Sequence[Place], patience_s: float = 30.0) -> dict[Place, End]:
    """Give the end of each place, open transactions included; raises as `ends` does.

    A broker that was the leader and does not know it yet answers as well. Whoever took over has a higher epoch.
    """
    found = _listed(admin, places, OffsetSpec.latest(), (HIGH,), patience_s)[0]
    return {
        place: End(one.offset, -1 if one.leader_epoch is None else one.leader_epoch) for place, one in found.items()
    }


def reason(error: BaseException) -> str:
    """Give librdkafka's words for an exception, with the code's name."""
    inner = error.args[0] if error.args else None
    return f"{inner.str()} ({inner.name()})" if isinstance(inner, KafkaError) else str(error)


def _offsets(
    admin: AdminClient,
    places: Sequence[Place],
    spec: OffsetSpec,
    levels: Sequence[IsolationLevel],
    patience_s: float,
) -> list[dict[Place, int]]:
    listed = _listed(admin, places, spec, levels, patience_s)
    return [{place: one.offset for place, one in found.items()} for found in listed]


def _listed(
    admin: AdminClient,
    places: Sequence[Place],
    spec: OffsetSpec,
    levels: Sequence[IsolationLevel],
    patience_s: float,
) -> list[dict[Place, ListOffsetsResultInfo]]:
    """Ask for all places at every isolation level at once; again while the answer is one that passes."""
    if not places:
        return [{} for _ in levels]
    deadline = time.monotonic() + patience_s
    asked = {TopicPartition(*place): spec for place in places}
    while True:
        answers = [admin.list_offsets(asked, isolation_level=level, request_timeout=5) for level in levels]
        try:
            return [{(tp.topic, tp.partition): future.result() for tp, future in answer.items()} for answer in answers]
        except KafkaException as error:  # a partition that was just created may have no leader yet
            if error.args[0].code() not in _PASSING or time.monotonic() > deadline:
                raise
            time.sleep(0.05)


def partition_counts(admin: AdminClient, settings: Settings) -> dict[str, int]:
    """Give the partition count of every topic there is. Raises `Unanswered` when Kafka does not answer."""
    try:
        found: Mapping[str, Any] = admin.list_topics(timeout=ANSWER_S).topics
    except KafkaException as error:
        raise Unanswered(settings, error) from None
    return {name: len(metadata.partitions) for name, metadata in found.items() if metadata.error is None}


class Unanswered(WeirError):
    """Kafka does not answer, or cannot say now."""

    def __init__(self, settings: Settings, error: KafkaException) -> None:
        super().__init__(
            f"Kafka at {settings.kafka.bootstrap} does not answer: {reason(error)}",
            fix="start it, or set kafka.bootstrap (WEIR_KAFKA__BOOTSTRAP)",
            code=ENVIRONMENT,
        )
