"""A recorder that kills itself at one point of its Nth insert: `python -m tests.services.record.victim POINT N`.

Points: `planned` (the range is committed, nothing is inserted), `inserted` (rows are in, the commit is not), `halfway`
(some topics of a flush are in, others are not: the second insert of a flush).
"""

import os
import signal
import sys
import threading

from schemas.settings import Settings
from services.record import run
from services.record.land import Span, Store


def main() -> None:
    point, left = sys.argv[1], int(sys.argv[2])
    land = Store.land

    def dying(store: Store, topic: str, spans: list[Span]) -> int:
        nonlocal left
        left -= 1
        if left <= 0 and point in ("planned", "halfway"):
            os.kill(os.getpid(), signal.SIGKILL)
        rows = land(store, topic, spans)
        if left <= 0:
            os.kill(os.getpid(), signal.SIGKILL)
        return rows

    Store.land = dying  # type: ignore[assignment, method-assign]
    run.run(Settings(), threading.Event())


if __name__ == "__main__":
    main()
