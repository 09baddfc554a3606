"""A day of simulated traffic through one partition of the join alone, without Kafka: does memory stay flat?

`--per-s` predictions a second, steps of ten seconds, twenty minutes of timeout and as long of retention: labels for
71 % of them, some twice, some before their prediction, some of requests that never were; negatives of the rest;
everything leaves again. Each prediction has a slice that no other has, so the shared texts fill up. With `--slow` that
share belongs to a model that waits a day, and its predictions lie between the others'. Each simulated hour the
process's PSS is taken, after what is free has gone back, and what the arena holds. Flat is the most over the least of
the hours behind the first one, in which state is still filling. The last line is JSON.
"""

from __future__ import annotations

import argparse
import json
from typing import Any

import numpy as np

from benchmarks.join.history import CHUNK, LABELLED, MODEL, History
from benchmarks.join.log import policy_body
from benchmarks.join.state import START_MS, Drive, pss
from streams.join.columns import layout as l
from streams.runtime.records import Records

HOURS = 24
HOUR_MS = 3_600_000
STEP_MS = 10_000
TIMEOUT_MS = 1_200_000
DAY_MS = 24 * HOUR_MS
SLOW = "slow"
ORPHANS, TWICE = 0.005, 0.01
_COUNTRY = b'"slices":{"country":"'


class Day:
    """The traffic, step by step. Labels come when their time has come, whatever they belong to."""

    def __init__(self, per_s: int, slow: float, seed: int) -> None:
        self.size = per_s * STEP_MS // 1000
        steps = HOURS * HOUR_MS // STEP_MS
        self.history = History(steps * self.size, START_MS, steps * STEP_MS, TIMEOUT_MS, seed=seed)
        self.drive = Drive(self.history, policy_body(START_MS - 120_000, TIMEOUT_MS, carry=False))
        slowly = policy_body(START_MS - 120_000, DAY_MS, carry=False).replace(MODEL.encode(), SLOW.encode())
        self.drive.take({"control": Records([1], [START_MS - 230_000], [None], [slowly])}, START_MS - 230_000)
        draw = np.random.default_rng([seed, 8])
        history = self.history
        self.is_slow = draw.random(history.n) < slow
        has = np.flatnonzero(history.label >= 0)
        again = has[draw.random(len(has)) < TWICE]
        indices = np.concatenate((has, again))
        at_ms = np.concatenate((history.labelled_at_ms[has], history.labelled_at_ms[again] + 30_000))
        order = np.argsort(at_ms, kind="stable")
        self.labels, self.labels_at_ms = indices[order].astype(np.int32), at_ms[order]
        self.orphans = int(self.size * LABELLED * ORPHANS) + 1
        self._done = 0
        self._ready: list[bytes] = []

    def step(self, number: int) -> None:
        """Take ten seconds of it."""
        history, first, last = self.history, number * self.size, (number + 1) * self.size
        now_ms = START_MS + (number + 1) * STEP_MS
        made = self.drive.records(
            "predictions", history.at_ms[first:last].tolist(), history.keys(np.arange(first, last))
        )
        for index, value in enumerate(self._rendered(first, last), first):
            value = value.replace(_COUNTRY, b'"slices":{"session":"s%d","country":"' % index)
            made.values.append(value.replace(b'"fraud"', b'"slow"') if self.is_slow[index] else value)
        until = int(np.searchsorted(self.labels_at_ms, now_ms))
        chosen = self.labels[self._done : until].astype(np.int64)
        self._done = until
        keys = [*history.keys(chosen), *(b"orphan-%d-%d" % (number, k) for k in range(self.orphans))]
        heard = self.drive.records("labels", [now_ms] * len(keys), keys)
        heard.values.extend(history.labels(chosen))
        heard.values.extend(b'{"request_id":"%b","at_ms":%d,"label":1}' % (key, now_ms) for key in keys[len(chosen) :])
        self.drive.take({"predictions": made, "labels": heard}, now_ms)

    def _rendered(self, first: int, last: int) -> list[bytes]:
        """Render a range of predictions, many at once: a history makes them in chunks."""
        while len(self._ready) < last - first:
            begin = first + len(self._ready)
            self._ready += self.history.predictions(begin, min(begin + CHUNK, self.history.n))
        found, self._ready = self._ready[: last - first], self._ready[last - first :]
        return found

    def look(self) -> dict[str, float]:
        """Say what is held."""
        columns = self.drive.state.join.columns
        assert columns is not None
        r = columns.memory.registers
        used = int(r[l.SEGMENTS])
        return {
            "pss_mb": round(pss() / 1e6, 1),
            "arena_mb": round(used * l.SEGMENT_WORDS * 8 / 1e6, 1),
            "filled_mb": round((used - int(r[l.FREED])) * l.SEGMENT_WORDS * 8 / 1e6, 1),
            "records": int(columns.memory.area[l.LIVE][:used].sum()),
            "texts": int(r[l.TEXTS_USED]),
            "objects": len(self.drive.state.join.requests),
            "us_per_event": round(self.drive.cpu_s / self.drive.events * 1e6, 3),
        }


def measure(per_s: int, slow: float, seed: int) -> dict[str, Any]:
    """Drive a day; give what each hour held, and how flat it was."""
    day = Day(per_s, slow, seed)
    hours: list[dict[str, float]] = []
    for number in range(HOURS * HOUR_MS // STEP_MS):
        day.step(number)
        if (number + 1) * STEP_MS % HOUR_MS == 0:
            hours.append(day.look())
            print(f"hour {len(hours)}: {hours[-1]}", flush=True)
    steady = hours[1:]

    def flat(name: str) -> float:
        return round(max(hour[name] for hour in steady) / min(hour[name] for hour in steady), 3)

    return {
        "events": day.drive.events,
        "slow": slow,
        "flat_pss": flat("pss_mb"),
        "flat_arena": flat("arena_mb"),
        "pss_mb": [hour["pss_mb"] for hour in hours],
        "arena_mb": [hour["arena_mb"] for hour in hours],
        "last": hours[-1],
    }


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--per-s", type=int, default=40)
    parser.add_argument("--slow", type=float, default=0.0)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    print(json.dumps(measure(given.per_s, given.slow, given.seed)))


if __name__ == "__main__":
    main()
