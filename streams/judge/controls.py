"""Controls of the drift alarms, as an experiment has them: do they keep quiet, do they speak, were they worth it? Pure.

**Negative control: the placebo.** In each pane the 64 subject buckets are paired and each pair is split by a coin, both
by a hash of the pane's time and the watch's name. With a and b the counts of a pair, X = ½ + ½·Σ ±(a − b)/Σ|a − b| lies
in [0, 1] and has exactly the mean ½ given everything that happened, because only the coins are left to chance: under
any season, drift, or dependence between panes. So an e-SR against "at most ½" is under its null for ever, its budget is
`PLACEBO` alarms in 30 days, and what it raises is measured in production beside what was promised. Two streams: errors
by bucket, and rows by bucket.

**Positive control: injected drift.** A second e-SR sees each pane's counts with a known change put in: errors up to ε
above what is allowed; for the score, 2ε of the rows moved to the highest cell. It shares null, budget and panes with
the real one, so how long it takes, and how often it gives up after `PATIENCE_DAYS`, is what the real one would do
about such a change, at this traffic, now.

**Benign alarms.** An alarm of a traffic stream says that something moved, not that it matters. Once all panes of the
quality window began after it, it is benign where the error rate's whole interval lies below what is allowed, harmful
where it lies above, else open: not shown to be either. After `PATIENCE_DAYS` an open one stays unknown.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any, Final

import numpy as np
from xxhash import xxh3_64_intdigest

from schemas.verdict import Verdict
from streams.judge.bounds import DAY_MS, JudgeBounds
from streams.judge.detectors import ESR
from streams.judge.evidence import Evidence, Floats, Null
from streams.judge.panes import Kind
from streams.judge.trackers import Tracker
from streams.judge.watch import Watch, labelled
from streams.judge.watched import QUALITY, Stream
from streams.measure.ledger import BUCKET_ROWS, BUCKETS, SCORE, Ledger
from streams.measure.metrics import Accuracy, Measured

PLACEBO: Final = 30.0
"""Alarms of a placebo in 30 days that are promised not to be exceeded, on average: many, so that the rate shows."""
MONTH: Final = 30.0
PATIENCE_DAYS: Final = 30.0
LAST: Final = 20
Plain = dict[str, Any]


def lasting(ms: float) -> str:
    """Say a span of time to two digits or so.

    >>> lasting(90_000), lasting(16 * 60_000), lasting(2.25 * DAY_MS), lasting(31 * DAY_MS)
    ('1.5 min', '16 min', '2.2 d', '31 d')
    """
    unit_ms, unit = next(
        ((unit_ms, unit) for unit_ms, unit in ((DAY_MS, "d"), (3_600_000, "h")) if ms >= unit_ms), (60_000, "min")
    )
    value = ms / unit_ms
    return f"{value:.0f} {unit}" if value >= 10 else f"{value:.2g} {unit}"


@dataclass
class Placebo:
    """The negative control on one kind of counts."""

    name: str
    salt: str
    panes: int = 0
    alarms: int = 0
    days: float = 0.0
    state: Plain = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._tracker: Tracker = ESR().load(Null.of_rate(self.name, 0.5), MONTH / PLACEBO, self.state)

    def take(self, counts: Floats, start: int, end: int) -> Verdict | None:
        """Look at the counts by bucket of a pane; None where no two buckets differ."""
        share = self.share(counts, start)
        if share is None:
            return None
        days = (end - start) / DAY_MS
        one = np.ones(1)
        pane = Evidence(start, end, np.array([share]), 1.0, one, np.array([share]))
        self.panes += 1
        self.days += days
        self.alarms += self._tracker.update(pane, days).outcome == "fail"
        return self.verdict()

    def share(self, counts: Floats, start: int) -> float | None:
        """Give X: near 1 where the first of each pair has more."""
        # Sorted by hashes, because no generator promises the same stream in its next version.
        coins = f"{self.salt}|{self.name}|{start}|"
        order = sorted(range(BUCKETS), key=lambda bucket: xxh3_64_intdigest(f"{coins}{bucket}".encode()))
        gaps = counts[order[::2]] - counts[order[1::2]]
        total = float(np.abs(gaps).sum())
        return None if total <= 0 else float(0.5 + 0.5 * gaps.sum() / total)

    def verdict(self) -> Verdict:
        """Say how many alarms there were beside how many were promised.

        `fail` where a Poisson count of what is promised reaches that many with a chance of 1e-3, at any look.
        """
        from scipy.special import gammainc

        promised = self.days * PLACEBO / MONTH
        chance = float(gammainc(self.alarms, promised)) if self.alarms else 1.0
        unlikely = chance < 1e-3 / max(self.panes * (self.panes + 1), 1)
        outcome: Any = "fail" if unlikely else "pass" if self.days >= 1 else "inconclusive"
        return Verdict(
            outcome=outcome,
            gate=self.name,
            statistic=float(self.alarms),
            threshold=promised,
            value=self.alarms / self.days * MONTH if self.days else None,
            n=self.panes,
            sentence=(
                f"the machinery raised {self.alarms} alarms where nothing can have changed, in "
                f"{lasting(self.days * DAY_MS)}; at most {promised:.2g} are promised on average"
            ),
        )

    def dump(self) -> Plain:
        """Give it as plain data."""
        return {"panes": self.panes, "alarms": self.alarms, "days": self.days, "state": self._tracker.dump()}


@dataclass
class Injected:
    """The positive control of one stream: how long the e-SR takes to find a known change."""

    stream: Stream
    bounds: JudgeBounds
    began_ms: int = -1
    found: int = 0
    missed: int = 0
    delays_ms: list[int] = field(default_factory=list)
    state: Plain = field(default_factory=dict)
    shape: str = ""
    """What `state` belongs to (`Detector.shape`); empty: an earlier version did not say."""

    def __post_init__(self) -> None:
        shape = self._detector.shape(self.stream.null)
        try:
            if self.shape not in ("", shape):
                raise ValueError(f"expected a state of shape {shape}, got {self.shape}")
            self._start(self.state)
        except ValueError:  # settings have changed: what was being tried cannot be gone on with
            self._begin()
        self.shape = shape

    @property
    def _detector(self) -> ESR:
        return next((one for one in self.bounds.detectors if isinstance(one, ESR)), ESR())

    def _start(self, state: Plain) -> None:
        self._part = self.stream.share / self.bounds.parts
        self._tracker = self._detector.load(self.stream.null, self.bounds.alarm_days, state)

    def take(self, pane: Evidence, days: float, limits: Floats | None = None) -> Verdict:
        """Put the change into a pane, and look at it with the stream's own part of `days`, by its limits there."""
        if self.began_ms < 0:
            self.began_ms = pane.from_ms
        if self._tracker.update(self.changed(pane, limits), days * self._part, limits).outcome == "fail":
            self.found += 1
            self.delays_ms = [*self.delays_ms, pane.to_ms - self.began_ms][-LAST:]
            self._begin()
        elif pane.to_ms - self.began_ms > PATIENCE_DAYS * DAY_MS:
            self.missed += 1
            self._begin()
        return self.verdict()

    def _begin(self) -> None:
        self.began_ms = -1
        self._start({})

    def changed(self, pane: Evidence, limits: Floats | None = None) -> Evidence:
        """Give the pane with the change in it."""
        if self.stream.histogram is None:
            bound = float((self.stream.null.limits if limits is None else limits)[0])
            epsilon = self.bounds.epsilon_error
            rate = float(pane.counts.sum()) / pane.rows
            part = min(max((bound + epsilon - rate) / max(1.0 - rate, 1e-9), 0.0), 1.0)
            assert pane.unit_hits is not None
            hits = np.asarray(pane.unit_hits + part * (pane.sizes - pane.unit_hits), dtype=np.float64)
            counts = np.asarray(pane.counts + part * (pane.rows - pane.counts), dtype=np.float64)
            return Evidence(pane.from_ms, pane.to_ms, counts, pane.rows, pane.sizes, hits)
        part = min(2 * self.bounds.epsilon_share, 1.0)
        counts = np.asarray(pane.counts * (1.0 - part), dtype=np.float64)
        counts[-3] += part * pane.rows  # the highest cell within the reference's range
        return Evidence(pane.from_ms, pane.to_ms, counts, pane.rows, pane.sizes)

    def verdict(self) -> Verdict:
        """Say how often a known change was found, and after how long (median of the last 20)."""
        tried = self.found + self.missed
        delay_ms = float(np.median(self.delays_ms)) if self.delays_ms else None
        after = "" if delay_ms is None else f", after {lasting(delay_ms)} (median)"
        return Verdict(
            outcome="inconclusive" if not tried else "pass" if self.found > self.missed else "fail",
            gate=f"injected:{self.stream.name}",
            statistic=delay_ms,
            value=self.found / tried if tried else None,
            n=tried,
            sentence=f"of {tried} changes that were put into a copy of the stream {self.found} were found{after}",
        )

    def dump(self) -> Plain:
        """Give it as plain data."""
        return {
            "began_ms": self.began_ms,
            "found": self.found,
            "missed": self.missed,
            "delays_ms": self.delays_ms,
            "state": self._tracker.dump(),
            "shape": self.shape,
        }


@dataclass
class Worth:
    """What became of the alarms of one traffic stream. `open` holds the ends of the panes that raised them."""

    alarms: int = 0
    benign: int = 0
    harmful: int = 0
    unknown: int = 0
    open: list[int] = field(default_factory=list)

    def raised(self, at_ms: int) -> None:
        """Take up an alarm."""
        self.alarms += 1
        self.open.append(at_ms)

    def look(self, accuracy: Measured | None, from_ms: int, allowed: float) -> None:
        """Look at the accuracy of the window of closed panes that begins at `from_ms`; None where none can be told."""
        for at_ms in [at_ms for at_ms in self.open if from_ms >= at_ms]:
            if accuracy is not None and accuracy.low is not None and 1.0 - accuracy.low <= allowed:
                self.benign += 1
            elif accuracy is not None and accuracy.high is not None and 1.0 - accuracy.high > allowed:
                self.harmful += 1
            elif from_ms - at_ms > PATIENCE_DAYS * DAY_MS:
                self.unknown += 1
            else:
                continue
            self.open.remove(at_ms)

    def told(self) -> dict[str, int]:
        """Give the counts by name."""
        return {
            "alarms": self.alarms,
            "benign": self.benign,
            "harmful": self.harmful,
            "unknown": self.unknown + len(self.open),
        }


class Controls:
    """All controls of one watch. `name` makes the placebo's coins its own."""

    def __init__(self, watch: Watch, name: str, state: Plain | None = None) -> None:
        kept = state or {}
        placebos, injected = kept.get("placebos", {}), kept.get("injected", {})
        called_by: tuple[tuple[Kind, str], ...] = (("labels", "placebo:errors"), ("traffic", "placebo:rows"))
        self.placebos = {kind: Placebo(called, name, **placebos.get(called, {})) for kind, called in called_by}
        streams = {stream.name: stream for stream in watch.streams if stream.name in (QUALITY, SCORE)}
        self.injected = {
            called: Injected(stream, watch.bounds, **injected.get(called, {})) for called, stream in streams.items()
        }
        self.worth = {called: Worth(**plain) for called, plain in kept.get("worth", {}).items()}
        self._allowed = float(streams[QUALITY].null.limits[0]) if QUALITY in streams else None

    def take(
        self, watch: Watch, kind: Kind, ledger: Ledger, start: int, end: int, days: float
    ) -> list[tuple[str, Verdict]]:
        """Look at a closed pane; give what each control says, by its name."""
        found: list[tuple[str, Verdict | None]] = []
        pane = labelled(ledger, start, end) if kind == "labels" else None
        placebo = self.placebos[kind]
        if kind == "traffic":
            counts = np.array(ledger.dense(BUCKET_ROWS, BUCKETS), dtype=np.float64)
            found.append((placebo.name, placebo.take(counts, start, end)))
        elif pane is not None and pane.unit_hits is not None:
            found.append((placebo.name, placebo.take(np.asarray(pane.unit_hits, dtype=np.float64), start, end)))
        for called, one in self.injected.items():
            if one.stream.kind == kind:
                seen = watch.evidence(one.stream, ledger, start, end)
                if seen is not None:
                    limits = watch.limits(one.stream, start)
                    found.append((f"injected:{called}", one.take(seen, days, limits)))
        return [(called, verdict) for called, verdict in found if verdict is not None]

    def raised(self, stream: Stream, at_ms: int) -> None:
        """Take up an alarm of a stream. Those of the quality itself are harmful by what they say."""
        if stream.kind == "traffic":
            self.worth.setdefault(stream.name, Worth()).raised(at_ms)

    def look(self, window: Ledger, from_ms: int) -> None:
        """Look whether quality has moved, now that the window of closed label panes begins at `from_ms`."""
        waiting = [worth for worth in self.worth.values() if worth.open]
        if waiting:
            known = self._allowed is not None and window.possible()
            accuracy = Accuracy().measured(window) if known else None
            for worth in waiting:
                worth.look(accuracy, from_ms, self._allowed or 0.0)

    def told(self, stream: str) -> dict[str, int]:
        """Give what became of a stream's alarms; nothing when it raised none."""
        worth = self.worth.get(stream)
        return {} if worth is None else worth.told()

    def dump(self) -> Plain:
        """Give them as plain data."""
        return {
            "placebos": {one.name: one.dump() for one in self.placebos.values()},
            "injected": {called: one.dump() for called, one in self.injected.items()},
            "worth": {called: asdict(one) for called, one in sorted(self.worth.items())},
        }
