"""A trainer that kills itself: `python -m tests.services.train.victim POINT`.

Points: `planned` (the plan is written, nothing is trained), `saved` (the version is in the registry, nothing is
announced), `finished` (the announcement is written, not sent), `sent` (it is sent, the offset is not committed).
"""

import os
import signal
import sys
import threading
from collections.abc import Callable
from typing import Any

from schemas.settings import Settings
from services.train import attempt, run


def main() -> None:
    point = sys.argv[1]

    def dying_after(call: Callable[..., Any]) -> Callable[..., Any]:
        def called(*given: Any, **named: Any) -> Any:
            call(*given, **named)
            os.kill(os.getpid(), signal.SIGKILL)

        return called

    places: dict[str, tuple[Any, str]] = {
        "planned": (attempt, "_plan"),
        "saved": (attempt, "save"),
        "finished": (run, "attend"),
        "sent": (run, "answer"),
    }
    place, name = places[point]
    setattr(place, name, dying_after(getattr(place, name)))
    run.run(Settings(), threading.Event())


if __name__ == "__main__":
    main()
