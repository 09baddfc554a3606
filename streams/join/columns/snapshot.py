"""The columns as parts: one for what is small, one for each segment of the arena that has been written.

Table and wheel are not kept: they follow from the records, and entering five million takes a few seconds. The order in
which records lie, and which segments are free, is kept exactly, because positions decide the order of what is due at
one moment; so steps taken again after a load give the same bytes.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from schemas.event import decode, encode
from schemas.policy import JoinPolicy
from streams.join.columns import layout as l
from streams.join.columns.lane import Columns
from streams.join.columns.wheel import NEVER
from streams.join.columns.whole import rebuild
from streams.join.policies import PolicyBook
from streams.runtime.native import huge
from streams.runtime.processor import Body

SMALL = "columns"
_SEGMENT = "arena/"
_FORMAT = 2
"""Format 1 had one life and no stubs."""
_BYTES = l.SEGMENT_WORDS * 8
_REBUILT = (l.DEPTH, l.TABLES_USED, l.LINKED)
_KEPT = [k for k in l.STATE if k not in _REBUILT]
_SINCE_2 = (*range(l.FILL_1, l.FILL_3_END + 1), l.STUBS)


class _Small(msgspec.Struct, array_like=True):
    """`registers` are those of `layout.STATE` that are kept; `texts` all texts, `ends` where each ends; `policies` in
    the order of their numbers; `whos` (text, model, identity + 1) of the texts that name who answered.
    """

    format: int
    partition: int
    chained: bool
    registers: list[int]
    counters: list[int]
    texts: bytes
    ends: list[int]
    whos: list[tuple[int, int, int]]
    policies: list[bytes]
    live: list[int]
    free: list[int]


_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(_Small)


def dump(columns: Columns, *, whole: bool) -> dict[str, Body | None]:
    """Copy what changed since the last dump (all, when `whole`)."""
    area, r = columns.memory.area, columns.memory.registers
    used = int(r[l.SEGMENTS])
    dirty = area[l.DIRTY].view(np.uint8)[:used]
    free = area[l.FREE][: int(r[l.FREED])].tolist()
    gone = set(free)
    parts: dict[str, Body | None] = {SMALL: _encoder.encode(_small(columns, free))}
    arena = area[l.ARENA]
    changed = list(range(used)) if whole else np.flatnonzero(dirty).tolist()
    copies = huge(len(changed) * l.SEGMENT_WORDS) if changed else arena[:0]
    place = 0
    for segment in changed:
        name = f"{_SEGMENT}{segment:06d}"
        if segment not in gone:
            parts[name] = copy = copies[place : place + l.SEGMENT_WORDS]
            copy[:] = arena[segment * l.SEGMENT_WORDS : (segment + 1) * l.SEGMENT_WORDS]
            place += l.SEGMENT_WORDS
        elif not whole:
            parts[name] = None
    dirty[:] = 0
    return parts


def _small(columns: Columns, free: list[int]) -> _Small:
    area, r = columns.memory.area, columns.memory.registers
    texts = int(r[l.TEXTS_USED])
    identities = area[l.IDENTITY_OF][:texts]
    return _Small(
        _FORMAT,
        columns.partition,
        columns.chained,
        [int(r[k]) for k in _KEPT],
        area[l.COUNTERS][: l.COUNTERS_N].tolist(),
        area[l.TEXT].view(np.uint8)[: int(r[l.TEXT_FILL])].tobytes(),
        area[l.TEXT_AT][1 : texts + 1].tolist(),
        [(k, int(area[l.MODEL_OF][k]), int(identities[k])) for k in np.flatnonzero(identities).tolist()],
        [encode(policy) for policy in columns.policies.policies[1:]],
        area[l.LIVE][: int(r[l.SEGMENTS])].tolist(),
        free,
    )


def load(columns: Columns, parts: Mapping[str, Any], book: PolicyBook) -> None:
    """Fill columns that are empty. Raises `ValueError` for a format or a partition that is not theirs."""
    small = _decoder.decode(bytes(memoryview(parts[SMALL])))
    if small.format not in (1, _FORMAT):
        raise ValueError(f"the columns have format {small.format}; this version reads 1 and {_FORMAT}")
    if small.partition != columns.partition or small.chained is not columns.chained:
        raise ValueError(
            f"the columns are of partition {small.partition}, chained {small.chained}; "
            f"expected partition {columns.partition}, chained {columns.chained}"
        )
    area, r = columns.memory.area, columns.memory.registers
    start = 0
    for end in small.ends:
        columns.name(small.texts[start:end])
        start = end
    for text, of_model, identity in small.whos:
        area[l.MODEL_OF][text], area[l.IDENTITY_OF][text] = of_model, identity
    known = {(policy.model, policy.effective_from_ms, policy.version): policy for policy in book.all()}
    for said in small.policies:
        policy = decode(said, JoinPolicy)
        columns.policies.add(known.get((policy.model, policy.effective_from_ms, policy.version), policy))
    for model in sorted({policy.model for policy in book.all()}):
        columns.policies.govern(model, book.of(model))
    area[l.LIVE][: len(small.live)] = small.live
    area[l.FREE][: len(small.free)] = small.free
    area[l.COUNTERS][: l.COUNTERS_N] = small.counters
    arena = area[l.ARENA]
    for segment, count in enumerate(small.live):
        if count and f"{_SEGMENT}{segment:06d}" not in parts:
            raise ValueError(f"the part {_SEGMENT}{segment:06d} is missing: {count} records in state lie in it")
    for name in parts:
        if name.startswith(_SEGMENT):
            segment = int(name[len(_SEGMENT) :])
            body: NDArray[np.int64] = np.frombuffer(parts[name], dtype=np.int64)
            if len(body) != l.SEGMENT_WORDS:
                raise ValueError(f"the part {name} has {len(body) * 8} bytes; expected {_BYTES}")
            arena[segment * l.SEGMENT_WORDS : (segment + 1) * l.SEGMENT_WORDS] = body
    kept = [k for k in _KEPT if k not in _SINCE_2] if small.format == 1 else _KEPT
    for k, value in zip(kept, small.registers, strict=True):
        r[k] = value
    first_due = int(r[l.FIRST_DUE])
    r[l.FIRST_DUE] = NEVER
    rebuild(columns.memory.address, len(small.live) * l.SEGMENT_WORDS)
    r[l.FIRST_DUE] = first_due
    area[l.DIRTY].view(np.uint8)[: len(small.live)] = 0
