"""`weir doctor` against real surroundings: what is well, what is not, and what cannot be told because of that."""

from __future__ import annotations

import json
import re
import time
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest
from confluent_kafka.admin import AlterConfigOpType, ConfigEntry, ConfigResource, NewTopic, ResourceType
from pydantic import SecretStr

from schemas.control import PolicySet
from schemas.event import encode
from schemas.inputs import Prediction
from schemas.policy import JoinPolicy
from schemas.settings import Api, ClickHouse, Kafka, Settings
from services.clickhouse import database_of
from services.doctor.finding import Finding
from services.doctor.run import CHECKS, doctor, examine
from services.local.clickhouse import LocalClickHouse
from services.local.kafka import LocalKafka
from services.record.land import Span
from services.record.land import Store as Landing
from services.record.tables import migrate
from streams.runtime.kafka import make_admin
from streams.runtime.records import Records
from streams.runtime.topics import ensure_topics

NOW_MS = int(time.time() * 1000)
NOWHERE = Settings(kafka=Kafka(bootstrap="127.0.0.1:1"), clickhouse=ClickHouse(port=1))


@pytest.fixture
def settings(kafka: LocalKafka, clickhouse: LocalClickHouse, tmp_path: Path) -> Iterator[Settings]:
    found = Settings(
        namespace=f"test-{uuid.uuid4().hex[:12]}",
        data_dir=tmp_path,
        kafka=Kafka(bootstrap=kafka.bootstrap),
        clickhouse=ClickHouse(
            host=clickhouse.host, port=clickhouse.port, user=clickhouse.user, password=SecretStr(clickhouse.password)
        ),
    )
    yield found
    client = clickhouse.client()
    client.command(f"DROP DATABASE IF EXISTS `{database_of(found)}`")
    client.close()


def of(found: list[Finding], check: str) -> list[Finding]:
    return [one for one in found if one.check == check]


def states(found: list[Finding]) -> dict[str, set[str]]:
    return {name: {one.state for one in of(found, name)} for name, _, _ in CHECKS}


def test_nothing_answers_and_each_cause_is_told_once(tmp_path: Path) -> None:
    found = examine(NOWHERE.model_copy(update={"data_dir": tmp_path}), NOW_MS)
    told = states(found)
    assert [name for name, state in told.items() if state == {"fail"}] == ["kafka", "clickhouse"]
    skipped = [name for name, state in told.items() if state == {"skipped"}]
    assert skipped == ["transactions", "topics", "retention", "lag", "tables", "policies", "dead letters"]
    assert all(one.fix for one in found if one.state == "fail")


@pytest.mark.kafka
@pytest.mark.clickhouse
def test_a_namespace_from_its_beginning_to_health(settings: Settings, capsys: pytest.CaptureFixture[str]) -> None:
    told = states(examine(settings, NOW_MS))
    assert told["topics"] == {"fail"}
    assert (told["retention"], told["tables"], told["policies"]) == ({"skipped"}, {"warn"}, {"skipped"})
    ensure_topics(settings)
    migrate(settings)
    found = examine(settings, int(time.time() * 1000))
    assert {one.state for one in found if one.check != "compiled"} == {"ok"}, found
    assert doctor(settings, as_json=True) == 0
    assert json.loads(capsys.readouterr().out)["ok"] is True


@pytest.mark.kafka
@pytest.mark.clickhouse
def test_what_loses_events_or_waits_for_nothing_is_named(settings: Settings) -> None:
    ensure_topics(settings)
    migrate(settings)
    admin = make_admin(settings)
    change = ConfigEntry("cleanup.policy", "compact", incremental_operation=AlterConfigOpType.SET)
    short = ConfigEntry("retention.ms", "3600000", incremental_operation=AlterConfigOpType.SET)
    topic = f"{settings.namespace}.labels"
    resource = ConfigResource(ResourceType.TOPIC, topic, incremental_configs=[change, short])
    for future in admin.incremental_alter_configs([resource]).values():
        future.result()
    policy = PolicySet(policy=JoinPolicy(model="known"), at_ms=NOW_MS)
    store = Landing(settings)
    for logical, events in (
        ("control", [policy]),
        ("predictions", [Prediction(request_id=name, at_ms=NOW_MS, model=name) for name in ("known", "unknown")]),
    ):
        records = Records()
        for place, event in enumerate(events):
            records.append(place, NOW_MS, None, encode(event))
        store.land(logical, [Span(0, 0, len(events), records)])
    store.close()
    found = examine(settings, NOW_MS)
    retention = [one.says for one in of(found, "retention") if one.state != "ok"]
    assert any("is compacted" in says for says in retention)
    assert any("keeps 1 hours" in says for says in retention)
    [policies] = of(found, "policies")
    assert policies.state == "warn"
    assert policies.says.startswith("unknown predicts and has no policy")
    assert doctor(settings) == 1


@pytest.mark.kafka
@pytest.mark.clickhouse
def test_a_topic_with_another_width_is_named(settings: Settings) -> None:
    admin = make_admin(settings)
    for future in admin.create_topics([NewTopic(f"{settings.namespace}.labels", 1)]).values():
        future.result()
    found = of(examine(settings, NOW_MS), "topics")
    assert any("labels: 1 partitions, expected 4" in one.says for one in found)
    assert {one.state for one in found} == {"fail"}


def test_a_judge_that_cannot_be_and_an_open_door_are_told(tmp_path: Path) -> None:
    wrong = NOWHERE.model_copy(update={"judge": {"budgit": 1}, "api": Api(host="0.0.0.0"), "data_dir": tmp_path})
    found = examine(wrong, NOW_MS)
    assert "budgit" in of(found, "settings")[0].says
    assert [one.state for one in of(found, "edges")] == ["warn", "fail"]


@pytest.mark.kafka
@pytest.mark.clickhouse
def test_a_clock_that_is_off_is_told(settings: Settings) -> None:
    [clock] = of(examine(settings, NOW_MS - 3_600_000), "clock")
    assert clock.state == "warn"


def test_what_is_linked_is_there() -> None:
    root = Path(__file__).parents[3]
    for source in (root / "services" / "doctor").glob("*.py"):
        for link in re.findall(r'"((?:docs/)?[\w-]+\.md)"', source.read_text(encoding="utf-8")):
            assert (root / link).is_file(), link
