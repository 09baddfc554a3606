"""Where each event lives: logical name, key, partitions, retention, timestamp type, all under a namespace.

Topics keyed by request id (`by_request`) and those that pair with them have the same, fixed partition count, and their
key goes through the Java default hash (murmur2), so that a prediction and its labels meet in one partition.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

DAY_MS = 86_400_000
LARGE_BYTES = 4 << 20
"""What a record of a `large` topic may have; the others keep Kafka's default, 1 MiB."""
_FOR_EVER_MS = 2**63 - 1

Keyed = Literal["request", "partition", "model", "endpoint", "id"]


@dataclass(frozen=True, slots=True)
class Topic:
    """A logical topic; `width` is `full` (the namespace's partition count), `measures` (its measures count), `one`.

    `large`: its records hold whole inputs, several of them or in base64, and so may be larger than any input.
    """

    name: str
    keyed: Keyed
    width: Literal["full", "measures", "one"]
    retention_ms: int
    compacted: bool = False
    large: bool = False
    about: str = ""


TOPICS: dict[str, Topic] = {
    topic.name: topic
    for topic in (
        Topic("control", "partition", "full", -1, about="policies, references, freezes: a copy in every partition"),
        Topic("predictions", "request", "full", 7 * DAY_MS, about="what models answered"),
        Topic("labels", "request", "full", 30 * DAY_MS, about="what turned out to be true"),
        Topic("signals", "request", "full", 7 * DAY_MS, about="what users did"),
        Topic("feedback", "request", "full", 30 * DAY_MS, large=True, about="revisions of outcomes"),
        Topic("steps", "partition", "full", 30 * DAY_MS, about="one record per step of join and judge"),
        Topic("measures", "model", "measures", 7 * DAY_MS, about="signed pane deltas"),
        Topic("trials", "model", "measures", 30 * DAY_MS, about="matured values of subjects in rollouts"),
        Topic("metrics", "model", "measures", 30 * DAY_MS, about="figures with interval, n, maturity"),
        Topic("gates", "model", "measures", 30 * DAY_MS, about="how challengers compare with champions"),
        Topic("drift", "model", "measures", 30 * DAY_MS, about="what detectors found"),
        Topic("reviews", "model", "measures", 30 * DAY_MS, about="decisions whose ground was corrected"),
        Topic("forecasts", "id", "one", 30 * DAY_MS, about="how many labels of each source are due, and came"),
        Topic("retrain", "model", "one", 30 * DAY_MS, about="asks for a better model"),
        Topic("candidates", "model", "one", 30 * DAY_MS, about="trained models"),
        Topic("approvals", "model", "one", 30 * DAY_MS, about="what people decided"),
        Topic("promote", "endpoint", "one", -1, compacted=True, about="desired state of serving"),
        Topic("rollout-status", "endpoint", "one", 30 * DAY_MS, about="what servers serve"),
        Topic("alerts", "id", "one", 30 * DAY_MS, about="what people should know"),
        Topic("dead-letters", "id", "one", 30 * DAY_MS, large=True, about="inputs that could not be used"),
        Topic("recall-requests", "request", "full", 7 * DAY_MS, about="what the join no longer holds and needs"),
        Topic("recalled", "request", "full", 7 * DAY_MS, large=True, about="answers from what has landed"),
    )
}

INPUTS = ("predictions", "labels", "signals")

INTERNAL: dict[str, Topic] = {
    topic.name: topic
    for topic in (
        Topic("decide-state", "model", "one", -1, compacted=True, large=True, about="the changelog of decide's table"),
        Topic("intake-retries", "id", "one", 30 * DAY_MS, large=True, about="dead letters of intake, tried again"),
        Topic("intake-state", "id", "one", -1, compacted=True, large=True, about="how far intake has read queries"),
    )
}
"""Topics of one stage's own: planned and created like the others, but they carry no events for anybody else."""


@dataclass(frozen=True, slots=True)
class Plan:
    """What an administrator must create: Kafka's own name, partition count and configuration."""

    topic: str
    partitions: int
    config: dict[str, str]


def topic_name(namespace: str, logical: str) -> str:
    """Give Kafka's name of a logical topic.

    >>> topic_name("team.prod", "labels")
    'team.prod.labels'
    """
    if logical not in TOPICS and logical not in INTERNAL:
        raise ValueError(f"no topic {logical!r}; known topics: {', '.join(TOPICS)}")
    return f"{namespace}.{logical}"


def width(logical: str, *, partitions: int, measures_partitions: int) -> int:
    """Give the partition count of a logical topic."""
    topic = TOPICS.get(logical) or INTERNAL[logical]
    return {"full": partitions, "measures": measures_partitions, "one": 1}[topic.width]


def plan(namespace: str, *, partitions: int, measures_partitions: int, virtual: bool) -> list[Plan]:
    """Plan every topic of a namespace.

    With a broker clock the inputs take `LogAppendTime`, so that no producer's clock can expire anybody. A virtual
    namespace (replay, demo, backfill) takes `CreateTime` of any age and keeps everything, because its origin lies in
    the past and its end may lie in the future.
    """
    plans = []
    for topic in (*TOPICS.values(), *INTERNAL.values()):
        retention_ms = -1 if virtual or topic.compacted else topic.retention_ms
        config = {
            "message.timestamp.type": "CreateTime" if virtual else "LogAppendTime",
            "cleanup.policy": "compact" if topic.compacted else "delete",
            "retention.ms": str(retention_ms),
        }
        if virtual:
            config["message.timestamp.before.max.ms"] = config["message.timestamp.after.max.ms"] = str(_FOR_EVER_MS)
        if topic.large:
            config["max.message.bytes"] = str(LARGE_BYTES)
        partition_count = width(topic.name, partitions=partitions, measures_partitions=measures_partitions)
        plans.append(Plan(topic_name(namespace, topic.name), partition_count, config))
    return plans
