"""The log in Arrow envelopes: the same events in the same order, `SIZE` of a partition in one record.

An envelope has the time of its last event. What a client's library would do when an envelope is full or old enough is
done here when it is full, and at the end.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from benchmarks.join.history import Record
from schemas.envelope import ARROW, CONTENT_TYPE
from streams.join.partition import partition_of
from streams.runtime.enclose import enclose

SIZE = 2_000
HEADERS: list[tuple[str, str | bytes | None]] = [(CONTENT_TYPE, ARROW)]

Counts = dict[tuple[bool, int], list[int]]
"""(is label, partition) → how many events lie below each offset."""


def enclosed(records: Iterable[Record], partitions: int, counts: Counts, size: int = SIZE) -> Iterator[Record]:
    """Give records as envelopes, in the order in which these are full; note in `counts` where events lie."""
    held: dict[tuple[bool, int], list[Record]] = {}
    for record in records:
        place = record.is_label, partition_of(record.key, partitions)
        some = held.setdefault(place, [])
        some.append(record)
        if len(some) == size:
            yield _closed(place, some, counts)
            held[place] = []
    for place, some in held.items():
        if some:
            yield _closed(place, some, counts)


def _closed(place: tuple[bool, int], some: list[Record], counts: Counts) -> Record:
    below = counts.setdefault(place, [0])
    below.append(below[-1] + len(some))
    return Record(place[0], some[-1].at_ms, b"", enclose([one.value for one in some]), place[1])


def read_below(counts: Counts, place: tuple[bool, int], offset: int) -> int:
    """Give how many events lie below an offset; behind the envelopes come single records.

    >>> read_below({(True, 0): [0, 2_000, 2_100]}, (True, 0), 1)
    2000
    """
    below = counts.get(place, [0])
    return below[min(offset, len(below) - 1)] + max(0, offset - len(below) + 1)
