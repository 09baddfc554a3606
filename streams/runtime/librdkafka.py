"""Batches of records in and out of librdkafka without a Python object for each.

confluent-kafka makes an object per record read and takes one call per record written: 1.3–2.4 µs each. Here its own
handles are borrowed, and whole batches cross: consuming through a queue of our own that the assigned partitions are
forwarded to (librdkafka's documented way to read partitions apart), producing through `rd_kafka_produce_batch`. Group
membership, errors, transactions and commits stay with confluent-kafka.

A handle is the first word behind the head of confluent-kafka's objects. That is no documented interface, so it is used
only where `available()` has found it as expected; otherwise the loop reads and writes record by record.
"""

from __future__ import annotations

import ctypes
import itertools
import sys
import weakref
from collections.abc import Iterator, Sequence
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
from confluent_kafka import Consumer, KafkaError, KafkaException, Producer
from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from streams.runtime.compiled import compiled
from streams.runtime.native import Words, address, copy, i64, put64
from streams.runtime.records import Packed

_KNOWN = ("2.16.",)
"""Versions of confluent-kafka whose objects were seen to begin with the handle."""

MESSAGE_BYTES = 72
_PAGE_BITS = 12
_F_COPY = 2
_QUEUE_FULL = -184

Header = tuple[str, bytes | None]


@cache
def _library() -> Any:
    """Open the librdkafka that confluent-kafka has loaded; None when it cannot be found."""
    if not sys.platform.startswith("linux") or not metadata.version("confluent-kafka").startswith(_KNOWN):
        return None
    try:
        maps = Path("/proc/self/maps").read_text().splitlines()
    except OSError:
        return None
    paths = {line.split(maxsplit=5)[5] for line in maps if "librdkafka" in line}
    if len(paths) != 1:
        return None
    library = ctypes.CDLL(paths.pop())
    pointer, number = ctypes.c_void_p, ctypes.c_int
    for name, result, arguments in (
        ("rd_kafka_name", ctypes.c_char_p, [pointer]),
        ("rd_kafka_queue_new", pointer, [pointer]),
        ("rd_kafka_queue_destroy", None, [pointer]),
        ("rd_kafka_queue_get_partition", pointer, [pointer, ctypes.c_char_p, ctypes.c_int32]),
        ("rd_kafka_queue_forward", None, [pointer, pointer]),
        ("rd_kafka_consume_batch_queue", ctypes.c_ssize_t, [pointer, number, pointer, ctypes.c_size_t]),
        ("rd_kafka_message_timestamp", ctypes.c_int64, [pointer, pointer]),
        ("rd_kafka_message_headers", number, [pointer, pointer]),
        ("rd_kafka_header_get_all", number, [pointer, ctypes.c_size_t, pointer, pointer, pointer]),
        ("rd_kafka_message_destroy", None, [pointer]),
        ("rd_kafka_topic_name", ctypes.c_char_p, [pointer]),
        ("rd_kafka_topic_new", pointer, [pointer, ctypes.c_char_p, pointer]),
        ("rd_kafka_topic_destroy", None, [pointer]),
        ("rd_kafka_produce_batch", number, [pointer, ctypes.c_int32, number, pointer, number]),
        ("rd_kafka_err2str", ctypes.c_char_p, [number]),
    ):
        function = getattr(library, name)
        function.restype, function.argtypes = result, arguments
    return library


def _handle(client: Any) -> int:
    """Give the `rd_kafka_t *` of a confluent-kafka client."""
    word = ctypes.c_void_p.from_address(id(client) + object.__basicsize__).value
    return word or 0


def usable(client: Consumer | Producer) -> bool:
    """Whether batches can be used with a client."""
    library = _library()
    if library is None:
        return False
    handle = _handle(client)
    return bool(handle) and handle % 8 == 0 and b"#" in (library.rd_kafka_name(handle) or b"")


def _function(name: str) -> int:
    return ctypes.cast(getattr(_library(), name), ctypes.c_void_p).value or 0


def _call(result: Any, ir_result: Any) -> Any:
    """Make an intrinsic that calls a C function by its address with two pointers (the second may be left unused)."""

    def typer(typingctx: Any, function: Any, one: Any, other: Any) -> Any:
        def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            word = ir.IntType(64)
            kind = ir.FunctionType(ir_result, [word, word])
            value = builder.call(builder.inttoptr(args[0], kind.as_pointer()), [args[1], args[2]])
            return context.get_dummy_value() if result is types.void else value

        return result(types.int64, types.int64, types.int64), codegen

    return intrinsic(typer)


_call_i64: Any = _call(types.int64, ir.IntType(64))
_call_i32: Any = _call(types.int32, ir.IntType(32))
_call_void: Any = _call(types.void, ir.VoidType())

# Words of a row that `_describe` writes.
MESSAGE, ERROR, TOPIC, PARTITION, VALUE, VALUE_SIZE, KEY, KEY_SIZE, OFFSET, APPEND_MS, HEADERS = range(11)
ROW = 11


@compiled
def _describe(messages: int, count: int, rows: int, scratch: int, timestamp: int, headers: int) -> None:
    """Read `rd_kafka_message_t`s into rows of words."""
    for k in range(count):
        message = i64(messages + k * 8)
        row = rows + k * (ROW * 8)
        put64(row, message)
        error = i64(message) & 0xFFFFFFFF
        put64(row + ERROR * 8, error if error < 0x80000000 else error - 0x100000000)
        put64(row + TOPIC * 8, i64(message + 8))
        put64(row + PARTITION * 8, i64(message + 16) & 0xFFFFFFFF)
        value = i64(message + 24)
        put64(row + VALUE * 8, value)
        put64(row + VALUE_SIZE * 8, i64(message + 32) if value else -1)
        key = i64(message + 40)
        put64(row + KEY * 8, key)
        put64(row + KEY_SIZE * 8, i64(message + 48) if key else -1)
        put64(row + OFFSET * 8, i64(message + 56))
        put64(row + APPEND_MS * 8, _call_i64(timestamp, message, scratch))
        put64(row + HEADERS * 8, 1 if _call_i32(headers, message, scratch) == 0 else 0)


@compiled
def _at_the_edge(value: int, size: int) -> bool:
    """Whether the eight bytes behind a value reach into another page, which need not be there."""
    return size > 0 and (value + size - 1) >> _PAGE_BITS != (value + size + 7) >> _PAGE_BITS


@compiled
def _bytes_of(rows: int, count: int) -> int:
    """Give how many bytes of values have to be copied."""
    total = 0
    for k in range(count):
        row = rows + k * (ROW * 8)
        size = i64(row + VALUE_SIZE * 8)
        if _at_the_edge(i64(row + VALUE * 8), size):
            total += size
    return total


@compiled
def _carry(rows: int, count: int, body: int, table: int) -> None:
    """Write the words of `streams.runtime.records.Packed` at `table`; values that must be copied go into `body`."""
    to = body
    for k in range(count):
        row = rows + k * (ROW * 8)
        entry = table + k * 56
        value = i64(row + VALUE * 8)
        size = i64(row + VALUE_SIZE * 8)
        if _at_the_edge(value, size):
            copy(to, value, size)
            value = to
            to += size
        put64(entry, value)
        put64(entry + 8, size)
        put64(entry + 16, i64(row + KEY * 8))
        put64(entry + 24, i64(row + KEY_SIZE * 8))
        put64(entry + 32, i64(row + OFFSET * 8))
        put64(entry + 40, i64(row + APPEND_MS * 8))
        put64(entry + 48, i64(row + HEADERS * 8))


@compiled
def _destroy(messages: int, count: int, function: int) -> None:
    for k in range(count):
        _call_void(function, i64(messages + k * 8), 0)


class _Messages:
    """Messages that librdkafka has lent: given back when nobody refers to this any more, or by `give_back`."""

    __slots__ = ("__weakref__", "_addresses", "_done")

    def __init__(self, addresses: Words, done: int) -> None:
        self._addresses, self._done = addresses, done

    def give_back(self) -> None:
        """Let go. What points into them points nowhere from now on."""
        addresses, self._addresses = self._addresses, self._addresses[:0]
        _destroy(address(addresses), len(addresses), self._done)

    __del__ = give_back


class Fetched:
    """Records of one partition in offset order, or what came in their place (`error`, at `offset`)."""

    __slots__ = ("error", "offset", "packed", "partition", "topic")

    def __init__(self, topic: str, partition: int, packed: Packed, offset: int, error: KafkaError | None) -> None:
        self.topic, self.partition, self.packed, self.offset, self.error = topic, partition, packed, offset, error


class Fetches:
    """Takes what a consumer has fetched, in batches. `forward` partitions before they are assigned.

    From then on their records, ends and errors come here and no longer through the consumer's `poll` and `consume`,
    which go on serving the group. Close it before the consumer: then nothing that was taken may be read any more.

    Records stay where librdkafka has them until nobody needs them; only a value that ends at the edge of a page is
    copied.
    """

    def __init__(self, consumer: Consumer, most: int) -> None:
        self._library = _library()
        self._handle = _handle(consumer)
        self._queue = self._library.rd_kafka_queue_new(self._handle)
        self._messages: Words = np.zeros(most, dtype=np.int64)
        self._rows: Words = np.zeros((most, ROW), dtype=np.int64)
        self._scratch: Words = np.zeros(4, dtype=np.int64)
        self._names: dict[int, str] = {}
        self._lent: weakref.WeakSet[_Messages] = weakref.WeakSet()
        self._timestamp = _function("rd_kafka_message_timestamp")
        self._headers = _function("rd_kafka_message_headers")
        self._done = _function("rd_kafka_message_destroy")

    def forward(self, places: Sequence[tuple[str, int]]) -> None:
        """Let partitions come here. Asking twice does no harm."""
        for topic, partition in places:
            queue = self._library.rd_kafka_queue_get_partition(self._handle, topic.encode(), partition)
            self._library.rd_kafka_queue_forward(queue, self._queue)
            self._library.rd_kafka_queue_destroy(queue)

    def take(self, limit: int, timeout_s: float) -> list[Fetched]:
        """Wait until `limit` records are there or the time is over, and take them."""
        limit = min(limit, len(self._messages))
        count = self._library.rd_kafka_consume_batch_queue(
            self._queue, int(timeout_s * 1000), address(self._messages), limit
        )
        if count <= 0:
            return []
        lent = _Messages(self._messages[:count].copy(), self._done)
        self._lent.add(lent)
        rows = self._rows[:count]
        _describe(address(self._messages), count, address(rows), address(self._scratch), self._timestamp, self._headers)
        return [self._fetched(rows[start:end], lent) for start, end in _runs(rows)]

    def close(self) -> None:
        """Let go."""
        for lent in list(self._lent):
            lent.give_back()
        if self._queue:
            self._library.rd_kafka_queue_destroy(self._queue)
            self._queue = 0

    def _fetched(self, rows: Words, lent: _Messages) -> Fetched:
        first = rows[0]
        topic = self._names.get(int(first[TOPIC]))
        if topic is None:
            name = self._library.rd_kafka_topic_name(int(first[TOPIC])) if first[TOPIC] else b""
            topic = self._names[int(first[TOPIC])] = name.decode()
        partition, offset = int(first[PARTITION]), int(first[OFFSET])
        if first[ERROR]:
            detail = ctypes.string_at(int(first[VALUE]), int(first[VALUE_SIZE])).decode() if first[VALUE] else None
            error = KafkaError(int(first[ERROR]), detail) if detail else KafkaError(int(first[ERROR]))
            return Fetched(topic, partition, Packed(np.zeros((0, 7), dtype=np.int64), []), offset, error)
        count = len(rows)
        body = np.empty(_bytes_of(address(rows), count) + 8, dtype=np.uint8)
        table: Words = np.empty((count, 7), dtype=np.int64)
        _carry(address(rows), count, address(body), address(table))
        headers = {index: tuple(self._read(int(rows[index, MESSAGE]))) for index in np.flatnonzero(rows[:, HEADERS])}
        packed = Packed(table, [lent, body], {int(k): v for k, v in headers.items()})
        return Fetched(topic, partition, packed, offset, None)

    def _read(self, message: int) -> Iterator[Header]:
        """Read a message's headers."""
        found = ctypes.c_void_p()
        self._library.rd_kafka_message_headers(message, ctypes.byref(found))
        name, value, size = ctypes.c_char_p(), ctypes.c_void_p(), ctypes.c_size_t()
        index = 0
        while not self._library.rd_kafka_header_get_all(
            found, index, ctypes.byref(name), ctypes.byref(value), ctypes.byref(size)
        ):
            body = None if value.value is None else ctypes.string_at(value.value, size.value)
            yield (name.value or b"").decode(), body
            index += 1


def _runs(rows: Words) -> Iterator[tuple[int, int]]:
    """Give the stretches of one partition; an error stands alone."""
    key = rows[:, [TOPIC, PARTITION]]
    new = (key[1:] != key[:-1]).any(axis=1) | (rows[1:, ERROR] != 0) | (rows[:-1, ERROR] != 0)
    edges = [0, *(np.flatnonzero(new) + 1).tolist(), len(rows)]
    yield from itertools.pairwise(edges)


class Sends:
    """Gives a producer blocks of records with explicit partitions. Close it before the producer."""

    def __init__(self, producer: Producer) -> None:
        self._library = _library()
        self._handle = _handle(producer)
        self._topics: dict[str, int] = {}

    def close(self) -> None:
        """Let go."""
        for topic in self._topics.values():
            self._library.rd_kafka_topic_destroy(topic)
        self._topics.clear()

    def messages(self, body: int, spans: Words) -> Words:
        """Make `rd_kafka_message_t`s of `Block.spans` (addresses relative to `body`)."""
        messages: Words = np.zeros((len(spans), MESSAGE_BYTES // 8), dtype=np.int64)
        messages[:, 3], messages[:, 4] = spans[:, 2] + body, spans[:, 3]
        messages[:, 5], messages[:, 6] = spans[:, 0] + body, spans[:, 1]
        return messages

    def send(self, topic: str, partition: int, messages: Words) -> int:
        """Queue messages; gives how many were taken, not always the first ones: the others had no room.

        Raises `KafkaException` for any other refusal.
        """
        handle = self._topics.get(topic)
        if handle is None:
            handle = self._topics[topic] = self._library.rd_kafka_topic_new(self._handle, topic.encode(), None)
        count = len(messages)
        sent = int(self._library.rd_kafka_produce_batch(handle, partition, _F_COPY, address(messages), count))
        if sent < count:
            for code in set(messages[:, 0].astype(np.int32).tolist()) - {0, _QUEUE_FULL}:
                raise KafkaException(KafkaError(code))
        return sent


def warm() -> None:
    """Compile what is compiled here."""
    rows: Words = np.zeros((1, ROW), dtype=np.int64)
    at = address(rows)
    _describe(at, 0, at, at, 0, 0)
    _bytes_of(at, 0)
    _carry(at, 0, at, at)
    _destroy(at, 0, 0)
