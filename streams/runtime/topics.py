"""Topics as planned (`schemas.topics`): made where they are missing, loosened where they are too tight, checked."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Collection, Mapping, Sequence

import structlog
from confluent_kafka import KafkaError, KafkaException
from confluent_kafka.admin import AdminClient, AlterConfigOpType, ConfigEntry, ConfigResource, NewTopic, ResourceType

from schemas import topics
from schemas.errors import ENVIRONMENT, WeirError
from schemas.settings import Settings
from schemas.topics import Plan, topic_name
from streams.runtime.kafka import Unanswered, make_admin, partition_counts, reason, wait_for_kafka

STAMPED = "message.timestamp.type"
LIMITS = ("max.message.bytes", "message.timestamp.before.max.ms", "message.timestamp.after.max.ms")
SHOWN_S = 30.0
"""How long a broker may take to show what was created or changed."""

_log = structlog.get_logger()
_NO_ENTRY = (KafkaError.TOPIC_AUTHORIZATION_FAILED, KafkaError.CLUSTER_AUTHORIZATION_FAILED)


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
        names = {plan.topic for plan in missing}
        _await_shown(lambda: names <= set(partition_counts(admin, settings)), "created topics")
    _loosen(admin, [plan for plan in plans if plan.topic in existing])
    check_topics(settings)
    return created


def await_topics(settings: Settings, stop: threading.Event, logical: Collection[str]) -> bool:
    """Wait until Kafka answers, and check topics; one that goes away in between is waited for again.

    False: `stop` was set. Raises as `check_topics` does.
    """
    while wait_for_kafka(settings, stop):
        try:
            check_topics(settings, logical)
        except Unanswered as error:
            _log.warning("kafka_silent", bootstrap=settings.kafka.bootstrap, reason=error.message)
        else:
            return True
    return False


def check_topics(settings: Settings, logical: Collection[str] | None = None) -> None:
    """Check that topics (all, or those with these logical names) exist as planned.

    Raises `WeirError` that names every difference, or `Unanswered`.
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
    try:
        configs = _configs(admin, present)
    except KafkaException as error:
        raise Unanswered(settings, error) from None
    for plan, found in zip(present, configs, strict=True):
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
    changed = []
    for resource, future in admin.incremental_alter_configs(changes, request_timeout=30).items() if changes else ():
        try:
            future.result()
            changed.append(resource.name)
        except KafkaException as error:
            if error.args[0].code() not in _NO_ENTRY:
                raise
            _log.warning("topic_settings_not_changed", reason=reason(error))
    loosened = [plan for plan in plans if plan.topic in changed]

    def shown() -> bool:
        configs = zip(loosened, _configs(admin, loosened), strict=True)
        return not any(found and _tighter(plan, found) for plan, found in configs)

    _await_shown(shown, "changed limits")


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


def _await_shown(condition: Callable[[], bool], what: str) -> None:
    """Wait until a broker shows what its controller has agreed to."""
    deadline = time.monotonic() + SHOWN_S
    while not condition():
        if time.monotonic() > deadline:
            raise WeirError(f"{what} do not show up within {SHOWN_S:g} s", fix="try again", code=ENVIRONMENT)
        time.sleep(0.02)
