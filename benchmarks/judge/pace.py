"""What it costs to judge many streams at the close of a pane, in CPU time, and to tell of it."""

from __future__ import annotations

import statistics
import time
from dataclasses import dataclass
from itertools import pairwise

from benchmarks.judge.made import pane, reference
from schemas.event import encode
from schemas.inputs import Role
from streams.judge.bounds import JudgeBounds
from streams.judge.drifts import Told
from streams.judge.panes import Closing, Key, Window
from streams.judge.watch import Judged, Watch
from streams.measure.ledger import Ledger

MINUTE = 60_000
ROLE: Role = "primary"


@dataclass(frozen=True)
class Pace:
    """CPU milliseconds a pane, medians: to judge, to move the window, for distances, sentences, events; streams."""

    streams: int
    judge: float
    window: float
    distances: float
    sentences: float
    events: float


def measure(features: int = 10_000, rows: int = 1_000, panes: int = 7) -> Pace:
    """Judge `panes` panes of `rows` rows of so many features (and their score), each in full."""
    bounds = JudgeBounds()
    made = reference(features)
    watch = Watch(made, bounds)
    key, window = Key("1", "d", ROLE, ""), Window(Ledger(), [0], 0, MINUTE)
    found: list[list[float]] = []
    for t in range(panes):
        ledger = pane(features, rows, t)
        marks = [time.process_time()]

        def mark(marks: list[float] = marks) -> None:
            marks.append(time.process_time())

        judged = watch.judge("traffic", ledger, t * MINUTE, (t + 1) * MINUTE, 1 / 1440)
        mark()
        window.ledger.add(ledger.cells)
        mark()
        far = watch.distances("traffic", window.ledger)
        mark()
        said = list(Judged.in_order(judged))
        mark()
        told = Told(Closing((t + 1) * MINUTE, "traffic", "m", t * MINUTE), key, made.id, window, t)
        for place, index, verdict in said:
            encode(told.drift(watch.streams[place].name, index, bounds.detectors[index].kind, verdict, far[place], {}))
        mark()
        found.append([1000 * (after - before) for before, after in pairwise(marks)])
    medians = [statistics.median(column) for column in zip(*found, strict=True)]
    return Pace(features + 1, *medians)


if __name__ == "__main__":
    print(measure())
