"""The workers of a round: who is up in which slot, who is started again, who is aimed at, and how each one ended.

A kill is aimed like this: wait until the process says that it is in the wanted phase, stop it (SIGSTOP), see that all
its threads stand still, read its phase once more, and kill it only when it is still the wanted one. So the count of
kills per phase is true, whatever the scheduler did in between.
"""

from __future__ import annotations

import signal
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from random import Random

from schemas.errors import ENVIRONMENT
from schemas.settings import Settings
from services.cli.configuration import write_running
from streams.runtime.failures import FENCED, KAFKA_FAILED, UNKNOWN_OUTCOME
from streams.runtime.phase import Phase
from tests.faults.nursery import SAY_WHERE, SLOW_FSYNC, Life, Nursery

GIVEN_UP = (UNKNOWN_OUTCOME, FENCED, KAFKA_FAILED, ENVIRONMENT)
"""How a worker may end by itself when Kafka fails or its slot is taken: a supervisor starts it again."""
COLD_EVERY = 25
"""One start in so many takes the whole way: a new Python, all imports."""
LOOK_S = 0.0002
STACK = "Current thread"
"""In what a process writes when it is asked where it stands (`faulthandler`)."""
STILL_S = 2.0
BREATH_S = 0.1
ASLEEP_S = 5.0
ZOMBIE_S = 20.0


@dataclass(slots=True, eq=False)
class Zombie:
    """A process that stands still while another takes its slot; woken up at `woken_at` (0: not yet).

    `lost`: somebody has been at work in its slot since. Else, as when its successor was told to leave before it began,
    the slot is still its own.
    """

    life: Life
    asleep_at: float
    woken_at: float = 0.0
    lost: bool = False


@dataclass(slots=True, eq=False)
class Slot:
    """A worker slot (`runtime.worker`): its present life, and those that lost it and have not noticed yet.

    A life that stands still until `wakes_at` (`time.monotonic`) is nobody to aim at.
    """

    name: str
    wanted: bool = True
    life: Life | None = None
    wakes_at: float = 0.0
    zombies: list[Zombie] = field(default_factory=list)

    @property
    def up(self) -> Life | None:
        """Its life when that has not ended."""
        return self.life if self.life is not None and self.life.alive else None


class Crew:
    """All slots of a round. `mend` is called all the time: it takes note of ends and starts who should be up."""

    def __init__(self, nursery: Nursery, settings: Settings, names: str, dice: Random) -> None:
        self._nursery, self.settings, self._dice = nursery, settings, dice
        self._config = write_running(settings)
        self.slots = [Slot(name) for name in names]
        self.log = settings.data_dir / f"{settings.namespace}.log"
        self._phases = settings.data_dir / "phases"
        self._phases.mkdir(exist_ok=True)
        self.counts: Counter[str] = Counter()
        self.phases: Counter[Phase] = Counter()
        self.problems: list[str] = []
        self.slow_births = 0
        self.held = False

    def start(self, slot: Slot) -> Life:
        """Start a process in a slot, whoever may have been there."""
        self.counts["starts"] += 1
        environment = {"WEIR_CONFIG": str(self._config), "WEIR_RUNTIME__WORKER": slot.name}
        if self.slow_births:
            self.slow_births -= 1
            self.counts["slow_disk"] += 1
            environment[SLOW_FSYNC] = f"{self._dice.uniform(0.3, 1.5):.2f}"
        cold = self.counts["starts"] % COLD_EVERY == 0
        path = self._phases / f"{self.settings.namespace}-{self.counts['starts']}"
        slot.life = self._nursery.bear(["join"], environment, self.log, path, cold=cold)
        self.counts["cold_starts"] += cold
        return slot.life

    def mend(self) -> None:
        """Take note of who has ended, and start whoever should be up."""
        for slot in self.slots:
            life = slot.life
            if life is not None and not life.alive:
                self._ended(life)
                slot.life, slot.wakes_at = None, 0.0
            breath = life is None or life.killed or time.monotonic() - life.born_at > BREATH_S
            if slot.life is None and slot.wanted and not self.held and breath:
                self.start(slot)
            if slot.up is not None and 0 < slot.wakes_at <= time.monotonic():
                slot.up.signal(signal.SIGCONT)
                slot.wakes_at = 0.0
            for zombie in list(slot.zombies):
                self._look_after(slot, zombie)

    def haunt(self, slot: Slot, life: Life) -> None:
        """Let a process that stands still lose its slot to another one, and wake it up when that works."""
        self.start(slot)
        slot.zombies.append(Zombie(life, time.monotonic()))

    def _look_after(self, slot: Slot, zombie: Zombie) -> None:
        now = time.monotonic()
        zombie.lost |= slot.up is not None and slot.up.doing()[0] > Phase.RESTORE
        if not zombie.life.alive:
            slot.zombies.remove(zombie)
            self._ended(zombie.life)
            self.counts["zombies"] += zombie.woken_at > 0 and not zombie.life.killed
        elif not zombie.woken_at:
            if zombie.lost or now - zombie.asleep_at > ASLEEP_S:
                zombie.woken_at = now
                zombie.life.signal(signal.SIGCONT)
        elif now - zombie.woken_at > ZOMBIE_S:
            slot.zombies.remove(zombie)
            if zombie.lost:
                self.problems.append(
                    f"process {zombie.life.pid} lost slot {slot.name!r} and went on for {ZOMBIE_S:g} s"
                )
            zombie.life.kill()

    def _ended(self, life: Life) -> None:
        if life.killed or (life.asked and life.status in (0, -signal.SIGTERM)):  # the latter before it listened
            return
        self.counts["gave_up"] += 1
        self.counts[f"exit_{life.status}"] += 1
        if life.status not in GIVEN_UP:
            self.problems.append(f"process {life.pid} ended with status {life.status}: {self.tail()}")

    def tail(self, size: int = 1_500) -> str:
        """Give the end of what all workers wrote."""
        return self.log.read_text(errors="replace")[-size:] if self.log.exists() else "(nothing)"

    def stuck(self) -> str:
        """Give who is up, in which phase, and where each stands, for a join that does not get done."""
        up = [(slot.name, life) for slot in self.slots if (life := slot.up) is not None]
        phases = [
            f"slot {name}: process {life.pid}, {'/'.join(phase.name for phase in life.doing())}" for name, life in up
        ]
        wanted = self.told(STACK) + len(up)
        for _, life in up:
            life.signal(SAY_WHERE)
        deadline = time.monotonic() + STILL_S
        while self.told(STACK) < wanted and time.monotonic() < deadline:
            time.sleep(LOOK_S)
        return "\n".join([*phases, self.tail(20_000)])

    def told(self, what: str) -> int:
        """Count how often something stands in what all workers wrote."""
        return self.log.read_text(errors="replace").count(what) if self.log.exists() else 0

    def living(self, *, at_work: bool | None = None) -> list[Slot]:
        """Give the slots with a process; those that work (or only those that still start), when asked."""
        found = [slot for slot in self.slots if slot.up is not None and not slot.wakes_at]
        if at_work is None:
            return found
        return [slot for slot in found if slot.up is not None and (slot.up.doing()[0] > Phase.RESTORE) == at_work]

    def count(self, phase: Phase) -> None:
        """Count a kill."""
        self.counts["kills"] += 1
        self.phases[phase] += 1

    # --- the end

    def leave(self, deadline_s: float = 60.0) -> None:
        """Let all finish cleanly, zombies too. Whoever does not within the deadline is a problem, and killed."""
        self.held = True
        deadline = time.monotonic() + deadline_s
        for slot in self.slots:
            if (life := slot.up) is not None:
                life.signal(signal.SIGCONT)
                life.signal(signal.SIGTERM)
        while any(slot.up or slot.zombies for slot in self.slots):
            self.mend()
            if time.monotonic() > deadline:
                self.problems.append(f"workers did not end within {deadline_s:g} s of SIGTERM: {self.tail()}")
                break
            time.sleep(0.02)
        self.mend()
        self.kill_all()

    def kill_all(self) -> None:
        """End every process at once."""
        self.held = True
        for slot in self.slots:
            for life in (slot.up, *(zombie.life for zombie in slot.zombies)):
                if life is not None:
                    life.kill()


def stop_in(
    life: Life, wanted: Phase | None, dice: Random, patience_s: float, meanwhile: Callable[[], None]
) -> Phase | None:
    """Stop a process in a phase and give it; in any phase, at a random moment, when `wanted` is None.

    None: it is gone, or was not in that phase before patience ended. `meanwhile` is called now and then. The process
    stands still afterwards: kill it, or let it go on (SIGCONT).
    """
    deadline = time.monotonic() + patience_s
    if wanted is None:
        _sleep(dice.uniform(0, 0.8), life, meanwhile)
    skip = 0 if wanted in (None, Phase.RESTORE, Phase.SNAPSHOT, Phase.RECALL) else dice.randrange(3)
    inside, looks = False, 0
    while life.alive and time.monotonic() < deadline:
        was, inside = inside, wanted is None or wanted in life.doing()
        if inside and not was and wanted is not None and skip > 0:
            skip -= 1
        elif inside and (skip == 0 or wanted is Phase.POLL):
            if wanted is not None and dice.random() < 0.5:
                time.sleep(dice.uniform(0, 0.004))  # not only where a phase begins
            found = _still(life)
            if found is None:
                continue
            if wanted is None:
                return found[1] if found[1] is not Phase.NONE and dice.random() < 0.5 else found[0]
            if wanted in found:
                return wanted
            life.signal(signal.SIGCONT)
        looks += 1
        if looks % 50 == 0:
            meanwhile()
        time.sleep(LOOK_S)
    return None


def _sleep(seconds: float, life: Life, meanwhile: Callable[[], None]) -> None:
    until = time.monotonic() + seconds
    while life.alive and (left := until - time.monotonic()) > 0:
        meanwhile()
        time.sleep(min(0.01, left))


def _still(life: Life) -> tuple[Phase, Phase] | None:
    """Stop a process; give its phases when all its threads stand still, None when it has ended."""
    life.signal(signal.SIGSTOP)
    deadline = time.monotonic() + STILL_S
    while not life.stopped():
        if not life.alive or time.monotonic() > deadline:
            return None
        time.sleep(LOOK_S)
    return life.doing()


def snapshots_in(data_dir: Path) -> list[Path]:
    """Give the snapshot files there are."""
    return sorted(path for path in (data_dir / "snapshots").rglob("*") if path.is_file() and path.suffix != ".tmp")
