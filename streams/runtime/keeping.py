"""When snapshots are written: one partition after the other, dumped between two steps, written by another thread."""

from __future__ import annotations

import time
from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Generic, TypeVar

import structlog

from streams.runtime.health import Progress
from streams.runtime.manifest import Header, Manifest, SnapshotUnreadable
from streams.runtime.phase import Phase, Untold
from streams.runtime.processor import Processor
from streams.runtime.restore import Restored
from streams.runtime.snapshot import Snapshot, SnapshotStore

StateT = TypeVar("StateT")

PAUSES = 400
"""So many times as long as a step waited for a dump there is none of that partition and none of the others: what waits
behind all of them, and catches up, stays below one event in a hundred, so the 99th percentile does not move."""

MOST_RARELY = 20
"""How many times its usual distance the next snapshot is away at the most: what comes between is taken again."""

_log = structlog.get_logger()


class Keeping(Generic[StateT]):
    """Keeps every partition's state about every `every_s` seconds. Close it afterwards.

    Whoever calls gives the states of committed steps by partition, and calls between two steps.
    """

    def __init__(
        self, processor: Processor[StateT], store: SnapshotStore, every_s: float, progress: Progress, phase: Untold
    ) -> None:
        self._processor, self._store, self._every_s = processor, store, every_s
        self._progress, self._phase = progress, phase
        self._due_at: dict[int, float] = {}
        self._kept: dict[int, int] = {}  # the step that a state had when it was kept, or when it came
        self._writer: ThreadPoolExecutor | None = None
        self._writing: tuple[Restored[StateT], Future[Manifest]] | None = None

    def begin(self, states: Mapping[int, Restored[StateT]]) -> None:
        """Start over with these partitions: their snapshots are spread over the time between two."""
        now = time.monotonic()
        spread_s = self._every_s / max(1, len(states))
        self._due_at = {number: now + spread_s * (index + 1) for index, number in enumerate(sorted(states))}
        self._kept = {number: at.step for number, at in states.items()}

    def due(self, states: Mapping[int, Restored[StateT]], now: float) -> None:
        """Keep at most one partition, the one that waits longest, when the last one is written."""
        if self._writing is not None and self._writing[1].done():
            self._wait()
        number = min(states, key=self._due_at.__getitem__, default=None)
        if number is not None and self._due_at[number] <= now and self._writing is None:
            self._keep(number, states[number])

    def all(self, states: Mapping[int, Restored[StateT]]) -> None:
        """Keep everything that moved, and wait until it is written."""
        for number, at in states.items():
            self._wait()
            self._keep(number, at)
        self._wait()

    def close(self) -> None:
        """Wait for what is being written, and let the thread go. Whoever keeps again gets another one."""
        if self._writer is not None:
            self._writer.shutdown(wait=True)
            self._writer = None

    def _keep(self, number: int, at: Restored[StateT]) -> None:
        """Dump what changed here, between two steps, and write it in another thread."""
        began = time.monotonic()
        self._due_at[number] = began + self._every_s
        if at.step == self._kept[number]:
            return
        self._phase.enter(Phase.SNAPSHOT)
        snapshot = self._dump(number, at)
        pause_s = time.monotonic() - began
        self._progress.snapshot_pause_seconds.observe(pause_s)
        rarely_s = min(PAUSES * len(self._due_at) * pause_s, MOST_RARELY * self._every_s)
        self._due_at[number] = began + max(self._every_s, rarely_s)
        if self._writer is None:
            self._writer = ThreadPoolExecutor(1, thread_name_prefix="snapshot")
        self._writing = at, self._writer.submit(self._phase.during, Phase.SNAPSHOT, self._store.write, snapshot)
        self._kept[number] = at.step

    def _dump(self, number: int, at: Restored[StateT]) -> Snapshot:
        """Dump what changed since the state was last kept, if it was.

        Until that snapshot is kept (`at.saved`), the next one is of everything.
        """
        header = Header(
            stage=self._processor.stage,
            processor=self._processor.version,
            partition=number,
            step=at.step,
            offsets=dict(at.offsets),
            steps_offset=at.steps_offset,
            clock_ms=at.clock.ms,
            seen_ms=dict(at.clock.seen),
            wake_at_ms=at.wake_at_ms,
            counters=dict(at.counters),
        )
        base, at.saved = at.saved, None
        return Snapshot(header, self._processor.dump(at.state, whole=base is None).parts, base)

    def _wait(self) -> None:
        """Take the result of the last write. A failure (a full disk) is said and survived: the log has everything."""
        if self._writing is None:
            return
        try:
            at, writing = self._writing
            at.saved = writing.result()
            self._progress.snapshots += 1
        except (OSError, SnapshotUnreadable) as error:
            self._progress.snapshot_failures += 1
            _log.error(
                "snapshot_failed",
                reason=str(error),
                effect="a restart takes longer; the next snapshot is a whole one",
                fix="make room, or see whether the place answers (runtime.snapshots)",
            )
        self._writing = None
