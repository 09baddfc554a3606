"""`weir record` and `weir recall` beside the join of a round: what is put away lands first, and is asked for again.

Both are killed now and then, at moments that nobody chose, and started again at once.
"""

from __future__ import annotations

import threading
from collections import Counter
from random import Random

from schemas.settings import Settings
from tests.faults.nursery import Life, Nursery

KILLS = {"record": 3, "recall": 3}
"""How often each is killed in a round at most."""
BETWEEN_S = (8.0, 25.0)


class Companions:
    """Runs both until it is closed. `counts` holds `record_kills` and `recall_kills`."""

    def __init__(self, nursery: Nursery, settings: Settings, seed: str) -> None:
        self._nursery, self._settings = nursery, settings
        self.counts: Counter[str] = Counter()
        self._done = threading.Event()
        self._lives: list[Life] = []
        self._threads = [
            threading.Thread(target=self._live, args=(name, Random(f"{seed}/{name}")), name=name) for name in KILLS
        ]
        for thread in self._threads:
            thread.start()

    def _live(self, name: str, dice: Random) -> None:
        settings = self._settings
        environment = {"WEIR_CONFIG": str(settings.data_dir / "run" / "settings.toml")}
        for number in range(KILLS[name] + 1):
            path = settings.data_dir / "phases" / f"{settings.namespace}-{name}-{number}"
            log = settings.data_dir / f"{settings.namespace}-{name}.log"
            life = self._nursery.bear([name], environment, log, path, cold=False)
            self._lives.append(life)
            if self._done.wait(None if number == KILLS[name] else dice.uniform(*BETWEEN_S)):
                return
            life.kill()
            self.counts[f"{name}_kills"] += 1

    def close(self) -> None:
        """Kill both, and wait for it."""
        self._done.set()
        for thread in self._threads:
            thread.join()
        for life in self._lives:
            life.kill()
