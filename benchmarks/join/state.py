"""The join alone, in a process of its own, without Kafka: bytes per open prediction, and CPU per event at that size.

One partition is filled with `--open` predictions, evenly over an hour, which is also their timeout. Then come
`--events` more at the same pace: new predictions, labels for 71 % as many of those that wait, and the negatives of the
oldest. The policy does not carry features, so state holds what a timeout's output needs besides. Memory is the
process's PSS after the fill less that before it (imports, compiled code and the generator's arrays are in both). Only
`step` counts as CPU; making the records does not. The last line is JSON.
"""

from __future__ import annotations

import argparse
import ctypes
import gc
import json
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from benchmarks.join.history import LABELLED, History
from benchmarks.join.log import policy_body
from streams.join.admission import JoinBounds
from streams.join.processor import JoinProcessor
from streams.runtime.processor import Batch, Stepped
from streams.runtime.records import Records

HOUR_MS = 3_600_000
START_MS = 1_700_000_000_000
BATCH = 10_000
WARM = 20_000


class Drive:
    """One partition's state, driven step by step. `cpu_s` is what the steps took."""

    def __init__(self, history: History, policy: bytes = b"") -> None:
        self.history = history
        bounds = JoinBounds(
            skew_ms=86_400_000,
            early_label_ms=60_000,
            grace_ms=60_000,
            partitions=1,
            max_event_bytes=900_000,
            virtual=False,
        )
        self.processor: JoinProcessor[None] = JoinProcessor(bounds)
        self.state = self.processor.empty(0)
        self._steps, self._offsets = 0, {"predictions": 0, "labels": 0, "signals": 0}
        self.cpu_s, self.events = 0.0, 0
        body = policy or policy_body(START_MS - 120_000, HOUR_MS, carry=False)
        self.take({"control": Records([0], [START_MS - 240_000], [None], [body])}, START_MS - 240_000)

    def predictions(self, first: int, last: int, labelled: Sequence[int] = ()) -> Stepped:
        """Take a step: a range of predictions, and labels of some that came before."""
        history, now_ms = self.history, int(self.history.at_ms[last - 1])
        indices = np.arange(first, last)
        made = self.records("predictions", history.at_ms[first:last].tolist(), history.keys(indices))
        made.values.extend(history.predictions(first, last))
        inputs = {"predictions": made}
        if labelled:
            chosen = np.asarray(labelled, dtype=np.int64)
            inputs["labels"] = self.records("labels", [now_ms] * len(chosen), history.keys(chosen))
            inputs["labels"].values.extend(history.labels(chosen))
        return self.take(inputs, now_ms)

    def records(self, topic: str, append_ms: list[int], keys: list[bytes]) -> Records:
        """Make records of an input behind those before; their values are still to come."""
        first = self._offsets[topic]
        self._offsets[topic] = first + len(keys)
        return Records(list(range(first, first + len(keys))), append_ms, [*keys], [])

    def take(self, inputs: dict[str, Records], clock_ms: int) -> Stepped:
        """Take a step."""
        self._steps += 1
        batch = Batch(0, self._steps, inputs)
        begun = time.process_time()
        stepped = self.processor.step(self.state, batch, clock_ms)
        self.cpu_s += time.process_time() - begun
        self.events += sum(len(records) for records in inputs.values())
        return stepped


def measure(target: int, events: int, seed: int) -> dict[str, float]:
    """Fill, then drive; give the figures."""
    more = int(events / (1 + LABELLED))
    _drive(History(WARM, START_MS, HOUR_MS * 3, HOUR_MS, seed=seed + 1, labelled=1.0), WARM // 3, WARM // 2, seed)
    history = History(target + more, START_MS, HOUR_MS * (target + more) // target, HOUR_MS, seed=seed, labelled=1.0)
    # Made before memory is looked at, because they stay.
    _ = (history.ids, history.at_ms, history.label, history.labelled_at_ms, history.scores)
    before = pss()
    drive, opened = fill(history, target)
    after = pss()
    steady_s, steady = _steady(drive, target, more, seed)
    return {
        "open": opened,
        "bytes_per_open": (after - before) / max(opened, 1),
        "us_per_event": steady_s / steady * 1e6,
        "events": steady,
    }


def _drive(history: History, target: int, more: int, seed: int) -> None:
    drive, _ = fill(history, target)
    _steady(drive, target, more, seed)


def fill(history: History, target: int, policy: bytes = b"") -> tuple[Drive, int]:
    """Open the first `target` predictions of a history; gives how many are open."""
    drive = Drive(history, policy)
    counters: dict[str, int] = {}
    told = time.monotonic()
    for first in range(0, target, BATCH):
        counters = dict(drive.predictions(first, min(first + BATCH, target)).counters)
        if time.monotonic() - told > 10:
            told = time.monotonic()
            print(f"filled {first:,} of {target:,}, {drive.cpu_s / drive.events * 1e6:.2f} µs each", flush=True)
    return drive, counters.get("predictions.open", 0)


def _steady(drive: Drive, target: int, more: int, seed: int) -> tuple[float, int]:
    draw = np.random.default_rng([seed, 6])
    begun_s, begun = drive.cpu_s, drive.events
    size = int(BATCH / (1 + LABELLED))
    for first in range(target, target + more, size):
        last = min(first + size, target + more)
        # Labels count for five sixths of the timeout, and `labelled_at_ms` lies in it for whoever is so young.
        young = draw.integers(first - target * 3 // 4, first, int((last - first) * LABELLED))
        drive.predictions(first, last, np.unique(young).tolist())
    return drive.cpu_s - begun_s, drive.events - begun


def pss() -> int:
    """Give the process's PSS in bytes, after what is free has gone back to the system."""
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)
    for line in Path("/proc/self/smaps_rollup").read_text().splitlines():
        if line.startswith("Pss:"):
            return int(line.split()[1]) * 1024
    raise RuntimeError("/proc/self/smaps_rollup has no Pss")


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--open", type=int, default=1_000_000)
    parser.add_argument("--events", type=int, default=300_000)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    print(json.dumps(measure(given.open, given.events, given.seed)))


if __name__ == "__main__":
    main()
