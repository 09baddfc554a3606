"""Weir as a peer: the process that `weir join` runs, with `measure` left out of it.

Started like the others. When its partitions are restored it prints one JSON line: how long that took, and how many
predictions are open in them.
"""

from __future__ import annotations

import argparse
import json
import signal
import sys
import threading
import time
from pathlib import Path
from types import FrameType

from benchmarks.join.log import settings_of
from schemas.errors import WeirError
from schemas.settings import Settings
from streams.join.admission import JoinBounds
from streams.join.processor import JoinProcessor
from streams.runtime.worker import Worker


def main() -> None:
    """Run until SIGTERM."""
    parser = argparse.ArgumentParser(description=__doc__)
    for name in ("bootstrap", "predictions", "labels", "output", "group", "state"):
        parser.add_argument(f"--{name}", required=True)
    parser.add_argument("--partitions", type=int, required=True)
    parser.add_argument("--timeout-ms", type=int, required=True)
    parser.add_argument("--snapshot-s", type=float, default=30.0)
    parser.add_argument("--worker", default="0")
    parser.add_argument("--envelopes", action="store_true")
    given = parser.parse_args()
    stop = threading.Event()

    def end(number: int, frame: FrameType | None) -> None:
        stop.set()

    signal.signal(signal.SIGTERM, end)
    signal.signal(signal.SIGINT, end)
    namespace = given.predictions.removesuffix(".predictions")
    settings = settings_of(given.bootstrap, namespace, given.partitions, given.timeout_ms)
    runtime = settings.runtime.model_copy(update={"snapshot_s": given.snapshot_s, "worker": given.worker})
    join = settings.join.model_copy(update={"feedback_envelopes": given.envelopes})
    settings = settings.model_copy(update={"data_dir": Path(given.state), "runtime": runtime, "join": join})
    try:
        _run(settings, stop)
    except WeirError as error:
        print(error, file=sys.stderr, flush=True)
        raise SystemExit(error.code) from None


def _run(settings: Settings, stop: threading.Event) -> None:
    processor: JoinProcessor[None] = JoinProcessor(JoinBounds.of(settings))
    worker = Worker(processor, settings, stop=stop, health_port=0)
    threading.Thread(target=_announce, args=(worker, stop), daemon=True).start()
    worker.run()


def _announce(worker: Worker[object], stop: threading.Event) -> None:
    begun: float | None = None
    progress = worker.progress
    while not progress.ready and not stop.wait(0.005):
        if progress.restoring and begun is None:
            begun = time.monotonic()
    restored_s = 0.0 if begun is None else time.monotonic() - begun
    while not progress.partitions and not stop.wait(0.005):
        pass
    waiting = sum(part.counters.get("predictions.open", 0) for part in progress.partitions.values())
    print(json.dumps({"ready": True, "restored_s": round(restored_s, 4), "open": waiting}), flush=True)


if __name__ == "__main__":
    main()
