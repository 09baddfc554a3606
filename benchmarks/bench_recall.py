"""How many requests per second recall finds in ClickHouse, in bulk, and how long a small bulk takes.

Two measurements, each on the embedded ClickHouse, with nothing but the page cache to help:

- **look-up**: `--predictions` synthetic requests are stored (a prediction of eight features, a feedback, for 60 % a
  label), then random ids are looked up and answered: the query, unpacking, the answers' bytes; no Kafka. The table is
  left as inserts and merges made it.
- **end to end**: `--questions` predictions go through the embedded Kafka and `record` into the same tables; then one
  question about each is appended, and a `recall` process answers them, in the same process as this benchmark.

Ids are uniform hashes, so no two of a bulk lie near each other: the worst case for a look-up. The size of the store
enters by the number of parts, the depth of the index, and by what the page cache holds.

    python -m benchmarks.bench_recall
    python -m benchmarks.bench_recall --predictions 20000000 --data DIRECTORY --keep
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import json
import platform
import statistics
import sys
import tempfile
import threading
import time
from collections import deque
from collections.abc import Iterator, Mapping
from pathlib import Path
from random import Random
from typing import Any

import psutil
from pydantic import SecretStr

from schemas.event import encode
from schemas.recall import InputTopic, RecallRequested
from schemas.settings import ClickHouse, Kafka, Settings
from services.clickhouse import connect, database_of
from services.kafka import Sender
from services.local.clickhouse import LocalClickHouse
from services.local.kafka import LocalKafka
from services.recall.ahead import Ahead
from services.recall.answer import KINDS, TOPICS, answer
from services.recall.run import REQUESTS, Recaller
from services.recall.table import Recallable, prepare
from services.record.run import Recorder
from streams.join.partition import partition_of
from streams.runtime import kafka
from streams.runtime.backlog import lags
from streams.runtime.topics import ensure_topics

CHUNK = 1_000_000
T = 1_700_000_000_000
DEADLINE_S = 900.0
ALONE = 1_000

_ID = "lower(hex(MD5(toString(number))))"
_FEATURES = ", ".join(f"',\"f{n}\":', toString(round(rand({n}) / 4294967295, 6))" for n in range(1, 9))
_START = '\'{"request_id":"\', id, \'","at_ms":\', toString(at), '
_SCORED = "\"score\":', toString(rand(9) / 4294967295), '"
_ABOUT = '"subject":"u\', toString(rand(10) % 1000000), \'","slices":{"country":"de"}'
_PREDICTION = (
    f'concat({_START} \',"model":"fraud","version":"7",{_SCORED},"features":{{"f0":1\', {_FEATURES}, \'}},'
    f'{_ABOUT},"latency_ms":12.5}}\')'
)
_LABEL = f'concat({_START} \',"label":1,"source":"chargeback"}}\')'
_FEEDBACK = (
    'concat(\'{"request_id":"\', id, \'","model":"fraud","revision":1,"status":"final","label":0,'
    f'"label_kind":"timeout","policy":"default@1","version":"7",{_SCORED},{_ABOUT},"predicted_at_ms":\', '
    "toString(at), ',\"joined_at_ms\":', toString(at), '}')"
)
_BODIES = {"predictions": _PREDICTION, "labels": _LABEL, "feedback": _FEEDBACK}


def request_id(number: int) -> str:
    """Give the id that the SQL above gives."""
    return hashlib.md5(str(number).encode(), usedforsecurity=False).hexdigest()


def fill(settings: Settings, predictions: int) -> float:
    """Store synthetic requests in a partition that no topic has, so that real ones do not meet them."""
    began = time.monotonic()
    client = connect(settings, answer_s=600)
    for start in range(0, predictions, CHUNK):
        count = min(CHUNK, predictions - start)
        for topic, body in _BODIES.items():
            client.command(
                f"INSERT INTO recallable WITH {_ID} AS id, toInt64({T} + number) AS at, {body} AS body "
                f"SELECT xxHash64(id), toUInt8({TOPICS.index(topic)}), toInt32(0), toInt64(number), "
                f"formatRowNoNewline('RowBinary', toUInt8({TOPICS.index(topic)}), toInt32(0), toInt64(number), at, id, "
                "toNullable(id), toNullable(body), CAST([], 'Array(Tuple(String, Nullable(String)))')) "
                f"FROM numbers({start}, {count}) {'WHERE number % 5 < 3' if topic == 'labels' else ''}"
            )
    client.close()
    return time.monotonic() - began


def shape(settings: Settings) -> dict[str, Any]:
    """Give the size of the look-up table."""
    client = connect(settings)
    (row,) = client.query(
        "SELECT count(), sum(rows), sum(bytes_on_disk), sum(data_uncompressed_bytes), sum(primary_key_bytes_in_memory) "
        "FROM system.parts WHERE active AND database = currentDatabase() AND table = 'recallable'"
    ).result_rows
    client.close()
    return dict(zip(("parts", "rows", "disk_bytes", "raw_bytes", "index_bytes"), map(int, row), strict=True))


def look_up(
    settings: Settings, server: psutil.Process, predictions: int, bulk: int, seconds: float, seed: int
) -> dict[str, float]:
    """Look bulks of random ids up for some seconds and make their answers, as `recall` does: one bulk ahead.

    With `bulk` below `ALONE` a bulk waits for the one before: then its time is a latency.
    """
    random, offsets = Random(seed), dict.fromkeys(KINDS, predictions)
    asked: deque[list[str]] = deque()
    began = time.monotonic()

    def bulks() -> Iterator[list[str]]:
        count = 0
        while time.monotonic() - began < seconds or count < 5:
            count += 1
            ids = [request_id(number) for number in random.sample(range(predictions), bulk)]
            asked.append(ids)
            yield ids

    ahead, alone = Ahead(settings), Recallable(settings)
    first = [request_id(number) for number in random.sample(range(predictions), bulk)]
    alone.find(first)
    cpu, theirs, began = time.process_time(), _cpu_s(server), time.monotonic()
    found = ahead.find(bulks(), lambda call: call()) if bulk >= ALONE else map(alone.find, bulks())
    took: list[float] = []
    hits = size = 0
    at = time.monotonic()
    for stored in found:
        for one in asked.popleft():
            question = RecallRequested(
                request_id=one, cause="label", partition=0, step=1, clock_ms=10**13, offsets=offsets
            )
            size += sum(map(len, answer(question, stored.get(one, ()))))
        hits += len(stored)
        took.append(time.monotonic() - at)
        at = time.monotonic()
    clock, cpu, theirs = time.monotonic() - began, time.process_time() - cpu, _cpu_s(server) - theirs
    ahead.close()
    alone.close()
    count = bulk * len(took)
    assert hits == count, f"{count - hits} of {count} stored requests were not found"
    return {
        "bulk": bulk,
        "bulks": len(took),
        "per_s": count / clock,
        "per_cpu_s": count / (cpu + theirs),
        "p50_ms": 1000 * statistics.median(took),
        "p95_ms": 1000 * sorted(took)[int(0.95 * (len(took) - 1))],
        "own_cpu_us": 1e6 * cpu / count,
        "server_cpu_us": 1e6 * theirs / count,
        "bytes": size / count,
    }


def _cpu_s(process: psutil.Process) -> float:
    times = process.cpu_times()
    return float(times.user + times.system)


@contextlib.contextmanager
def running(target: Any) -> Iterator[None]:
    """Run a process of the loop in a thread."""
    thread = threading.Thread(target=target.run)
    thread.start()
    try:
        yield
    finally:
        target.stop.set()
        thread.join()


def wait(condition: Any) -> float:
    """Wait for a condition; give the seconds."""
    began = time.monotonic()
    while not condition():
        if time.monotonic() - began > DEADLINE_S:
            raise TimeoutError("the benchmark does not get on")
        time.sleep(0.02)
    return time.monotonic() - began


def end_to_end(settings: Settings, questions: int) -> dict[str, float]:
    """Let real predictions land, then ask about each."""
    ensure_topics(settings)
    prefix = f"{time.time_ns():x}"
    names = [f"{prefix}-{request_id(number)}" for number in range(questions)]
    with Sender(settings, "bench") as sender:
        for number, name in enumerate(names):
            body = {
                "request_id": name,
                "at_ms": int(time.time() * 1000),
                "model": "fraud",
                "score": number / questions,
                "features": {f"f{n}": n / 7 for n in range(8)},
            }
            sender.send("predictions", json.dumps(body).encode(), key=name.encode())
    with running(Recorder(settings, threading.Event())):
        landing_s = wait(lambda: not any(lags(settings, "record", list(TOPICS)).values()))
        admin = kafka.make_admin(settings, "bench")
        places = {(f"{settings.namespace}.{topic}", n): topic for topic in KINDS for n in range(settings.partitions)}
        ends = {(places[p], p[1]): high for p, (_, high) in kafka.ends(admin, list(places)).items()}
        with Sender(settings, "bench") as sender:
            for name in names:
                number = partition_of(name.encode(), settings.partitions)
                question = RecallRequested(
                    request_id=name,
                    cause="deadline",
                    partition=number,
                    step=1,
                    clock_ms=10**13,
                    offsets={topic: ends[topic, number] for topic in KINDS},
                )
                sender.send(REQUESTS, encode(question), key=name.encode())
        wait(lambda: not any(lags(settings, "record", [*TOPICS, REQUESTS]).values()))
        recaller = Recaller(settings, threading.Event())
        with running(recaller):
            wait(lambda: recaller.answered.questions)
            first, began = recaller.answered.questions, time.monotonic()
            wait(lambda: recaller.answered.questions == questions)
            per_s = (questions - first) / (time.monotonic() - began)
            unfound = recaller.answered.unfound
            latencies = [_one(settings, recaller, names[n], ends) for n in range(20)]
    assert not unfound, f"{unfound} questions found nothing"
    return {
        "record_per_s": questions / landing_s,
        "per_s": per_s,
        "alone_p50_ms": 1000 * statistics.median(latencies),
        "alone_max_ms": 1000 * max(latencies),
    }


def _one(settings: Settings, recaller: Recaller, name: str, ends: Mapping[tuple[InputTopic, int], int]) -> float:
    """Ask one question of an idle recall; give the seconds until its answer is with Kafka and committed."""
    number, before = partition_of(name.encode(), settings.partitions), recaller.answered.questions
    offsets = {topic: ends[topic, number] for topic in KINDS}
    question = RecallRequested(
        request_id=name, cause="label", partition=number, step=2, clock_ms=10**13, offsets=offsets
    )
    sender = Sender(settings, "bench")
    time.sleep(0.3)
    began = time.monotonic()
    sender.send(REQUESTS, encode(question), key=name.encode())
    sender.flush()
    while recaller.answered.questions == before:
        time.sleep(0.001)
    return time.monotonic() - began


def main() -> None:
    """Measure and print a table."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--predictions", type=int, default=2_000_000, help="how many are stored")
    parser.add_argument("--questions", type=int, default=50_000, help="how many go end to end; 0: none")
    parser.add_argument("--seconds", type=float, default=10.0, help="for each size of a bulk")
    parser.add_argument("--data", type=Path, help="where to store; a temporary directory when not given")
    parser.add_argument("--keep", action="store_true", help="with --data: use what an earlier run has stored there")
    args = parser.parse_args()
    with contextlib.ExitStack() as stack:
        data = args.data or Path(stack.enter_context(tempfile.TemporaryDirectory()))
        server = stack.enter_context(LocalClickHouse(data / "clickhouse"))
        at = ClickHouse(host=server.host, port=server.port, user=server.user, password=SecretStr(server.password))
        settings = Settings(namespace="bench-recall", clickhouse=at, data_dir=data)
        prepare(settings)
        if not (args.keep and shape(settings)["rows"]):
            took_s = fill(settings, args.predictions)
            print(f"stored {args.predictions:,} requests in {took_s:.0f} s", file=sys.stderr)
        print(f"Python {platform.python_version()}; {args.predictions:,} stored predictions, with feedback and labels")
        found = shape(settings)
        rows = found["rows"]
        print(
            f"table: {rows:,} rows in {found['parts']} parts, {found['disk_bytes'] / rows:.0f} bytes a row on disk, "
            f"{found['raw_bytes'] / rows:.0f} raw; index {found['index_bytes'] / 1e6:.1f} MB in memory "
            f"(database {database_of(settings)})"
        )
        heads = ("ids/s", "ids/CPU-s", "p50 ms", "p95 ms", "CPU µs/id", "ClickHouse CPU", "bytes/answer")
        print(f"\n{'bulk':>6} " + " ".join(f"{head:>14}" for head in heads))
        for bulk in (20_000, 10_000, 5_000, 1_000, 100, 10, 1):
            one = look_up(settings, psutil.Process(server.pid), args.predictions, bulk, args.seconds, seed=bulk)
            figures = (
                one[name] for name in ("per_s", "per_cpu_s", "p50_ms", "p95_ms", "own_cpu_us", "server_cpu_us", "bytes")
            )
            print(f"{bulk:>6} " + " ".join(f"{figure:>14,.1f}" for figure in figures), flush=True)
        if args.questions:
            broker = stack.enter_context(LocalKafka(Path(stack.enter_context(tempfile.TemporaryDirectory()))))
            with_kafka = settings.model_copy(
                update={"kafka": Kafka(bootstrap=broker.bootstrap), "namespace": "bench-recall"}
            )
            one_way = end_to_end(with_kafka, args.questions)
            print(
                f"\nend to end, {args.questions:,} questions: {one_way['per_s']:,.0f} answers/s; one question alone: "
                f"p50 {one_way['alone_p50_ms']:.0f} ms, max {one_way['alone_max_ms']:.0f} ms "
                f"(record landed {one_way['record_per_s']:,.0f} rows/s)"
            )


if __name__ == "__main__":
    main()
