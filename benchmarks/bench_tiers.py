"""What the second tier of the join saves and costs: bytes of a stub, putting away, bringing back.

One partition of the join alone, without Kafka or ClickHouse: what answers are made of is kept here, and made into
answers by what `weir recall` makes them with (not counted). `--entries` predictions are open, one in four with a label.
All are put away at cuts of a twentieth; then labels come for some of them, each makes a question, and the answers
bring their requests back.

    python -m benchmarks.bench_tiers --entries 1000000
"""

from __future__ import annotations

import argparse
import json
import platform
import random
import sys
import time
from collections.abc import Iterator
from importlib.metadata import version

from benchmarks.bench_restore import HOUR_MS, Partition, T, control, labels, predictions
from schemas.event import decode
from schemas.recall import RecallRequested
from services.recall.answer import Stored, answer
from streams.join.processor import JoinProcessor
from streams.runtime.processor import Batch, Stepped
from streams.runtime.records import Records

CUTS = 20


class Tiered(Partition):
    """A partition that says how far it has read, and can cut."""

    def __init__(self) -> None:
        super().__init__(columns=True)
        self.at = dict.fromkeys(("control", "recalled", "predictions", "labels", "signals"), 0)

    def cut(self, clock_ms: int, cut_ms: int = 0, **inputs: Records) -> tuple[Stepped, float]:
        """Take a step, with a cut if it is given; give the CPU seconds that it took."""
        self.step += 1
        for name, records in inputs.items():
            self.at[name] = int(records.packed().table[-1, 4]) + 1
        batch = Batch(0, self.step, inputs, dict(self.at), cut_ms)
        began = time.process_time()
        stepped = self.processor.step(self.state, batch, clock_ms)
        return stepped, time.process_time() - began

    @property
    def used(self) -> int:
        processor: JoinProcessor[None] = self.processor
        return processor.used_bytes(self.state)


def parts_of(count: int) -> Iterator[range]:
    """Cut so many requests into portions of a step."""
    for start in range(0, count, 5_000):
        yield range(start, min(start + 5_000, count))


def run(entries: int, recalled: int) -> dict[str, float]:
    """Run once and give the figures."""
    one = Tiered()
    one.cut(T, control=control())
    bodies: dict[int, bytes] = {}
    for clock_ms, records in predictions(entries):
        for offset, value in zip(records.offsets, records.values, strict=True):
            bodies[offset] = value or b""
        one.cut(clock_ms, predictions=records)
    end_ms = T + 24 * HOUR_MS + 1_000
    said: dict[int, tuple[bytes, bytes]] = {}
    offset = 0
    for part in parts_of(entries // 4):
        numbers = [4 * number for number in part]
        given = labels(numbers, offset, end_ms)
        stepped, _ = one.cut(end_ms, labels=given)
        for number, value, output in zip(numbers, given.values, stepped.outputs, strict=True):
            said[number] = value or b"", output.value
        offset += len(numbers)
    hot_bytes = one.used
    span_ms = 24 * HOUR_MS // CUTS
    cpu_s = 0.0
    longest_s = 0.0
    end_ms += 60_000
    for number in range(1, CUTS + 1):
        cut_ms = T + number * span_ms + 1 if number < CUTS else end_ms
        stepped, took_s = one.cut(end_ms, cut_ms)
        cpu_s += took_s
        longest_s = max(longest_s, took_s)
    away = stepped.counters["recalls.away"]
    stub_bytes = one.used
    chosen = random.Random(1).sample(range(entries), recalled)
    asked_s = back_s = 0.0
    offset = entries // 4
    answered = 0
    for start in range(0, recalled, 2_000):
        numbers = chosen[start : start + 2_000]
        given = labels(numbers, offset, end_ms + 1)
        stepped, took_s = one.cut(end_ms + 1, labels=given)
        asked_s += took_s
        answers = Records()
        by_id = {f"r{number:09d}": (number, value) for number, value in zip(numbers, given.values, strict=True)}
        for output in stepped.outputs:
            question = decode(output.value, RecallRequested)
            number, value = by_id[question.request_id]
            key = question.request_id.encode()
            stored = [Stored(0, 0, number, T + number * 24 * HOUR_MS // entries + 5, key, bodies[number], [])]
            stored.append(Stored(1, 0, question.offsets["labels"] - 1, end_ms + 1, key, value, []))
            if number in said:
                stored.append(Stored(1, 0, number // 4, end_ms, key, said[number][0], []))
                stored.append(Stored(3, 0, number, end_ms, key, said[number][1], []))
            for body in answer(question, stored):
                answers.append(one.at["recalled"] + len(answers), end_ms + 1, key, body)
        offset += len(numbers)
        stepped, took_s = one.cut(end_ms + 1, recalled=answers)
        back_s += took_s
        answered = stepped.counters["recalls.answered"]
    assert answered == recalled, (answered, stepped.counters)
    return {
        "entries": entries,
        "hot_bytes_each": round(hot_bytes / entries, 1),
        "stub_bytes_each": round(stub_bytes / entries, 1),
        "away": away,
        "put_away_us": round(cpu_s / away * 1e6, 3),
        "longest_cut_ms": round(longest_s * 1e3, 1),
        "ask_us": round(asked_s / recalled * 1e6, 1),
        "bring_back_us": round(back_s / recalled * 1e6, 1),
    }


def main() -> None:
    """Run and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--entries", type=int, default=1_000_000)
    parser.add_argument("--recalled", type=int, default=20_000)
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args()
    run(2_000, 500)  # compile before anything is measured
    figures = run(given.entries, given.recalled)
    if given.json:
        print(json.dumps(figures))
        return
    print(f"machine           {platform.processor() or platform.machine()}, {platform.system()} {platform.release()}")
    print(f"versions          python {platform.python_version()}, numba {version('numba')}")
    print(f"command           python -m benchmarks.bench_tiers {' '.join(sys.argv[1:])}".rstrip())
    for name, figure in figures.items():
        print(f"{name:<17} {figure:,}")


if __name__ == "__main__":
    main()
