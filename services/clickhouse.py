"""How every process speaks to ClickHouse: `clickhouse-connect` over HTTP, embedded or remote, and whose database it is.

A client serves one thread at a time: open one per thread.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from schemas.errors import ENVIRONMENT, WeirError
from schemas.settings import ClickHouse, Settings

if TYPE_CHECKING:
    from clickhouse_connect.driver.httpclient import HttpClient

CONNECT_S = 5
ANSWER_S = 60

_NO_DATABASE, _REFUSED = 81, (192, 193, 194, 516)
_SETTLED = (_NO_DATABASE, *_REFUSED)


class Unreachable(WeirError):
    """ClickHouse does not answer: waiting may help."""


def database_of(settings: Settings) -> str:
    """Give the namespace's database: the one in the settings, or, where that is left alone, one of its own name.

    Positions (topic, partition, offset) are unique within a namespace only, so no two of them may share a database.

    >>> database_of(Settings(namespace="weir")), database_of(Settings(namespace="team.prod-1"))
    ('weir', 'team_prod_1')
    """
    named = settings.clickhouse.database
    if named != ClickHouse().database:
        return named
    return re.sub(r"\W", "_", settings.namespace)


def connect(settings: Settings, *, database: bool = True, answer_s: int = ANSWER_S) -> HttpClient:
    """Open a client in the namespace's database, or in none (`database=False`: before there is one).

    Raises `WeirError` that says whether ClickHouse is away, refuses us, or lacks the database.
    """
    import clickhouse_connect
    from clickhouse_connect.driver.exceptions import ClickHouseError
    from urllib3.exceptions import HTTPError

    at = settings.clickhouse
    try:
        client = clickhouse_connect.get_client(
            host=at.host,
            port=at.port,
            username=at.user,
            password=at.password.get_secret_value(),
            database=database_of(settings) if database else "default",
            secure=at.secure,
            compress=False,
            autogenerate_session_id=False,
            connect_timeout=CONNECT_S,
            send_receive_timeout=answer_s,
            client_name="weir",
        )
    except (ClickHouseError, HTTPError, OSError) as error:
        kind = WeirError if getattr(error, "code", None) in _SETTLED else Unreachable
        raise kind(
            f"ClickHouse at {at.host}:{at.port} cannot be used: {first_line(error)}", fix=_fix(error), code=ENVIRONMENT
        ) from None
    return client  # type: ignore[return-value]  # typed as the general Client


@contextmanager
def reading(settings: Settings, *, answer_s: int = ANSWER_S) -> Iterator[HttpClient]:
    """Open a client for questions, and close it. Raises as `connect`, and `WeirError` for what cannot be answered."""
    from clickhouse_connect.driver.exceptions import ClickHouseError
    from urllib3.exceptions import HTTPError

    client = connect(settings, answer_s=answer_s)
    try:
        yield client
    except (ClickHouseError, HTTPError) as error:
        raise WeirError(f"the records cannot be read: {first_line(error)}", code=ENVIRONMENT) from None
    finally:
        client.close()


def first_line(error: BaseException) -> str:
    r"""Give what an exception says, shortened to its first line.

    >>> first_line(ValueError("too large\nat row 7"))
    'too large'
    """
    return (str(error).splitlines() or [type(error).__name__])[0][:300]


def _fix(error: BaseException) -> str:
    code = getattr(error, "code", None)
    if code == _NO_DATABASE:
        return "create the database and its tables: start `weir record` or `weir up`"
    if code in _REFUSED:
        return "set clickhouse.user and clickhouse.password (WEIR_CLICKHOUSE__PASSWORD)"
    return "start it (weir up), or set clickhouse.host and clickhouse.port (WEIR_CLICKHOUSE__PORT)"
