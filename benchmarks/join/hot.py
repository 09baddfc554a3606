"""One request that is signalled a million times among ordinary traffic, in the join alone, without Kafka.

One partition is filled with `--open` predictions. Then come steps of ordinary traffic (new predictions, labels of those
that wait), and between two of them a share of `--signals` clicks of one request. Only `step` counts as CPU, and the
two kinds of step are counted apart: the others' cost an event must be what it is without the hot request
(`--signals 0`), however much has been heard of it. `--other-work-ms` spends CPU between two steps on something that is
not the join, in place of the signals: what that costs the others is the price of cold caches alone. `dump_ms` is the
CPU of the dump that a snapshot begins with, a whole one, and `hot_kb` by how much its part of objects has grown. The
last line is JSON.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import time
from collections.abc import Iterator
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from benchmarks.join.history import LABELLED, MODEL, History
from benchmarks.join.state import HOUR_MS, START_MS, Drive, fill
from streams.runtime.processor import WHOLE, flat

STEPS = 60
OTHER_MEMORY = 8_000_000
"""Integers that other work looks up at random: 64 MB, more than a processor's cache."""
SHARE = 100
"""Predictions of a step of ordinary traffic, as a part of those open."""


def measure(opened: int, signals: int, seed: int, other_work_ms: float = 0.0) -> dict[str, Any]:
    """Fill, then drive; give the figures."""
    memory = np.arange(OTHER_MEMORY)
    size = opened // SHARE
    target = opened + STEPS * size
    history = History(target, START_MS, HOUR_MS * target // opened, HOUR_MS, seed=seed, labelled=1.0)
    drive, _ = fill(history, opened, policy=_policy())
    before = _objects(drive)
    draw = np.random.default_rng([seed, 7])
    key = history.keys(np.array([opened - 1]))[0]
    others: list[float] = []
    hot: list[float] = []
    for step in range(STEPS):
        first, last = opened + step * size, opened + (step + 1) * size
        young = np.unique(draw.integers(first - opened * 3 // 4, first, int(size * LABELLED)))
        with _timed(drive, others):
            drive.predictions(first, last, young[young != opened - 1].tolist())
        _work(other_work_ms / 1000, memory, draw)
        done, until = signals * step // STEPS, signals * (step + 1) // STEPS
        if until > done:
            at_ms = int(history.at_ms[last - 1])
            records = drive.records("signals", [at_ms] * (until - done), [key] * (until - done))
            records.values.extend(_signal(key, at_ms, number) for number in range(done, until))
            with _timed(drive, hot):
                drive.take({"signals": records}, at_ms)
    begun = time.process_time()
    after = _objects(drive)
    return {
        "open": opened,
        "signals": signals,
        "other_work_ms": other_work_ms,
        "others_us": round(float(np.median(others)), 3),
        "others_first_us": round(float(np.median(others[: STEPS // 6])), 3),
        "others_last_us": round(float(np.median(others[-STEPS // 6 :])), 3),
        "hot_first_us": round(float(np.median(hot[: STEPS // 6])), 3) if hot else None,
        "hot_last_us": round(float(np.median(hot[-STEPS // 6 :])), 3) if hot else None,
        "hot_kb": round((after - before) / 1000),
        "dump_ms": round((time.process_time() - begun) * 1000, 1),
    }


def _work(for_s: float, memory: NDArray[np.int64], draw: np.random.Generator) -> None:
    """Spend CPU on memory of our own, as any other work in the process would."""
    until_s = time.process_time() + for_s
    while time.process_time() < until_s:
        int(memory[draw.integers(0, memory.size, 20_000)].sum())
        dict.fromkeys(range(2_000))


@contextlib.contextmanager
def _timed(drive: Drive, told: list[float]) -> Iterator[None]:
    """Tell the CPU of a step for each of its events, in microseconds."""
    begun_s, begun = drive.cpu_s, drive.events
    yield
    told.append((drive.cpu_s - begun_s) / (drive.events - begun) * 1e6)


def _objects(drive: Drive) -> int:
    """Give the size of what a snapshot keeps of the requests that live in objects."""
    body = drive.processor.dump(drive.state, whole=True).parts[WHOLE]
    assert body is not None
    return len(flat(body))


def _signal(key: bytes, at_ms: int, number: int) -> bytes:
    return b'{"request_id":"%b","at_ms":%d,"signal":"click","event_id":"e%d"}' % (key, at_ms, number)


def _policy() -> bytes:
    policy = {
        "model": MODEL,
        "horizon_ms": HOUR_MS * 5 // 6,
        "lateness_ms": HOUR_MS // 6,
        "retain_ms": HOUR_MS,
        "on_timeout": "negative",
        "effective_from_ms": START_MS - 240_000,
        "attribution": [{"signal": "click", "label": 1}],
    }
    return msgspec.json.encode({"kind": "policy_set", "policy": policy})


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--open", type=int, default=300_000)
    parser.add_argument("--signals", type=int, default=1_000_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--other-work-ms", type=float, default=0.0, help="CPU between two steps, not of the join")
    given = parser.parse_args()
    print(json.dumps(measure(given.open, given.signals, given.seed, given.other_work_ms)))


if __name__ == "__main__":
    main()
