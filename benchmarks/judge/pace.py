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
from streams.judge.panes import Closing, Key, Window
from streams.judge.processor import Judge
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
    watch, judge = Watch(made, bounds), Judge(bounds)
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
        closing = Closing((t + 1) * MINUTE, "traffic", "m", t * MINUTE)
        for place, index, verdict in said:
            stream = watch.streams[place]
            encode(judge._event(closing, key, watch, stream, index, verdict, far[place], window, t))
        mark()
        found.append([1000 * (after - before) for before, after in pairwise(marks)])
    medians = [statistics.median(column) for column in zip(*found, strict=True)]
    return Pace(features + 1, *medians)


if __name__ == "__main__":
    print(measure())
