"""How many events per CPU second the join takes without Kafka, one partition of four: alone and with measure behind it,
in columns and in objects.

Predictions carry `--features` features and come in event time; 60 % get a label some seconds later, 10 % of these a
correction; a signal follows each second one. One of two models takes silence for a negative. Steps have `--batch`
records. Making the records is not counted; admission, state, revisions, their encoding and the timers are.

    python -m benchmarks.bench_join
    python -m benchmarks.bench_join --profile
"""

from __future__ import annotations

import argparse
import cProfile
import json
import platform
import pstats
import resource
import sys
import time
from importlib.metadata import version
from random import Random

from streams.join.admission import JoinBounds
from streams.join.columns.warm import warm
from streams.join.partition import partition_of
from streams.join.processor import JoinProcessor
from streams.measure.measure import Measure, MeasureState
from streams.runtime.processor import Batch
from streams.runtime.records import Records

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


def history(events: int, features: int, seed: int) -> list[tuple[int, str, bytes, bytes]]:
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
        numbers = {f"feature_{n}": round(random.gauss(0, 1), 4) for n in range(features - 2)}
        prediction = {
            "request_id": request,
            "at_ms": at_ms,
            "model": model,
            "version": "7",
            "score": random.random(),
            "features": {**numbers, "country": random.choice(("de", "fr", "it")), "new": random.random() < 0.1},
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


def run(chained: bool, columns: bool, steps: list[tuple[Batch, int]], profile: cProfile.Profile | None) -> None:
    """Take all steps and print a line."""
    bounds = JoinBounds(
        skew_ms=86_400_000,
        early_label_ms=30_000,
        grace_ms=10_000,
        partitions=PARTITIONS,
        max_event_bytes=900_000,
        virtual=False,
    )
    measure = Measure(partitions=PARTITIONS) if chained else None
    processor: JoinProcessor[MeasureState] = JoinProcessor(bounds, measure, columns=columns)
    state = processor.empty(0)
    resident = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    outputs = most = 0
    if profile is not None:
        profile.enable()
    start = time.process_time()
    for batch, clock_ms in steps:
        stepped = processor.step(state, batch, clock_ms)
        outputs += len(stepped.outputs)
        held = state.join.columns
        most = max(most, len(state.join.requests) + (0 if held is None else len(held)))
    seconds = time.process_time() - start
    if profile is not None:
        profile.disable()
    grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - resident) * 1024
    read = sum(len(records) for batch, _ in steps for records in batch.inputs.values())
    print(
        f"{'with measure' if chained else 'alone':13} {'columns' if columns else 'objects':8} "
        f"{read / seconds:>10,.0f} events per CPU second ({seconds / read * 1e6:4.1f} µs each), {outputs} outputs, "
        f"{most} requests at most, {grown / max(most, 1):,.0f} bytes of resident memory for each"
    )


def main() -> None:
    """Run and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--events", type=int, default=200_000)
    parser.add_argument("--features", type=int, default=20, help="of a prediction; a text and a truth value among them")
    parser.add_argument("--batch", type=int, default=5_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--profile", action="store_true", help="print where the time goes with measure (slower)")
    given = parser.parse_args()
    warm()
    print(f"machine       {platform.processor() or platform.machine()}, {platform.system()} {platform.release()}")
    print(f"versions      python {platform.python_version()}, msgspec {version('msgspec')}, numba {version('numba')}")
    print(f"command       python -m benchmarks.bench_join {' '.join(sys.argv[1:])}".rstrip())
    steps = batches(history(given.events, given.features, given.seed), given.batch)
    for chained in (False, True):
        for columns in (True, False):
            run(chained, columns, steps, None)
    if given.profile:
        profile = cProfile.Profile()
        run(True, True, steps, profile)
        pstats.Stats(profile).sort_stats("tottime").print_stats(22)


if __name__ == "__main__":
    main()
