"""How every process speaks to Kafka: client properties, names of groups, topics as planned, how far a group is behind.

Defaults that only tune come first, then `settings.kafka.properties`, then what correctness rests on: the hash that
pairs a prediction with its labels, isolation, explicit offsets, the transactional id. Nobody can set those aside by
accident.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Collection, Mapping, Sequence
from typing import Any, NamedTuple

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
    AlterConfigOpType,
    ConfigEntry,
    ConfigResource,
    ListOffsetsResultInfo,
    NewTopic,
    OffsetSpec,
    ResourceType,
)

from schemas import topics
from schemas.errors import ENVIRONMENT, WeirError
from schemas.settings import Settings
from schemas.topics import Plan, topic_name

MESSAGE_BYTES = 1_000_000
"""Largest record that our producers send to most topics; a little under what brokers accept by default."""
LARGE_MESSAGE_BYTES = 4_000_000
"""Largest one for topics that are planned `large`, and for inputs, whose limit is their owner's."""

_log = structlog.get_logger()
_rdkafka = logging.getLogger("librdkafka")
_SAY_S = 5.0
_NO_ENTRY = (KafkaError.TOPIC_AUTHORIZATION_FAILED, KafkaError.CLUSTER_AUTHORIZATION_FAILED)
_PASSING = (
    KafkaError.NOT_LEADER_FOR_PARTITION,
    KafkaError.LEADER_NOT_AVAILABLE,
    KafkaError.UNKNOWN_TOPIC_OR_PART,
    KafkaError._TIMED_OUT,
    KafkaError._TRANSPORT,
)
STAMPED = "message.timestamp.type"
LIMITS = ("max.message.bytes", "message.timestamp.before.max.ms", "message.timestamp.after.max.ms")
STABLE, HIGH = IsolationLevel.READ_COMMITTED, IsolationLevel.READ_UNCOMMITTED

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
    """
    tuning: dict[str, Any] = {
        "linger.ms": 5,
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
    large = logical in topics.INPUTS or topics.TOPICS[logical].large
    return LARGE_MESSAGE_BYTES if large else MESSAGE_BYTES


def planned(settings: Settings) -> list[Plan]:
    """Give what `schemas.topics.plan` says for these settings."""
    return topics.plan(
        settings.namespace,
        partitions=settings.partitions,
        measures_partitions=settings.measures_partitions,
        virtual=settings.clock == "virtual",
    )


def ensure_topics(settings: Settings) -> list[str]:
    """Create the topics that are missing, check those that exist, and give the names of the created ones.

    A limit (`LIMITS`) of an existing topic that is tighter than planned is loosened to the plan. Raises `WeirError` for
    a topic that exists with another partition count or timestamp type, or that cannot be made.
    """
    admin = make_admin(settings)
    plans = planned(settings)
    existing = partition_counts(admin, settings)
    missing = [plan for plan in plans if plan.topic not in existing]
    created = []
    if missing:
        wanted = [NewTopic(plan.topic, plan.partitions, replication_factor=-1, config=plan.config) for plan in missing]
        for name, future in admin.create_topics(wanted, request_timeout=30).items():
            try:
                future.result()
                created.append(name)
            except KafkaException as error:
                if error.args[0].code() != KafkaError.TOPIC_ALREADY_EXISTS:  # another process was quicker
                    raise WeirError(
                        f"topic {name} cannot be created: {reason(error)}",
                        fix="let an administrator create the topics: weir topics plan",
                        code=ENVIRONMENT,
                    ) from None
        _wait_visible(admin, settings, [plan.topic for plan in missing])
    _loosen(admin, [plan for plan in plans if plan.topic in existing])
    check_topics(settings)
    return created


def check_topics(settings: Settings, logical: Collection[str] | None = None) -> None:
    """Check that topics (all, or those with these logical names) exist as planned.

    Raises `WeirError` that names every difference.
    """
    admin = make_admin(settings)
    names = None if logical is None else {topic_name(settings.namespace, name) for name in logical}
    plans = [plan for plan in planned(settings) if names is None or plan.topic in names]
    counts = partition_counts(admin, settings)
    wrong = [f"{plan.topic}: missing" for plan in plans if plan.topic not in counts]
    present = [plan for plan in plans if plan.topic in counts]
    wrong += [
        f"{plan.topic}: {counts[plan.topic]} partitions, expected {plan.partitions}"
        for plan in present
        if counts[plan.topic] != plan.partitions
    ]
    for plan, found in zip(present, _configs(admin, present), strict=True):
        if found is None:
            continue
        if found[STAMPED] != plan.config[STAMPED]:
            wrong.append(f"{plan.topic}: {STAMPED}={found[STAMPED]}, expected {plan.config[STAMPED]}")
        for name, value in _tighter(plan, found).items():
            wrong.append(f"{plan.topic}: {name}={found[name]}, expected at least {value}")
    if wrong:
        raise WeirError(
            f"namespace {settings.namespace!r} (clock {settings.clock!r}) has topics that are not as planned:\n    "
            + "\n    ".join(wrong),
            fix="create what is missing and loosen what is too tight with `weir topics apply`; a wrong partition "
            "count or timestamp type needs another namespace, or settings.partitions, measures_partitions and clock as "
            "they were",
            code=ENVIRONMENT,
        )


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
    """Give the partition count of every topic there is. Raises `WeirError` when Kafka does not answer."""
    try:
        found: Mapping[str, Any] = admin.list_topics(timeout=30).topics
    except KafkaException as error:
        raise WeirError(
            f"Kafka at {settings.kafka.bootstrap} does not answer: {reason(error)}",
            fix="start it, or set kafka.bootstrap (WEIR_KAFKA__BOOTSTRAP)",
            code=ENVIRONMENT,
        ) from None
    return {name: len(metadata.partitions) for name, metadata in found.items() if metadata.error is None}


def _tighter(plan: Plan, found: Mapping[str, str]) -> dict[str, str]:
    """Give the limits of the plan that a topic's own lie below."""
    wanted = {name: plan.config[name] for name in LIMITS if name in plan.config}
    return {name: value for name, value in wanted.items() if int(found[name]) < int(value)}


def _loosen(admin: AdminClient, plans: Sequence[Plan]) -> None:
    """Set limits that are too tight as planned. What we may not change is left for `check_topics` to name."""
    changes = []
    for plan, found in zip(plans, _configs(admin, plans), strict=True):
        entries = [
            ConfigEntry(name, value, incremental_operation=AlterConfigOpType.SET)
            for name, value in ({} if found is None else _tighter(plan, found)).items()
        ]
        if entries:
            changes.append(ConfigResource(ResourceType.TOPIC, plan.topic, incremental_configs=entries))
    for future in admin.incremental_alter_configs(changes, request_timeout=30).values() if changes else ():
        try:
            future.result()
        except KafkaException as error:
            if error.args[0].code() not in _NO_ENTRY:
                raise
            _log.warning("topic_settings_not_changed", reason=reason(error))


def _configs(admin: AdminClient, plans: Sequence[Plan]) -> list[dict[str, str] | None]:
    """Give each topic's settings that we check; None where we may not ask."""
    if not plans:
        return []
    resources = [ConfigResource(ResourceType.TOPIC, plan.topic) for plan in plans]
    futures = admin.describe_configs(resources, request_timeout=30)
    found: list[dict[str, str] | None] = []
    for resource in resources:
        try:
            entries = futures[resource].result()
            found.append({name: entries[name].value for name in (STAMPED, *LIMITS)})
        except KafkaException as error:
            if error.args[0].code() not in _NO_ENTRY:
                raise
            _log.warning("topic_settings_unknown", topic=resource.name, reason=reason(error))
            found.append(None)
    return found


def _wait_visible(admin: AdminClient, settings: Settings, created: Sequence[str]) -> None:
    deadline = time.monotonic() + 30
    while not set(created) <= set(partition_counts(admin, settings)):
        if time.monotonic() > deadline:
            raise WeirError("created topics do not show up within 30 s", fix="try again", code=ENVIRONMENT)
        time.sleep(0.02)
