"""Checks of Kafka: does it answer, does it do transactions, are the topics as planned, who is behind."""

from __future__ import annotations

from collections.abc import Iterator

from confluent_kafka import KafkaError, KafkaException, Producer
from confluent_kafka.admin import ConfigResource, ResourceType

from schemas.errors import WeirError
from schemas.topics import INPUTS, topic_name
from services.doctor.finding import Finding, House
from streams.runtime import kafka
from streams.runtime.backlog import lags
from streams.runtime.topics import check_topics

ANSWER_S = 5.0
BEHIND = 100_000
"""So many records not yet read are worth a word."""
STAGES = {"join": INPUTS, "judge": ("measures",), "record": ("feedback",), "decide": ("drift",)}
ANSWERS = "Kafka does not answer"


def kafka_answers(house: House) -> Iterator[Finding]:
    """First of all."""
    try:
        kafka.wait_for_kafka(house.settings, timeout_s=ANSWER_S)
        found = house.admin.list_topics(timeout=ANSWER_S)
    except WeirError as error:
        house.away["kafka"] = ANSWERS
        yield Finding("kafka", "fail", error.message, error.fix)
        return
    except KafkaException as error:
        house.away["kafka"] = ANSWERS
        yield Finding("kafka", "fail", kafka.reason(error), "see kafka.properties in weir.toml", "README.md")
        return
    many = len(found.brokers)
    says = f"{many} broker{'' if many == 1 else 's'} at {house.settings.kafka.bootstrap}"
    yield Finding("kafka", "ok", says if many > 1 else f"{says}: what it loses is lost")


def kafka_does_transactions(house: House) -> Iterator[Finding]:
    """Exactly once rests on them; a broker or an ACL may refuse."""
    properties = kafka.producer_properties(house.settings, "doctor")
    properties |= {"transactional.id": kafka.transactional_id(house.settings, "doctor"), "enable.idempotence": True}
    try:
        producer = Producer(properties)
        producer.init_transactions(ANSWER_S * 2)
    except KafkaException as error:
        code = error.args[0].code()
        denied = code == KafkaError.TRANSACTIONAL_ID_AUTHORIZATION_FAILED
        fix = (
            f"allow WRITE and DESCRIBE on transactional ids that begin with {house.settings.namespace}."
            if denied
            else "transactions need transaction.state.log.replication.factor brokers, and their topic"
        )
        yield Finding("transactions", "fail", f"Kafka refuses transactions: {kafka.reason(error)}", fix)
    else:
        yield Finding("transactions", "ok", "a transactional producer may begin")


def topics_are_as_planned(house: House) -> Iterator[Finding]:
    """Partitions, clocks and limits; each difference in one line."""
    try:
        check_topics(house.settings)
    except WeirError as error:
        head, *wrong = error.message.splitlines()
        if not wrong:
            yield Finding("topics", "fail", head, error.fix)
        if all(line.endswith(": missing") for line in wrong) and wrong:
            house.away["topics"] = "topics are missing"
            says = f"{len(wrong)} topics are missing in namespace {house.settings.namespace!r}"
            yield Finding("topics", "fail", says, "weir topics apply; or, for an administrator, weir topics plan")
            return
        for line in wrong:
            yield Finding("topics", "fail", line.strip(), error.fix)
        if any(line.endswith(": missing") for line in wrong):
            house.away["topics"] = "topics are missing"
    else:
        yield Finding("topics", "ok", f"all topics of namespace {house.settings.namespace!r} are as planned")


def inputs_are_kept(house: House) -> Iterator[Finding]:
    """A topic that is compacted loses events; one that keeps less than a day cannot be read again."""
    names = [topic_name(house.settings.namespace, logical) for logical in INPUTS]
    asked = house.admin.describe_configs([ConfigResource(ResourceType.TOPIC, name) for name in names])
    kept = []
    for resource, future in asked.items():
        try:
            entries = future.result(timeout=ANSWER_S)
        except KafkaException as error:
            says = f"the settings of {resource.name} are unknown: {kafka.reason(error)}"
            yield Finding("retention", "skipped", says, "allow DESCRIBE_CONFIGS on it")
            continue
        if "compact" in entries["cleanup.policy"].value:
            says = f"{resource.name} is compacted: of two events with one key the first may vanish before it is read"
            yield Finding("retention", "fail", says, "set cleanup.policy=delete", "docs/bad-input.md")
        keeps_ms = int(entries["retention.ms"].value)
        if 0 <= keeps_ms < 86_400_000:
            says = f"{resource.name} keeps {keeps_ms / 3_600_000:.3g} hours: a longer downtime loses events"
            yield Finding("retention", "warn", says, "lengthen retention.ms", "docs/restore.md")
        kept.append(keeps_ms)
    if kept:
        least = min(kept, key=lambda ms: ms if ms >= 0 else float("inf"))
        yield Finding(
            "retention", "ok", f"inputs are kept {'for ever' if least < 0 else f'{least / 86_400_000:.3g} d'}"
        )


def stages_keep_up(house: House) -> Iterator[Finding]:
    """How many records a stage has not committed yet."""
    for stage, inputs in STAGES.items():
        behind = sum(lags(house.settings, stage, inputs, house.admin).values())
        if behind > BEHIND:
            says = f"{stage} is {behind:,} records behind"
            yield Finding("lag", "warn", says, f"start weir {stage}, or more workers of it", "docs/standby.md")
        else:
            yield Finding("lag", "ok", f"{stage} is {behind:,} records behind")
