"""The log that all read: predictions, most of them labelled some time later, made from a seed.

Times follow a schedule: predictions at even distances over `span_ms`, labels after an exponential delay of
`timeout_ms` / 6 on average and at most three quarters of it, some before their prediction, some twice. Behind the last
event come ticks, which carry event time past every timeout. What is true of each prediction follows from the arrays,
so nothing that a peer does can change it.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import msgspec
import numpy as np
from numpy.typing import NDArray

from streams.join.partition import partition_of

LABELLED, EARLY, TWICE, POSITIVE = 0.707, 0.03, 0.01, 0.3
EARLY_MS = 5_000
TICK_MS = 5_000
MODEL, VERSION, DEPLOYMENT = "fraud", "14.2", "eu-west"
FEATURES = (
    *("age", "amount", "balance", "clicks", "distance", "hour"),
    *("income", "items", "logins", "ratio", "tenure", "velocity"),
)
CHUNK = 20_000

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Halves = NDArray[np.uint64]

_encode = msgspec.json.encode  # prints these numbers as Python does, faster

_PREDICTION = (
    b'{"request_id":"%b","at_ms":%d,"model":"fraud","version":"14.2","deployment":"eu-west","score":%b,'
    b'"subject":"%b","slices":{"country":"%b"},"features":%b}'
)
_LABEL = b'{"request_id":"%b","at_ms":%d,"label":%d,"source":"desk"}'
_TICKS = (
    '{"request_id":"%s","at_ms":%d,"model":"tick","score":0.5}',
    '{"request_id":"%s","at_ms":%d,"label":0,"source":"tick"}',
)
COUNTRIES = (b"de", b"fr", b"it", b"es", b"pl", b"se")


@dataclass(frozen=True, slots=True)
class Record:
    """One record to produce. `partition` -1: by the key's murmur2. `at_ms` becomes its Kafka timestamp."""

    is_label: bool
    at_ms: int
    key: bytes
    value: bytes
    partition: int = -1


@dataclass(frozen=True)
class History:
    """`n` predictions from `start_ms` on; `labelled` is the share that gets a label, `tail_ms` how long ticks go on."""

    n: int
    start_ms: int
    span_ms: int
    timeout_ms: int
    tail_ms: int = 0
    seed: int = 0
    labelled: float = LABELLED

    @cached_property
    def ids(self) -> Halves:
        """The request ids: [n, 2] halves of a version 4 UUID."""
        number = (np.arange(self.n, dtype=np.uint64) + np.uint64(self.seed << 40)) * np.uint64(2)
        first = (_mixed(number) & np.uint64(0xFFFF_FFFF_FFFF_0FFF)) | np.uint64(0x4000)
        second = (_mixed(number + np.uint64(1)) & np.uint64(0x3FFF_FFFF_FFFF_FFFF)) | np.uint64(1 << 63)
        return np.column_stack((first, second))

    @cached_property
    def at_ms(self) -> Ints:
        """When each prediction was made."""
        return self.start_ms + np.arange(self.n, dtype=np.int64) * self.span_ms // max(self.n, 1)

    @cached_property
    def label(self) -> NDArray[np.int8]:
        """The label that comes: 0 or 1, or -1 for none."""
        draw = np.random.default_rng([self.seed, 1])
        given = (draw.random(self.n) < POSITIVE).astype(np.int8)
        given[draw.random(self.n) >= self.labelled] = -1
        return given

    @cached_property
    def labelled_at_ms(self) -> Ints:
        """When the label was made; meaningless where none comes."""
        draw = np.random.default_rng([self.seed, 2])
        late = 1 + np.minimum(draw.exponential(self.timeout_ms / 6, self.n), 0.75 * self.timeout_ms)
        early = -draw.random(self.n) * min(EARLY_MS, self.timeout_ms / 4)
        return self.at_ms + np.where(draw.random(self.n) < EARLY, early, late).astype(np.int64)

    @cached_property
    def scores(self) -> Floats:
        """Numbers with 16 or 17 digits, mostly."""
        return np.random.default_rng([self.seed, 3]).random(self.n)

    def features(self, first: int, last: int) -> Floats:
        """Give the features of a range of predictions: [last - first, 13], four decimals each."""
        blocks = []
        for block in range(first // CHUNK, (last - 1) // CHUNK + 1):
            draw = np.random.default_rng([self.seed, 4, block])
            rows = np.round(draw.normal(40.0, 25.0, (CHUNK, len(FEATURES))), 4)
            blocks.append(rows[max(first - block * CHUNK, 0) : last - block * CHUNK])
        return np.concatenate(blocks)

    @cached_property
    def order(self) -> tuple[Ints, NDArray[np.bool_], Ints]:
        """Every event in the order of time: time, whether it is a label, index of its prediction."""
        draw = np.random.default_rng([self.seed, 5])
        has = np.flatnonzero(self.label >= 0)
        again = has[draw.random(len(has)) < TWICE]
        again_ms = self.labelled_at_ms[again] + (draw.random(len(again)) * self.timeout_ms / 4).astype(np.int64)
        at_ms = np.concatenate((self.at_ms, self.labelled_at_ms[has], again_ms))
        index = np.concatenate((np.arange(self.n, dtype=np.int64), has, again))
        is_label = np.arange(len(at_ms)) >= self.n
        by_time = np.argsort(at_ms, kind="stable")
        return at_ms[by_time], is_label[by_time], index[by_time]

    def _part(self, begin: int) -> tuple[Ints, NDArray[np.bool_], Ints]:
        at_ms, is_label, index = self.order
        return at_ms[begin : begin + CHUNK], is_label[begin : begin + CHUNK], index[begin : begin + CHUNK]

    @property
    def events(self) -> int:
        """How many predictions and labels there are, ticks not counted."""
        return len(self.order[0])

    @property
    def first_ms(self) -> int:
        """The time of the first event, which may be a label."""
        return int(self.order[0][0])

    @property
    def last_ms(self) -> int:
        """The time of the last event, ticks not counted."""
        return int(self.order[0][-1])

    def predictions(self, first: int, last: int) -> list[bytes]:
        """Render a range of predictions."""
        columns = zip(
            self.keys(np.arange(first, last)),
            self.at_ms[first:last].tolist(),
            self.scores[first:last].tolist(),
            range(first, last),
            self.features(first, last).tolist(),
            strict=True,
        )
        return [
            _PREDICTION
            % (key, at_ms, _encode(score), subject(i), country(i), _encode(dict(zip(FEATURES, row, strict=True))))
            for key, at_ms, score, i, row in columns
        ]

    def labels(self, indices: Ints) -> list[bytes]:
        """Render the labels of some predictions."""
        at_ms, given = self.labelled_at_ms[indices].tolist(), self.label[indices].tolist()
        return [_LABEL % row for row in zip(self.keys(indices), at_ms, given, strict=True)]

    def keys(self, indices: Ints) -> list[bytes]:
        """Give the request ids of some predictions."""
        digits = self.ids[indices].astype(">u8").tobytes().hex().encode()
        return [
            b"%b-%b-%b-%b-%b"
            % (
                digits[i : i + 8],
                digits[i + 8 : i + 12],
                digits[i + 12 : i + 16],
                digits[i + 16 : i + 20],
                digits[i + 20 : i + 32],
            )
            for i in range(0, len(digits), 32)
        ]

    def records(self) -> Iterator[Record]:
        """Yield every event in the order of time."""
        done = 0
        for begin in range(0, self.events, CHUNK):
            at_ms, is_label, index = self._part(begin)
            count = int(np.count_nonzero(~is_label))
            predictions = iter(self.predictions(done, done + count) if count else ())
            labels = iter(self.labels(index[is_label]))
            done += count  # predictions are in the order of their indices, so each part holds a range of them
            for when_ms, label, key in zip(at_ms.tolist(), is_label.tolist(), self.keys(index), strict=True):
                yield Record(label, when_ms, key, next(labels if label else predictions))

    def ticks(self, partitions: int) -> Iterator[Record]:
        """Yield what carries event time past every timeout, for `tail_ms` behind the last event."""
        for at_ms in range(self.last_ms + TICK_MS, self.last_ms + self.tail_ms + 1, TICK_MS):
            yield from ticks(at_ms, partitions)


def subject(index: int) -> bytes:
    """Give the subject of a prediction."""
    return b"u%07d" % (index % 50_000)


def country(index: int) -> bytes:
    """Give the slice of a prediction."""
    return COUNTRIES[index % len(COUNTRIES)]


def ticks(at_ms: int, partitions: int) -> Iterator[Record]:
    """Yield a prediction and a label without meaning for every partition.

    >>> [(record.is_label, record.partition) for record in ticks(7, 2)]
    [(False, 0), (True, 0), (False, 1), (True, 1)]
    """
    missing, number = set(range(partitions)), 0
    found: dict[int, str] = {}
    while missing:
        request = f"tick-{at_ms}-{number}"
        place = partition_of(request.encode(), partitions)
        if place in missing:
            missing.discard(place)
            found[place] = request
        number += 1
    for place in range(partitions):
        for is_label, text in enumerate(_TICKS):
            key = found[place].encode()
            yield Record(bool(is_label), at_ms, key, (text % (found[place], at_ms)).encode(), place)


def _mixed(number: Halves) -> Halves:
    """Mix the bits of each number (splitmix64): different numbers give different ones."""
    z = number * np.uint64(0x9E37_79B9_7F4A_7C15) + np.uint64(0x9E37_79B9_7F4A_7C15)
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58_476D_1CE4_E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D0_49BB_1331_11EB)
    return z ^ (z >> np.uint64(31))
