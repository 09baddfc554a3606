"""What a check says, and what all checks share."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Literal

from confluent_kafka.admin import AdminClient

from schemas.settings import Settings
from streams.runtime import kafka

if TYPE_CHECKING:
    from clickhouse_connect.driver.httpclient import HttpClient

State = Literal["ok", "warn", "fail", "skipped"]


@dataclass(frozen=True, slots=True)
class Finding:
    """One line: what was looked at, how it is, in words; where it is not well what to do, and where to read on."""

    check: str
    state: State
    says: str
    fix: str = ""
    link: str = ""


Check = Callable[["House"], Iterator[Finding]]


class House:
    """The settings and, made when first needed, the clients. `away` names what does not answer: its checks are skipped.

    Serves one thread.
    """

    def __init__(self, settings: Settings, now_ms: int) -> None:
        self.settings, self.now_ms = settings, now_ms
        self.away: dict[str, str] = {}

    @cached_property
    def admin(self) -> AdminClient:
        """Kafka's."""
        return kafka.make_admin(self.settings, "doctor")

    @cached_property
    def client(self) -> HttpClient:
        """ClickHouse's, in no database. Raises `WeirError`."""
        from services.clickhouse import connect

        return connect(self.settings, database=False)

    def close(self) -> None:
        """Let go of what was opened."""
        if "client" in self.__dict__:
            self.client.close()
