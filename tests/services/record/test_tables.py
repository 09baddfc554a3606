"""Tables in a real ClickHouse: made once, mended when events grow, refused when newer or somebody else's."""

from collections.abc import Iterator
from typing import Any
from unittest.mock import patch

import pytest
from pydantic import SecretStr

from schemas.errors import WeirError
from schemas.settings import ClickHouse, Settings
from schemas.topics import TOPICS
from services.clickhouse import connect
from services.local.clickhouse import LocalClickHouse
from services.record import tables
from services.record.tables import migrate, table_of

pytestmark = pytest.mark.clickhouse


@pytest.fixture
def settings(clickhouse: LocalClickHouse, database: str) -> Settings:
    password = SecretStr(clickhouse.password)
    at = ClickHouse(
        host=clickhouse.host, port=clickhouse.port, user=clickhouse.user, password=password, database=database
    )
    return Settings(namespace="a", clickhouse=at)


@pytest.fixture
def client(settings: Settings) -> Iterator[Any]:
    client = connect(settings)
    yield client
    client.close()


def test_migrate_twice_and_mend(settings: Settings, client: Any) -> None:
    migrate(settings)
    migrate(settings)
    assert client.command("SELECT count() FROM schema_version") == 1
    for topic in TOPICS:
        assert client.command(f"SELECT count() FROM {table_of(topic).view}") == 0
    assert client.command("SELECT count() FROM outcomes") == 0
    client.command("ALTER TABLE landed_labels DROP COLUMN source")
    client.command("ALTER TABLE schema_version UPDATE digest = 'older' WHERE 1 SETTINGS mutations_sync = 1")
    migrate(settings)
    assert client.command("SELECT count(source) FROM labels") == 0
    assert client.command("SELECT count() FROM schema_version") == 2


def test_a_newer_schema_and_another_namespace_are_refused(settings: Settings, client: Any) -> None:
    migrate(settings)
    with pytest.raises(WeirError, match=r"holds the namespace 'a', and this is 'b'"):
        migrate(settings.model_copy(update={"namespace": "b"}))
    with (
        patch.object(tables, "SCHEMA_VERSION", tables.SCHEMA_VERSION - 1),
        pytest.raises(WeirError, match="would miss"),
    ):
        migrate(settings)


def test_clear_errors_when_clickhouse_is_not_there_or_refuses(settings: Settings) -> None:
    for change, says in (
        ({"port": 1}, "start it"),
        ({"password": SecretStr("wrong")}, "set clickhouse.user"),
        ({"database": "nowhere"}, "weir record"),
    ):
        at = settings.clickhouse.model_copy(update=change)
        with pytest.raises(WeirError) as refused:
            connect(settings.model_copy(update={"clickhouse": at}))
        assert says in refused.value.fix, refused.value
