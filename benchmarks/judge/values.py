"""Feature values counted per CPU second: through `measure`, as the join hands predictions over, and in columns."""

from __future__ import annotations

import statistics
import time
from dataclasses import dataclass

import msgspec
import numpy as np

from benchmarks.judge.made import reference
from schemas.control import ReferenceSet
from schemas.event import encode
from schemas.inputs import Prediction
from streams.join.outcome import Change, Counted
from streams.measure.measure import Measure
from streams.measure.reference import Numeric, _count, cuts
from streams.runtime.processor import Batch

STEP = 2_000
MINUTE = 60_000


@dataclass(frozen=True)
class Values:
    """Feature values a CPU second, medians over steps: live, of that with the features left out, and in columns."""

    features: int
    live: float
    bare_us: float
    columns: float


def changes(draw: np.random.Generator, features: int, count: int, at_ms: int) -> list[Change]:
    """Give predictions that stand for the first time, decoded from JSON as the join has them."""
    names = [f"x{k:05d}" for k in range(features)]
    values = draw.standard_normal((count, features)).tolist()
    found = []
    for i in range(count):
        prediction = Prediction(
            request_id=f"{at_ms}-{i}",
            at_ms=at_ms + i % MINUTE,
            model="m",
            version="1",
            score=float(draw.random()),
            subject=f"u{i % 997}",
            features=dict(zip(names, values[i], strict=True)),
        )
        found.append(Change(None, Counted(msgspec.json.decode(encode(prediction), type=Prediction))))
    return found


def measure(features: int = 20, steps: int = 15) -> Values:
    """Count steps of 2,000 predictions each; the median of all but the first."""
    draw = np.random.default_rng(1)
    known = [ReferenceSet(reference=reference(features))]
    live: list[float] = []
    bare: list[float] = []
    columns: list[float] = []
    numeric = [cut for cut in cuts(known[0].reference).values() if isinstance(cut, Numeric)]
    for step in range(steps):
        told = changes(draw, features, STEP, step * MINUTE)
        for found, control in ((live, known), (bare, [])):
            stage = Measure(partitions=1)
            state = stage.empty(0)
            stage.step(state, [], control, Batch(0, 0, {}), 0)
            began = time.process_time()
            stage.step(state, told, [], Batch(0, step, {}), step * MINUTE)
            found.append(time.process_time() - began)
        column = draw.standard_normal(200_000).tolist()
        began = time.process_time()
        for cut in numeric[:5]:
            _count(cut, column)
        columns.append((time.process_time() - began) / 5)
    return Values(
        features,
        STEP * features / statistics.median(live[1:]),
        1e6 * statistics.median(bare[1:]) / STEP,
        200_000 / statistics.median(columns[1:]),
    )


if __name__ == "__main__":
    print(measure())
