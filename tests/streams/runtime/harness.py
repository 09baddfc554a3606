"""What the Kafka tests of the loop share: a fresh namespace, a worker in a thread, reading everything back."""

from __future__ import annotations

import itertools
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from confluent_kafka import Message, TopicPartition

from schemas.event import decode
from schemas.records import Step
from schemas.settings import Settings
from schemas.topics import topic_name
from streams.runtime import kafka
from streams.runtime.history import History
from streams.runtime.manifest import Parts
from streams.runtime.manifest import decode as decode_manifest
from streams.runtime.objects import Files
from streams.runtime.processor import Batch, Output
from streams.runtime.records import Records
from streams.runtime.topics import ensure_topics
from streams.runtime.worker import Worker
from tests.streams.runtime.counting import Counting, Counts

DEADLINE_S = 40.0


def configuration(bootstrap: str, data_dir: Path, **more: Any) -> dict[str, Any]:
    """Give keyword arguments of `Settings` for a namespace that nobody else uses."""
    runtime = {"commit_ms": 30, "snapshot_s": 0.5, **more.pop("runtime", {})}
    given = {"namespace": f"t{uuid.uuid4().hex[:10]}", "partitions": 2, "data_dir": str(data_dir), **more}
    properties = {"session.timeout.ms": "6000"}
    return {**given, "kafka": {"bootstrap": bootstrap, "properties": properties}, "runtime": runtime}


def fresh(bootstrap: str, data_dir: Path, **more: Any) -> Settings:
    """Give settings of a namespace whose topics exist."""
    settings = Settings(**configuration(bootstrap, data_dir, **more))
    ensure_topics(settings)
    return settings


def until(condition: Callable[[], Any], what: str) -> Any:
    """Wait for a condition and give what it gave. Fails at the deadline."""
    deadline = time.monotonic() + DEADLINE_S
    while not (found := condition()):
        assert time.monotonic() < deadline, f"waited {DEADLINE_S:g} s for {what}"
        time.sleep(0.02)
    return found


class Running:
    """A worker in a thread, with the error that ended it."""

    def __init__(self, settings: Settings, processor: Counting | None = None, history: History | None = None) -> None:
        self.stop = threading.Event()
        self.error: BaseException | None = None
        self.worker = Worker(processor or Counting(), settings, stop=self.stop, history=history)
        self.thread = threading.Thread(target=self._run)
        self.thread.start()

    def _run(self) -> None:
        try:
            self.worker.run()
        except BaseException as error:
            self.error = error

    def until(self, condition: Callable[[], Any], what: str) -> Any:
        def met() -> Any:
            if self.error is not None:
                raise self.error
            return condition()

        return until(met, what)

    def ended(self) -> BaseException | None:
        self.thread.join(DEADLINE_S)
        assert not self.thread.is_alive()
        return self.error


@contextmanager
def running(settings: Settings, processor: Counting | None = None) -> Iterator[Running]:
    """Run a worker until the block ends; then stop it cleanly."""
    run = Running(settings, processor)
    try:
        yield run
    finally:
        run.stop.set()
        run.thread.join(DEADLINE_S)
    if run.error is not None:
        raise run.error


def send(settings: Settings, logical: str, values: list[bytes], *, partition: int = -1) -> None:
    """Append records with running keys, and wait until they are there."""
    producer = kafka.make_producer(settings, "test")
    for number, value in enumerate(values):
        producer.produce(topic_name(settings.namespace, logical), value, f"k{number}".encode(), partition)
    assert producer.flush(30) == 0


def everything(settings: Settings, logical: str) -> list[Message]:
    """Read a whole topic, committed records only, partition by partition in order."""
    admin = kafka.make_admin(settings)
    name = topic_name(settings.namespace, logical)
    count = len(admin.list_topics(name, timeout=10).topics[name].partitions)
    reader = kafka.make_reader(settings, "test")
    first = kafka.earliest(admin, [(name, partition) for partition in range(count)])
    reader.assign([TopicPartition(*place, offset) for place, offset in first.items()])
    found: list[Message] = []
    # A topic that is written meanwhile may never be seen at its end: what was there at the beginning is enough.
    stable = {place[1]: low for place, (low, _) in kafka.ends(admin, list(first)).items()}
    ended: set[int] = {place[1] for place, offset in first.items() if offset >= stable[place[1]]}
    deadline = time.monotonic() + DEADLINE_S
    while len(ended) < count:
        assert time.monotonic() < deadline
        for message in reader.consume(1, 0.2) + reader.consume(100_000, 0):
            number = message.partition() or 0
            if message.error() is None:
                found.append(message)
            if message.error() is not None or (message.offset() or 0) + 1 >= stable[number]:
                ended.add(number)
    reader.close()
    return sorted(found, key=lambda message: (message.partition(), message.offset()))


def positions(settings: Settings, *inputs: str) -> list[str]:
    """Name every record of the inputs as `Counting` does in its outputs."""
    return sorted(
        f"{name}/{message.partition()}/{message.offset()}" for name in inputs for message in everything(settings, name)
    )


def reflected(settings: Settings) -> list[str]:
    """Name the inputs that `feedback` reflects, repetitions included."""
    keys = [(message.key() or b"").decode() for message in everything(settings, "feedback")]
    return sorted(key for key in keys if not key.startswith("timer/"))


def recorded(settings: Settings, partition: int) -> list[Step]:
    """Give the steps of a partition in the order of the log."""
    return [
        decode(message.value() or b"", Step)
        for message in everything(settings, "steps")
        if message.partition() == partition
    ]


def recomputed(settings: Settings, partition: int) -> tuple[Counts, list[Output]]:
    """Take every recorded step again from nothing, by the plainest code that can; give the state and all outputs."""
    processor = Counting()
    state = processor.empty(partition)
    outputs: list[Output] = []
    logs = {name: [m for m in everything(settings, name) if m.partition() == partition] for name in processor.inputs}
    for step in recorded(settings, partition):
        batch = {name: Records() for name in ("control", "predictions", "labels")}
        for name, records in batch.items():
            while logs[name] and (logs[name][0].offset() or 0) < step.offsets[name]:
                message = logs[name].pop(0)
                records.append(message.offset() or 0, message.timestamp()[1], message.key(), message.value())
        outputs += processor.step(state, Batch(partition, step.number, batch), step.clock_ms).outputs
    return state, outputs


def assert_exactly_once(settings: Settings) -> None:
    """Compare what committed readers see with the inputs, the steps with their neighbours, all with a recomputation.

    The worker must have stopped cleanly, with every input read.
    """
    assert reflected(settings) == positions(settings, "predictions", "labels")
    outputs: list[Output] = []
    for partition in range(settings.partitions):
        steps = recorded(settings, partition)
        assert [step.number for step in steps] == list(range(1, len(steps) + 1))
        for before, after in itertools.pairwise(steps):
            assert after.clock_ms >= before.clock_ms
            assert all(after.offsets[name] >= offset for name, offset in before.offsets.items())
        state, given = recomputed(settings, partition)
        assert final_state(settings, partition) == state.chain
        outputs += given
    seen = [(message.key(), message.value()) for message in everything(settings, "feedback")]
    assert sorted(seen) == sorted((output.key, output.value) for output in outputs)


def snapshots(settings: Settings) -> list[Path]:
    return sorted(settings.data_dir.rglob("*.snapshot"))


def final_state(settings: Settings, partition: int) -> str:
    """Give the state that a worker which stops at once writes."""
    path = [path for path in snapshots(settings) if int(path.parent.name) == partition][-1]
    manifest = decode_manifest(path.read_bytes())
    parts = Parts(manifest, Files(path.parent).reader)
    return Counting().load(partition, parts).chain
