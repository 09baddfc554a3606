"""What a worker does right now, for whoever aims at it: two bytes of a small file that another process maps as well.

The first byte is the loop's phase, the second that of the thread that writes snapshots. Only a process that finds
`WEIR_PHASE_FILE` in its environment tells; in every other one a phase is a call that does nothing. A process that was
stopped (SIGSTOP) has exactly the phase that its bytes say, because a phase is entered before its first effect and left
after its last; so a count of kills per phase (`make faults`) is true.
"""

from __future__ import annotations

import mmap
import os
from collections.abc import Callable
from enum import IntEnum
from pathlib import Path
from typing import ParamSpec, TypeVar

VARIABLE = "WEIR_PHASE_FILE"
LOOP, WRITER = 0, 1
SIZE = 2

P = ParamSpec("P")
ResultT = TypeVar("ResultT")


class Phase(IntEnum):
    """What can be going on. `START` is everything before the first partitions are here; `NONE` is an idle writer.

    `RECALL` is gathering while a question is open, and the thinking of a step that takes answers.
    """

    NONE = 0
    START = 1
    RESTORE = 2
    POLL = 3
    STEP = 4
    FLUSH = 5
    COMMIT = 6
    SNAPSHOT = 7
    RECALL = 8


class Untold:
    """Tells nobody."""

    def enter(self, phase: Phase) -> None:
        """The loop does this from now on."""

    def during(self, phase: Phase, call: Callable[P, ResultT], *args: P.args, **kwargs: P.kwargs) -> ResultT:
        """Call, in another thread than the loop's, and give the result."""
        return call(*args, **kwargs)


class Told(Untold):
    """Writes into a file of `SIZE` bytes, which is made when it is missing."""

    def __init__(self, path: Path) -> None:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
        try:
            os.ftruncate(descriptor, SIZE)
            self._bytes = mmap.mmap(descriptor, SIZE)
        finally:
            os.close(descriptor)
        self._bytes[LOOP], self._bytes[WRITER] = Phase.START, Phase.NONE

    def enter(self, phase: Phase) -> None:
        self._bytes[LOOP] = phase

    def during(self, phase: Phase, call: Callable[P, ResultT], *args: P.args, **kwargs: P.kwargs) -> ResultT:
        self._bytes[WRITER] = phase
        try:
            return call(*args, **kwargs)
        finally:
            self._bytes[WRITER] = Phase.NONE


def told() -> Untold:
    """Give what this process tells its phases to: the file that its environment names, or nobody."""
    path = os.environ.get(VARIABLE)
    return Told(Path(path)) if path else Untold()
