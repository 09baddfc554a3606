"""How many bytes counting writes at a steady rate: deltas a second, a pane in memory, and both over 30 days."""

from __future__ import annotations

from dataclasses import dataclass

import msgspec
import numpy as np
import pyarrow as pa

from benchmarks.judge.made import reference
from benchmarks.judge.values import MINUTE
from schemas.control import ReferenceSet
from schemas.event import decode
from schemas.inputs import Prediction
from schemas.measures import Measures
from streams.join.outcome import Change, Counted, Outcome
from streams.measure.ledger import Ledger
from streams.measure.measure import Measure
from streams.runtime.processor import Batch

STEP_MS = 100
MONTH_S = 30 * 86_400
Key = tuple[str, int]


@dataclass(frozen=True)
class Volume:
    """At `rate` predictions a second, each labelled `delay_s` later, `slices` values, 20 features, one partition.

    `deltas_s` bytes of `measures` a second, `packed_s` the same by lz4; `whole_bytes` and `slice_bytes` of a full
    minute's ledger, packed.
    """

    rate: int
    slices: int
    deltas_s: float
    packed_s: float
    whole_bytes: float
    slice_bytes: float

    @property
    def deltas_month(self) -> float:
        """Bytes of deltas in 30 days, not compressed, as the loop writes them."""
        return self.deltas_s * MONTH_S

    @property
    def panes_month(self) -> float:
        """Bytes of the minute ledgers of 30 days, the whole and its slices."""
        return (self.whole_bytes + self.slices * self.slice_bytes) * MONTH_S / 60


def measure(rate: int = 1_000, slices: int = 20, features: int = 20, delay_s: int = 30, seconds: int = 120) -> Volume:
    """Count two minutes of steps of 100 ms; the second minute counts."""
    draw = np.random.default_rng(2)
    stage = Measure(partitions=1, slice_dimension="route")
    state = stage.empty(0)
    stage.step(state, [], [ReferenceSet(reference=reference(features))], Batch(0, 0, {}), 0)
    names = [f"x{k:05d}" for k in range(features)]
    waiting: list[tuple[int, Counted, Outcome]] = []
    panes: dict[Key, Ledger] = {}
    codec = pa.Codec("lz4")
    size, squeezed, per = 0, 0, rate * STEP_MS // 1000
    for step in range(seconds * 1000 // STEP_MS):
        at_ms = step * STEP_MS
        changes = []
        for i in range(per):
            score = float(draw.random())
            prediction = Prediction(
                request_id=f"{step}-{i}",
                at_ms=at_ms,
                model="m",
                version="1",
                score=score,
                subject=f"u{int(draw.integers(0, 100_000))}",
                slices={"route": f"r{int(draw.integers(0, slices))}"},
                features=dict(zip(names, draw.standard_normal(features).tolist(), strict=True)),
                latency_ms=float(draw.lognormal(3, 0.5)),
            )
            counted = Counted(prediction)
            changes.append(Change(None, counted))
            label = int(draw.random() < score)
            outcome = Outcome(label=label, kind="explicit", status="final", labelled_at_ms=at_ms + delay_s * 1000)
            waiting.append((at_ms + delay_s * 1000, counted, outcome))
        while waiting and waiting[0][0] <= at_ms:
            _, before, outcome = waiting.pop(0)
            changes.append(Change(before, Counted(before.prediction, outcome, 1)))
        for output in stage.step(state, changes, [], Batch(0, step + 1, {}), at_ms):
            if output.topic != "measures":
                continue
            if at_ms >= MINUTE:
                size += len(output.value)
                squeezed += len(codec.compress(output.value, asbytes=True))
            for pane in decode(output.value, Measures).panes:
                panes.setdefault((pane.slice, pane.pane_ms), Ledger()).add_flat(pane.cells)
    packed = {key: len(msgspec.msgpack.encode(ledger.flat())) for key, ledger in panes.items() if key[1] == 0}
    parts = [length for (part, _), length in packed.items() if part]
    counted_s = seconds - MINUTE / 1000
    return Volume(rate, slices, size / counted_s, squeezed / counted_s, packed["", 0], sum(parts) / max(len(parts), 1))
