"""What an administrator is told to create is what is created, and what exists otherwise is refused."""

import json
import uuid

import pytest
from confluent_kafka.admin import NewTopic

from schemas.errors import ENVIRONMENT, WeirError
from schemas.settings import Kafka, Settings
from schemas.topics import INTERNAL, TOPICS
from services.cli.topics import apply, show_plan
from services.local.kafka import LocalKafka
from streams.runtime.kafka import make_admin


def test_plan_needs_no_broker(capsys: pytest.CaptureFixture[str]) -> None:
    settings = Settings(namespace="team", partitions=12, kafka=Kafka(bootstrap="127.0.0.1:9"))
    show_plan(settings, as_json=True)
    rows = {row["topic"]: row for row in json.loads(capsys.readouterr().out)}
    assert set(rows) == {f"team.{name}" for name in (*TOPICS, *INTERNAL)}
    assert rows["team.labels"]["partitions"] == 12
    assert rows["team.promote"]["config"]["cleanup.policy"] == "compact"
    show_plan(settings)
    assert len(capsys.readouterr().out.splitlines()) == 1 + len(rows)


@pytest.mark.kafka
def test_apply_creates_once_and_refuses_what_differs(kafka: LocalKafka, capsys: pytest.CaptureFixture[str]) -> None:
    settings = Settings(namespace=f"t{uuid.uuid4().hex[:8]}", kafka=Kafka(bootstrap=kafka.bootstrap))
    apply(settings)
    assert f"{len(TOPICS) + len(INTERNAL)} created" in capsys.readouterr().out
    apply(settings)
    assert "0 created" in capsys.readouterr().out
    with pytest.raises(WeirError, match="4 partitions, expected 5"):
        apply(settings.model_copy(update={"partitions": 5}))
    other = settings.model_copy(update={"namespace": settings.namespace + "x"})
    admin = make_admin(settings)
    admin.create_topics([NewTopic(f"{other.namespace}.labels", 4, 1, config={"message.timestamp.type": "CreateTime"})])[
        f"{other.namespace}.labels"
    ].result()
    with pytest.raises(WeirError, match="=CreateTime, expected LogAppendTime") as refused:
        apply(other)
    assert refused.value.code == ENVIRONMENT
