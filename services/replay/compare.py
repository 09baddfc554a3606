"""Two (and, for the check, three) sets of revisions side by side, counted as they end. Pure.

A request is kept until no policy can revise it any more, then counted and forgotten, so memory is bounded by the reach
of the policies. A difference is told as what an outcome would be instead: `0 timeout → 1 implicit`.
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

import msgspec

from schemas.feedback import Feedback
from services.train.teaching import Waits, is_settled, weight_of
from streams.measure.reading import binary
from streams.measure.scale import span_bin, span_value

Side = Literal["before", "after", "landed"]
SIDES: tuple[Side, ...] = ("before", "after", "landed")
EXAMPLES = 5
NOTHING = "nothing"


class Last(NamedTuple):
    """The last revision of an outcome."""

    label: Any
    kind: str | None
    weight: float
    status: str
    role: str
    predicted_at_ms: int
    joined_at_ms: int
    policy: str
    log_odds_correction: float | None
    restarted: bool

    @property
    def text(self) -> str:
        """What it says, without how sure it is: what a revision may change."""
        if self.label is None:
            return NOTHING
        weight = "" if self.weight == 1.0 else f" × {self.weight:g}"
        return f"{msgspec.json.encode(self.label).decode()} {self.kind}{weight}"


Outcome = tuple[str, str, str]
"""(deployment, label name, item or the empty text)."""


class Request:
    """What is known of one request, by side."""

    __slots__ = ("after", "before", "landed", "predicted_at_ms")

    def __init__(self) -> None:
        self.before: dict[Outcome, Last] = {}
        self.after: dict[Outcome, Last] = {}
        self.landed: dict[Outcome, Last] = {}
        self.predicted_at_ms = 0

    def of(self, side: Side) -> dict[Outcome, Last]:
        """Give one side."""
        found: dict[Outcome, Last] = getattr(self, side)
        return found


class Row(NamedTuple):
    """A row of a training set."""

    y: int
    weight: float


@dataclass(slots=True)
class Labels:
    """The outcomes of one side: by (name, label, kind, status), and how long the last revision took, in span bins."""

    counts: Counter[tuple[str, str, str, str]] = field(default_factory=Counter)
    delays: Counter[int] = field(default_factory=Counter)

    def delay_ms(self, share: float) -> float | None:
        """Give a quantile of the time from a prediction to its last revision, to 1 %."""
        total = self.delays.total()
        if not total:
            return None
        rank, below = math.ceil(share * total), 0
        for place in sorted(self.delays):
            below += self.delays[place]
            if below >= rank:
                return span_value(place)
        return None


@dataclass(slots=True)
class Teaching:
    """A training set: rows, positives, and both weighted."""

    rows: int = 0
    positives: int = 0
    weight: float = 0.0
    positive_weight: float = 0.0

    def add(self, row: Row) -> None:
        """Count a row."""
        self.rows += 1
        self.positives += row.y
        self.weight += row.weight
        self.positive_weight += row.weight * row.y

    @property
    def base_rate(self) -> float | None:
        """The weighted share of positives."""
        return self.positive_weight / self.weight if self.weight else None


@dataclass(slots=True)
class Examples:
    """How often something happened, and the first few request ids."""

    count: int = 0
    requests: list[str] = field(default_factory=list)

    def add(self, request_id: str) -> None:
        """Count one more."""
        self.count += 1
        if len(self.requests) < EXAMPLES and request_id not in self.requests:
            self.requests.append(request_id)


class Comparison:
    """Counts what differs. `names` is, by side, the label name that teaches, `waits` how long its outcomes wait."""

    def __init__(self, names: dict[Side, str], waits: Mapping[Side, Waits]) -> None:
        self.names, self.waits = names, waits
        self.open: dict[str, Request] = {}
        self.labels: dict[Side, Labels] = {side: Labels() for side in SIDES}
        self.changes: defaultdict[tuple[str, str, str], Examples] = defaultdict(Examples)
        self.outcomes = 0
        self.teaching: dict[Side, Teaching] = {side: Teaching() for side in SIDES}
        self.taught: defaultdict[str, Examples] = defaultdict(Examples)
        self.agreeing = 0
        self.disagreeing: defaultdict[str, Examples] = defaultdict(Examples)

    def say(self, side: Side, said: Feedback) -> None:
        """Take a revision of one side."""
        request = self.open.get(said.request_id)
        if request is None:
            request = self.open[said.request_id] = Request()
        outcomes = request.of(side)
        place = said.deployment, said.name, said.item or ""
        before = outcomes.get(place)
        outcomes[place] = Last(
            said.label,
            said.label_kind,
            said.weight,
            said.status,
            said.role,
            said.predicted_at_ms,
            said.joined_at_ms,
            said.policy,
            said.log_odds_correction,
            before is not None and (said.revision == 1 or before.restarted),
        )
        request.predicted_at_ms = max(request.predicted_at_ms, said.predicted_at_ms)

    def end(self, before_ms: int | None, last_said_ms: int, clock_ms: int) -> None:
        """Count and forget the requests whose predictions were made before a moment (None: all).

        What was said in a partition after `last_said_ms` may not have landed. `clock_ms` is what was replayed up to.
        """
        gone = [
            request_id
            for request_id, request in self.open.items()
            if before_ms is None or request.predicted_at_ms < before_ms
        ]
        for request_id in gone:
            self._count(request_id, self.open.pop(request_id), last_said_ms, clock_ms)

    def _count(self, request_id: str, request: Request, last_said_ms: int, clock_ms: int) -> None:
        rows = {side: row_of(request.of(side), self.names[side], self.waits[side], clock_ms) for side in SIDES}
        for side in SIDES:
            told = self.labels[side]
            for (_, name, _), last in request.of(side).items():
                text = NOTHING if last.label is None else msgspec.json.encode(last.label).decode()
                told.counts[name, text, last.kind or "", last.status] += 1
                told.delays[span_bin(max(0, last.joined_at_ms - last.predicted_at_ms))] += 1
            row = rows[side]
            if row is not None:
                self.teaching[side].add(row)
        for place in sorted({*request.before, *request.after}):
            was, now = _text(request.before.get(place)), _text(request.after.get(place))
            self.outcomes += 1
            if was != now:
                self.changes[place[1], was, now].add(request_id)
        self._teach(request_id, rows["before"], rows["after"])
        for place in sorted({*request.before, *request.landed}):
            why = why_different(request.before.get(place), request.landed.get(place), last_said_ms)
            if why:
                self.disagreeing[why].add(request_id)
            else:
                self.agreeing += 1

    def _teach(self, request_id: str, was: Row | None, now: Row | None) -> None:
        if was == now:
            return
        if was is None or now is None:
            self.taught["gained" if was is None else "lost"].add(request_id)
        elif was.y != now.y:
            self.taught[f"relabelled {was.y} → {now.y}"].add(request_id)
        else:
            self.taught["weighted otherwise"].add(request_id)


def _text(last: Last | None) -> str:
    return NOTHING if last is None else last.text


def row_of(outcomes: dict[Outcome, Last], name: str, waits: Waits, clock_ms: int) -> Row | None:
    """Give the row that a request gives the trainer when the timers stand at `clock_ms`: its own rule.

    >>> last = Last(1, "implicit", 0.5, "provisional", "primary", 0, 9, "p@1", None, False)
    >>> [row_of({("", "label", ""): last}, "label", {("p@1", "label"): 100}, clock_ms) for clock_ms in (99, 100)]
    [None, Row(y=1, weight=0.5)]
    """
    mine = [
        (last.predicted_at_ms, deployment, last)
        for (deployment, said_name, item), last in outcomes.items()
        if said_name == name and not item and last.role == "primary"
    ]
    for _, _, last in sorted(mine, key=lambda one: one[:2]):
        y = binary(last.label)
        wait_ms = waits.get((last.policy, name))
        due_ms = None if wait_ms is None else last.predicted_at_ms + wait_ms
        if is_settled(last.status, last.kind, due_ms, clock_ms) and y is not None and last.weight > 0:
            return Row(y, weight_of(last.kind, last.weight, last.log_odds_correction))
    return None


def why_different(replayed: Last | None, landed: Last | None, last_said_ms: int) -> str:
    """Say why a replay under the policies in force does not say what has landed; empty when it does."""
    if _text(replayed) == _text(landed):
        return ""
    if landed is not None and landed.restarted:
        return "the request id came back after its state had ended"
    if replayed is not None and replayed.joined_at_ms > last_said_ms:
        return "said after the last feedback that has landed"
    if replayed is None:
        return "said of a prediction that is not among the landed rows of the window"
    if landed is not None and landed.predicted_at_ms != replayed.predicted_at_ms:
        return "another prediction of this identity, at the window's edge, stands"
    if landed is not None and landed.policy != replayed.policy:
        return f"resolved under {landed.policy}, where {replayed.policy} is found to be in force"
    return "unexplained: see `weir verify`"


def counted(labels: Labels, by: Callable[[tuple[str, str, str, str]], str]) -> dict[str, int]:
    """Sum the counts of outcomes by something."""
    found: Counter[str] = Counter()
    for key, count in labels.counts.items():
        found[by(key)] += count
    return dict(sorted(found.items()))


def largest(examples: Iterable[tuple[Any, Examples]]) -> list[tuple[Any, Examples]]:
    """Sort what happened by how often."""
    return sorted(examples, key=lambda one: (-one[1].count, str(one[0])))
