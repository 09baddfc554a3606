"""Compile everything that the join runs compiled, once for this machine and version: some twenty seconds of CPU.

python -m streams.join.columns
"""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from typing import Any

import structlog

from schemas.event import encode
from schemas.inputs import Label, Prediction, Signal
from schemas.policy import JoinPolicy
from streams.join.admission import JoinBounds
from streams.join.columns import arrow
from streams.join.columns.lane import Columns
from streams.join.columns.snapshot import dump, load
from streams.join.policies import PolicyBook
from streams.runtime import librdkafka
from streams.runtime.compiled import is_ready, note_ready
from streams.runtime.records import Records

_log = structlog.get_logger()


POLL_S = 0.1


def warm_until(stop: threading.Event) -> bool:
    """Run `warm`, unless `stop` is set while all of it is still being compiled; say whether it was run.

    Compiling cannot be interrupted, so a process of its own does it, which can.
    """
    if not is_ready():
        _log.info("compiling", what="the join", once="for this machine and version", takes="some twenty seconds of CPU")
        making = subprocess.Popen([sys.executable, "-m", "streams.join.columns"], stdout=subprocess.DEVNULL)
        while making.poll() is None:
            if stop.wait(POLL_S):
                making.kill()
                making.wait()
                return False
    warm()
    return True


def warm() -> float:
    """Run everything once, so that it is compiled, or loaded where it has been. Gives the seconds that it took."""
    began = time.monotonic()
    bounds = JoinBounds(
        skew_ms=1000, early_label_ms=1, grace_ms=1, partitions=1, max_event_bytes=1 << 16, virtual=False
    )
    columns = Columns(0, bounds, chained=True)
    policy = JoinPolicy(model="m", on_timeout="negative", horizon_ms=1, lateness_ms=1, retain_ms=1)
    book = PolicyBook()
    book.add(policy)
    columns.govern("m", [policy])
    columns.begin(0, 1)
    events = {
        "predictions": Prediction(request_id="r", at_ms=1, model="m"),
        "labels": Label(request_id="r", at_ms=1, label=1),
        "signals": Signal(request_id="r", at_ms=1, signal="click"),
    }
    for topic, event in events.items():
        columns.take(topic, Records([0], [1], [b"r"], [encode(event)]))
    columns.take("labels", Records([1], [1], [None], [b"?"]))
    arrow.warm(columns.memory.address)
    columns.mark("s")
    columns.forget("s")
    parts: dict[str, Any] = {name: body for name, body in dump(columns, whole=True).items() if body is not None}
    other = Columns(0, bounds, chained=True)
    load(other, parts, book)
    other.begin(0, 1)
    other.lift(other.find("r"))
    columns.fire(100)
    librdkafka.warm()
    note_ready()
    return time.monotonic() - began
