"""Is the challenger better, or worse? Valid at every look, from subjects, not requests.

**Unit.** A subject, when it is new to the layer: its arm is that of its first trial and its value the mean of that
arm's trials within a fixed window from there, taken when every label due in the window has had its time. A sticky
subject's later requests are no fresh randomisation: they are left out. A subject that first appeared before the shares
held, or between two stages, is burned; an `AllocationSet` with share 0, from the moment the weights change, says
"between".

**Canary.** A subject gets the challenger with the known probability π, whatever else happens. With A = 1 for the
challenger, v its value and c a number fixed before (the mean value of the units so far),

    D = (v − c)·(A/π − (1 − A)/(1 − π))

has exactly the mean value under the challenger minus that under the champion, for any season, any stage, any c, because
the second factor has mean 0 and A tells nothing else. Its ends follow from π and c, so `betting` bounds the effect at
every look. The shares of stages enter unit by unit: nothing is pooled over stages, so there is no Simpson's paradox.
(A difference of two arms' own intervals would lean on both arms seeing the same hours; asymptotic sequences decide up
to 57 % of A/A canaries of 1 to 5 % wrongly; conditioning on conversions is as exact but cannot state an absolute
margin.)

**Shadow.** Both models answer the same request: D is the subject's mean of challenger minus champion over its requests
that both answered, in [−1, 1]. No randomisation is needed, only that subjects follow one law given the past.

**What is assumed.** Subjects do not influence each other; a subject's arm does not decide whether its labels come; the
assignment is the hash that `control` told. Late trials of a closed subject are counted and change no look.

**Corrected trials.** The trials of the last subjects that were closed are kept while a label may still revise them
(`keep` of them at most), in the order in which they were counted, and with them the sums of all before. So what a look
would say now that some were corrected can be told exactly: by counting the kept ones again (`again`).
"""

from __future__ import annotations

import heapq
from collections.abc import Callable
from copy import copy
from typing import Any, Literal

import msgspec
import numpy as np
from msgspec import Struct, field
from xxhash import xxh3_64_hexdigest, xxh3_64_intdigest

from schemas.control import AllocationSet
from schemas.lifecycle import DecidePolicy
from schemas.measures import Gate, Trial
from schemas.verdict import Verdict
from streams.judge.betting import Wealth

SHADOW = "shadow:"
GATES = 2
"""The gates of a rollout, shadow and canary: the error of ending a good one is split evenly over them."""
WaitMs = Callable[[int], int]
"""From a prediction's time to how long after it the last label due may come."""


class _Seen(Struct, array_like=True):
    """One trial as it stands; a void one keeps its revision."""

    at_ms: int
    value: float | None
    revision: int


class _Subject(Struct, array_like=True):
    """A subject whose window or labels are still open: request → arm → trial."""

    trials: dict[str, dict[str, _Seen]] = field(default_factory=dict)
    due_ms: int = -1

    def first(self) -> tuple[int, str, str] | None:
        """Give (time, request, arm) of the earliest trial that stands."""
        standing = (
            (trial.at_ms, request, arm)
            for request, arms in self.trials.items()
            for arm, trial in arms.items()
            if trial.value is not None
        )
        return min(standing, default=None)


class _Counts(Struct):
    """What a layer has counted: units by arm, burned ones, late trials; sums for the baseline and the effect."""

    champions: int = 0
    challengers: int = 0
    pairs: int = 0
    burned: int = 0
    late: int = 0
    value_sum: float = 0.0
    difference_sum: float = 0.0
    changed: bool = False


class _Kept(Struct, array_like=True):
    """A closed subject: its place in the order of counting, its trials, until when a label may revise them."""

    place: int
    unit: _Subject
    until_ms: int


class Sums:
    """What a layer has counted."""

    def __init__(self, counts: _Counts | None = None, wealth: Wealth | None = None) -> None:
        self.counts, self.wealth = counts or _Counts(), wealth or Wealth()

    def copy(self) -> Sums:
        """Give a copy to go on with."""
        return Sums(copy(self.counts), Wealth(self.wealth.dump()))

    def dump(self) -> dict[str, Any]:
        """Give them as plain data."""
        return {"counts": self.counts, "wealth": self.wealth.dump()}

    @classmethod
    def load(cls, plain: dict[str, Any]) -> Sums:
        """Take up what `dump` gave."""
        return cls(msgspec.convert(plain["counts"], _Counts), Wealth(plain["wealth"]))


class Layer:
    """One rollout's or experiment's gate. `keep` is how many closed subjects' trials are kept."""

    def __init__(self, model: str, name: str, window_ms: int, keep: int = 0) -> None:
        self.model, self.name, self.default_window_ms = model, name, window_ms
        self.paired = name.startswith(SHADOW)
        self.allocations: list[AllocationSet] = []
        self.open: dict[str, _Subject] = {}
        self.closed: set[int] = set()
        self.sums = Sums()
        self.keep = keep
        self.kept: dict[int, _Kept] = {}
        self.before = Sums()
        """The sums of the closed subjects before the first that is kept; unused while none is."""
        self.corrected: int | None = None
        """The first place at which a kept subject was corrected since somebody looked (`again`)."""
        self.concluded = "inconclusive"
        self._due: list[tuple[int, str]] = []

    @property
    def counts(self) -> _Counts:
        """What was counted."""
        return self.sums.counts

    @property
    def wealth(self) -> Wealth:
        """The evidence."""
        return self.sums.wealth

    def allocate(self, told: AllocationSet) -> None:
        """Take the shares that hold from `told.from_ms` on; a later record of the same time replaces."""
        kept = [old for old in self.allocations if old.from_ms != told.from_ms]
        self.allocations = sorted([*kept, told], key=lambda one: one.from_ms)

    def take(self, trial: Trial, wait: WaitMs) -> None:
        """Take a trial, or a later revision of one. Applying one twice changes nothing."""
        subject = trial.subject or trial.request_id
        mark = xxh3_64_intdigest(subject.encode())
        if mark in self.closed:
            self.counts.late += 1
            kept = self.kept.get(mark)
            if kept is not None and _put(kept.unit, trial):
                self.corrected = kept.place if self.corrected is None else min(self.corrected, kept.place)
            return
        unit = self.open.setdefault(subject, _Subject())
        if _put(unit, trial):
            self._schedule(subject, unit, wait)

    def _schedule(self, subject: str, unit: _Subject, wait: WaitMs) -> None:
        first = unit.first()
        due_ms = -1
        if first is not None:
            end_ms = first[0] + self.window_ms
            due_ms = end_ms + wait(end_ms)
        if due_ms != unit.due_ms:
            unit.due_ms = due_ms
            if due_ms >= 0:
                heapq.heappush(self._due, (due_ms, subject))

    @property
    def window_ms(self) -> int:
        """How long after its first appearance a subject's trials count."""
        return next((told.window_ms for told in self.allocations if told.window_ms), self.default_window_ms)

    def close(self, clock_ms: int, settle_ms: int, wait: WaitMs, reach: WaitMs | None = None) -> None:
        """Count the subjects whose time has come, in order of it.

        `reach` gives how long after a prediction its labels may be revised; None: not after `wait`.
        """
        while self._due and self._due[0][0] + settle_ms <= clock_ms:
            due_ms, subject = heapq.heappop(self._due)
            unit = self.open.get(subject)
            if unit is None or unit.due_ms != due_ms:
                continue  # an older plan of the same subject
            unit.due_ms = -1
            self._schedule(subject, unit, wait)  # a policy may have changed since
            if unit.due_ms != due_ms:
                continue
            self._count(unit, self.sums)
            self.counts.changed = True
            del self.open[subject]
            mark = xxh3_64_intdigest(subject.encode())
            if self.keep:
                last_ms = max((seen.at_ms for arms in unit.trials.values() for seen in arms.values()), default=due_ms)
                self.kept[mark] = _Kept(len(self.closed), unit, last_ms + (reach or wait)(last_ms))
            self.closed.add(mark)
        self._forget(clock_ms)

    def _forget(self, clock_ms: int) -> None:
        """Let go of the kept subjects that nothing can revise any more, and of the first when there are too many."""
        for mark, kept in list(self.kept.items()):
            if kept.until_ms > clock_ms and len(self.kept) <= self.keep:
                break
            self._count(kept.unit, self.before)
            del self.kept[mark]
            if not self.kept:  # what follows goes on from what was said
                self.before = self.sums.copy()

    def again(self, closed: int) -> tuple[Sums, bool]:
        """Count the first `closed` subjects again with what was corrected; False: too few of them are kept for that."""
        found = self.before.copy()
        places = [kept.place for kept in self.kept.values()]
        if not places or places[0] >= closed:
            return found, False
        for kept in self.kept.values():
            if kept.place < closed:
                self._count(kept.unit, found)
        return found, True

    def _count(self, unit: _Subject, sums: Sums) -> None:
        first = unit.first()
        if first is None:  # all its trials were taken back since
            return
        counts = sums.counts
        from_ms, to_ms = first[0], first[0] + self.window_ms
        told = next((one for one in reversed(self.allocations) if one.from_ms <= from_ms), None)
        champion, challenger = (told.champion, told.challenger) if told else ("champion", "challenger")
        if self.paired:
            self._count_pairs(unit, sums, from_ms, to_ms, champion, challenger)
            return
        arm = first[2]
        values = [
            seen.value
            for _, arms in sorted(unit.trials.items())
            if (seen := arms.get(arm)) is not None and seen.value is not None and from_ms <= seen.at_ms < to_ms
        ]
        if told is None or not 0.0 < told.share < 1.0 or arm not in (champion, challenger):
            counts.burned += 1
            return
        value = sum(values) / len(values)
        pi, new = told.share, arm == challenger
        n = counts.champions + counts.challengers
        c = (counts.value_sum + 0.5) / (n + 1)
        low, high = min(-c / pi, -(1 - c) / (1 - pi)), max((1 - c) / pi, c / (1 - pi))
        difference = (value - c) / pi if new else -(value - c) / (1 - pi)
        sums.wealth.update(min(max(difference, low), high), low, high)
        counts.value_sum += value
        counts.difference_sum += difference
        counts.challengers += new
        counts.champions += not new

    def _count_pairs(
        self, unit: _Subject, sums: Sums, from_ms: int, to_ms: int, champion: str, challenger: str
    ) -> None:
        differences = []
        for _, arms in sorted(unit.trials.items()):
            old, new = arms.get(champion), arms.get(challenger)
            if old is None or new is None or old.value is None or new.value is None:
                continue
            if from_ms <= old.at_ms < to_ms:
                differences.append(new.value - old.value)
        if not differences:
            sums.counts.burned += 1
            return
        difference = sum(differences) / len(differences)
        sums.wealth.update(min(max(difference, -1.0), 1.0), -1.0, 1.0)
        sums.counts.difference_sum += difference
        sums.counts.pairs += 1

    def look(self, policy: DecidePolicy, clock_ms: int) -> Gate | None:
        """Give the gate if a subject was counted since the last look."""
        if not self.counts.changed:
            return None
        self.counts.changed = False
        return self.gate(policy, self.sums, clock_ms)

    def gate(self, policy: DecidePolicy, sums: Sums, clock_ms: int) -> Gate:
        """Give the look at some sums under a policy."""
        counts, wealth = sums.counts, sums.wealth
        n = counts.pairs if self.paired else counts.champions + counts.challengers
        bar = policy.shadow_margin if self.paired else -policy.margin
        alpha_rollback = policy.alpha_rollback / GATES  # either gate alone may end a rollout
        low, high = wealth.limits(policy.alpha, alpha_rollback) if n else (None, None)
        seen = n + counts.burned + len(self.open)
        key = f"{self.model}\n{self.name}\n{n}\n{counts.burned}\n{clock_ms}"
        effect = counts.difference_sum / n if n else None
        return Gate(
            id=f"gate-{xxh3_64_hexdigest(key.encode())}",
            model=self.model,
            layer=self.name,
            paired=self.paired,
            effect=effect,
            low=low,
            high=high,
            alpha=policy.alpha,
            alpha_rollback=alpha_rollback,
            bar=bar,
            e_above=wealth.e_above(bar),
            e_below=wealth.e_below(bar),
            n=n,
            champions=counts.champions,
            challengers=counts.challengers,
            burned=counts.burned,
            maturity=(n + counts.burned) / seen if seen else 0.0,
            sentence=self._sentence(counts.burned, effect, low, high, n, bar),
            at_ms=clock_ms,
        )

    def _sentence(
        self, burned: int, effect: float | None, low: float | None, high: float | None, n: int, bar: float
    ) -> str:
        if effect is None:
            why = "no request was answered by both" if self.paired else "the shares of the arms were never told"
            return f"nothing can be said about {self.name}: {why} ({burned} subjects left out)"
        kind = "pairs of subjects' means" if self.paired else "subjects"
        interval = f"{effect:+.4f} [{low:+.4f}, {high:+.4f}]"
        return f"challenger minus champion is {interval} over {n} {kind}; the bar is {bar:+g}"

    @classmethod
    def load(cls, state: dict[str, Any], keep: int = 0) -> Layer:
        """Read `dump`'s plain data. Without what is kept (as an earlier version wrote it) later subjects are."""
        layer = cls(state["model"], state["layer"], state["window_ms"], keep)
        layer.allocations = msgspec.convert(state["allocations"], list[AllocationSet])
        layer.open = msgspec.convert(state["open"], dict[str, _Subject])
        layer.closed = {int(one) for one in np.frombuffer(state["closed"], dtype=np.uint64)}
        layer.sums = Sums.load(state)
        layer.before = Sums.load(state["before"]) if state.get("before") else layer.sums.copy()
        layer.kept = {mark: msgspec.convert(kept, _Kept) for mark, kept in state.get("kept", ())}
        layer.corrected, layer.concluded = state.get("corrected"), state.get("concluded", "inconclusive")
        layer._due = sorted((unit.due_ms, subject) for subject, unit in layer.open.items() if unit.due_ms >= 0)
        return layer

    def dump(self) -> dict[str, Any]:
        """Give the state as plain data."""
        return {
            "model": self.model,
            "layer": self.name,
            "window_ms": self.default_window_ms,
            "allocations": self.allocations,
            "open": self.open,
            "closed": np.array(sorted(self.closed), dtype=np.uint64).tobytes(),
            **self.sums.dump(),
            "before": self.before.dump() if self.kept else None,
            "kept": list(self.kept.items()),
            "corrected": self.corrected,
            "concluded": self.concluded,
        }


def _put(unit: _Subject, trial: Trial) -> bool:
    """Put a trial to a subject's, unless a later revision of it is known. False: it says nothing new."""
    arms = unit.trials.setdefault(trial.request_id, {})
    known = arms.get(trial.arm)
    if known is not None and known.revision >= trial.revision:
        return False
    arms[trial.arm] = _Seen(trial.at_ms, None if trial.void else trial.value, trial.revision)
    return True


def conclusion(gate: Gate, policy: DecidePolicy) -> Verdict:
    """Say what a look concludes under a policy: `pass`, `fail` or `inconclusive`, as `decide` reads it."""
    outcome: Literal["pass", "fail", "inconclusive"] = "inconclusive"
    above, below = 1.0 / policy.alpha, GATES / policy.alpha_rollback
    statistic, threshold = gate.e_above, above
    if gate.effect is not None and gate.low is not None:
        worse = not gate.paired and gate.high is not None and gate.high < 0
        if gate.e_below >= below:
            outcome, statistic, threshold = "fail", gate.e_below, below
        elif gate.e_above >= above and gate.n >= policy.min_subjects and not worse:
            outcome = "pass"
    return Verdict(
        outcome=outcome,
        gate=gate.layer,
        statistic=statistic,
        threshold=threshold,
        value=gate.effect,
        low=gate.low,
        high=gate.high,
        n=gate.n,
        maturity=gate.maturity,
        sentence=gate.sentence,
    )
