"""The same hour of the week: what a stream may show at this hour, learnt from that hour in earlier weeks.

A frozen reference has one rate for all hours, so a daily or weekly cycle passes its limit at the peak and hides a rise
at the trough. With `season = "hour_of_week"` the streams `quality:error` and `score` of a watch get limits for each of
the 168 hours of a local week, by the wall clock of the pane's start. Features get none: 10,000 streams of 168 hours
and 8 weeks would be gigabytes; a feature's cycle must stay within `epsilon_share`. Pure.

**What is learnt.** Sums of rows and of the rows in each of the null's cells, from which every witness's hits follow, by
hour of the week and local week (Monday to Sunday). A limit uses an hour's last 8 weeks of those that are *learnt*. A
week is learnt when it and the week after it are over and

- no alarm against an hour's own limits came in either of them (an alarm may come days after the change, so it takes
  the running week and the one before with it, and learning pauses until the next Monday), and
- over the week as a whole no share was above the frozen reference's limit. A cycle moves rate between hours, a change
  moves the week: so neither a lasting change that came while nothing was known yet, nor a slow rise from week to week
  that no single week shows, becomes normal.

An alarm against the frozen limits does not stop the learning: a cycle strong enough to raise some every day could
otherwise never be learnt. An hour is used once it holds 4 learnt weeks; until then the frozen reference's null holds.

**The limit** of a witness in an hour with K weeks is a prediction limit for the share of the next one. It is made of
logits, x = log((hits + ½)/(rows − hits + ½)), whose noise is 1/(hits + ½) + 1/(rows − hits + ½): a cycle multiplies
odds, and their spread is alike by day and by night. With x̄ and `noise` the means over the K weeks

    limit = expit(x̄ + t · √(between² · (1 + 1/K) + noise/K)) + ε

`between²` is the variance of a week's logit, pooled over the hours (weights: degrees of freedom over noise), less what
binomial noise explains of it, never below 0. t is Student's quantile at 1 − δ/(hours · witnesses), its degrees of
freedom Satterthwaite's for the variance under the root, of which the pooled part is estimated. δ is the stream's part
of `reference_delta`, and every hour of a budget's period has a limit of its own that may be wrong, 720 of them in 30
days. Measured by simulation (20 to 1,280 rows an hour, 4 or 8 weeks that differ by 0 to 0.3 logits): too low in 0 to
1.6 times the share of hours that was asked for at 1 %, in 0 to 5 times at 0.01 %. Limits made in the same way of the
shares themselves were too low up to 25 times as often as asked for at 0.01 %, because spread grows with the share.

**What is assumed, and what follows.** Assumed: of an hour of the week its weeks are exchangeable (no trend, no holiday
unlike the others); deviations are normal in logits, with one spread for all hours, and, for the degrees of freedom, not
shared by the hours of a week; within an hour the panes have one rate. Then δ bounds the probability that any limit of a
period lies below its hour's true share plus ε (that of the frozen reference comes on top where it is still used), up to
Satterthwaite's approximation. A limit is made of weeks that were over before the pane began, hence predictable, and the
e-SR takes a predictable m as it takes a fixed one: **E[false alarms] ≤ sum of weights / A, given that the limits are
right.** Leaving out alarmed weeks leaves out some of the spread too; a holiday is no false alarm in this sense, and may
alarm.

Figures depend on the time-zone data base: workers that replace each other must have the same one.
"""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from datetime import UTC, datetime, tzinfo
from functools import lru_cache
from typing import Final, NamedTuple
from zoneinfo import ZoneInfo, available_timezones

import numpy as np
from msgspec import structs
from numpy.typing import NDArray

from schemas.verdict import Verdict
from streams.judge.evidence import Evidence, Floats, Ints, Null
from streams.judge.nulls import FLOOR
from streams.judge.trackers import Plain, Verdicts

HOURS: Final = 168
LEAST_WEEKS: Final = 4
MOST_WEEKS: Final = 8
KEPT: Final = MOST_WEEKS + 2
"""Weeks kept of an hour: those that make its limit, and the last two, which are not learnt yet."""
NONE: Final = -1
MILLI: Final = 1000.0
"""Rows may be weights, which the ledger keeps in thousandths; so does this."""
HOUR_MS: Final = 3_600_000
DAYS: Final = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday")


@lru_cache(maxsize=64)
def zone_of(name: str) -> tzinfo:
    """Give a time zone by its IANA name. Raises `ValueError` that says which may have been meant.

    >>> zone_of("Europe/Berln")
    Traceback (most recent call last):
    ValueError: no time zone 'Europe/Berln': expected an IANA name; did you mean 'Europe/Berlin'?
    """
    if name == "UTC":  # also where there is no data base
        return UTC
    try:
        return ZoneInfo(name)
    except (KeyError, ValueError, OSError):
        near = difflib.get_close_matches(name, available_timezones(), 1)
        hint = f"did you mean {near[0]!r}?" if near else "such as 'Europe/Berlin'"
        raise ValueError(f"no time zone {name!r}: expected an IANA name; {hint}") from None


def hour_of_week(at_ms: int, zone: str) -> int:
    """Give the hour of the local week, 0 to 167, Monday's first hour 0.

    >>> hour_of_week(0, "UTC"), hour_of_week(0, "America/New_York")  # a Thursday; the Wednesday before
    (72, 67)
    """
    return _local(at_ms, zone)[1]


def week_of(at_ms: int, zone: str) -> int:
    """Give the local week's number; weeks begin on Mondays."""
    return _local(at_ms, zone)[0]


def _local(at_ms: int, zone: str) -> tuple[int, int]:
    local = datetime.fromtimestamp(at_ms // 1000, zone_of(zone))
    return (local.toordinal() - 1) // 7, local.weekday() * 24 + local.hour


class Limits(NamedTuple):
    """The limits (hour, witness) of one week, and how many learnt weeks each hour holds."""

    limits: Floats
    weeks: Ints


def limits_of(weeks: Ints, rows: Floats, hits: Floats, *, tail: float, epsilon: float) -> Limits:
    """Make the limits of each hour from its learnt weeks: the module says how.

    `weeks` (hour, slot) numbers the weeks and is negative where there is none; `rows` is like it, `hits` (hour, slot,
    witness). `tail` is the probability that one limit may be wrong. The limits are 1 of an hour without a week, and of
    all where no hour has two.
    """
    from scipy.special import expit, stdtrit

    counted = np.where(rows > 0, weeks, NONE)
    last = -np.sort(-counted, axis=1)[:, min(MOST_WEEKS, weeks.shape[1]) - 1]
    held = (counted >= 0) & (counted >= last[:, None])
    count: Ints = held.sum(axis=1)
    k = np.maximum(count, 1)[:, None].astype(np.float64)
    these = held[:, :, None]
    yes, no = hits + 0.5, np.maximum(rows[:, :, None] - hits, 0.0) + 0.5
    logit = np.where(these, np.log(yes / no), 0.0)
    mean = logit.sum(axis=1) / k
    noise = np.where(these, 1 / yes + 1 / no, 0.0).sum(axis=1) / k
    spread = np.where(these, logit - mean[:, None, :], 0.0)
    variance = (spread**2).sum(axis=1) / np.maximum(k - 1, 1)
    weight = np.where(k >= 2, (k - 1) / np.where(noise > 0, noise, 1.0), 0.0)
    total = weight.sum(axis=0)
    if not (total > 0).all():
        return Limits(np.ones_like(mean), count)
    between = np.maximum((weight * (variance - noise)).sum(axis=0) / total, 0.0)
    unsure = (weight**2 * 2 * (between + noise) ** 2 / np.maximum(k - 1, 1)).sum(axis=0) / total**2
    ahead = between * (1 + 1 / k) + noise / k
    freedom = 2 * ahead**2 / ((1 + 1 / k) ** 2 * unsure)
    held_once = count[:, None] > 0
    quantile = -stdtrit(np.where(held_once, freedom, 1.0), tail)
    found = expit(mean + quantile * np.sqrt(ahead)) + epsilon
    return Limits(np.where(held_once, np.clip(found, FLOOR, 1.0), 1.0), count)


class Season:
    """What one stream learnt of the hours of the week.

    `tail` is δ/(hours · witnesses), see `limits_of`. `state` is what `dump` gave; one of another zone or of other cells
    is not taken up: its hours are not these.
    """

    def __init__(self, null: Null, *, zone: str, epsilon: float, tail: float, state: Plain | None = None) -> None:
        zone_of(zone)
        self.null, self.zone, self.epsilon, self.tail = null, zone, epsilon, tail
        self.weeks = np.full((HOURS, KEPT), NONE, dtype=np.int64)
        self.sums = np.zeros((HOURS, KEPT, 1 + null.sets.shape[1]), dtype=np.int64)
        self.admitted, self.stained = NONE, NONE
        self._table: tuple[int, Limits] | None = None
        self.load(state or {})

    @staticmethod
    def tail_of(delta: float, period_ms: int, witnesses: int) -> float:
        """Split a probability over the hours of a period, at least a week's, and the witnesses."""
        return delta / (max(period_ms // HOUR_MS, HOURS) * witnesses)

    def limits(self, start_ms: int) -> Floats:
        """Give the limits (witness) of the pane that begins at `start_ms`. Panes are asked for in order of time."""
        hour, known = self._now(start_ms)
        return known.limits[hour] if known.weeks[hour] >= LEAST_WEEKS else self.null.limits

    def note(self, start_ms: int) -> str:
        """Say which limits those are."""
        hour, known = self._now(start_ms)
        weeks = int(known.weeks[hour])
        if weeks < LEAST_WEEKS:
            return f"hour of the week: learning, {weeks} of {LEAST_WEEKS} weeks"
        return f"compared with {DAYS[hour // 24]} {hour % 24:02}:00 {self.zone}, {weeks} weeks"

    def take(self, pane: Evidence) -> None:
        """Learn a closed pane, unless an alarm has stopped that for this week."""
        week, hour = _local(pane.from_ms, self.zone)
        if week <= self.stained or pane.rows <= 0:
            return
        weeks = self.weeks[hour]
        found = np.flatnonzero(weeks == week)
        slot = int(found[0] if found.size else weeks.argmin())
        if not found.size:
            weeks[slot], self.sums[hour, slot] = week, 0
        self.sums[hour, slot, 0] += round(pane.rows * MILLI)
        self.sums[hour, slot, 1:] += np.rint(np.asarray(pane.counts, dtype=np.float64) * MILLI).astype(np.int64)

    def alarmed(self, start_ms: int) -> None:
        """Forget this week and the one before, because the pane that begins at `start_ms` raised an alarm."""
        hour, known = self._now(start_ms)
        if known.weeks[hour] < LEAST_WEEKS:
            return
        week, _ = _local(start_ms, self.zone)
        self.stained = max(self.stained, week)
        self._drop(self.weeks >= week - 1)

    def judged(self, pane: Evidence, said: Sequence[tuple[Verdicts, bool]], learns: bool = True) -> list[Verdicts]:
        """Learn a pane that detectors have judged, each with whether it keeps the budget; note what those saw."""
        if learns:
            self.take(pane)
        if any(budgeted and verdicts.alarmed.any() for verdicts, budgeted in said):
            self.alarmed(pane.from_ms)
        note = self.note(pane.from_ms)
        return [Noted(verdicts, note) if budgeted else verdicts for verdicts, budgeted in said]

    def _now(self, start_ms: int) -> tuple[int, Limits]:
        week, hour = _local(start_ms, self.zone)
        if self._table is None or self._table[0] != week:
            self._admit(week - 2)
            learnt = np.where(self.weeks <= week - 2, self.weeks, NONE)
            sums = self.sums / MILLI
            hits = sums[:, :, 1:] @ self.null.sets.T.astype(np.float64)
            self._table = week, limits_of(learnt, sums[:, :, 0], hits, tail=self.tail, epsilon=self.epsilon)
        return hour, self._table[1]

    def _admit(self, last: int) -> None:
        """Look at the weeks up to `last` that were not looked at yet, and drop those above the frozen limits."""
        for week in np.unique(self.weeks[(self.weeks > self.admitted) & (self.weeks <= last)]).tolist():
            of_week = self.weeks == week
            rows, *counts = self.sums[of_week].sum(axis=0).tolist()
            if (self.null.sets @ np.array(counts, dtype=np.float64) > self.null.limits * rows).any():
                self._drop(of_week)
        self.admitted = max(self.admitted, last)

    def _drop(self, which: NDArray[np.bool_]) -> None:
        self.weeks[which], self.sums[which] = NONE, 0

    def dump(self) -> Plain:
        """Give it as plain data, little-endian integers; empty before anything was learnt."""
        held = self.weeks >= 0
        if not held.any() and self.stained < 0:
            return {}
        return {
            "zone": self.zone,
            "weeks": self.weeks.astype("<i8").tobytes(),
            "sums": self.sums[held].astype("<i8").tobytes(),
            "admitted": self.admitted,
            "stained": self.stained,
        }

    def load(self, state: Plain) -> None:
        """Go on from what `dump` gave."""
        self._drop(self.weeks >= 0)
        self.admitted, self.stained, self._table = NONE, NONE, None
        width = self.sums.shape[2]
        if state.get("zone") != self.zone:
            return
        weeks = np.frombuffer(state["weeks"], dtype="<i8").reshape(HOURS, KEPT)
        sums = np.frombuffer(state["sums"], dtype="<i8")
        if sums.size == int((weeks >= 0).sum()) * width:
            self.weeks[:] = weeks
            self.sums[weeks >= 0] = sums.reshape(-1, width)
            self.admitted, self.stained = int(state["admitted"]), int(state["stained"])


class Noted(Verdicts):
    """Verdicts whose sentences end with a note."""

    def __init__(self, said: Verdicts, note: str) -> None:
        self.said, self.alarmed, self.note = said, said.alarmed, note

    def verdict(self, place: int) -> Verdict:
        """See `Verdicts.verdict`."""
        found = self.said.verdict(place)
        return structs.replace(found, sentence=f"{found.sentence}; {self.note}")
