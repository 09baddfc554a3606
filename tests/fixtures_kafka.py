"""The embedded Kafka that tests share: started when the first test asks for it, one for the whole run.

Tests keep apart by topic: take `topic` for a fresh one of one partition, or give topics and groups unique names.
"""

import uuid
from collections.abc import Iterator

import pytest

from services.local.kafka import LocalKafka


@pytest.fixture(scope="session")
def kafka(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalKafka]:
    """Give a running broker: `bootstrap` is its address."""
    with LocalKafka(tmp_path_factory.mktemp("kafka")) as broker:
        yield broker


@pytest.fixture
def topic(kafka: LocalKafka) -> str:
    """Give the name of a topic of this test's own: one partition, the producer's time."""
    from confluent_kafka.admin import AdminClient, NewTopic

    name = f"test-{uuid.uuid4().hex[:12]}"
    admin = AdminClient({"bootstrap.servers": kafka.bootstrap})
    admin.create_topics([NewTopic(name, 1, 1)])[name].result(timeout=20)
    return name
