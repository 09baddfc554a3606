"""The agent: a batch of records through the rows, into the table, out as events. Built on a running `app.App`.

Per batch: apply every record; store the rows that changed, commands included, and wait until the changelog has them;
send the commands and wait for Kafka; store the rows without them; acknowledge. Any error crashes the process, with
nothing acknowledged: its successor reads the batch again, and the offsets in the rows see to it that it counts once.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, MutableMapping
from typing import Any, cast

import msgspec
import structlog

from schemas.event import encode
from schemas.records import DeadLetter
from schemas.settings import Settings
from schemas.topics import topic_name
from streams.decide.app import App
from streams.decide.driver import BatchTopic, Consumer, Records
from streams.decide.reading import dead_letter, read
from streams.decide.rows import Effect, Rows

_log = structlog.get_logger()


class Changelogged(MutableMapping[bytes, bytes]):
    """A Faust table whose writes can be waited for.

    Faust sends changes to the changelog without telling whether they arrived, and to the partition of the event in
    progress; this table has one partition, whatever feeds it.
    """

    def __init__(self, table: Any) -> None:
        self._table = table
        self._writing: list[Any] = []

    def __getitem__(self, key: bytes) -> bytes:
        value: bytes = self._table.data[key]
        return value

    def __setitem__(self, key: bytes, value: bytes) -> None:
        self._writing.append(self._table.send_changelog(0, key, value))
        self._table.data[key] = value

    def __delitem__(self, key: bytes) -> None:
        raise TypeError("rows are never deleted: they say what has been applied")

    def __iter__(self) -> Iterator[bytes]:
        return iter(list(self._table.data))

    def __len__(self) -> int:
        return len(self._table.data)

    async def written(self) -> None:
        """Wait until Kafka has everything that was set. Raises what a write failed with."""
        writing, self._writing = self._writing, []
        await asyncio.gather(*writing)


class Decide:
    """Feeds batches to the rows and sends what they decide."""

    def __init__(self, app: App, table: Any) -> None:
        self.app, self.settings = app, app.settings
        self.table = Changelogged(table)
        self.rows = Rows(self.table)
        self._letters: list[DeadLetter] = []

    async def handle(self, batch: Records) -> None:
        """Take up a batch and do everything that follows from it."""
        progress = self.app.progress
        for record in batch.records:
            try:
                event = read(batch.topic, batch.partition, record.value)
            except (msgspec.DecodeError, UnicodeDecodeError) as error:
                progress.unreadable += 1
                if batch.topic != "control":  # the join makes the dead letter of a control record: it reads the same
                    self._bury(batch, record, error)
                continue
            if event is not None:
                self.rows.take(batch.topic, batch.partition, record.offset, event)
        progress.events += len(batch.records)
        progress.batches += 1
        await self._carry_out()

    async def resume(self) -> None:
        """Read the restored table, and send what a process before us had decided and not yet sent."""
        self.rows.forget()
        self.rows.load_all()
        await self._carry_out()

    async def _carry_out(self) -> None:
        self.rows.store()
        await self.table.written()
        for letter in self._letters:
            place = f"{letter.topic}/{letter.partition}/{letter.offset}"
            await self._send("dead-letters", place, encode(letter), letter.append_ms)
        self._letters.clear()
        effects = list(self.rows.unsent())
        for effect in effects:
            await self._carry(effect)
        if effects and self.rows.sent():
            await self.table.written()
        self.app.progress.effects += len(effects)

    async def _carry(self, effect: Effect) -> None:
        body = effect.body.encode()
        if effect.everywhere:
            copies = (self._send(effect.topic, None, body, effect.at_ms, n) for n in range(self.settings.partitions))
            await asyncio.gather(*copies)
        else:
            await self._send(effect.topic, effect.key, body, effect.at_ms)
        _log.info("sent", topic=effect.topic, key=effect.key)

    async def _send(self, topic: str, key: str | None, body: bytes, at_ms: int, partition: int | None = None) -> None:
        # Half a millisecond on top, because the driver multiplies by 1000 and cuts. Broker time needs none of it.
        stamp_s = (at_ms + 0.5) / 1000.0 if self.settings.clock == "virtual" else None
        name = topic_name(self.settings.namespace, topic)
        await self.app.producer.send_and_wait(
            name, None if key is None else key.encode(), body, partition, stamp_s, None
        )

    def _bury(self, batch: Records, record: Any, error: Exception) -> None:
        place = (batch.topic, batch.partition, record.offset, record.timestamp)
        _log.warning("unreadable", topic=batch.topic, partition=batch.partition, offset=record.offset, error=str(error))
        self._letters.append(dead_letter(*place, record.key, record.value, record.headers, error))


def build(settings: Settings) -> App:
    """Make the app with its table and agent; `await app.start()` runs it in the running loop.

    Raises `WeirError` for settings that it cannot follow.
    """
    app = App(settings)
    table = app.Table("decide-state", key_type=bytes, value_type=bytes, partitions=1)
    decide = Decide(app, table)

    async def take(stream: Any) -> None:
        # Not acknowledged by the stream: it would acknowledge a batch whose handling raised. `stream.noack()` will not
        # do: it gives a clone that does not, and leaves this one as it was.
        stream.enable_acks = False
        consumer = cast(Consumer, app.consumer)
        async for event in stream.events():
            async with app.busy:
                if event.value.epoch != consumer.epoch:
                    continue  # read again, or by another by now
                try:
                    await decide.handle(event.value)
                except Exception as error:
                    _log.exception("batch_failed", topic=event.value.topic)
                    await app.crash(error)
                    return
                await stream.ack(event)
                consumer.settle(event.message.tp)
            await consumer.commit()  # at once: who waits for a drained stage does not wait for a timer

    app.agent(BatchTopic(app, topics=list(app.inputs)), name=f"{settings.namespace}.decide")(take)

    @app.on_rebalance_complete.connect  # type: ignore[arg-type]
    async def restored(sender: Any, **kwargs: Any) -> None:
        active = app.is_active()
        if active:
            async with app.busy:
                await decide.resume()
        app.progress.ready = True
        _log.info("ready", active=active, models=decide.rows.models() if active else [])

    return app
