"""The arrivals of a step, as rows of numbers (compiled): see `streams.join.arrivals`."""

from __future__ import annotations

from streams.join.columns.layout import (
    CHAINED,
    KIND,
    LABEL,
    MET,
    MET_N,
    MET_WORDS,
    W_APPEND,
    W_AT,
    W_HEARD_APPEND,
    W_NAMES,
    W_TEXTS,
    field,
    put,
    reg,
)
from streams.runtime.compiled import compiled
from streams.runtime.native import i64, put64


@compiled
def meet(m: int, at: int, heard: int) -> None:
    """Note that a label or signal and the case that it counts for have met."""
    if not reg(m, CHAINED):
        return
    n = reg(m, MET_N)
    row = reg(m, MET) + n * (MET_WORDS * 8)
    names = i64(heard + W_NAMES * 8)
    who = field(i64(at + W_TEXTS * 8), 0, 20) << 20
    if field(i64(heard), KIND, 3) == LABEL:
        put64(row, field(names, 20, 20) | who)
    else:
        put64(row, field(names, 0, 20) | who | (1 << 40))
    append_ms = i64(heard + W_HEARD_APPEND * 8)
    predicted_ms = field(i64(at + W_APPEND * 8), 0, 48)
    put64(row + 8, append_ms if append_ms > predicted_ms else predicted_ms)
    put64(row + 16, field(i64(at + W_AT * 8), 0, 48))
    put(m, MET_N, n + 1)
