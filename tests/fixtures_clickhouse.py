"""The embedded ClickHouse that tests share: started when the first test asks for it, one for the whole run.

Tests keep apart by database: take `database` for a fresh one, dropped afterwards.
"""

import uuid
from collections.abc import Iterator

import pytest
from pydantic import SecretStr

from schemas.settings import ClickHouse
from services.local.clickhouse import LocalClickHouse


@pytest.fixture(scope="session")
def clickhouse(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalClickHouse]:
    """Give a running ClickHouse: `url`, `host`, `port`, `user`, `password`, and `client(database=…)`."""
    with LocalClickHouse(tmp_path_factory.mktemp("clickhouse"), memory_bytes=2 << 30) as server:
        yield server


@pytest.fixture
def database(clickhouse: LocalClickHouse) -> Iterator[str]:
    """Give the name of a database of this test's own."""
    name = f"test_{uuid.uuid4().hex[:12]}"
    client = clickhouse.client()
    client.command(f"CREATE DATABASE {name}")
    yield name
    client.command(f"DROP DATABASE {name}")
    client.close()


@pytest.fixture
def at(clickhouse: LocalClickHouse, database: str) -> ClickHouse:
    """Give the settings of a database of this test's own."""
    password = SecretStr(clickhouse.password)
    return ClickHouse(
        host=clickhouse.host, port=clickhouse.port, user=clickhouse.user, password=password, database=database
    )
