"""A namespace of a test's own on the real parts: topics made, a database that is dropped afterwards."""

import uuid
from collections.abc import Iterator

import pytest
from pydantic import SecretStr

from schemas.settings import ClickHouse, Kafka, Settings
from services.clickhouse import database_of
from services.local.clickhouse import LocalClickHouse
from services.local.kafka import LocalKafka


@pytest.fixture
def on_kafka(kafka: LocalKafka) -> Settings:
    """Give settings of a fresh namespace whose topics exist: 4 partitions, the broker's clock."""
    from streams.runtime.topics import ensure_topics

    name = f"test-{uuid.uuid4().hex[:12]}"
    settings = Settings(namespace=name, partitions=4, kafka=Kafka(bootstrap=kafka.bootstrap))
    ensure_topics(settings)
    return settings


@pytest.fixture
def namespace(on_kafka: Settings, clickhouse: LocalClickHouse) -> Iterator[Settings]:
    """Give settings of a fresh namespace on Kafka and ClickHouse. Its database does not exist yet."""
    at = ClickHouse(
        host=clickhouse.host, port=clickhouse.port, user=clickhouse.user, password=SecretStr(clickhouse.password)
    )
    settings = on_kafka.model_copy(update={"clickhouse": at})
    yield settings
    client = clickhouse.client()
    client.command(f"DROP DATABASE IF EXISTS `{database_of(settings)}`")
    client.close()
