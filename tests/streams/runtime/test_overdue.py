"""A call that never comes back ends the process, one that takes its time does not."""

import threading
import time

from streams.runtime.failures import UNKNOWN_OUTCOME, UnknownOutcome
from streams.runtime.overdue import Overdue


def test_only_what_takes_too_long_is_ended() -> None:
    ended: list[UnknownOutcome] = []
    told = threading.Event()

    def end(error: UnknownOutcome) -> None:
        ended.append(error)
        told.set()

    overdue = Overdue("a commit", 0.2, end)
    with overdue.watch():
        pass
    time.sleep(0.7)  # past a look: nothing is under way
    assert not ended
    with overdue.watch():
        assert told.wait(10)
    assert ended[0].code == UNKNOWN_OUTCOME
    assert "a commit" in str(ended[0])
    overdue.close()
