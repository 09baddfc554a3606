"""One row per model: its state, what of each input it has applied, and what it has decided but not yet sent.

**Redelivery.** A row holds for every input partition the next offset to apply. An event below that was applied before
and changes nothing, however often it comes.

**Decide, then send.** A row is stored with its commands in `unsent` before any of them leaves, and again without them
when Kafka has acknowledged them. So a process that dies between the two sends the very same commands once more; it
never decides again from the same events, perhaps in another order beside other topics and with another result.
Commands therefore leave at least once, with the ids they were decided with.

The row named `NAMESPACE` holds what concerns every model (the virtual clock, freezes), for models yet to come, and
tells of freezes: they are everybody's, so they are one alert.
"""

from __future__ import annotations

from collections.abc import Iterator, MutableMapping

import msgspec
from msgspec import Struct, field

from schemas.control import AllocationSet, ClockAdvanced, DecidePolicySet, Frozen, Thawed
from schemas.event import encode
from schemas.lifecycle import Alert, Promote, Retrain
from streams.decide.reduce import Received, now_of, reduce
from streams.decide.state import NAMESPACE, ModelState, empty
from streams.decide.turn import Command

_FORMAT = 1


class Effect(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A command as it goes to Kafka: its logical topic, key and JSON. `everywhere`: a copy into every partition."""

    topic: str
    key: str = ""
    body: str
    at_ms: int
    everywhere: bool = False


class Row(Struct, kw_only=True):
    """What the table keeps of a model. `offsets` maps `topic/partition` (logical names) to the next offset."""

    v: int = _FORMAT
    state: ModelState
    offsets: dict[str, int] = field(default_factory=dict)
    unsent: list[Effect] = field(default_factory=list)


def effect_of(command: Command) -> Effect:
    """Say where a command goes."""
    body = encode(command).decode()
    if isinstance(command, Retrain):
        return Effect(topic="retrain", key=command.model, body=body, at_ms=command.at_ms)
    if isinstance(command, Promote):
        return Effect(topic="promote", key=command.endpoint, body=body, at_ms=command.at_ms)
    if isinstance(command, Alert):
        return Effect(topic="alerts", key=command.fingerprint, body=body, at_ms=command.at_ms)
    assert isinstance(command, AllocationSet)
    return Effect(topic="control", body=body, at_ms=command.at_ms, everywhere=True)


class Rows:
    """The rows over a table of bytes. `table` is a dictionary in tests and Faust's table in production.

    `take` events; then `store`, send what `unsent` gives, and call `sent`. Not thread-safe.
    """

    def __init__(self, table: MutableMapping[bytes, bytes]) -> None:
        self._table = table
        self._rows: dict[str, Row] = {}
        self._changed: set[str] = set()

    def take(self, topic: str, partition: int, offset: int, event: Received) -> None:
        """Apply an event to the rows that it concerns, unless they have applied it before."""
        place = f"{topic}/{partition}"
        if isinstance(event, (ClockAdvanced, Frozen, Thawed)):
            for model in (NAMESPACE, *self.models()):
                self._apply(model, place, offset, event)
        else:
            model = event.policy.model if isinstance(event, DecidePolicySet) else event.model
            self._apply(model, place, offset, event)

    def _apply(self, model: str, place: str, offset: int, event: Received) -> None:
        row = self.row(model)
        if offset < row.offsets.get(place, 0):
            return
        row.offsets[place] = offset + 1
        row.state, commands = reduce(row.state, event, now_of(row.state.clock_ms, event))
        row.unsent += [effect_of(one) for one in commands if model != NAMESPACE or isinstance(one, Alert)]
        self._changed.add(model)

    def models(self) -> list[str]:
        """Name the models that have a row."""
        stored = {key.decode() for key in list(self._table)}
        return sorted((stored | set(self._rows)) - {NAMESPACE})

    def row(self, model: str) -> Row:
        """Give a model's row; a new one begins with what is known of the namespace. Raises on an unknown format."""
        known = self._rows.get(model)
        if known is not None:
            return known
        body = self._table.get(model.encode())
        if body is not None:
            row = load(body)
        else:
            row = Row(state=empty(model))
            if model != NAMESPACE:
                common = self.row(NAMESPACE).state
                row.state = msgspec.structs.replace(row.state, clock_ms=common.clock_ms, frozen=common.frozen)
        self._rows[model] = row
        return row

    def store(self) -> bool:
        """Write the rows that changed into the table. False: none did."""
        if not self._changed:
            return False
        for model in sorted(self._changed):
            self._table[model.encode()] = msgspec.json.encode(self._rows[model])
        self._changed.clear()
        return True

    def unsent(self) -> Iterator[Effect]:
        """Give what is decided and not yet sent, in order within each model."""
        for _, row in sorted(self._rows.items()):
            yield from row.unsent

    def sent(self) -> bool:
        """Strike out what `unsent` gave, and store that. False: there was nothing."""
        for model, row in self._rows.items():
            if row.unsent:
                row.unsent = []
                self._changed.add(model)
        return self.store()

    def forget(self) -> None:
        """Drop what was read of the table: somebody else may have written it since."""
        self._rows.clear()
        self._changed.clear()

    def load_all(self) -> None:
        """Read every row of the table, so that `unsent` tells of all of them."""
        for model in (NAMESPACE, *self.models()):
            self.row(model)


def load(body: bytes) -> Row:
    """Read a row. Raises `ValueError` for a format it does not know."""
    row = msgspec.json.decode(body, type=Row)
    if row.v != _FORMAT:
        raise ValueError(f"expected a row of format {_FORMAT}, got {row.v}: was it written by a newer version?")
    return row
