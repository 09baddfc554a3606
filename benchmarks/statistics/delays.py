"""How soon a rise of the error rate is found, at an equal measured rate of false alarms.

Each detector has one parameter that makes it more or less eager. It is tuned on null runs until it raises as many false
alarms as the others; then the rate rises, and the events until the first alarm are counted. All know the same 5,000
events beforehand: the e-SR makes its null of them (at 95 %, or the confidence in its name), river's detectors have read
them. The e-SR reads panes of 50 events, the others each event. Of ADWIN only alarms at a rise count.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.statistics.counted import median_delay, tuned
from benchmarks.statistics.simulated import by_bucket
from streams.judge.detectors import ESR
from streams.judge.esr import Unit
from streams.judge.evidence import Evidences, Null
from streams.judge.nulls import error_null, upper_share
from streams.measure.ledger import BUCKETS

Bits = NDArray[np.bool_]

LEARN, QUIET, LIMIT = 5_000, 3_000, 30_000
"""Events to learn from, events before the change, events after which a change counts as missed."""
PANE = 50
LAG = 20
"""Panes that a limit which goes on learning has not learnt yet."""
BEFORE = 0.1
PER = 300_000
TARGET = 1.0
"""False alarms in `PER` events to which every detector is tuned."""
CHANGES: dict[str, tuple[float, int]] = {
    "10 to 12 %": (0.12, 0),
    "10 to 15 %": (0.15, 0),
    "10 to 20 %": (0.20, 0),
    "to 15 % over 5,000 events": (0.15, 5_000),
}
"""By name: the rate afterwards, and over how many events it is reached."""


def events(seed: int, count: int, after: float = BEFORE, ramp: int = 0, start: int = 0) -> Bits:
    """Give errors at `BEFORE`, from `start` on rising to `after` over `ramp` events.

    >>> found = events(0, 20_000, 0.5, 0, 10_000)
    >>> [round(float(part.mean()), 1) for part in (found[:10_000], found[10_000:])]
    [0.1, 0.5]
    """
    at = np.arange(count)
    reached = np.clip((at - start) / ramp, 0, 1) if ramp else (at >= start) * 1.0
    return np.random.default_rng([seed, count]).random(count) < BEFORE + (after - BEFORE) * reached


Alarms = Callable[[float, list[Bits]], Iterator[Iterator[int]]]
"""From the parameter and runs of events to each run's alarms: how many events after the learning each was raised."""


def one_by_one(make: Callable[[float], Any], value: float, runs: list[Bits]) -> Iterator[Iterator[int]]:
    """Let a river detector read each run."""
    for run in runs:
        yield _read(make(value), run)


def _read(detector: Any, run: Bits) -> Iterator[int]:
    update, since, wrong = detector.update, 0, 0
    two_sided = hasattr(detector, "estimation")
    for at, error in enumerate(run.tolist()):
        since, wrong = since + 1, wrong + error
        update(int(error))
        if detector.drift_detected:
            if at >= LEARN and (not two_sided or detector.estimation > wrong / since):
                yield at + 1 - LEARN
            since = wrong = 0


def dummy(value: float, runs: list[Bits]) -> Iterator[Iterator[int]]:
    """Raise an alarm every `value` events, whatever comes, from a place that chance says."""
    draw = np.random.default_rng(5)
    for run in runs:
        first = draw.random() * value
        yield iter(np.arange(first, len(run) - LEARN, value).astype(int).tolist())


def e_sr(unit: Unit, delta: float | None, value: float, runs: list[Bits]) -> Iterator[Iterator[int]]:
    """Let the e-SR read all runs, pane by pane; `value` is its bound in panes.

    The limit is the upper end of the 1 − `delta` interval of the rate in what was learnt; None: the true rate.
    """
    nulls = [Null.of_rate("x", BEFORE)] * len(runs)
    if delta is not None:
        nulls = [error_null("x", float(run[:LEARN].mean()), LEARN, delta=delta, epsilon=0.0) for run in runs]
    trackers = ESR(unit=unit).many(nulls, value)
    count, panes = len(runs), (len(runs[0]) - LEARN) // PANE
    every, days, rows = np.arange(count), np.ones(count), np.full(count, float(PANE))
    draw = np.random.default_rng(6)
    found: list[list[int]] = [[] for _ in runs]
    errors = np.array([run[LEARN : LEARN + panes * PANE] for run in runs]).reshape(count, panes, PANE)
    for t in range(panes):
        sizes, hits = by_bucket(draw.integers(0, BUCKETS, (count, PANE)), np.ones((count, PANE)), errors[:, t])
        shown = Evidences(t, t + 1, hits.sum(axis=1, keepdims=True), rows, sizes, hits)
        for run in np.flatnonzero(trackers.update(every, shown, days).alarmed).tolist():
            found[run].append((t + 1) * PANE)
    return (iter(alarms) for alarms in found)


def e_sr_learning(value: float, runs: list[Bits]) -> Iterator[Iterator[int]]:
    """Let the e-SR read all runs against a limit that goes on learning, as ADWIN's past does.

    The limit is the upper end of the 80 % interval of the rate in what was learnt and in all panes but the last `LAG`.
    No theorem bounds its false alarms, and a rise slower than the lag is learnt instead of found: it is here to tell
    what of a delay is the detector's and what is the price of a frozen reference.
    """
    trackers = ESR(unit="event").many([Null.of_rate("x", BEFORE)] * len(runs), value)
    count, panes = len(runs), (len(runs[0]) - LEARN) // PANE
    every, days, rows = np.arange(count), np.ones(count), np.full(count, float(PANE))
    hits = np.array([run[LEARN : LEARN + panes * PANE] for run in runs]).reshape(count, panes, PANE).sum(axis=2)
    learnt = np.array([float(run[:LEARN].sum()) for run in runs])
    found: list[list[int]] = [[] for _ in runs]
    for t in range(panes):
        if t > LAG:
            learnt += hits[:, t - LAG - 1]
        limits = upper_share(learnt, LEARN + max(t - LAG, 0) * PANE, 0.2)
        shown = Evidences(t, t + 1, hits[:, t : t + 1], rows, rows[:1, None], hits[:, t : t + 1].astype(float))
        for run in np.flatnonzero(trackers.update(every, shown, days, limits[:, None]).alarmed).tolist():
            found[run].append((t + 1) * PANE)
    return (iter(alarms) for alarms in found)


@dataclass(frozen=True)
class Way:
    """A detector: how it is run, its parameter from gentle to eager, how many null events it is tuned on."""

    name: str
    parameter: str
    alarms: Alarms
    gentle: float
    eager: float
    null_events: int


def ways() -> list[Way]:
    """Give all detectors."""
    from river import drift
    from river.drift import binary

    def adwin(value: float) -> Any:
        return drift.ADWIN(delta=value)

    def page_hinkley(value: float) -> Any:
        return drift.PageHinkley(threshold=value, delta=0.005, alpha=1.0, mode="up")

    def ddm(value: float) -> Any:
        return binary.DDM(warning_threshold=value, drift_threshold=value)

    def hddm_a(value: float) -> Any:
        return binary.HDDMA(drift_confidence=value, warning_confidence=value)

    return [
        Way("e_sr", "bound", partial(e_sr, "subject", 0.05), 30_000.0, 1.0, 20_000_000),
        Way("e_sr, a row a unit", "bound", partial(e_sr, "event", 0.05), 30_000.0, 1.0, 20_000_000),
        Way("e_sr, null at 50 %", "bound", partial(e_sr, "subject", 0.5), 1e6, 1.0, 20_000_000),
        Way("e_sr, null at 99 %", "bound", partial(e_sr, "subject", 0.01), 30_000.0, 1.0, 20_000_000),
        Way("e_sr, rate known", "bound", partial(e_sr, "subject", None), 30_000.0, 1.0, 20_000_000),
        Way("e_sr, null that learns on", "bound", e_sr_learning, 100_000.0, 1.0, 20_000_000),
        Way("ADWIN", "delta", partial(one_by_one, adwin), 1e-5, 0.5, 20_000_000),
        Way("DDM", "threshold", partial(one_by_one, ddm), 8.0, 2.0, 9_000_000),
        Way("Page-Hinkley", "threshold", partial(one_by_one, page_hinkley), 200.0, 10.0, 9_000_000),
        Way("HDDM_A", "confidence", partial(one_by_one, hddm_a), 1e-8, 0.1, 3_000_000),
        Way("dummy", "every", dummy, 3e6, 3e4, 10_000_000),
    ]


@dataclass(frozen=True)
class Delay:
    """A tuned detector: its parameter, its false alarms in `PER` events, and by change the median delay and misses."""

    name: str
    parameter: str
    value: float
    false_alarms: float
    median: dict[str, float | None]
    missed: dict[str, float]


def measure(way: Way, runs: int, scale: float = 1.0, seed: int = 0) -> Delay:
    """Tune a detector on null runs of 100,000 events, then let it see each change in `runs` runs."""
    length = 100_000
    count = max(round(way.null_events * scale / length), 1)
    quiet = [events(1_000_000 + seed + k, LEARN + length) for k in range(count)]

    def rate(value: float) -> float:
        return sum(1 for run in way.alarms(value, quiet) for _ in run) / (count * length) * PER

    value, false_alarms = tuned(rate, TARGET, way.gentle, way.eager)
    medians: dict[str, float | None] = {}
    missed: dict[str, float] = {}
    for name, (after, ramp) in CHANGES.items():
        start = LEARN + QUIET
        told = [events(2_000_000 + seed + k, start + LIMIT, after, ramp, start) for k in range(runs)]
        delays = [next((at - QUIET for at in run if at > QUIET), None) for run in way.alarms(value, told)]
        medians[name] = median_delay(delays)
        missed[name] = sum(delay is None for delay in delays) / runs
    return Delay(way.name, way.parameter, value, false_alarms, medians, missed)
