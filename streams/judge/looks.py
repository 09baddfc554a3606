"""What the windows of a source say: which arms have fallen, and whether the others speak against an outage. Pure.

**Fallen.** A source has fallen in a window when all its arms that can be judged there, at least one, saw fewer labels
than their bounds, and the others saw none. A bad model gets fewer labels, but only itself; when a source is cut off all
its arms fall together. So an arm that is still learning, or too small, holds the freeze back while its labels flow, and
cannot cause one.

**Others.** That they saw none must mean something: they are asked over the shortest window in which `ENOUGH` labels of
theirs were due (none of twelve is a chance of 6e-6), be it longer than the one that is looked at. Where they have fewer
than that in the longest window, they are asked over the one that is looked at.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from schemas.verdict import Verdict
from streams.join.arrivals import Arm
from streams.judge.forecast import Due, Law, Learnt, Traffic

ENOUGH: Final = 12
NOTHING_DUE: Final = Due(0.0, 0.0, 0)


@dataclass(slots=True)
class Flow:
    """One arm of a source: what is learnt, what came by pane, and by age what is not yet learnt.

    It is learnt from the pane `born` on.
    """

    learnt: Learnt = field(default_factory=Learnt)
    seen: dict[int, int] = field(default_factory=dict)
    fresh: dict[int, Counter[int]] = field(default_factory=dict)
    born: int = 0

    def window(self, pane: int, length: int) -> int:
        """Give how many labels came in the window that ends with a pane."""
        return sum(self.seen.get(at, 0) for at in range(pane - length + 1, pane + 1))


@dataclass(frozen=True, slots=True)
class Look:
    """One window: the arms that can be judged, with what was due and seen, and what the others had due and saw."""

    window: int
    judged: dict[Arm, tuple[Due, int]]
    others_due: float
    others_seen: int

    def below(self, arm: Arm) -> bool:
        """Say whether an arm can be judged, and saw fewer labels than its bound."""
        due, seen = self.judged.get(arm, (NOTHING_DUE, 0))
        return seen < due.bound

    @property
    def fallen(self) -> bool:
        """Say whether all that can be judged is below its bound, and nothing else speaks against it."""
        return bool(self.judged) and all(self.below(arm) for arm in self.judged) and not self.others_seen

    @property
    def back(self) -> bool:
        """Say whether labels flow again: an arm is over the middle between its bound and its expectation."""
        others = 2 * self.others_seen >= max(self.others_due, ENOUGH)
        return others or any(2 * seen >= due.bound + due.least for due, seen in self.judged.values())

    def sums(self) -> tuple[float, int, int]:
        """Give expectation, bound and count over the arms that can be judged."""
        dues = [due for due, _ in self.judged.values()]
        return sum(d.expected for d in dues), sum(d.bound for d in dues), sum(seen for _, seen in self.judged.values())

    def verdict(self, source: str, pane_ms: int) -> Verdict:
        """Say it to a person, with the evidence."""
        expected, bound, seen = self.sums()
        over = f"{span(self.window * pane_ms)}, in {len(self.judged)} arm{'s' * (len(self.judged) != 1)}"
        came = f"{named(source)}: {seen} came in {over}; {expected:.1f} were due, at least {bound} by chance alone"
        if not self.judged:
            came = f"{named(source)}: {self.others_seen} came in arms that are too small or too new to be judged"
        return Verdict(
            outcome="fail" if self.fallen else "pass",
            gate="outage",
            statistic=seen,
            threshold=bound,
            value=expected,
            n=seen,
            sentence=came,
        )


def looks_at(
    flows: Mapping[Arm, Flow], pane: int, windows: Sequence[int], traffic: Mapping[Arm, Traffic], law: Law, warm_up: int
) -> list[Look]:
    """Look at the windows that end with a pane, shortest first."""
    rows = {
        window: {
            arm: (
                flow.learnt.due(traffic[arm], window, law) if flow.learnt.panes else NOTHING_DUE,
                flow.window(pane, window),
            )
            for arm, flow in sorted(flows.items())
        }
        for window in windows
    }
    looks = []
    for k, window in enumerate(windows):
        judged = {
            arm: (due, seen)
            for arm, (due, seen) in rows[window].items()
            if due.bound > 0 and flows[arm].learnt.panes >= warm_up
        }
        sums = [
            (sum(row[arm][0].least for arm in row if arm not in judged), sum(row[a][1] for a in row if a not in judged))
            for row in (rows[longer] for longer in windows[k:])
        ]
        others = next((one for one in sums if one[0] >= ENOUGH), sums[0])
        looks.append(Look(window, judged, *others))
    return looks


def named(source: str) -> str:
    """Name a source to a person.

    >>> named("market"), named("")
    ('labels of market', 'labels without a source')
    """
    return f"labels of {source}" if source else "labels without a source"


def span(ms: int) -> str:
    """Say a span of time.

    >>> span(60_000), span(7_200_000), span(1_500)
    ('1 min', '2 h', '1.5 s')
    """
    for unit_ms, unit in ((3_600_000, "h"), (60_000, "min")):
        if ms >= unit_ms and ms % unit_ms == 0:
            return f"{ms // unit_ms} {unit}"
    return f"{ms / 1000:g} s"
