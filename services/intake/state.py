"""How far a query has been read, kept in our compacted topic `intake-state`, in the transaction of the events."""

from __future__ import annotations

import struct
import time
from base64 import b64decode, b64encode
from collections.abc import Callable, Iterable

import msgspec
from confluent_kafka import KafkaError, TopicPartition

from schemas.errors import ENVIRONMENT, WeirError
from schemas.event import Event, decode, encode
from schemas.settings import Settings
from schemas.topics import topic_name
from streams.runtime import kafka
from streams.runtime.processor import Output

TOPIC = "intake-state"
MOST_SEEN = 100_000
PATIENCE_S = 60.0


class Cursor(Event, frozen=True, kw_only=True, omit_defaults=True):
    """How far a query has been read. `number` counts states, `rows` the rows that were taken.

    `value` is the greatest cursor, written as text, and `kind` its type (`sql.py`). `seen` are the hashes (64 bits,
    base64) of rows near it, so that the overlap is not sent again each time. Forgetting some does no harm: their events
    bear the same `event_id`.
    """

    name: str
    number: int
    rows: int
    kind: str = ""
    value: str = ""
    seen: str = ""


def packed(hashes: Iterable[int]) -> str:
    """Write the latest hashes.

    >>> unpacked(packed([1, 2**64 - 1])) == [1, 2**64 - 1]
    True
    """
    latest = list(hashes)[-MOST_SEEN:]
    return b64encode(struct.pack(f"<{len(latest)}Q", *latest)).decode("ascii")


def unpacked(text: str) -> list[int]:
    """Read them."""
    body = b64decode(text)
    return list(struct.unpack(f"<{len(body) // 8}Q", body))


def output(state: Cursor, now_ms: int) -> Output:
    """Give the record that keeps a state."""
    return Output(TOPIC, state.name.encode(), encode(state), partition=0, append_ms=now_ms)


def read_state(settings: Settings, name: str, number: int, alive: Callable[[], object]) -> Cursor | None:
    """Give a mapping's state: the newest there is, which is at least `number` (that of the last commit, 0: unknown).

    Transactions that are still being finished are waited for. Raises `WeirError` when the state that was committed is
    not there.
    """
    place = (topic_name(settings.namespace, TOPIC), 0)
    admin = kafka.make_admin(settings, "intake-state")
    first, end = kafka.earliest(admin, [place])[place], kafka.ends(admin, [place])[place][1]
    found: Cursor | None = None
    position, deadline = first, time.monotonic() + PATIENCE_S
    reader = kafka.make_reader(settings, "intake-state")
    try:
        reader.assign([TopicPartition(*place, first)])
        while position < end:
            alive()
            for message in reader.consume(1_000, 0.2):
                error = message.error()
                if error is None:
                    position = (message.offset() or 0) + 1
                    if message.key() == name.encode() and message.value():
                        found = _read(message.value() or b"", name)
                elif error.code() == KafkaError._PARTITION_EOF:
                    position = max(position, message.offset() or 0)
            if time.monotonic() > deadline:
                raise WeirError(
                    f"{place[0]} cannot be read to its end ({position} of {end}) within {PATIENCE_S:g} s: a "
                    "transaction is open there",
                    fix="see that no other process writes there, and start this again",
                    code=ENVIRONMENT,
                )
    finally:
        reader.close()
    if number and (found is None or found.number < number):
        raise WeirError(
            f"state {number} of mapping {name!r} was committed, and {place[0]} has "
            f"{f'only {found.number}' if found else 'none'}: records of it were deleted",
            fix="give the mapping another name to read its query from the beginning: what was sent before bears the "
            "same event_id and counts once, as long as the join remembers it",
            code=ENVIRONMENT,
        )
    return found


def _read(value: bytes, name: str) -> Cursor:
    try:
        state = decode(value, Cursor)
    except msgspec.MsgspecError as error:
        raise WeirError(
            f"the state of mapping {name!r} in {TOPIC} cannot be read: {error}",
            fix="a newer version of Weir may have written it: run that one",
            code=ENVIRONMENT,
        ) from None
    if state.v != 1:
        raise WeirError(
            f"the state of mapping {name!r} has version {state.v}; this Weir reads version 1",
            fix="run the newer version of Weir that wrote it",
            code=ENVIRONMENT,
        )
    return state
