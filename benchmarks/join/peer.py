"""What a peer is: a program that joins predictions with labels through Kafka, started as a process of its own.

Each module or package in `benchmarks/join/peers/` that defines `PEER` is found by itself. `PEER.prepare(cache)` fetches
or builds what the program needs under the directory `cache` (kept between runs) and gives the command's first words;
it raises `Unavailable` with one line when a toolchain, package or network is missing, and the peer is skipped with
that line. The harness adds the arguments of `Task.arguments()` and starts the command in a session of its own, with
`--state` as working directory. All threads and processes of that session count as the peer's.

**The job.** Two topics, `--predictions` and `--labels`, have `--partitions` partitions each, are keyed by request id
(murmur2) and are read from their beginning. A record's Kafka timestamp equals the `at_ms` in its value (the second copy
of a label has a later one), and in a partition these ascend. A prediction is JSON of about 417 bytes:

    {"request_id": UUID, "at_ms": int, "model": str, "version": str, "deployment": str, "score": float,
     "subject": str, "slices": {str: str}, "features": {str: float × 12}}

and a label `{"request_id": UUID, "at_ms": int, "label": 0 | 1, "source": str}`. For each prediction one row of feedback
goes to `--output` (it exists, with `--partitions` partitions), keyed by request id:

- its label came: at once, `"label"` as it came, `"label_kind": "explicit"`, `"labelled_at_ms"`: the label's `at_ms`;
- no label with `at_ms` ≤ the prediction's `at_ms` + `--timeout-ms` came: `"label": 0`, `"label_kind": "timeout"`,
  `"labelled_at_ms": null`, once time has passed that point. Time is event time (the lesser one of both topics) where
  the library has it, else the wall clock. With event time a negative is still due when both topics fall silent.

A row carries the prediction's `request_id, model, version, deployment, score, subject, slices, features` as they came,
and `predicted_at_ms` (its `at_ms`). More fields are welcome. About 71 % of the predictions have a label; 3 % of the
labels stand before their prediction, by up to 5 s; 1 % come twice, byte by byte (the second copy is to give no row);
none comes after the timeout. A peer may happen to read one topic far ahead of the other, and has to cope. Behind the
last event follow, for longer than the timeout, ticks: predictions and labels of the model `tick` (label source `tick`)
with ids of their own in every partition of both topics, so that event time passes everything. They need no row, and
rows for them are ignored.

The program goes on until SIGTERM (10 s later SIGKILL, to the whole session). It may be killed by SIGKILL at any moment:
started again with the same arguments it goes on where its own guarantee says. What it keeps on disk lies under
`--state`. It writes little to standard output and error (both go to a log file). It uses at most one worker or task per
partition, and its library's recommended settings otherwise; where something is tuned, a comment says why. Exactly once
is on where the library has it, with a commit or checkpoint interval of 100 ms, or the shortest that the library
recommends.

Write it as that library's users would: its own joins, states and timers, not our tricks.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

Timers = Literal["event", "wall", "none"]
Position = Literal["group", "output"]


class Unavailable(Exception):
    """A peer cannot run here. The message is one line that says what is missing."""


@dataclass(frozen=True, slots=True)
class Task:
    """What a peer is told. `state` is a directory of its own, empty at the first start and kept at a restart."""

    bootstrap: str
    predictions: str
    labels: str
    output: str
    group: str
    partitions: int
    timeout_ms: int
    state: Path

    def arguments(self) -> list[str]:
        """Give the arguments that follow the command.

        >>> Task("h:1", "b.predictions", "b.labels", "b.out", "g", 4, 120_000, Path("s")).arguments()[:4]
        ['--bootstrap', 'h:1', '--predictions', 'b.predictions']
        """
        given = {
            "--bootstrap": self.bootstrap,
            "--predictions": self.predictions,
            "--labels": self.labels,
            "--output": self.output,
            "--group": self.group,
            "--partitions": str(self.partitions),
            "--timeout-ms": str(self.timeout_ms),
            "--state": str(self.state),
        }
        return [word for pair in given.items() for word in pair]


@dataclass(frozen=True, slots=True)
class Peer:
    """A peer as the harness sees it.

    - `guarantee`: what it promises, in a few words for the table, for instance "exactly once", "at least once".
    - `build`: a toolchain beyond Python wheels is needed, so `--quick` leaves it out.
    - `timers`: what lets a negative out. With `wall` and `none` progress is counted in rows with labels only.
    - `position`: how far it has read is taken from the offsets that `--group` commits (`group`; only when it commits
      at least once a second), or from how many rows it has written (`output`).
    - `grace_s`: how long nothing may move before the harness takes it as finished: longer than its commit interval.
    - `environment`: more variables for the process.
    """

    name: str
    title: str
    version: str
    guarantee: str
    prepare: Callable[[Path], Sequence[str]]
    build: bool = False
    timers: Timers = "event"
    position: Position = "output"
    grace_s: float = 10.0
    environment: dict[str, str] = field(default_factory=dict)
