"""Weir killed with many open predictions: how fast it is back, and whether they are all there."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.join.history import History
from benchmarks.join.log import Log
from benchmarks.join.peer import Peer
from benchmarks.join.process import Program
from benchmarks.join.race import task_of
from streams.runtime.backlog import Backlog

TIMEOUT_MS = 6 * 3_600_000
SPAN_MS = 1_200_000
SAY_S = 10.0


@dataclass(frozen=True, slots=True)
class Restored:
    """`per_s`: open predictions over the seconds of the restore; `back_s`: from the start of the process to ready."""

    open: int
    expected: int
    per_s: float
    restored_s: float
    back_s: float
    pss_mb: float


def restore(
    peer: Peer,
    command: Sequence[str],
    log: Log,
    work: Path,
    *,
    n: int,
    snapshot_s: float,
    patience_s: float,
    say: Callable[[str], None],
) -> Restored:
    """Fill a worker, kill it between two snapshots, start it again. Raises `TimeoutError` or `Ended`."""
    history = History(n, int(time.time() * 1000) - SPAN_MS - 10_000, SPAN_MS, TIMEOUT_MS, seed=13, labelled=0.0)
    log.create(backdated=True)
    log.policy(history.first_ms, TIMEOUT_MS, carry=False)
    log.write(history.records())
    log.seal("predictions", "labels")
    task = task_of(peer, log, TIMEOUT_MS, work / "state")
    arguments = [*command, *task.arguments(), "--snapshot-s", str(snapshot_s)]
    program = Program(arguments, task.state, work / "log", peer.environment)
    with program, Backlog(log.settings, "join", ["predictions"], log.admin) as backlog:
        deadline, told = time.monotonic() + patience_s, time.monotonic()
        while lag := sum(backlog.lags().values()):
            program.check()
            if time.monotonic() > deadline:
                raise TimeoutError(f"{lag:,} of {n:,} predictions were not read within {patience_s:g} s")
            if time.monotonic() - told > SAY_S:
                told = time.monotonic()
                say(f"restore: {n - lag:,} of {n:,} open")
            time.sleep(0.1)
        # Each partition takes its turn within the interval; the second round lies well behind the last prediction.
        time.sleep(2 * snapshot_s + 1)
        program.check()
        pss_mb = program.pss_mb()
        program.kill()
        said = len(_ready(work / "log"))
        program.start()
        begun = time.monotonic()
        while len(_ready(work / "log")) == said:
            program.check()
            if time.monotonic() > deadline + patience_s:
                raise TimeoutError(f"not ready within {patience_s:g} s: {program.tail()}")
            time.sleep(0.01)
        back_s = time.monotonic() - begun
    report = _ready(work / "log")[-1]
    seconds = max(report["restored_s"], 1e-3)
    return Restored(int(report["open"]), n, report["open"] / seconds, seconds, back_s, pss_mb)


def _ready(path: Path) -> list[dict[str, float]]:
    lines = path.read_text(errors="replace").splitlines() if path.exists() else []
    return [json.loads(line) for line in lines if line.startswith('{"ready"')]
