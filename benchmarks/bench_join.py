"""How many events per CPU second the join takes, alone: no Kafka, no measures, one partition of four.

Predictions carry eight features and come in event time; 60 % get a label some seconds later, 10 % of these a
correction; a signal follows each second one. One of two models takes silence for a negative. Steps have `--batch`
records. Making the records is not counted; admission, state, revisions, their encoding and the timers are. `--no-gc`
switches Python's cycle collector off: the state has no cycles, and a runtime may do the same.

    python -m benchmarks.bench_join
    python -m benchmarks.bench_join --profile
"""

from __future__ import annotations

import argparse
import cProfile
import gc
import json
import platform
import pstats
import resource
import sys
import time
from importlib.metadata import version
from random import Random

from streams.join.admission import JoinBounds
from streams.join.partition import partition_of
from streams.join.processor import JoinProcessor
from streams.runtime.processor import Batch, Records, whole_parts

T = 1_700_000_000_000
PARTITIONS = 4


def policies() -> Records:
    """Two models, one of which takes silence for a negative after a minute."""
    records = Records()
    for offset, model in enumerate(("fraud", "ranking")):
        policy = {
            "model": model,
            "horizon_ms": 60_000,
            "lateness_ms": 5_000,
            "retain_ms": 60_000,
            "effective_from_ms": T - 60_000,
            "on_timeout": "negative" if model == "fraud" else "unlabelled",
            "attribution": [{"signal": "click", "label": 1, "within_ms": 30_000}],
        }
        body = json.dumps({"kind": "policy_set", "policy": policy}).encode()
        records.append(offset, T - 120_000, None, body)
    return records


def history(events: int, seed: int) -> list[tuple[int, str, bytes, bytes]]:
    """Make (append_ms, topic, key, value) in the order of time; all keys belong to partition 0."""
    random = Random(seed)
    made: list[tuple[int, str, bytes, bytes]] = []
    at_ms = T
    while len(made) < events:
        request = f"{random.getrandbits(128):032x}"
        key = request.encode()
        if partition_of(key, PARTITIONS) != 0:
            continue
        at_ms += 1
        model = random.choice(("fraud", "ranking"))
        features = {f"feature_{n}": round(random.gauss(0, 1), 4) for n in range(6)}
        prediction = {
            "request_id": request,
            "at_ms": at_ms,
            "model": model,
            "version": "7",
            "score": random.random(),
            "features": {**features, "country": random.choice(("de", "fr", "it")), "new": random.random() < 0.1},
            "subject": f"u{random.randrange(10_000)}",
        }
        made.append((at_ms + 5, "predictions", key, json.dumps(prediction).encode()))
        about = {"request_id": request, "model": model}
        if random.random() < 0.6:
            for delay_ms in (10_000, 20_000)[: 2 if random.random() < 0.1 else 1]:
                label = {**about, "at_ms": at_ms + delay_ms, "label": random.randrange(2), "source": "desk"}
                made.append((at_ms + delay_ms + 9, "labels", key, json.dumps(label).encode()))
        if random.random() < 0.5:
            signal = {**about, "at_ms": at_ms + 4_000, "signal": random.choice(("click", "view"))}
            made.append((at_ms + 4_010, "signals", key, json.dumps(signal).encode()))
    made.sort(key=lambda one: one[0])
    return made


def batches(made: list[tuple[int, str, bytes, bytes]], size: int) -> list[tuple[Batch, int]]:
    """Cut the history into steps; the clock of each is its last append time."""
    offsets = {"predictions": 0, "labels": 0, "signals": 0}
    cut = [(Batch(0, 0, {"control": policies()}), T - 120_000)]
    for start in range(0, len(made), size):
        inputs: dict[str, Records] = {}
        clock_ms = T
        for append_ms, topic, key, value in made[start : start + size]:
            inputs.setdefault(topic, Records()).append(offsets[topic], append_ms, key, value)
            offsets[topic] += 1
            clock_ms = append_ms
        cut.append((Batch(0, len(cut), inputs), clock_ms))
    return cut


def main() -> None:
    """Run and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--events", type=int, default=300_000)
    parser.add_argument("--batch", type=int, default=2_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--no-gc", action="store_true")
    parser.add_argument("--profile", action="store_true", help="print where the time goes (slower)")
    given = parser.parse_args()
    steps = batches(history(given.events, given.seed), given.batch)
    bounds = JoinBounds(
        skew_ms=86_400_000,
        early_label_ms=30_000,
        grace_ms=10_000,
        partitions=PARTITIONS,
        max_event_bytes=900_000,
        virtual=False,
    )
    processor: JoinProcessor[None] = JoinProcessor(bounds)
    state = processor.empty(0)
    profile = cProfile.Profile()
    resident = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    outputs = most = 0
    if given.no_gc:
        gc.disable()
    if given.profile:
        profile.enable()
    start = time.process_time()
    for batch, clock_ms in steps:
        stepped = processor.step(state, batch, clock_ms)
        outputs += len(stepped.outputs)
        most = max(most, len(state.join.requests))
    seconds = time.process_time() - start
    profile.disable()
    grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - resident) * 1024
    read = sum(len(records) for batch, _ in steps for records in batch.inputs.values())
    start = time.process_time()
    body = whole_parts(processor, state)
    dumped = time.process_time() - start
    print(f"machine       {platform.processor() or platform.machine()}, {platform.system()} {platform.release()}")
    print(f"versions      python {platform.python_version()}, msgspec {version('msgspec')}, {processor.version}")
    print(f"command       python -m benchmarks.bench_join {' '.join(sys.argv[1:])}".rstrip())
    print(f"events        {read}, {outputs} outputs, {len(steps)} steps")
    print(f"per CPU s     {read / seconds:,.0f} events ({seconds / read * 1e6:.1f} µs each)")
    print(f"state         at most {most} requests, {grown / max(most, 1):,.0f} bytes of resident memory for each")
    print(f"snapshot      {sum(map(len, body.values())) / 1e6:.1f} MB of {len(state.join.requests)} requests in {dumped:.2f} s of CPU")
    print("classes       " + " ".join(f"{name}={n}" for name, n in stepped.counters.items() if n))
    if given.profile:
        pstats.Stats(profile).sort_stats("tottime").print_stats(22)


if __name__ == "__main__":
    main()
