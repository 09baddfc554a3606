"""A namespace with a story in it, recorded and served: one for each file of tests, which may add to it."""

import time
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest
from pydantic import SecretStr

from schemas.settings import ClickHouse, Kafka, Settings
from services.clickhouse import database_of
from services.local.clickhouse import LocalClickHouse
from services.local.kafka import LocalKafka
from tests.services.api.serving import Asker, recording, serving, until
from tests.services.api.story import MINUTE_MS, PANES, tell


@pytest.fixture(scope="module")
def origin_ms() -> int:
    """Give when the story begins: it ends about now."""
    return int(time.time() * 1000) // MINUTE_MS * MINUTE_MS - PANES * MINUTE_MS


@pytest.fixture(scope="module")
def house(
    kafka: LocalKafka, clickhouse: LocalClickHouse, tmp_path_factory: pytest.TempPathFactory, origin_ms: int
) -> Iterator[Asker]:
    """Give a served namespace in which the story has been told and has landed."""
    from services.record.tables import migrate
    from streams.runtime.backlog import lags
    from streams.runtime.topics import ensure_topics

    settings = Settings(
        namespace=f"test-{uuid.uuid4().hex[:12]}",
        data_dir=Path(tmp_path_factory.mktemp("api")),
        kafka=Kafka(bootstrap=kafka.bootstrap),
        clickhouse=ClickHouse(
            host=clickhouse.host, port=clickhouse.port, user=clickhouse.user, password=SecretStr(clickhouse.password)
        ),
    )
    ensure_topics(settings)
    migrate(settings)
    tell(settings, origin_ms)
    with recording(settings), serving(settings) as asker:
        topics = ("metrics", "measures", "drift", "feedback", "steps", "predictions", "labels", "alerts", "control")
        until(lambda: not any(lags(settings, "record", topics).values()), "the story to land")
        yield asker
    client = clickhouse.client()
    client.command(f"DROP DATABASE IF EXISTS `{database_of(settings)}`")
    client.close()
