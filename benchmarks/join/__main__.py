"""Run the join and its peers over the same topics on this machine, and print one table.

    python -m benchmarks.join                    # everything; some of it takes minutes per peer
    python -m benchmarks.join --quick            # under three minutes, without peers that need a build
    python -m benchmarks.join --json --only weir_json,bare

A broker is started for the run and ends with it. Peers are fetched by their own package managers into the user's cache
on first use, and skipped with a line where that fails.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from types import FrameType
from typing import Any, NoReturn

from confluent_kafka.admin import AdminClient
from rich.console import Console

from benchmarks.join import peers
from benchmarks.join.board import ARROW, WEIR, Board, Found, machine
from benchmarks.join.curve import draw
from benchmarks.join.history import History
from benchmarks.join.latency import delays
from benchmarks.join.live import ROOT, live
from benchmarks.join.log import Log, settings_of, tail_ms
from benchmarks.join.pauses import pauses
from benchmarks.join.peer import Peer, Unavailable
from benchmarks.join.process import Ended
from benchmarks.join.race import Raced, race
from benchmarks.join.restore import restore
from benchmarks.join.truth import judge
from services.local.cache import cache_dir
from services.local.kafka import LocalKafka

TIMEOUT_MS, SPAN_MS = 120_000, 1_200_000
QUICK_SCENES = ("race", "live", "latency", "restore", "state")
SCENES = (*QUICK_SCENES, "scale", "pauses", "hot", "day")
WIDTHS = ((1, 1), (4, 1), (16, 1), (64, 1), (4, 2), (16, 2))
"""Partitions and workers of the scene `scale`."""
FIRST = (WEIR, "bare")
"""Who is raced first, whatever time is left; then envelopes, then the others."""
SMALL = 20_000
MOST_PER_S = 150_000
MEMORY_SHARE = 0.6
QUICK_RACE_S, QUICK_ARROW_S, QUICK_STATE_S = 58, 45, 140
"""After so many seconds of --quick no other peer, no envelopes and no larger state has its turn, so that it ends within
three minutes on a slow machine too. What was left out is said.
"""


@dataclass(frozen=True, slots=True)
class Size:
    """How much a run does: predictions in the log, seconds per peer, and the sizes of the scenes."""

    n: int
    limit_s: float
    tail_s: float
    live_timeout_ms: int
    live_s: int
    patience_s: float
    idle_s: float
    latency_s: int
    restore_n: int
    snapshot_s: float
    sizes: tuple[int, ...]
    steady_events: int


QUICK = Size(
    n=250_000,
    limit_s=6,
    tail_s=8,
    live_timeout_ms=3_000,
    live_s=5,
    patience_s=15,
    idle_s=5,
    latency_s=6,
    restore_n=100_000,
    snapshot_s=2,
    sizes=(100_000, 1_000_000),
    steady_events=200_000,
)
FULL = Size(
    n=1_500_000,
    limit_s=300,
    tail_s=180,
    live_timeout_ms=5_000,
    live_s=12,
    patience_s=90,
    idle_s=30,
    latency_s=20,
    restore_n=5_000_000,
    snapshot_s=5,
    sizes=(100_000, 300_000, 1_000_000, 3_000_000, 10_000_000),
    steady_events=500_000,
)


class Run:
    """One run: its broker, its working directory, what it has found so far."""

    def __init__(
        self, given: argparse.Namespace, size: Size, bootstrap: str, work: Path, say: Callable[[str], None]
    ) -> None:
        self.given, self.size, self.bootstrap, self.work, self.say = given, size, bootstrap, work, say
        self.admin = AdminClient({"bootstrap.servers": bootstrap})
        command = "python -m benchmarks.join " + " ".join(sys.argv[1:])
        self.board = Board(command.strip(), 0, given.partitions)
        self.commands: dict[str, Sequence[str]] = {}
        self.begun = time.monotonic()

    def prepare(self, wanted: Sequence[Peer]) -> None:
        """Fetch or build every peer; those that are not to be had are skipped."""
        for peer in wanted:
            found = self.board.peers[peer.name] = Found(peer)
            try:
                self.commands[peer.name] = peer.prepare(cache_dir("peers") / peer.name)
            except Unavailable as error:
                found.skipped = str(error).splitlines()[0]
                self.say(f"{peer.name}: skipped: {found.skipped}")

    def race(self) -> None:
        """Let each peer read the backlog, and judge its rows."""
        self.say(f"writing {self.given.n:,} predictions and their labels")
        log, history = self._backlog("bench", self.given.n)
        self.board.events = history.events
        for name in ("consume", "produce"):
            self._alone(name, log, history)
        late: list[Peer] = []
        for peer in self._runnable():
            found = self.board.peers[peer.name]
            if peer.name not in FIRST and self._over(limit_s := QUICK_ARROW_S if peer.name == ARROW else QUICK_RACE_S):
                found.skipped = f"{limit_s} s of --quick were over before its turn: name it with --only"
                continue
            if peer.name == ARROW:
                self._race_enclosed(peer)
                continue
            with _noted(self.board, f"race of {peer.name}"):
                raced = self._race_one(peer, log, history)
                if not raced.finished and raced.per_cpu_s:
                    late.append(peer)
                if peer.name != WEIR:
                    log.drop(log.output(peer.name))
        if late and not self.given.quick:
            self._judge_slow(late)

    def _over(self, seconds: float) -> bool:
        """Whether a quick run is that old, and may leave something out."""
        return self.given.quick and not self.given.only and time.monotonic() - self.begun > seconds

    def _race_enclosed(self, peer: Peer) -> None:
        """Let Weir read the same events in envelopes."""
        with _noted(self.board, f"race of {peer.name}"):
            self._race_one(peer, *self._backlog("enclosed", self.given.n, in_envelopes=True))

    def _race_one(self, peer: Peer, log: Log, history: History) -> Raced:
        """Let one peer read a backlog, and judge its rows if it came to the end."""
        found = self.board.peers[peer.name]
        found.raced = raced = self._raced(peer, log, history, "race")
        self.say(f"{peer.name}: {raced.per_cpu_s or 0:,.0f} events per CPU second {raced.said}")
        if raced.finished:
            found.judged = judge(history, self.bootstrap, log.output(peer.name), self.given.partitions)
        return raced

    def _judge_slow(self, late: Sequence[Peer]) -> None:
        """Judge those who did not come to the end on a log that they can finish."""
        log, history = self._backlog("small", SMALL)
        for peer in late:
            with _noted(self.board, f"small race of {peer.name}"):
                if self._raced(peer, log, history, "small").finished:
                    found = self.board.peers[peer.name]
                    found.judged = judge(history, self.bootstrap, log.output(peer.name), self.given.partitions)
                    self.board.notes.append(f"{peer.title}: rows judged on {SMALL:,} predictions; the long log was cut")

    def _raced(self, peer: Peer, log: Log, history: History, scene: str, workers: int = 1) -> Raced:
        return race(
            peer,
            self.commands[peer.name],
            log,
            history,
            self._room(scene, peer),
            limit_s=self.given.limit_s,
            tail_s=self.size.tail_s,
            say=self.say,
            workers=workers,
        )

    def _alone(self, name: str, log: Log, history: History) -> None:
        topics = [log.topic("predictions"), log.topic("labels")] if name == "consume" else [log.create_output("probe")]
        count = history.events if name == "consume" else min(history.n, 500_000)
        said = self._child(
            "benchmarks.join.probe",
            *(name, "--bootstrap", self.bootstrap, "--topics", *topics),
            *("--partitions", str(self.given.partitions), "--messages", str(count)),
        )
        if said is not None:
            self.board.alone[name] = said["messages"] / said["cpu_s"]
            self.say(f"{name} alone: {self.board.alone[name]:,.0f} messages per CPU second")

    def live(self) -> None:
        """Kill each peer at work, and see what it does in silence."""
        for peer in self._runnable():
            if peer.name == ARROW or (self.given.quick and peer.name != WEIR and not self.given.only):
                continue
            with _noted(self.board, f"live run of {peer.name}"):
                self.board.peers[peer.name].lived = lived = live(
                    peer,
                    self.commands[peer.name],
                    self._log(f"live-{peer.name}", self.size.live_timeout_ms),
                    self._room("live", peer),
                    timeout_ms=self.size.live_timeout_ms,
                    seconds=self.size.live_s,
                    patience_s=self.size.patience_s,
                    idle_s=self.size.idle_s,
                    say=self.say,
                )
                self.say(f"{peer.name}: {lived}")

    def latency(self) -> None:
        """Time Weir at half of what it can."""
        raced = self.board.peers[WEIR].raced
        capacity = raced.per_s if raced is not None else None
        per_s = self.given.rate or (capacity or 20_000) / 2
        if per_s > MOST_PER_S:
            self.board.notes.append(f"latency at {MOST_PER_S:,} events/s: half of the capacity ({per_s:,.0f}) is more")
            per_s = MOST_PER_S
        peer = self.board.peers[WEIR].peer
        try:
            self.board.delays = delays(
                peer,
                self.commands[WEIR],
                self._log("latency", 6_000),
                self._room("latency", peer),
                per_s=per_s,
                seconds=self.size.latency_s,
                say=self.say,
            )
        except (Ended, TimeoutError) as error:
            self.board.notes.append(f"latency: {error}")

    def restore(self) -> None:
        """Kill Weir with many predictions open."""
        peer = self.board.peers[WEIR].peer
        try:
            self.board.restored = restore(
                peer,
                self.commands[WEIR],
                self._log("restore", TIMEOUT_MS),
                self._room("restore", peer),
                n=self.given.restore_open,
                snapshot_s=self.size.snapshot_s,
                patience_s=max(60.0, self.given.restore_open / 10_000),
                say=self.say,
            )
        except (Ended, TimeoutError) as error:
            self.board.notes.append(f"restore: {error}")

    def state(self) -> None:
        """Drive the join alone at several sizes, each in a process of its own."""
        for size in (size for size in self.size.sizes if size <= self.given.most_open):
            needed = size * (150 + (self.board.bytes_per_open() or 0.0))
            if needed > MEMORY_SHARE * _available():
                self.board.notes.append(f"{size:,} open left out: it would take about {needed / 2**30:.0f} GiB")
                break
            if self.board.curve and self._over(QUICK_STATE_S):
                self.board.notes.append(f"{size:,} open left out: {QUICK_STATE_S} s of --quick were over")
                break
            self.say(f"state: {size:,} open predictions")
            said = self._child(
                "benchmarks.join.state", *("--open", str(size), "--events", str(self.size.steady_events))
            )
            if said is not None:
                self.board.curve.append(said)
                self.say(f"state: {said['us_per_event']:.2f} µs an event, {said['bytes_per_open']:,.0f} bytes each")

    def scale(self) -> None:
        """Let Weir read the same backlog in more partitions, and with two workers."""
        peer = self.board.peers[WEIR].peer
        for partitions, workers in WIDTHS:
            log, history = self._backlog(f"scale-{partitions}-{workers}", self.given.n, partitions)
            raced = self._raced(peer, log, history, f"scale-{partitions}-{workers}", workers)
            row: dict[str, Any] = {
                "partitions": partitions,
                "workers": workers,
                "per_cpu_s": raced.per_cpu_s,
                "per_s": raced.per_s,
            }
            row |= {"pss_mb": raced.pss_mb, "load": raced.load, "finished": raced.finished, "said": raced.said}
            self.board.more.setdefault("scale", []).append(row)
            self.say(f"scale: {row}")
            for name in ("predictions", "labels", "feedback"):
                log.drop(log.topic(name))

    def pauses(self) -> None:
        """Time Weir with many predictions open, with snapshots and without."""
        peer = self.board.peers[WEIR].peer
        for every_s in (0.0, self.size.snapshot_s):
            paused = pauses(
                peer,
                self.commands[WEIR],
                self._log(f"pauses-{every_s:g}", 6 * 3_600_000),
                self._room(f"pauses-{every_s:g}", peer),
                n=self.given.pauses_open,
                per_s=int(self.given.rate or 10_000),
                seconds=self.given.pauses_s,
                every_s=every_s,
                say=self.say,
            )
            self.board.more.setdefault("pauses", []).append(asdict(paused))
            self.say(f"pauses: {paused}")

    def hot(self) -> None:
        """Signal one request a million times, and nothing of the kind."""
        for signals in (0, self.given.signals):
            said = self._child("benchmarks.join.hot", "--signals", str(signals))
            if said is not None:
                self.board.more.setdefault("hot", []).append(said)

    def day(self) -> None:
        """Drive a day of simulated traffic, alone and with a slow model between."""
        for slow in (0.0, 0.01):
            said = self._child("benchmarks.join.day", "--slow", str(slow))
            if said is not None:
                self.board.more.setdefault("day", []).append(said)

    def _runnable(self) -> list[Peer]:
        found = [found.peer for found in self.board.peers.values() if not found.skipped]
        return sorted(found, key=_turn)

    def _backlog(
        self, namespace: str, n: int, partitions: int = 0, *, in_envelopes: bool = False
    ) -> tuple[Log, History]:
        tail = tail_ms(TIMEOUT_MS)
        start_ms = int(time.time() * 1000) - SPAN_MS - TIMEOUT_MS - tail
        history = History(n, start_ms, SPAN_MS, TIMEOUT_MS, tail_ms=tail, seed=self.given.seed)
        log = self._log(namespace, TIMEOUT_MS, partitions)
        log.create(backdated=True)
        log.policy(history.first_ms, TIMEOUT_MS)
        if in_envelopes:
            log.write_enclosed(history.records())
        else:
            log.write(history.records())
        log.write(history.ticks(log.settings.partitions))
        log.seal("predictions", "labels")
        return log, history

    def _log(self, namespace: str, timeout_ms: int, partitions: int = 0) -> Log:
        partitions = partitions or self.given.partitions
        return Log(settings_of(self.bootstrap, namespace, partitions, timeout_ms), self.admin)

    def _room(self, scene: str, peer: Peer) -> Path:
        room = self.work / scene / peer.name
        room.mkdir(parents=True, exist_ok=True)
        return room

    def _child(self, module: str, *arguments: str) -> dict[str, Any] | None:
        """Run a module of ours in a process of its own and give its last line."""
        with subprocess.Popen(
            [sys.executable, "-m", module, *arguments],
            cwd=ROOT,
            stdout=subprocess.PIPE,
            stdin=subprocess.DEVNULL,
            text=True,
        ) as child:
            try:
                assert child.stdout is not None
                last = ""
                for line in child.stdout:
                    last = line.strip()
                    if not last.startswith("{"):
                        self.say(last)
            except BaseException:
                child.kill()
                raise
        if child.returncode:
            self.board.notes.append(f"{module} {' '.join(arguments)} failed with status {child.returncode}")
            return None
        found: dict[str, Any] = json.loads(last)
        return found


def main() -> None:
    """Read the arguments, run, print."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.join", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="a small log, no peers that need a build, few scenes")
    parser.add_argument("--json", action="store_true", help="table on standard error, one JSON object as the last line")
    parser.add_argument("--only", default="", help="peers, separated by commas")
    parser.add_argument("--scenes", default="", help=f"some of {','.join(SCENES)} (with --quick the first five)")
    parser.add_argument("--n", type=int, default=0, help="predictions in the log (0: as the mode says)")
    parser.add_argument("--partitions", type=int, default=4)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--rate", type=float, default=0.0, help="events/s for the latency (0: half of what was measured)"
    )
    parser.add_argument("--restore-open", type=int, default=0, help="open predictions at the restore")
    parser.add_argument("--pauses-open", type=int, default=1_000_000, help="open predictions of the scene `pauses`")
    parser.add_argument("--pauses-s", type=int, default=60, help="seconds of labels there")
    parser.add_argument("--signals", type=int, default=1_000_000, help="of the hot request")
    parser.add_argument("--most-open", type=int, default=10_000_000, help="the largest state that is tried")
    parser.add_argument("--limit-s", type=float, default=0.0, help="seconds for one peer on the log")
    parser.add_argument("--curve", type=Path, default=None, help="write the curve of cost against open state here")
    parser.add_argument("--keep", type=Path, default=None, help="work in this directory and leave it")
    given = parser.parse_args()
    size = QUICK if given.quick else FULL
    given.n, given.restore_open = given.n or size.n, given.restore_open or size.restore_n
    given.limit_s = given.limit_s or size.limit_s
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, _interrupted)
    console = Console(stderr=given.json, width=None if sys.stdout.isatty() else 200)
    begun = time.monotonic()

    def say(text: str) -> None:
        print(f"{time.monotonic() - begun:6.0f} s  {text}", file=sys.stderr, flush=True)

    wanted = _wanted(given, say)
    named = given.scenes.split(",") if given.scenes else QUICK_SCENES if given.quick else SCENES
    scenes = [scene for scene in SCENES if scene in named]
    try:
        board = _run(given, size, wanted, scenes, say)
    except KeyboardInterrupt:
        say("interrupted; everything that was started has been stopped")
        raise SystemExit(130) from None
    board.show(console)
    if given.json:
        print(json.dumps(board.as_json()), flush=True)


def _wanted(given: argparse.Namespace, say: Callable[[str], None]) -> list[Peer]:
    found = peers.find()
    only = [name for name in given.only.split(",") if name]
    if unknown := [name for name in only if name not in found]:
        raise SystemExit(f"no peer {', '.join(unknown)}; there are {', '.join(found)}")
    if left := [name for name, peer in found.items() if peer.build and given.quick and not only]:
        say(f"left out by --quick, because they are built first: {', '.join(left)}")
    return [peer for name, peer in found.items() if (name in only if only else not (peer.build and given.quick))]


def _run(
    given: argparse.Namespace, size: Size, wanted: Sequence[Peer], scenes: Sequence[str], say: Callable[[str], None]
) -> Board:
    with contextlib.ExitStack() as stack:
        work = given.keep or Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="join-bench-")))
        needs_broker = bool({"race", "live", "latency", "restore", "scale", "pauses"} & set(scenes))
        bootstrap = stack.enter_context(LocalKafka(work / "kafka", say=say)).bootstrap if needs_broker else ""
        run = Run(given, size, bootstrap, work, say)
        run.prepare(wanted)
        board = run.board
        board.notes.append(f"load average at the start {os.getloadavg()[0]:.1f}")
        weir = WEIR in run.commands
        for scene in scenes:
            if scene in ("latency", "restore", "scale", "pauses") and not weir:
                continue
            with _noted(board, scene):
                getattr(run, scene)()
        if len(board.curve) > 1 and (given.curve or not given.quick):
            points = [(point["open"], point["us_per_event"]) for point in board.curve]
            path = given.curve or ROOT / "docs" / "img" / "join-cost.svg"
            draw(points, path, note=machine())
        return board


def _turn(peer: Peer) -> tuple[int, bool]:
    return FIRST.index(peer.name) if peer.name in FIRST else len(FIRST), peer.name != ARROW


@contextlib.contextmanager
def _noted(board: Board, scene: str) -> Iterator[None]:
    """Let the other scenes go on when one fails, and say so."""
    try:
        yield
    except Exception as error:
        board.notes.append(f"{scene} failed: {type(error).__name__}: {error}")
        print(f"{scene} failed: {error!r}", file=sys.stderr, flush=True)


def _available() -> int:
    lines = Path("/proc/meminfo").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:"))


def _interrupted(number: int, frame: FrameType | None) -> NoReturn:
    raise KeyboardInterrupt


if __name__ == "__main__":
    main()
