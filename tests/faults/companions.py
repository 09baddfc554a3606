"""`weir record` and `weir recall` beside the join of a round: what is put away lands first, and is asked for again.

Both are killed now and then, at moments that nobody chose. Whoever is gone is started again at once, as a supervisor
does it, also when it gave up by itself.
"""

from __future__ import annotations

import math
import threading
import time
from collections import Counter
from pathlib import Path
from random import Random

from schemas.settings import Settings
from tests.faults.crew import GIVEN_UP
from tests.faults.nursery import Life, Nursery

KILLS = {"record": 3, "recall": 3}
"""How often each is killed in a round at most."""
BETWEEN_S = (8.0, 25.0)
LOOK_S = 0.05


class Companions:
    """Runs both until it is closed. `counts` holds `record_kills` and `recall_kills`, and how often each gave up;
    `problems` who ended as nobody should.
    """

    def __init__(self, nursery: Nursery, settings: Settings, seed: str) -> None:
        self._nursery, self._settings = nursery, settings
        self.counts: Counter[str] = Counter()
        self.problems: list[str] = []
        self._done = threading.Event()
        self._threads = [
            threading.Thread(target=self._supervise, args=(name, Random(f"{seed}/{name}")), name=name) for name in KILLS
        ]
        for thread in self._threads:
            thread.start()

    def _supervise(self, name: str, dice: Random) -> None:
        kills, started = KILLS[name], 0
        while not self._done.is_set():
            life = self._start(name, started)
            started += 1
            kill_at = time.monotonic() + (dice.uniform(*BETWEEN_S) if kills else math.inf)
            while life.alive and not self._done.wait(LOOK_S) and time.monotonic() < kill_at:
                pass
            if not life.alive:
                self.counts[f"{name}_gave_up"] += 1
                if life.status not in GIVEN_UP:
                    self.problems.append(f"`weir {name}` ended with status {life.status}: {self._tail(name, 1_500)}")
            elif not self._done.is_set():
                self.counts[f"{name}_kills"] += 1
                kills -= 1
            life.kill()

    def _start(self, name: str, number: int) -> Life:
        settings = self._settings
        environment = {"WEIR_CONFIG": str(settings.data_dir / "run" / "settings.toml")}
        path = settings.data_dir / "phases" / f"{settings.namespace}-{name}-{number}"
        return self._nursery.bear([name], environment, self._log(name), path, cold=False)

    def _log(self, name: str) -> Path:
        return self._settings.data_dir / f"{self._settings.namespace}-{name}.log"

    def _tail(self, name: str, size: int) -> str:
        log = self._log(name)
        return log.read_text(errors="replace")[-size:] if log.exists() else "(nothing)"

    def tails(self, size: int = 4_000) -> str:
        """Give the end of what each wrote."""
        return "\n".join(f"--- {name}\n{self._tail(name, size)}" for name in KILLS)

    def close(self) -> None:
        """Kill both, and wait for it."""
        self._done.set()
        for thread in self._threads:
            thread.join()
