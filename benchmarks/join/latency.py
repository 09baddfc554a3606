"""Weir alone, live at half of its capacity: from the moment a label should have been sent to its feedback readable.

The schedule is kept by `pace`; the reader is a `read_committed` consumer in this process. The first fifth is left out.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from benchmarks.join.history import LABELLED, TWICE, History
from benchmarks.join.live import Late, now_ms, paced, reader_at_end
from benchmarks.join.log import Log
from benchmarks.join.peer import Peer
from benchmarks.join.process import Program
from benchmarks.join.race import LEFT_OUT, START_S, task_of

READY_MS = 4_000
TIMEOUT_MS = 6_000
RENDER_US = (15, 60)
_LABELLED = re.compile(rb'"labelled_at_ms":(\d+)')
_PREDICTED = re.compile(rb'"predicted_at_ms":(\d+)')


@dataclass(frozen=True, slots=True)
class Delays:
    """Milliseconds from a label's scheduled time to its feedback, and how the run went.

    `late_ms`: how far the producer fell behind its schedule at worst (the delays have it in them); `rows`: how many
    delays there are; `cpu_share`: the CPU that Weir took, in cores.
    """

    p50_ms: float
    p99_ms: float
    most_ms: float
    per_s: float
    rows: int
    late_ms: int
    cpu_share: float


def delays(
    peer: Peer,
    command: Sequence[str],
    log: Log,
    work: Path,
    *,
    per_s: float,
    seconds: int,
    say: Callable[[str], None],
) -> Delays:
    """Run at `per_s` events a second for some seconds. Raises `TimeoutError` or `Ended` when it does not run."""
    log.create(backdated=False)
    log.policy(now_ms(), TIMEOUT_MS)
    task = task_of(peer, log, TIMEOUT_MS, work / "state")
    n = int(per_s * seconds / (1 + LABELLED * (1 + TWICE)))
    program = Program([*command, *task.arguments()], task.state, work / "log", peer.environment)
    with program:
        deadline = time.monotonic() + START_S
        while '"ready"' not in program.said():
            program.check()
            if time.monotonic() > deadline:
                raise TimeoutError(f"not ready within {START_S:g} s: {program.tail()}")
            time.sleep(0.05)
        for render_us in RENDER_US:
            lead_ms = READY_MS + int(per_s * seconds * render_us / 1000)
            history = History(n, now_ms() + lead_ms, seconds * 1000, TIMEOUT_MS, seed=12)
            say(f"latency: {history.events / seconds:,.0f} events a second for {seconds} s, in {lead_ms / 1000:.0f} s")
            try:
                with paced(log, history, work) as report:
                    waited, cpu_share = _read(log, task.output, history, program)
                    late_ms = report()["late_ms"]
                break
            except Late as error:
                say(f"latency: {error}")
        else:
            raise TimeoutError("this machine is too busy to keep to the schedule")
    if not waited:
        raise TimeoutError(f"no feedback came: {program.tail()}")
    p50_ms, p99_ms = np.percentile(waited, [50, 99]).tolist()
    return Delays(p50_ms, p99_ms, max(waited), history.events / seconds, len(waited), late_ms, cpu_share)


def _read(log: Log, output: str, history: History, program: Program) -> tuple[list[float], float]:
    """Read all rows; give the delays of the last four fifths, and the cores that the program took in that time."""
    waited: list[float] = []
    steady_ms = history.start_ms + history.span_ms * LEFT_OUT
    reader = reader_at_end(log, output)
    used_s = begun = 0.0
    labelled, cpu_share = int((history.label >= 0).sum()), 0.0
    while labelled and now_ms() < history.last_ms + 2 * TIMEOUT_MS:
        messages = reader.consume(50_000, 0.01)
        at_ms = time.time() * 1000
        for message in messages:
            if message.error() is None:
                sent_ms = _sent_ms(message.value() or b"")
                labelled -= sent_ms > 0
                if sent_ms > steady_ms:
                    waited.append(at_ms - sent_ms)
        if not begun and at_ms > steady_ms:
            used_s, begun = program.cpu_s(), time.monotonic()
        if begun and not cpu_share and at_ms > history.start_ms + history.span_ms:
            cpu_share = (program.cpu_s() - used_s) / (time.monotonic() - begun)
        program.check()
    reader.close()
    return waited, cpu_share


def _sent_ms(row: bytes) -> int:
    """Give when what made this row was to be sent: the label, or the prediction where that came later; 0: neither."""
    labelled = _LABELLED.search(row)
    predicted = _PREDICTED.search(row)
    return max(int(labelled[1]), int(predicted[1])) if labelled and predicted else 0
