"""A small processor whose whole behaviour can be recomputed, and a process that runs it and kills itself on demand.

Every record of predictions and labels gives one output to `feedback` that names its position. A prediction whose value
is `due:MS` sets a timer, which gives one more. The state keeps a running hash over everything in order, so that two
histories that differ anywhere end in different states.
"""

from __future__ import annotations

import hashlib
import heapq
import json
import os
import signal
import sys
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from schemas.settings import Settings
from streams.runtime.processor import Batch, Dump, Output, Stepped, only


@dataclass
class Counts:
    chain: str = ""
    read: dict[str, int] = field(default_factory=dict)
    timers: list[tuple[int, str]] = field(default_factory=list)
    fired: int = 0


class Counting:
    stage: str = "join"
    inputs: tuple[str, ...] = ("predictions", "labels", "control")

    def __init__(self, version: str = "1", wide: int = 0) -> None:
        self.version = version
        self.wide = wide

    def empty(self, partition: int) -> Counts:
        return Counts()

    def step(self, state: Counts, batch: Batch, clock_ms: int) -> Stepped:
        assert next(iter(batch.inputs)) == "control"
        outputs = []
        for name, records in batch.inputs.items():
            state.read[name] = state.read.get(name, 0) + len(records)
            for offset, append_ms, value in zip(records.offsets, records.append_ms, records.values, strict=True):
                body = value or b""
                if body == b"bug":
                    raise ZeroDivisionError("planted")
                state.chain = hashlib.sha256(f"{state.chain}{name}{offset}{append_ms}".encode() + body).hexdigest()
                where = f"{name}/{batch.partition}/{offset}"
                if name != "control":
                    stamp = ("clock", str(clock_ms).encode())
                    outputs.append(Output("feedback", where.encode(), body, headers=(stamp,)))
                if body.startswith(b"due:"):
                    heapq.heappush(state.timers, (int(body[4:]), where))
        while state.timers and state.timers[0][0] <= clock_ms:
            due_ms, where = heapq.heappop(state.timers)
            state.fired += 1
            outputs.append(Output("feedback", f"timer/{where}".encode(), f"{due_ms}:{clock_ms}".encode()))
        if self.wide and outputs:
            outputs.append(Output("dead-letters", b"wide", bytes(self.wide)))
        counters = {f"{name}.read": count for name, count in state.read.items()} | {"timers.fired": state.fired}
        return Stepped(outputs, counters, state.timers[0][0] if state.timers else None)

    def dump(self, state: Counts, *, whole: bool) -> Dump:
        return Dump.of(b"1" + json.dumps([state.chain, state.read, state.timers, state.fired]).encode())

    def load(self, partition: int, parts: Mapping[str, bytes]) -> Counts:
        body = only(parts)
        if not body.startswith(b"1"):
            raise ValueError(f"format {body[:1]!r}")
        chain, read, timers, fired = json.loads(body[1:])
        return Counts(chain, read, [(due, where) for due, where in timers], fired)


def die_at(point: str, countdown: int) -> None:
    """Arrange that this process kills itself the n-th time it comes by a point of the loop."""
    from streams.runtime import intake, keeping, transaction, worker

    left = [countdown]

    def before(function: Callable[..., Any]) -> Callable[..., Any]:
        def wrapped(*args: Any, **given: Any) -> Any:
            left[0] -= 1
            if left[0] == 0:
                os.kill(os.getpid(), signal.SIGKILL)
            return function(*args, **given)

        return wrapped

    owner, name = {
        "step": (worker.Worker, "_step"),
        "sent": (transaction.Transactions, "commit"),
        "committed": (keeping.Keeping, "due"),
        "gathered": (intake.Intake, "fetch"),
        "snapshot": (keeping.Keeping, "_dump"),
        "restoring": (worker.Worker, "_alive"),
    }[point]
    setattr(owner, name, before(getattr(owner, name)))


class _HalfwayProducer:
    """A producer that dies between the offsets and the end of the transaction."""

    def __init__(self, producer: Any, countdown: int) -> None:
        self._producer, self._left = producer, countdown

    def __getattr__(self, name: str) -> Any:
        return getattr(self._producer, name)

    def commit_transaction(self, timeout: float) -> None:
        self._left -= 1
        if self._left == 0:
            os.kill(os.getpid(), signal.SIGKILL)
        self._producer.commit_transaction(timeout)


def main() -> int:
    """Run a worker with the settings in the first argument; the second says where to die (`point:countdown`)."""
    from schemas.errors import WeirError
    from services import logs
    from streams.runtime import kafka
    from streams.runtime.standby import Standby
    from streams.runtime.worker import Worker

    logs.configure("counting", human=False)
    settings = Settings(**json.loads(sys.argv[1]))
    point, _, countdown = (sys.argv[2] if len(sys.argv) > 2 else "").partition(":")
    if point == "halfway":
        make: Callable[..., Any] = kafka.make_producer
        vars(kafka)["make_producer"] = lambda *given, **more: _HalfwayProducer(make(*given, **more), int(countdown))
    elif point:
        die_at(point, int(countdown))
    stop = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: stop.set())
    try:
        version, _, different = os.environ.get("COUNTING_VERSION", "1").partition(" but ")
        runs = Standby if settings.runtime.standby else Worker
        runs(Counting(version, wide=len(different)), settings, stop=stop, health_port=0).run()
    except WeirError as error:
        print(error, file=sys.stderr)
        return error.code
    return 0


if __name__ == "__main__":
    sys.exit(main())
