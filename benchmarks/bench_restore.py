"""How fast a state of open predictions is back from a snapshot, how large snapshots are, and how long a step waits.

One partition of the join alone, without Kafka, on the local file system. `--entries` predictions are open; then one in
a hundred of them gets a label, once the newest and once any. The pause is the dump between two steps; hashing and
writing happen in another thread of a worker. A restore reads, checks and loads; the state that comes back takes one
more step and must give the same digest and counters as the one that was dumped.

    python -m benchmarks.bench_restore
    python -m benchmarks.bench_restore --entries 5000000
"""

from __future__ import annotations

import argparse
import json
import platform
import random
import resource
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any, TypeVar

from streams.join.admission import JoinBounds
from streams.join.processor import JoinMeasureState, JoinProcessor
from streams.runtime import steps
from streams.runtime.clock import VirtualClock
from streams.runtime.manifest import Header, Manifest
from streams.runtime.objects import Files
from streams.runtime.processor import Batch, Stepped
from streams.runtime.records import Records
from streams.runtime.snapshot import Snapshot, SnapshotStore

ResultT = TypeVar("ResultT")

T = 1_700_000_000_000
HOUR_MS = 3_600_000
BATCH = 50_000
INPUTS = ("control", "predictions", "labels", "signals")


class Partition:
    """One partition of the join under way."""

    def __init__(self, columns: bool) -> None:
        bounds = JoinBounds(
            skew_ms=86_400_000,
            early_label_ms=HOUR_MS,
            grace_ms=60_000,
            partitions=1,
            max_event_bytes=900_000,
            virtual=True,
        )
        self.processor: JoinProcessor[None] = JoinProcessor(bounds, columns=columns)
        self.state: JoinMeasureState[None] = self.processor.empty(0)
        self.step = 0
        self.clock_ms = T
        self.wake_at_ms: int | None = None
        self.counters: dict[str, int] = {}

    def take(self, clock_ms: int, **inputs: Records) -> Stepped:
        """Take a step."""
        self.step += 1
        self.clock_ms = clock_ms
        batch = Batch(0, self.step, {name: inputs.get(name, Records()) for name in INPUTS})
        stepped = steps.take(self.processor, self.state, VirtualClock(), batch, clock_ms)
        self.wake_at_ms, self.counters = stepped.wake_at_ms, dict(stepped.counters)
        return stepped

    def snapshot(self, base: Manifest | None) -> Snapshot:
        """Dump, as a worker does between two steps."""
        header = Header(
            stage="join",
            processor=self.processor.version,
            partition=0,
            step=self.step,
            offsets={},
            steps_offset=self.step,
            clock_ms=self.clock_ms,
            seen_ms={},
            wake_at_ms=self.wake_at_ms,
            counters=self.counters,
        )
        return Snapshot(header, self.processor.dump(self.state, whole=base is None).parts, base)


def control() -> Records:
    """One model that waits two days for labels, so that everything stays open."""
    policy = {"model": "fraud", "horizon_ms": 48 * HOUR_MS, "effective_from_ms": T - HOUR_MS, "on_timeout": "negative"}
    records = Records()
    records.append(0, T - HOUR_MS, None, json.dumps({"kind": "policy_set", "policy": policy}).encode())
    return records


def predictions(entries: int) -> Iterator[tuple[int, Records]]:
    """Give (clock, records) of predictions spread over a day."""
    for start in range(0, entries, BATCH):
        records = Records()
        for number in range(start, min(start + BATCH, entries)):
            at_ms = T + number * 24 * HOUR_MS // entries
            body = (
                b'{"request_id":"r%09d","at_ms":%d,"model":"fraud","version":"7","score":0.%04d,'
                b'"slices":{"country":"de"}}' % (number, at_ms, number % 9973)
            )
            records.append(number, at_ms + 5, b"r%09d" % number, body)
        yield T + min(start + BATCH, entries) * 24 * HOUR_MS // entries, records


def labels(numbers: Sequence[int], offset: int, append_ms: int) -> Records:
    """Give a label of each of these predictions."""
    records = Records()
    for place, number in enumerate(numbers):
        body = b'{"request_id":"r%09d","at_ms":%d,"label":1}' % (number, append_ms)
        records.append(offset + place, append_ms, b"r%09d" % number, body)
    return records


def timed(call: Callable[..., ResultT], *given: Any) -> tuple[ResultT, float, float]:
    """Give a result with the wall and CPU seconds that it took."""
    began, used = time.perf_counter(), time.process_time()
    result = call(*given)
    return result, time.perf_counter() - began, time.process_time() - used


def tail(part: Partition, state: JoinMeasureState[None], entries: int) -> tuple[str, dict[str, int]]:
    """Take one more step over a state: its digest and counters."""
    inputs = {name: Records() for name in INPUTS}
    inputs["labels"] = labels(range(0, entries, max(1, entries // 1000)), 10**9, part.clock_ms)
    stepped = part.processor.step(state, Batch(0, part.step + 1, inputs), part.clock_ms + HOUR_MS)
    return steps.digest(stepped.outputs), dict(stepped.counters)


def run(entries: int, columns: bool, folder: Path) -> dict[str, float]:
    """Measure."""
    part = Partition(columns)
    part.take(T, control=control())
    resident = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for clock_ms, records in predictions(entries):
        part.take(clock_ms, predictions=records)
    assert part.counters["predictions.open"] == entries, part.counters
    figures: dict[str, float] = {
        "entries": entries,
        "state_bytes_per_entry": (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - resident) * 1024 / entries,
    }
    store = SnapshotStore(Files(folder), "bench", "join", "log")

    def keep(name: str, base: Manifest | None) -> Manifest:
        snapshot, pause_s, pause_cpu_s = timed(part.snapshot, base)
        before = set(base.packs) if base is not None else set()
        manifest, write_s, write_cpu_s = timed(store.write, snapshot)
        figures[f"{name}_pause_ms"], figures[f"{name}_pause_cpu_ms"] = pause_s * 1000, pause_cpu_s * 1000
        figures[f"{name}_write_s"], figures[f"{name}_write_cpu_s"] = write_s, write_cpu_s
        figures[f"{name}_bytes"] = sum(size for pack, size in manifest.packs.items() if pack not in before)
        return manifest

    manifest = keep("whole", None)
    figures["bytes_per_entry"] = figures["whole_bytes"] / entries
    one_percent = max(1, entries // 100)
    newest = range(entries - one_percent, entries)
    part.take(part.clock_ms + 1000, labels=labels(newest, 0, part.clock_ms))
    manifest = keep("newest_1_percent", manifest)
    anywhere = sorted(random.Random(0).sample(range(entries - one_percent), one_percent))
    part.take(part.clock_ms + 1000, labels=labels(anywhere, one_percent, part.clock_ms))
    manifest = keep("any_1_percent", manifest)
    keep("nothing", manifest)

    def restore() -> JoinMeasureState[None]:
        _, parts = next(SnapshotStore(Files(folder), "bench", "join", "log").newest(0, up_to_step=part.step))
        return part.processor.load(0, parts)

    state, wall_s, cpu_s = timed(restore)
    figures |= {"restore_s": wall_s, "restore_cpu_s": cpu_s, "restored_per_s": entries / wall_s}
    assert tail(part, state, entries) == tail(part, part.state, entries), "the restored state went on differently"
    return figures


def main() -> None:
    """Run and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--entries", type=int, default=100_000)
    parser.add_argument("--objects", action="store_true", help="the join's state as objects, not in columns")
    parser.add_argument("--folder", type=Path, help="where the snapshots are written (default: the temporary folder)")
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args()
    Partition(not given.objects).take(T, control=control())  # compile before anything is measured
    with tempfile.TemporaryDirectory(dir=given.folder) as folder:
        figures = run(given.entries, not given.objects, Path(folder))
    if given.json:
        print(json.dumps(figures))
        return
    print(f"machine       {platform.processor() or platform.machine()}, {platform.system()} {platform.release()}")
    print(f"versions      python {platform.python_version()}, numpy {version('numpy')}")
    print(f"command       python -m benchmarks.bench_restore {' '.join(sys.argv[1:])}".rstrip())
    print(
        f"restore       {figures['restored_per_s']:,.0f} entries per second: {figures['restore_s']:.2f} s, "
        f"{figures['restore_cpu_s']:.2f} s of CPU"
    )
    print(f"state         {figures['state_bytes_per_entry']:.0f} bytes of memory an entry at the most")
    for name in ("whole", "newest_1_percent", "any_1_percent", "nothing"):
        size, pause_ms, cpu_ms = (figures[f"{name}_{what}"] for what in ("bytes", "pause_ms", "pause_cpu_ms"))
        write_s, write_cpu_s = figures[f"{name}_write_s"], figures[f"{name}_write_cpu_s"]
        print(
            f"{name:<17} {size / 1e6:8.1f} MB, the step waits {pause_ms:6.1f} ms ({cpu_ms:.1f} of CPU), "
            f"written in {write_s:.2f} s ({write_cpu_s:.2f} of CPU)"
        )


if __name__ == "__main__":
    main()
