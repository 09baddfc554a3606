"""The reserved memory behind the addresses: of one partition (`Memory`), and of one thread while it takes a step
(`Workspace`). Nothing here counts as used until it has been written.
"""

from __future__ import annotations

import threading

import numpy as np
from numpy.typing import NDArray

from streams.join.columns import layout as l
from streams.join.columns.fields import LABEL_FIELDS, PREDICTION_FIELDS, SIGNAL_FIELDS
from streams.join.columns.render import pieces
from streams.join.columns.scan import SPAN, Fields
from streams.runtime.native import Words, address, reserve

ARENA_BYTES = 1 << 35
SEGMENTS = ARENA_BYTES // (l.SEGMENT_WORDS * 8)
TABLES = 1 << l.MOST_DEPTH
TEXT_BYTES = 1 << 29
POLICIES = 1 << 16
OUT_BYTES = 1 << 22

_LAYOUT: dict[int, int] = {
    l.ARENA: ARENA_BYTES,
    l.DIRTY: SEGMENTS,
    l.LIVE: SEGMENTS * 8,
    l.FREE: SEGMENTS * 8,
    l.OLDEST: SEGMENTS * 8,
    l.TABLES: (TABLES + 2) * l.TABLE * 8,
    l.DIRECTORY: TABLES * 8,
    l.DEPTHS: TABLES * 8,
    l.COUNTS: TABLES * 8,
    l.HEADS: l.WHEEL * 8,
    l.TEXT: TEXT_BYTES,
    l.TEXT_AT: (l.MOST_TEXTS + 1) * 8,
    l.TEXT_SLOT: l.TEXT_SLOTS * 8,
    l.MODEL_OF: l.MOST_TEXTS * 8,
    l.IDENTITY_OF: l.MOST_TEXTS * 8,
    l.BOOK_START: l.MOST_TEXTS * 8,
    l.BOOK_COUNT: l.MOST_TEXTS * 8,
    l.BOOK: 1 << 26,
    l.POLICIES: POLICIES * l.POLICY_WORDS * 8,
    l.RULES: 1 << 26,
    l.PRECEDENCE: 1 << 26,
    l.COUNTERS: l.COUNTERS_N * 8,
}
_PAGE = 4096

FIELDS = {
    l.FIELDS_PREDICTION: Fields(PREDICTION_FIELDS),
    l.FIELDS_LABEL: Fields(LABEL_FIELDS),
    l.FIELDS_SIGNAL: Fields(SIGNAL_FIELDS),
}
LABEL_NAME: NDArray[np.uint8] = np.frombuffer(b"label" + bytes(8), dtype=np.uint8)
_PIECES = pieces()


class Memory:
    """One reserved range, cut into the areas that the registers name. `area[k]` are the words of an area."""

    def __init__(self) -> None:
        sizes = {k: -(-size // _PAGE) * _PAGE for k, size in _LAYOUT.items()}
        self.words: Words = reserve(sum(sizes.values()))
        self.registers: Words = np.zeros(l.REGISTERS, dtype=np.int64)
        self.address = address(self.registers)
        self.area: dict[int, Words] = {}
        start = 0
        for k, size in sizes.items():
            self.area[k] = self.words[start // 8 : (start + size) // 8]
            self.registers[k] = address(self.area[k])
            start += size
        self.registers[l.TABLES_USED] = 1
        self.registers[l.FIRST_DUE] = 1 << 62
        self.registers[l.PIECES] = address(_PIECES)
        for k, fields in FIELDS.items():
            self.registers[k] = fields.address


class Workspace(threading.local):
    """Where a step's outputs, changes and leftovers gather, one for each thread."""

    def __init__(self) -> None:
        self.spans: Words = np.zeros(32 * SPAN // 8, dtype=np.int64)
        self.scratch: Words = np.zeros(1 << 14, dtype=np.int64)  # 128 kB
        self.out = reserve(OUT_BYTES)
        self.out_spans = reserve(1 << 24)
        self.changes = reserve(1 << 28)
        self.met = reserve(1 << 28)
        self.slow = reserve(1 << 26)
        self.due = reserve(1 << 31)
        self.left: Words = np.zeros(1 << (l.LEFT_BITS - 6), dtype=np.int64)

    def enter(self, registers: Words) -> None:
        """Point a partition's registers here, with nothing gathered."""
        registers[l.SPANS] = address(self.spans)
        registers[l.SCRATCH] = address(self.scratch)
        registers[l.OUT_SPANS] = address(self.out_spans)
        registers[l.CHANGES] = address(self.changes)
        registers[l.MET] = address(self.met)
        registers[l.MET_N] = 0
        registers[l.SLOW] = address(self.slow)
        registers[l.LEFT] = address(self.left)
        registers[l.OUT] = address(self.out)
        registers[l.OUT_END] = registers[l.OUT] + OUT_BYTES
        registers[l.DIFFERING] = 0
        self.clear(registers)

    def clear(self, registers: Words) -> None:
        """Forget what was gathered."""
        registers[l.OUT_FILL] = registers[l.OUT]
        if registers[l.SLOW_N]:
            self.left[:] = 0
        registers[l.OUT_N] = registers[l.CHANGES_N] = registers[l.SLOW_N] = registers[l.UNSURE] = 0


WORKSPACE = Workspace()
