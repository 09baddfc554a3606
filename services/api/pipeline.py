"""How far every process is behind, what could not be used, and whether anything was lost.

Lag is asked from outside (Kafka's offsets and the groups' commits), so a process that has stopped shows too. It counts
offsets, markers of transactions included: a process that reads one event at a time may show one or two when idle.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from functools import partial
from typing import Any

from confluent_kafka import KafkaException
from confluent_kafka.admin import AdminClient

from schemas.errors import ENVIRONMENT, WeirError
from schemas.settings import Settings
from schemas.topics import INPUTS, TOPICS, topic_name
from services.api.history import History
from services.kafka import places_of
from streams.runtime import kafka
from streams.runtime.offsets import GroupOffsets

ANSWER_S = 5.0
EXPECTED = {
    "record": tuple(TOPICS),
    "join": ("control", *INPUTS),
    "judge": ("control", "measures", "trials"),
    "decide": ("metrics", "drift", "gates", "reviews", "candidates", "approvals"),
    "train": ("retrain",),
    "alert": ("alerts",),
}
"""The processes of the loop and what they read; one that has committed nothing is "not seen"."""


class Pipeline:
    """Asks Kafka and ClickHouse how it goes; keeps its connections. One question at a time."""

    def __init__(self, settings: Settings, history: History) -> None:
        self._settings, self._history = settings, history
        self._inquiry = kafka.Inquiry(settings, "api")
        self._groups: dict[str, GroupOffsets] = {}

    def now(self) -> dict[str, Any]:
        """Give topics with their ends, processes with their lag, label sources, dead letters and the residual.

        Raises `WeirError` when Kafka or ClickHouse is away.
        """
        try:
            topics, ends = self._inquiry.ask(partial(_topics, self._settings))
            processes = self._processes(ends)
            residual = self.residual()
        except KafkaException as error:
            raise WeirError(
                f"Kafka at {self._settings.kafka.bootstrap} did not answer: {kafka.reason(error)}",
                fix="start it, or set kafka.bootstrap (WEIR_KAFKA__BOOTSTRAP)",
                code=ENVIRONMENT,
            ) from None
        return {
            "topics": topics,
            "processes": processes,
            "sources": self._history.sources(),
            "dead_letters": self._history.dead_letters(),
            "totals": self._history.totals(),
            "residual": residual,
        }

    def residual(self) -> dict[str, Any]:
        """Give what the join counted minus what has landed, by input; `places` only where it is not 0."""
        from services.record.residual import residuals, total

        places = {place: name for name in INPUTS for place in places_of(self._settings, name)}
        landed = self._committed("record", list(places))
        passed = {(name, place[1]): max(0, landed.get(place, 0)) for place, name in places.items()}
        found = residuals(self._settings, passed=passed)
        wrong = [{**asdict(one), "value": one.value} for one in found if one.value]
        return {"by_input": total(found) if found else None, "places": wrong}

    def close(self) -> None:
        """Let go of the connections."""
        for group in self._groups.values():
            group.close()
        self._groups.clear()

    def _committed(self, process: str, places: Sequence[kafka.Place]) -> dict[kafka.Place, int]:
        """Give what a process has committed, where it has."""
        if process not in self._groups:
            self._groups[process] = GroupOffsets(self._settings, process, "api-lag")
        found = self._groups[process].committed(places, patience_s=ANSWER_S)
        return {place: offset for place, offset in found.items() if offset >= 0}

    def _processes(self, ends: Mapping[kafka.Place, int]) -> list[dict[str, Any]]:
        prefix = kafka.group_id(self._settings.namespace, "")
        asked = self._inquiry.ask(lambda admin: admin.list_consumer_groups(request_timeout=ANSWER_S).result())
        states = {
            one.group_id: str(one.state).rpartition(".")[2].lower()
            for one in asked.valid
            if one.group_id.startswith(prefix)
        }
        names = [*EXPECTED, *sorted({group[len(prefix) :] for group in states} - set(EXPECTED))]
        logical = {topic_name(self._settings.namespace, name): name for name in TOPICS}
        found = []
        for name in names:
            committed = self._committed(name, list(ends)) if prefix + name in states else {}
            lags = _lags(committed, ends, logical)
            if name in EXPECTED or lags:
                state, lag = states.get(prefix + name, "not seen"), sum(row["lag"] for row in lags)
                found.append({"process": name, "state": state, "lag": lag, "topics": lags})
        return found


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


def _lags(
    committed: Mapping[kafka.Place, int], ends: Mapping[kafka.Place, int], logical: Mapping[str, str]
) -> list[dict[str, Any]]:
    rows: dict[str, dict[str, Any]] = {}
    for place, offset in sorted(committed.items()):
        name, end = logical[place[0]], ends[place]
        row = rows.setdefault(name, {"topic": name, "lag": 0, "partitions": []})
        lag = max(0, end - offset)
        row["lag"] += lag
        row["partitions"].append({"partition": place[1], "offset": offset, "end": end, "lag": lag})
    return sorted(rows.values(), key=lambda row: str(row["topic"]))
