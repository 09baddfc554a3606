"""How the producer's failures are told apart, whatever wraps them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NoReturn

import pytest
from confluent_kafka import KafkaError, KafkaException

from schemas.settings import Settings
from streams.runtime.failures import Fenced, UnknownOutcome
from streams.runtime.transaction import Transactions


class Refusing:
    """A producer whose `flush` fails as the client's does when a fatal error meets a delivery report."""

    def __init__(self, code: int, wrapped: bool) -> None:
        self._error, self._wrapped = KafkaException(KafkaError(code, "said the broker", fatal=True)), wrapped

    def begin_transaction(self) -> None: ...

    def send_offsets_to_transaction(self, *given: Any) -> None: ...

    def flush(self, timeout_s: float) -> NoReturn:
        if self._wrapped:
            raise SystemError("returned a result with an exception set") from self._error
        raise self._error


class Member:
    def consumer_group_metadata(self) -> object:
        return object()


@pytest.fixture
def out() -> Iterator[Transactions]:
    made = Transactions(Settings(), "join")
    yield made
    made._overdue.close()


@pytest.mark.parametrize("wrapped", [False, True])
def test_a_fatal_error_amid_a_delivery_report(out: Transactions, wrapped: bool) -> None:
    member: Any = Member()
    for code, expected in ((KafkaError._FENCED, Fenced), (KafkaError._TIMED_OUT, UnknownOutcome)):
        refusing: Any = Refusing(code, wrapped)
        out._producer = refusing
        with pytest.raises(expected, match="said the broker"):
            out.commit(member, {}, {})


def test_another_failure_of_the_interpreter_is_let_through(out: Transactions) -> None:
    class Broken(Refusing):
        def flush(self, timeout_s: float) -> NoReturn:
            raise SystemError("something else")

    broken: Any = Broken(KafkaError._FENCED, wrapped=True)
    member: Any = Member()
    out._producer = broken
    with pytest.raises(SystemError, match="something else"):
        out.commit(member, {}, {})
