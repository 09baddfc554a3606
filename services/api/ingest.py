"""Events over HTTP: checked as the contract says, sent to Kafka as they came, acknowledged when Kafka has them.

The body is checked twice: by the pydantic model (which writes the documentation and names every wrong field) and by the
decoder of the hot path (which is stricter: it turns no text into a number). What passes both travels byte for byte,
unknown fields included. Delivery: at least once; an `event_id` makes a repeated request count once.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from typing import TYPE_CHECKING, Annotated, Any, TypeAlias

import msgspec
from confluent_kafka import KafkaError, KafkaException, Message
from fastapi import APIRouter, Body, Request
from pydantic import BaseModel, Discriminator, Tag

from schemas.edge import model as edge
from schemas.errors import ENVIRONMENT, WeirError
from schemas.event import Input, decode
from schemas.inputs import Label, Prediction, Signal
from schemas.settings import Settings
from schemas.topics import topic_name
from services.api.errors import Refused
from streams.runtime import kafka

MOST = 1_000
ANSWER_S = 30.0


def _kind_of_body(body: Any) -> str:
    return "many" if isinstance(body, list) else "one"


def _one_or_many(kind: Any) -> Any:
    """Give the type of a body: one event or a list, told apart before they are checked, so that errors are of one."""
    return Annotated[Annotated[kind, Tag("one")] | Annotated[list[kind], Tag("many")], Discriminator(_kind_of_body)]


if TYPE_CHECKING:
    Predictions: TypeAlias = Any
    Labels: TypeAlias = Any
    Signals: TypeAlias = Any
else:
    Predictions, Labels, Signals = map(_one_or_many, map(edge, (Prediction, Label, Signal)))


class Accepted(BaseModel):
    """How many events Kafka has taken."""

    accepted: int


class Outgoing:
    """A producer that tells each sender when Kafka has its record. Safe for many requests at once."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._virtual = settings.clock == "virtual"
        self._producer = kafka.make_producer(settings, "api")
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._poll, name="outgoing", daemon=True)
        self._thread.start()

    async def send(self, topic: str, records: list[tuple[bytes, bytes, int]]) -> None:
        """Send (key, value, append time of a virtual clock) and wait until all are taken.

        Raises `WeirError` when Kafka does not take one: then send the same request again.
        """
        loop = asyncio.get_running_loop()
        name = topic_name(self._settings.namespace, topic)
        waiting = [self._one(loop, name, *record) for record in records]
        done = asyncio.gather(*waiting, return_exceptions=True)
        try:
            outcomes = await asyncio.wait_for(done, ANSWER_S)
        except TimeoutError:
            raise _not_taken(self._settings, f"no answer within {ANSWER_S:g} s") from None
        for outcome in outcomes:
            if isinstance(outcome, BaseException):
                raise outcome

    def close(self) -> None:
        """Send what is queued and stop."""
        self._producer.flush(2)
        self._stop.set()
        self._thread.join(5)

    def _one(
        self, loop: asyncio.AbstractEventLoop, topic: str, key: bytes, value: bytes, append_ms: int
    ) -> asyncio.Future[None]:
        future: asyncio.Future[None] = loop.create_future()

        def settle(error: KafkaError | None) -> None:
            if future.done():
                return
            if error is None:
                future.set_result(None)
            else:
                future.set_exception(_not_taken(self._settings, error.str()))

        def delivered(error: KafkaError | None, message: Message) -> None:
            loop.call_soon_threadsafe(settle, error)

        placed: dict[str, Any] = {"timestamp": append_ms} if self._virtual else {}
        try:
            self._producer.produce(topic, value=value, key=key, on_delivery=delivered, **placed)
        except BufferError:
            future.set_exception(_not_taken(self._settings, "the send queue is full"))
        except KafkaException as error:
            if error.args[0].code() == KafkaError.MSG_SIZE_TOO_LARGE:
                what = f"an event of {len(value):,} bytes; at most {kafka.MESSAGE_BYTES:,} fit"
                future.set_exception(Refused(413, what, "send features, not documents; leave out what is not used"))
            else:
                future.set_exception(_not_taken(self._settings, kafka.reason(error)))
        return future

    def _poll(self) -> None:
        while not self._stop.is_set():
            self._producer.poll(0.1)


def _not_taken(settings: Settings, why: str) -> WeirError:
    return WeirError(
        f"Kafka at {settings.kafka.bootstrap} did not take the event: {why}",
        fix="send it again (with the same event_id it counts once); see /v1/pipeline",
        code=ENVIRONMENT,
    )


def read_events(body: bytes, kind: type[Input]) -> list[tuple[Any, bytes]]:
    """Give each event of a body (one, or a list) with its own bytes. Raises `Refused` that names the field.

    >>> body = b'[{"request_id": "r", "at_ms": 1, "label": 1, "more": 2}]'
    >>> [raw for _, raw in read_events(body, Label)]
    [b'{"request_id": "r", "at_ms": 1, "label": 1, "more": 2}']
    """
    found: list[tuple[Any, bytes]] = []
    is_list = body.lstrip()[:1] == b"["
    raws = msgspec.json.decode(body, type=list[msgspec.Raw]) if is_list else [msgspec.Raw(body)]
    for index, raw in enumerate(raws):
        try:
            found.append((decode(bytes(raw), kind), bytes(raw)))
        except msgspec.DecodeError as error:
            at = f"body[{index}]" if is_list else "body"
            fields = [{"at": at, "what": str(error)}]
            raise Refused(
                422, f"{at} is not a {kind.__name__.lower()}: {error}", "see /openapi.json", fields=fields
            ) from None
    return found


def router(outgoing: Callable[[], Outgoing]) -> APIRouter:
    """Give the routes. `outgoing()` is the producer, once the app has started."""
    routes = APIRouter(tags=["events"])

    async def take(request: Request, topic: str, kind: type[Input]) -> Accepted:
        events = read_events(await request.body(), kind)
        if not 0 < len(events) <= MOST:
            raise Refused(413, f"{len(events)} events; expected 1 to {MOST}", "split the list")
        records = [(event.request_id.encode(), raw, event.at_ms) for event, raw in events]
        await outgoing().send(topic, records)
        return Accepted(accepted=len(records))

    @routes.post("/predictions", status_code=202)
    async def predictions(request: Request, body: Annotated[Predictions, Body()]) -> Accepted:
        """Take predictions: one, or a list."""
        return await take(request, "predictions", Prediction)

    @routes.post("/labels", status_code=202)
    async def labels(request: Request, body: Annotated[Labels, Body()]) -> Accepted:
        """Take labels: one, or a list. A label may come before its prediction."""
        return await take(request, "labels", Label)

    @routes.post("/signals", status_code=202)
    async def signals(request: Request, body: Annotated[Signals, Body()]) -> Accepted:
        """Take signals: one, or a list."""
        return await take(request, "signals", Signal)

    return routes
