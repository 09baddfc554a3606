"""One round: a namespace, its feed, its workers, and what is done to them until enough were killed."""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from random import Random

from schemas.errors import WeirError
from schemas.settings import Settings
from services.local.kafka import LocalKafka
from streams.runtime.phase import Phase
from streams.runtime.topics import ensure_topics
from tests.faults.crew import Crew, Slot, snapshots_in, stop_in
from tests.faults.feed import PAUSE_S, Feed
from tests.faults.nursery import Life, Nursery

AIMED: tuple[Phase | None, ...] = (
    Phase.POLL,
    Phase.STEP,
    Phase.FLUSH,
    Phase.COMMIT,
    Phase.SNAPSHOT,
    Phase.RESTORE,
    Phase.RECALL,
    None,  # wherever it is at a random moment
)
PATIENCE_S = 1.0
SETTLE_S = 60.0
IN_VAIN_S = 5.0
"""When nobody has been where the aims are for so long, somebody is killed wherever he is."""
RETRIES = 8
AHEAD, SLOW_S = 0.05, 0.3
FEW = 30
SESSION_S = 3.0
"""What `session.timeout.ms` of a round's workers is, in seconds."""
TURN_S = 0.01

Say = Callable[[], None]
Act = tuple[int, Callable[[], bool]]
"""After how many kills something is done. It answers whether that could be done."""


@dataclass(slots=True)
class Round:
    """Runs one feed. `tell` is called now and then, for a line about the progress.

    `jump_s` is for how long a broker that was killed stays away (0: some moments), so that its clock has jumped.
    """

    settings: Settings
    kafka: LocalKafka
    nursery: Nursery
    feed: Feed
    kills: int
    dice: Random
    tell: Say
    small_disk: Path | None = None
    first: bool = True
    jump_s: float = 0.0
    crew: Crew = field(init=False)
    aims: list[Phase | None] = field(init=False)
    _filled_until: int = -1
    _retries: Counter[Callable[[], bool]] = field(default_factory=Counter)

    def __post_init__(self) -> None:
        self.crew = Crew(self.nursery, self.settings, "0123", self.dice)
        self.crew.slots[-1].wanted = False
        aimed = [wanted for wanted in AIMED if wanted is not Phase.RECALL or self.settings.recall.enabled]
        self.aims = [aimed[number % len(aimed)] for number in range(self.kills)]
        self.dice.shuffle(self.aims)

    @property
    def counts(self) -> Counter[str]:
        """What has been done so far, by name."""
        return self.crew.counts

    def run(self) -> None:
        """Kill until there were as many kills, or the feed has no more; then let everybody finish.

        Raises `WeirError` when the join does not get done. Nothing is left running either way.
        """
        ensure_topics(self.settings)
        acts = self._acts()
        try:
            self.feed.start()
            self._settle()
            while self.aims and not self.feed.done:
                while acts and acts[0][0] <= self.counts["kills"]:
                    self._act(acts)
                self._kill_one()
                if self.feed.down.is_set():
                    self._everybody_down()
                self.feed.check()
            self._empty()
            self.crew.slow_births = 0
            self.feed.pause_s = 0
            while not self.feed.done:
                if self.feed.down.is_set():
                    self._everybody_down()
                self._turn()
                self.feed.check()
            self.crew.leave()
        except WeirError:
            self.crew.problems.append(self.crew.stuck())
            raise
        finally:
            self._empty()
            self.feed.stop()
            self.crew.kill_all()
        self.counts["clock_jumps"] += self.feed.jumps
        self.counts["downtimes"] += self.feed.downtimes

    def _turn(self) -> None:
        self._look()
        time.sleep(TURN_S)

    def _look(self) -> None:
        """Do what has to be done all the time. The feed goes slowly while it is ahead of the kills."""
        self.crew.mend()
        self.tell()
        self.feed.pause_s = SLOW_S if self._ahead and self.aims else PAUSE_S if self.aims else 0

    @property
    def _ahead(self) -> bool:
        return self.feed.share > self.counts["kills"] / self.kills + AHEAD

    def _settle(self) -> None:
        """Wait for the first workers to be at work."""
        deadline = time.monotonic() + SETTLE_S
        while len(self.crew.living(at_work=True)) < 2 and time.monotonic() < deadline:
            self._turn()

    # --- kills

    def _kill_one(self) -> None:
        """Kill one process where it is aimed at."""
        began = time.monotonic()
        number, slot = self._target()
        while slot is None:
            self._turn()
            if self.aims and time.monotonic() - began > IN_VAIN_S:
                self.aims[0] = None
            number, slot = self._target()
            if self.feed.done or self.feed.down.is_set():
                return
        wanted, life = self.aims.pop(number), slot.up
        found = None if life is None else self._stop_in(life, wanted)
        if life is None or found is None:
            self.aims.append(wanted)
            return
        life.kill()
        self.crew.count(found)
        self.crew.mend()
        if self.counts["kills"] >= self._filled_until >= 0:
            self._empty()

    def _stop_in(self, life: Life, wanted: Phase | None) -> Phase | None:
        return stop_in(life, wanted, self.dice, PATIENCE_S, self._look)

    def _target(self) -> tuple[int, Slot | None]:
        """Choose the next aim that can be met now, and whom to aim at."""
        starting, working = self.crew.living(at_work=False), self.crew.living(at_work=True)
        asking = [slot for slot in working if slot.up is not None and Phase.RECALL in slot.up.doing()]
        apart = {Phase.RESTORE: starting, Phase.RECALL: asking, None: starting + working}
        for number, wanted in enumerate(self.aims):
            candidates = apart.get(wanted, working)
            if candidates:
                return number, self.dice.choice(candidates)
        if self.aims and working and self._ahead:  # nobody is where these aim at
            self.aims[0] = None
            return 0, self.dice.choice(working)
        return 0, None

    def _everybody_down(self) -> None:
        """Kill all, and let three days pass."""
        self.crew.held = True
        for slot in self.crew.slots:
            life = slot.up
            if life is not None and (found := self._stop_in(life, None)) is not None:
                life.kill()
                self.crew.count(found)
                if self.aims:
                    self.aims.pop()
        self.crew.kill_all()
        self.feed.away.set()
        while self.feed.down.is_set():
            self._turn()
            self.feed.check()
        self.crew.held = False

    # --- other faults

    def _acts(self) -> list[Act]:
        """Draw after how many kills what else is done, in order. A round of few kills has only what they share."""
        many, once = self.kills, int(self.kills >= FEW or self.first)
        drawn: list[Act] = [
            (once + many // 10, self._zombie),
            (once + many // 60, self._expire),
            (once + many // 15, self._join_or_leave),
            (once + many // 100, self._kill_broker),
            (once + many // 50, self._time_out_commit),
            (once + many // 15, self._spoil_snapshot),
            (once + many // 20, self._slow_disk),
            (once + many // 50, self._fill_disk),
        ]
        acts = [(self.dice.randrange(max(1, many - 2)), act) for times, act in drawn for _ in range(times)]
        return sorted(acts, key=lambda one: one[0])

    def _act(self, acts: list[Act]) -> None:
        """Do the next one; one that could not be done now is tried again after the next kill, some times."""
        _, act = acts.pop(0)
        if not act() and self._retries[act] < RETRIES:
            self._retries[act] += 1
            acts.append((self.counts["kills"] + 1, act))
            acts.sort(key=lambda one: one[0])

    def _at_work(self) -> Life | None:
        """Give somebody who works; None when nobody does for a while."""
        deadline = time.monotonic() + PATIENCE_S
        while time.monotonic() < deadline and not self.feed.down.is_set():
            if found := self.crew.living(at_work=True):
                return self.dice.choice(found).up
            self._turn()
        return None

    def _slot_of(self, life: Life) -> Slot:
        return next(slot for slot in self.crew.slots if slot.life is life)

    def _zombie(self) -> bool:
        """Stop a worker, let another process take its slot, and wake it up again: it must not commit, and must end."""
        life = self._at_work()
        if life is None:
            return False
        slot = self._slot_of(life)
        if self._stop_in(life, self.dice.choice((Phase.COMMIT, Phase.FLUSH, Phase.STEP, Phase.POLL))) is None:
            return False
        self.crew.haunt(slot, life)
        return True

    def _expire(self) -> bool:
        """Stop a worker until the group has given it up, and wake it up: what it held is in others' hands."""
        life = self._at_work()
        if life is None or self._stop_in(life, self.dice.choice((Phase.COMMIT, Phase.STEP, Phase.POLL))) is None:
            return False
        self._slot_of(life).wakes_at = time.monotonic() + SESSION_S + 1
        self.counts["expired"] += 1
        return True

    def _join_or_leave(self) -> bool:
        """Let the third slot join, or leave in good order."""
        slot = self.crew.slots[-1]
        slot.wanted = not slot.wanted
        if slot.wanted:
            self.counts["joined"] += 1
        elif (life := slot.up) is not None:
            life.signal(signal.SIGTERM)
            self.counts["left"] += 1
        return True

    def _kill_broker(self) -> bool:
        """Kill Kafka and start it again on what it has."""
        self.kafka.kill()
        self._wait(lambda: False, self.jump_s or self.dice.uniform(0.1, 1.5))
        self.kafka.start()
        self.counts["broker_kills"] += 1
        self.counts["clock_jumps"] += self.jump_s > 0
        self._wait(lambda: len(self.crew.living(at_work=True)) > 0, 15)
        return True

    def _time_out_commit(self) -> bool:
        """Stop Kafka while somebody commits, for longer than a commit may take; count those who gave up over it."""
        life, pid = self._at_work(), self.kafka.pid
        if life is None or pid is None or self._stop_in(life, Phase.COMMIT) is not Phase.COMMIT:
            return False
        os.kill(pid, signal.SIGSTOP)
        try:
            life.signal(signal.SIGCONT)
            self._wait(lambda: not life.alive, self.settings.runtime.transaction_timeout_ms / 1000 + 2)
        finally:
            os.kill(pid, signal.SIGCONT)
        self.counts["commit_timeouts" if not life.alive else "commits_delayed"] += 1
        return not life.alive

    def _spoil_snapshot(self) -> bool:
        """Tear a snapshot, alter it, or take it away."""
        files = snapshots_in(self.settings.data_dir)
        if not files:
            return False
        path = self.dice.choice(files)
        with contextlib.suppress(OSError):  # it may have been replaced just now
            size = path.stat().st_size
            kind = self.dice.choice(("torn", "altered", "missing"))
            if kind == "missing":
                path.unlink()
            elif kind == "torn":
                os.truncate(path, self.dice.randrange(size))
            else:
                with path.open("r+b") as file:
                    file.seek(self.dice.randrange(size))
                    file.write(b"\x00\xff")
            self.counts["spoilt_snapshots"] += 1
            return True
        return False

    def _slow_disk(self) -> bool:
        """Let the next two processes write slowly."""
        self.crew.slow_births += 2
        return True

    def _fill_disk(self) -> bool:
        """Fill the disk of the snapshots until two more were killed. Done when a worker has said that it noticed."""
        self._empty()
        if self.small_disk is None:
            return True
        with (self.small_disk / "ballast").open("wb") as file:
            found = os.statvfs(self.small_disk)
            with contextlib.suppress(OSError):  # a snapshot was written in between
                os.posix_fallocate(file.fileno(), 0, max(1, found.f_bavail * found.f_frsize))
        self._filled_until = self.counts["kills"] + 2
        said = self._failures()
        self._wait(lambda: self._failures() > said, 3)
        noticed = self._failures() > said
        self.counts["full_disk"] += noticed
        return noticed

    def _failures(self) -> int:
        return self.crew.told("snapshot_failed")

    def _empty(self) -> None:
        self._filled_until = -1
        if self.small_disk is not None:
            (self.small_disk / "ballast").unlink(missing_ok=True)

    def _wait(self, condition: Callable[[], bool], seconds: float) -> None:
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline and not condition():
            self._turn()


@contextlib.contextmanager
def stopped_on_signals() -> Iterator[None]:
    """Turn SIGTERM into the end that Ctrl-C makes."""

    def ask(number: int, frame: object) -> None:
        raise KeyboardInterrupt

    previous = signal.signal(signal.SIGTERM, ask)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, previous)
