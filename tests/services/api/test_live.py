"""The stream: what happens comes once, in order, and goes on after any interruption."""

import json
import threading
from collections.abc import Iterator
from typing import Any

import pytest

from schemas.event import encode
from schemas.lifecycle import Alert
from schemas.settings import Settings
from services.api.live import Behind, Tail
from services.kafka import Sender
from tests.services.api.serving import Asker, serving, until

pytestmark = [pytest.mark.kafka, pytest.mark.clickhouse]


def alert(number: int, model: str = "m") -> Alert:
    return Alert(id=f"a{number:04d}", fingerprint=f"f{number}", rule="r", model=model, summary="s", at_ms=number)


def send(settings: Settings, *alerts: Alert) -> None:
    with Sender(settings, "test") as sender:
        for one in alerts:
            sender.send("alerts", encode(one), key=one.id.encode())


def lines(asker: Asker, since: str | None = None, model: str = "") -> Iterator[dict[str, Any]]:
    """Give the messages of a stream as {event, data, id}, ticks left out."""
    headers = {"Last-Event-ID": since} if since else {}
    with asker.client.stream("GET", "/v1/live", headers=headers, params={"model": model}, timeout=60) as answer:
        assert answer.status_code == 200
        assert answer.headers["Content-Type"].startswith("text/event-stream")
        message: dict[str, Any] = {}
        for line in answer.iter_lines():
            name, _, value = line.partition(": ")
            if name:
                message[name] = value
            elif line == "" and message:
                if message.get("event") not in (None, "tick"):
                    yield {**message, "data": json.loads(message["data"])}
                message = {}


def take(stream: Iterator[dict[str, Any]], count: int) -> list[dict[str, Any]]:
    return [next(stream) for _ in range(count)]


def ids(messages: list[dict[str, Any]]) -> list[str]:
    return [message["data"]["id"] for message in messages]


def test_resumes_where_it_was_also_with_another_server(namespace: Settings) -> None:
    from services.record.tables import migrate

    migrate(namespace)
    with serving(namespace) as asker:
        stream = lines(asker)
        send(namespace, *(alert(number) for number in range(10)))
        first = take(stream, 7)
        stream.close()  # type: ignore[attr-defined]
        assert ids(first) == [f"a{number:04d}" for number in range(7)]
        assert {message["event"] for message in first} == {"alerts"}
        send(namespace, *(alert(number) for number in range(10, 20)))
        rest = take(lines(asker, first[-1]["id"]), 13)
        assert ids(rest) == [f"a{number:04d}" for number in range(7, 20)]
    with serving(namespace) as another:
        again = take(lines(another, first[-1]["id"]), 13)
        assert ids(again) == ids(rest)
        send(namespace, alert(20))
        assert ids(take(lines(another, again[-1]["id"]), 1)) == ["a0020"]


def test_a_foreign_mark_is_told_to_fetch_afresh(house: Asker) -> None:
    for mark in ("nonsense", "00000000~1.2.3"):
        message = next(lines(house, mark))
        assert message["event"] == "reset"
        assert message["data"]["why"]


def test_only_the_asked_model(house: Asker) -> None:
    stream = lines(house, model="other")
    send(house.settings, alert(1, "ctr-2"), alert(2, "other"), alert(3, ""))
    assert ids(take(stream, 2)) == ["a0002", "a0003"]


async def _heard(tail: Tail, since: str | None, count: int) -> list[tuple[str, int]]:
    found: list[tuple[str, int]] = []
    async for heard in tail.listen(since):
        if heard is not None:
            found.append((heard[0], heard[1].offset))
        if len(found) == count:
            return found
    return found


def test_who_falls_out_of_what_is_kept_is_told(on_kafka: Settings) -> None:
    import asyncio

    stop = threading.Event()
    tail = Tail(on_kafka, stop, kept=20, backlog=5)
    tail.start()
    try:
        until(lambda: tail.ready, "the tail to be ready")
        send(on_kafka, *(alert(number) for number in range(10)))
        until(lambda: tail.status()["kept"] == 10, "ten records")
        first = asyncio.run(_heard(tail, None, 3))
        assert [offset for _, offset in first] == [0, 1, 2]
        assert [offset for _, offset in asyncio.run(_heard(tail, first[-1][0], 7))] == list(range(3, 10))
        send(on_kafka, *(alert(number) for number in range(10, 40)))
        until(lambda: sum(tail.positions) == 40, "forty records")
        with pytest.raises(Behind, match="no longer kept"):
            asyncio.run(_heard(tail, first[-1][0], 1))
    finally:
        stop.set()
        tail.join()


def test_a_late_server_begins_a_little_before_the_end(on_kafka: Settings) -> None:
    send(on_kafka, *(alert(number) for number in range(40)))
    stop = threading.Event()
    tail = Tail(on_kafka, stop, backlog=5)
    tail.start()
    try:
        until(lambda: sum(tail.positions) == 40, "the end")
        assert tail.status()["kept"] == 5
    finally:
        stop.set()
        tail.join()


def test_what_is_no_event_is_counted_and_passed(on_kafka: Settings) -> None:
    stop = threading.Event()
    tail = Tail(on_kafka, stop)
    tail.start()
    try:
        until(lambda: tail.ready, "the tail to be ready")
        with Sender(on_kafka, "test") as sender:
            sender.send("alerts", b"\xff not JSON", key=b"x")
            sender.send("alerts", encode(alert(1)), key=b"y")
        until(lambda: tail.status()["kept"] == 1, "the readable one")
        assert tail.unreadable == 1
    finally:
        stop.set()
        tail.join()
