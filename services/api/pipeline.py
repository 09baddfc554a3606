"""How far every process is behind, what could not be used, and whether anything was lost.

Lag is asked from outside (Kafka's offsets and the groups' commits), so a process that has stopped shows too. It counts
offsets, markers of transactions included: a process that reads one event at a time may show one or two when idle.
"""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from confluent_kafka import ConsumerGroupTopicPartitions, KafkaException
from confluent_kafka.admin import AdminClient

from schemas.errors import ENVIRONMENT, WeirError
from schemas.settings import Settings
from schemas.topics import INPUTS, TOPICS, topic_name
from services.api.history import History
from streams.runtime import kafka

EXPECTED = {
    "record": tuple(TOPICS),
    "join": ("control", *INPUTS),
    "judge": ("control", "measures", "trials"),
    "decide": ("metrics", "drift", "gates", "candidates", "approvals"),
    "train": ("retrain",),
    "serve": ("promote",),
    "alert": ("alerts",),
}
"""The processes of the loop and what they read; one that has committed nothing is "not seen"."""


def pipeline(settings: Settings, history: History, admin: AdminClient) -> dict[str, Any]:
    """Give topics with their ends, processes with their lag, dead letters and the residual.

    Raises `WeirError` when Kafka or ClickHouse is away.
    """
    try:
        topics, ends = _topics(settings, admin)
        processes = _processes(settings, admin, ends)
    except KafkaException as error:
        raise WeirError(
            f"Kafka at {settings.kafka.bootstrap} did not answer: {kafka.reason(error)}",
            fix="start it, or set kafka.bootstrap (WEIR_KAFKA__BOOTSTRAP)",
            code=ENVIRONMENT,
        ) from None
    return {
        "topics": topics,
        "processes": processes,
        "dead_letters": history.dead_letters(),
        "totals": history.totals(),
        "residual": residual(settings, admin),
    }


def residual(settings: Settings, admin: AdminClient) -> dict[str, Any]:
    """Give what the join counted minus what has landed, by input; `places` only where it is not 0."""
    from services.record.residual import residuals, total

    found = residuals(settings, admin=admin)
    wrong = [{**asdict(one), "value": one.value} for one in found if one.value]
    return {"by_input": total(found) if found else None, "places": wrong}


def _topics(settings: Settings, admin: AdminClient) -> tuple[list[dict[str, Any]], dict[kafka.Place, int]]:
    names = {topic_name(settings.namespace, name): name for name in TOPICS}
    there = admin.list_topics(timeout=5).topics
    places = [(name, number) for name in names if name in there for number in there[name].partitions]
    first = kafka.earliest(admin, places)
    high = {place: end for place, (_, end) in kafka.ends(admin, places, patience_s=5.0).items()}
    rows = [
        {
            "topic": logical,
            "about": TOPICS[logical].about,
            "missing": name not in there,
            "partitions": sum(1 for place in places if place[0] == name),
            "end": sum(end for place, end in high.items() if place[0] == name),
            "kept": sum(end - first[place] for place, end in high.items() if place[0] == name),
        }
        for name, logical in names.items()
    ]
    return rows, high


def _processes(settings: Settings, admin: AdminClient, ends: dict[kafka.Place, int]) -> list[dict[str, Any]]:
    prefix = kafka.group_id(settings.namespace, "")
    listed = admin.list_consumer_groups(request_timeout=5).result().valid
    states = {
        one.group_id: str(one.state).rpartition(".")[2].lower() for one in listed if one.group_id.startswith(prefix)
    }
    names = [*EXPECTED, *sorted({group[len(prefix) :] for group in states} - set(EXPECTED))]
    logical = {topic_name(settings.namespace, name): name for name in TOPICS}
    found = []
    for name in names:
        group = prefix + name
        lags = _lags(admin, group, ends, logical) if group in states else []
        if name in EXPECTED or lags:
            found.append(
                {
                    "process": name,
                    "state": states.get(group, "not seen"),
                    "lag": sum(row["lag"] for row in lags),
                    "topics": lags,
                }
            )
    return found


def _lags(
    admin: AdminClient, group: str, ends: dict[kafka.Place, int], logical: dict[str, str]
) -> list[dict[str, Any]]:
    answer = admin.list_consumer_group_offsets([ConsumerGroupTopicPartitions(group)], request_timeout=5)
    rows: dict[str, dict[str, Any]] = {}
    for tp in answer[group].result().topic_partitions:
        name, place = logical.get(tp.topic), (tp.topic, tp.partition)
        if name is None or tp.offset < 0 or place not in ends:
            continue
        row = rows.setdefault(name, {"topic": name, "lag": 0, "partitions": []})
        lag = max(0, ends[place] - tp.offset)
        row["lag"] += lag
        row["partitions"].append({"partition": tp.partition, "offset": tp.offset, "end": ends[place], "lag": lag})
    for row in rows.values():
        row["partitions"].sort(key=lambda one: one["partition"])
    return sorted(rows.values(), key=lambda row: str(row["topic"]))
