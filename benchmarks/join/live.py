"""What a peer does while events come in: a `kill -9` in the middle, then a prediction that nobody answers.

Events come at a modest pace that every peer stands, and ticks twice a second in every partition, until all is answered
or patience ends. Half way the peer is killed with everything it started, and started again at once. What a
`read_committed` reader finds at the end is compared with the truth. Then all falls silent, one prediction goes to one
partition, and the time from its deadline to its negative is taken, by the clock of this machine.
"""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from confluent_kafka import Consumer, TopicPartition

from benchmarks.join.history import History, ticks
from benchmarks.join.log import Log
from benchmarks.join.peer import Peer
from benchmarks.join.process import Ended, Program
from benchmarks.join.race import task_of
from benchmarks.join.truth import Verdict, judge

PER_S = 500
LEAD_MS = 7_000
READY_S = 90.0
TICK_S = 0.5
SILENCE_S = 2.0
JUDGE_S = 1.0
ROOT = Path(__file__).parents[2]


class Late(TimeoutError):
    """The producer was not ready at the start of its schedule: the machine is busy. Try again with more time."""


@dataclass(frozen=True, slots=True)
class Lived:
    """What was found. `back_s`: from the restart to the first row behind it; `idle_ms`: from deadline to negative."""

    verdict: Verdict | None = None
    back_s: float | None = None
    idle_ms: float | None = None
    said: str = ""


def live(
    peer: Peer,
    command: Sequence[str],
    log: Log,
    work: Path,
    *,
    timeout_ms: int,
    seconds: int,
    patience_s: float,
    idle_s: float,
    say: Callable[[str], None],
) -> Lived:
    """Run a peer through all of it in a namespace of its own."""
    log.create(backdated=False)
    log.policy(now_ms(), timeout_ms)
    task = task_of(peer, log, timeout_ms, work / "state")
    program = Program([*command, *task.arguments()], task.state, work / "log", peer.environment)
    try:
        with program:
            with _ticking(log):
                found, back_s = _killed(peer, log, program, task.output, work, timeout_ms, seconds, patience_s, say)
            say(f"{peer.name}: silence")
            time.sleep(SILENCE_S)
            program.check()
            idle_ms = _idle(log, task.output, timeout_ms, idle_s)
            return Lived(found, back_s, idle_ms)
    except (Ended, TimeoutError) as error:
        return Lived(said=str(error))


def _killed(
    peer: Peer,
    log: Log,
    program: Program,
    output: str,
    work: Path,
    timeout_ms: int,
    seconds: int,
    patience_s: float,
    say: Callable[[str], None],
) -> tuple[Verdict, float | None]:
    _wait(lambda: log.ends(output, committed=True) > 0, READY_S, program, "the first row")
    history = History(PER_S * seconds, now_ms() + LEAD_MS, seconds * 1000, timeout_ms, seed=11)
    with paced(log, history, work):
        say(f"{peer.name}: {history.events:,} events in {seconds} s, killed half way")
        _wait(lambda: now_ms() > history.start_ms + seconds * 500, seconds + 10, program, "the half")
        program.kill()
        back_s = _back_s(log, program, output, patience_s)
        _wait(lambda: now_ms() > history.last_ms, seconds + 10, program, "the last event")
    deadline = time.monotonic() + patience_s
    found = judge(history, log.settings.kafka.bootstrap, output, log.settings.partitions)
    settled = 0
    while time.monotonic() < deadline and (settled < 2 or now_ms() < history.last_ms + timeout_ms):
        time.sleep(JUDGE_S)
        program.check()
        before_rows = found.rows
        found = judge(history, log.settings.kafka.bootstrap, output, log.settings.partitions)
        # Nothing is missing, or nothing comes any more although every timeout is long over.
        still = found.rows == before_rows and now_ms() > history.last_ms + 3 * timeout_ms + 1000 * peer.grace_s
        settled = settled + 1 if not found.missing or still else 0
    return found, back_s


def _back_s(log: Log, program: Program, output: str, patience_s: float) -> float | None:
    """Start a killed peer again and give the seconds until somebody can read a row that was not there before."""
    reader = reader_at_end(log, output)
    program.start()
    begun = time.monotonic()
    try:
        while time.monotonic() - begun < patience_s:
            program.check()
            if any(message.error() is None for message in reader.consume(10, 0.02)):
                return time.monotonic() - begun
    finally:
        reader.close()
    return None


def _idle(log: Log, output: str, timeout_ms: int, idle_s: float) -> float | None:
    """Send one prediction and give the ms from its deadline to its row; None when none came for `idle_s` after it."""
    reader = reader_at_end(log, output)
    history = History(1, now_ms(), 0, timeout_ms, seed=now_ms() & 0xFFFF, labelled=0.0)
    key = history.keys(history.order[2])[0]
    log.write(history.records())
    deadline_ms = history.start_ms + timeout_ms
    try:
        while now_ms() < deadline_ms + idle_s * 1000:
            for message in reader.consume(100, 0.02):
                if message.error() is None and key in (message.value() or b""):
                    return time.time() * 1000 - deadline_ms
    finally:
        reader.close()
    return None


def reader_at_end(log: Log, topic: str) -> Consumer:
    """Open a `read_committed` reader of what comes from now on."""
    reader = Consumer(
        {
            "bootstrap.servers": log.settings.kafka.bootstrap,
            "group.id": "bench.reader",
            "isolation.level": "read_committed",
            "enable.auto.commit": False,
            "fetch.wait.max.ms": 20,
            "fetch.queue.backoff.ms": 5,
        }
    )
    reader.assign([TopicPartition(*place, stable) for place, (stable, _) in log.places(topic).items()])
    return reader


@contextlib.contextmanager
def paced(log: Log, history: History, work: Path) -> Iterator[Callable[[], dict[str, int]]]:
    """Produce a history on its schedule, from a process of its own; gives what waits for its end and its report.

    Returns when all is rendered. Raises `Late` when that took longer than until the start; nothing has been sent then.
    """
    command = [
        *(sys.executable, "-m", "benchmarks.join.pace"),
        *("--bootstrap", log.settings.kafka.bootstrap),
        *("--predictions", log.topic("predictions"), "--labels", log.topic("labels")),
        *("--n", str(history.n), "--start-ms", str(history.start_ms), "--span-ms", str(history.span_ms)),
        *("--timeout-ms", str(history.timeout_ms), "--seed", str(history.seed)),
    ]
    with (
        (work / "pace").open("ab") as errors,
        subprocess.Popen(
            command, cwd=ROOT, stdout=subprocess.PIPE, stderr=errors, stdin=subprocess.DEVNULL, text=True
        ) as running,
    ):
        assert running.stdout is not None
        try:
            ready_ms = json.loads(running.stdout.readline() or '{"ready_ms":0}')["ready_ms"]
            if not ready_ms or ready_ms > history.first_ms:
                raise Late(f"the producer was ready {ready_ms - history.first_ms} ms after its start")

            def report() -> dict[str, int]:
                found: dict[str, int] = json.loads(running.communicate()[0].splitlines()[-1])
                return found

            yield report
        finally:
            with contextlib.suppress(subprocess.TimeoutExpired):
                running.wait(15)
            running.kill()


@contextlib.contextmanager
def _ticking(log: Log) -> Iterator[None]:
    stop = threading.Event()

    def tick() -> None:
        while not stop.wait(TICK_S):
            log.write(ticks(now_ms(), log.settings.partitions))

    thread = threading.Thread(target=tick, daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()


def _wait(met: Callable[[], bool], patience_s: float, program: Program, what: str) -> None:
    deadline = time.monotonic() + patience_s
    while not met():
        program.check()
        if time.monotonic() > deadline:
            raise TimeoutError(f"{what} did not come within {patience_s:g} s: {program.tail()}")
        time.sleep(0.02)


def now_ms() -> int:
    """Give this machine's time."""
    return int(time.time() * 1000)
