"""How often the outage guard freezes falsely, and how soon it notices a cut-off: `python -m benchmarks.guard`.

Simulated traffic of one source, minute by minute, with the default settings: predictions a minute by kind of traffic,
labels for three in ten of them after 20 minutes on average. One table out; `--days` of live traffic for each row, then
a cut-off that all labels fall under at noon of the last day.
"""

from __future__ import annotations

import argparse
import math
import time
from collections import Counter, defaultdict

import numpy as np

from schemas.control import Frozen
from schemas.measures import ArmDelta
from schemas.settings import Guard as Bounds
from streams.judge.guard import Guard
from streams.measure.ages import BIN_OF, LIMIT

MINUTE = 60_000
KINDS = ("poisson", "clustered", "batches of 10 min", "daily", "closed at night", "label rate daily")


class Source:
    """One source about one arm. Gives a minute at a time, as the join would tell it."""

    def __init__(self, kind: str, rate: float, seed: int) -> None:
        self.kind, self.rate = kind, rate
        self.random = np.random.default_rng(seed)
        self.due: dict[int, Counter[int]] = defaultdict(Counter)

    def minute(self, at: int, *, cut: bool = False) -> ArmDelta:
        tide, rate, share = math.sin(2 * math.pi * (at / 1440 - 0.25)), self.rate, 0.3
        if self.kind == "clustered":
            rate *= self.random.gamma(2.0, 0.5)
        elif self.kind == "daily":
            rate *= 1 + 0.8 * tide
        elif self.kind == "closed at night":
            rate *= max(tide, 0.0) * 2
        elif self.kind == "label rate daily":
            share *= 1 + 0.4 * tide
        made = int(self.random.poisson(rate))
        for age in self.random.exponential(20.0, self.random.binomial(made, share)).astype(int).tolist():
            when = at + age if self.kind != "batches of 10 min" else (at + age) // 10 * 10 + 10
            self.due[when][at] += 1
        cells: Counter[int] = Counter()
        for predicted, count in self.due.pop(at, Counter()).items():
            cells[int(BIN_OF[min(at - predicted, LIMIT)])] += 0 if cut else count
        flat = [n for age, count in sorted(cells.items()) if count for n in (at, age, count)]
        labels = {"market": flat} if flat else {}
        return ArmDelta(model="ctr", pane_size_ms=MINUTE, predictions=[at, made] if made else [], labels=labels)


def row(kind: str, rate: float, days: int, seed: int) -> tuple[int, int | None, float, float]:
    """Give false freezes, minutes to notice the cut-off (None: not within a day), share of minutes watched, and what a
    look takes (ms of CPU, the simulation included).
    """
    guard, source = Guard(Bounds(), pane_ms=MINUTE), Source(kind, rate, seed)
    guard.look(0)
    false, watched, began = 0, 0, time.process_time()
    end = (days - 1) * 1440 + 720
    for at in range(end):
        guard.take(source.minute(at))
        said, forecasts = guard.look((at + 1) * MINUTE)
        false += sum(isinstance(event, Frozen) for event in said)
        watched += any(one.state == "watched" for one in forecasts)
    look_ms = (time.process_time() - began) * 1000 / end
    for at in range(end, end + 1440):
        guard.take(source.minute(at, cut=True))
        said, _ = guard.look((at + 1) * MINUTE)
        if any(isinstance(event, Frozen) for event in said):
            return false, at + 1 - end, watched / end, look_ms
    return false, None, watched / end, look_ms


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--days", type=int, default=30)
    parser.add_argument("--seed", type=int, default=1)
    given = parser.parse_args()
    print(
        f"| traffic | predictions/min | days | false freezes | noticed after (min) | watched | ms a look |\n"
        f"|{'---|' * 7}"
    )
    for kind in KINDS:
        for rate in (2, 20, 500):
            false, after, watched, look_ms = row(kind, rate, given.days, given.seed)
            told = "not" if after is None else after
            print(f"| {kind} | {rate} | {given.days} | {false} | {told} | {watched:.0%} | {look_ms:.1f} |", flush=True)


if __name__ == "__main__":
    main()
