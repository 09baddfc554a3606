"""Decisions looked at again, because what they were decided on was corrected. Pure.

A label that is corrected a month later moves panes that were judged long ago. No detector sees that, and nothing is
decided anew; but who acted on an alarm, a figure or a gate has to learn that its ground has moved. So a model remembers
its last `reviews` decisions together with the counts that they were made of:

- an **alarm** of `quality:error` within the budget (a cause of `retrain`): the panes of its evidence since the detector
  began or last alarmed, the last `review_panes` of them, and the detector's state before the first. A correction goes
  into the pane's counts, and the same detector, from that state, with the same days and limits, judges the panes again:
  the alarm stands where it would have been raised by then. Alarms about traffic rest on no label;
- a **limit**: a closed figure of the policy's `min_quality` or `max_loss` whose interval came to lie beyond its limit,
  as a pane or as a window, when the one before did not (the other cause of `retrain`). The figure is told again from
  the corrected counts; it stands where it still lies beyond;
- a **gate** that concluded (the ground of promotions and refusals): the layer keeps the trials of its last
  `review_subjects` closed subjects (`gates`), and counts again those that the look had counted.

A review leaves when a decision's figure first moves, whenever the answer to "would it stand?" changes, and else at most
once in `review_ms`. A gate takes long to count again (some 0.1 ms a subject), so it is looked at again at most once in
a sixtieth of that. Memory is bounded by these four settings; a decision beyond them is let go of, oldest first. What
is compared is what the *same evidence* says now; what came later, and might have led to the same decision, is not.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Final, Literal

import msgspec
from msgspec import Struct, structs

from schemas.lifecycle import DecidePolicy, Limits
from schemas.measures import Gate, Metric, PaneDelta, Review
from schemas.verdict import Verdict
from streams.judge.bounds import JudgeBounds
from streams.judge.figures import event_id
from streams.judge.gates import Layer, conclusion
from streams.judge.panes import Key
from streams.judge.trackers import Plain
from streams.judge.watch import Watch, labelled
from streams.judge.watched import QUALITY
from streams.measure.ledger import (
    BUCKET_AGREEMENT,
    BUCKET_CONFUSION,
    EMBEDDING,
    EMBEDDING_ROWS,
    FEATURE,
    LABEL_DELAY,
    LATENCY,
    MISSING,
    PARITY,
    Ledger,
)
from streams.measure.metrics import metric_of

Cells = dict[str, dict[int, int]]
OF_ALARM: Final = (BUCKET_CONFUSION, BUCKET_AGREEMENT)
REST: Final = 60
NO_GROUND: Final = (LATENCY, MISSING, LABEL_DELAY, EMBEDDING, EMBEDDING_ROWS)


class Look(Struct, array_like=True):
    """A pane that the error rate's detectors have judged: what it spent, its limits, their states before it."""

    start: int
    end: int
    days: float
    limits: list[float] | None
    before: list[Plain]


class Decision(Struct):
    """What was decided, on what, and what was said of it since. `moved`: counts have changed since it was looked at."""

    id: str
    topic: Literal["drift", "metrics", "gates"]
    version: str
    deployment: str
    name: str
    decided_ms: int
    from_ms: int
    to_ms: int
    then: Verdict
    now: Verdict
    told: Verdict
    told_ms: int = -1
    revision: int = 0
    overturned: int = 0
    stands: bool = True
    moved: bool = False
    index: int = 0
    looks: list[Look] = []
    panes: dict[int, Cells] = {}
    limits: Limits = Limits()
    cells: Cells = {}
    closed: int = 0
    looked_ms: int = -1
    policy: DecidePolicy | None = None


class Reviews:
    """The decisions of one model."""

    def __init__(self, model: str, bounds: JudgeBounds) -> None:
        self.model, self.bounds = model, bounds
        self.looks: dict[tuple[str, str], deque[Look]] = {}
        self.beyond: set[tuple[str, str, str, str]] = set()
        self.decisions: list[Decision] = []

    def remember(self, decision: Decision) -> None:
        """Keep a decision; the oldest beyond the bound is let go of."""
        self.decisions = [*self.decisions, decision][-self.bounds.reviews :] if self.bounds.reviews else []

    def look(self, watch: Watch, key: Key, start: int, end: int, days: float) -> None:
        """Note what the error rate's detectors know before they judge a pane."""
        if not self.bounds.reviews or not watch.has(QUALITY):
            return
        kept = self.looks.setdefault((key.version, key.deployment), deque(maxlen=self.bounds.review_panes))
        before = watch.before(QUALITY)
        if not any(before):
            kept.clear()  # evidence begins here
        limits = watch.limits(watch.stream(QUALITY), start)
        spent = days * watch.stream(QUALITY).share / self.bounds.parts
        kept.append(Look(start, end, spent, None if limits is None else limits.tolist(), before))

    def alarmed(
        self, event: str, key: Key, index: int, verdict: Verdict, ledger_of: Callable[[int], Ledger | None], at_ms: int
    ) -> None:
        """Remember an alarm of the error rate, by the detector at `index`."""
        looks: list[Look] = []
        panes: dict[int, Cells] = {}
        for look in self.looks.get((key.version, key.deployment), ()):
            if not look.before[index]:
                looks, panes = [], {}
            ledger = ledger_of(look.start)
            if ledger is not None:
                looks.append(look)
                panes[look.start] = {name: dict(ledger.cells[name]) for name in OF_ALARM if name in ledger.cells}
        if not looks:
            return
        rate, n = _rate(looks, panes)
        then = structs.replace(verdict, value=rate, n=n)
        whole = (looks[0].start, looks[-1].end)
        self.remember(
            Decision(
                event, "drift", key.version, key.deployment, QUALITY, at_ms, *whole, then, then, then,
                index=index, looks=looks, panes=panes,
            )
        )  # fmt: skip

    def figured(self, found: list[Metric], limits: Mapping[str, Limits], ledger: Ledger, window: str) -> None:
        """Remember those of a window's figures (or a single pane's) that have come beyond their limits."""
        for metric in found:
            own = limits.get(metric.metric)
            if own is None or metric.role != "primary" or metric.slice:
                continue
            at = (metric.version, metric.deployment, metric.metric, window)
            if own.passed(metric.low, metric.high) is None:
                self.beyond.discard(at)
            elif at not in self.beyond:
                self.beyond.add(at)
                then = _against(metric, own)
                self.remember(
                    Decision(
                        metric.id, "metrics", metric.version, metric.deployment, metric.metric, metric.at_ms,
                        metric.from_ms, metric.to_ms, then, then, then, limits=own, cells=_grounds(ledger.cells),
                    )
                )  # fmt: skip

    def concluded(self, gate: Gate, layer: Layer, policy: DecidePolicy) -> None:
        """Remember a look that concludes otherwise than the one before."""
        then = conclusion(gate, policy)
        if then.outcome == layer.concluded:
            return
        layer.concluded = then.outcome
        if then.outcome != "inconclusive":
            from_ms = layer.allocations[0].from_ms if layer.allocations else 0
            self.remember(
                Decision(
                    gate.id, "gates", "", "", layer.name, gate.at_ms, from_ms, gate.at_ms, then, then, then,
                    closed=len(layer.closed), policy=policy,
                )
            )  # fmt: skip

    def recounted(self, layer: Layer) -> None:
        """Take up that subjects of a layer were corrected."""
        if layer.corrected is None:
            return
        for one in self.decisions:
            if one.topic == "gates" and one.name == layer.name and one.closed > layer.corrected:
                one.moved = True
        layer.corrected = None

    def correct(self, delta: PaneDelta) -> None:
        """Put a delta into the counts of the decisions that were made on its pane."""
        if delta.role != "primary" or delta.slice:
            return
        for one in self.decisions:
            if (one.version, one.deployment) != (delta.version, delta.deployment) or one.topic == "gates":
                continue
            if one.topic == "drift" and delta.pane_ms in one.panes:
                names, cells = [name for name in OF_ALARM if name in delta.cells], one.panes[delta.pane_ms]
            elif one.topic == "metrics" and one.from_ms <= delta.pane_ms < one.to_ms:
                names, cells = list(_grounds(delta.cells)), one.cells
            else:
                continue
            if names:
                ledger = Ledger()
                ledger.cells = cells
                ledger.add_flat({name: delta.cells[name] for name in names})
                one.moved = True

    def tell(
        self, watches: Mapping[tuple[str, str, str], Watch], layers: Mapping[tuple[str, str], Layer], at_ms: int
    ) -> Iterator[Review]:
        """Look again at the decisions that moved, and give what there is to say."""
        for one in self.decisions:
            rests = (
                one.topic == "gates" and one.looked_ms >= 0 and at_ms - one.looked_ms < self.bounds.review_ms // REST
            )
            if one.moved and not rests:
                one.looked_ms = at_ms
                now = self._again(one, watches, layers)
                one.moved = False
                if now is not None:
                    one.now = now
            if _figure(one.now) == _figure(one.told):
                continue
            stands = one.now.outcome == one.then.outcome
            if one.revision and stands == one.stands and at_ms - one.told_ms < self.bounds.review_ms:
                continue
            one.revision, one.stands, one.told, one.told_ms = one.revision + 1, stands, one.now, at_ms
            one.overturned += not stands
            yield self._review(one, at_ms)

    def _again(
        self,
        one: Decision,
        watches: Mapping[tuple[str, str, str], Watch],
        layers: Mapping[tuple[str, str], Layer],
    ) -> Verdict | None:
        """Give what a decision's evidence says now; None where that is not known any more."""
        if one.topic == "metrics":
            return _measured(one)
        if one.topic == "drift":
            watch = watches.get((self.model, one.version, one.deployment))
            return None if watch is None or not watch.has(QUALITY) else _judged(one, watch)
        layer, policy = layers.get((self.model, one.name)), one.policy
        if layer is None or policy is None:
            return None
        sums, known = layer.again(one.closed)
        return conclusion(layer.gate(policy, sums, one.decided_ms), policy) if known else None

    def _review(self, one: Decision, at_ms: int) -> Review:
        return Review(
            id=event_id("review", one.id, one.revision),
            model=self.model,
            version=one.version,
            deployment=one.deployment,
            layer=one.name if one.topic == "gates" else "",
            topic=one.topic,
            decision_id=one.id,
            name=one.name,
            decided_ms=one.decided_ms,
            from_ms=max(one.from_ms, 0),
            to_ms=one.to_ms,
            then=one.then,
            now=one.now,
            stands=one.stands,
            revision=one.revision,
            overturned=one.overturned,
            sentence=_sentence(one),
            at_ms=at_ms,
        )

    def dump(self) -> dict[str, Any]:
        """Give them as plain data."""
        return {
            "looks": [[*at, list(looks)] for at, looks in sorted(self.looks.items())],
            "beyond": sorted(self.beyond),
            "decisions": self.decisions,
        }

    @classmethod
    def load(cls, model: str, bounds: JudgeBounds, plain: dict[str, Any]) -> Reviews:
        """Take up what `dump` gave; fewer of them where the bounds are less now."""
        found = cls(model, bounds)
        for version, deployment, looks in plain["looks"]:
            kept = msgspec.convert(looks, list[Look])
            known = all(len(look.before) == len(bounds.detectors) for look in kept)
            found.looks[version, deployment] = deque(kept if known else (), maxlen=bounds.review_panes)
        found.beyond = {(version, arm, metric, window) for version, arm, metric, window in plain["beyond"]}
        for decision in msgspec.convert(plain["decisions"], list[Decision]):
            found.remember(decision)
        return found


def _judged(one: Decision, watch: Watch) -> Verdict | None:
    """Judge the panes of an alarm again; None where the detector is another now."""
    tracker = watch.resume(QUALITY, one.index, one.looks[0].before[one.index])
    if tracker is None:
        return None
    found: Verdict | None = None
    for look in one.looks:
        ledger = Ledger()
        ledger.cells = one.panes[look.start]
        pane = labelled(ledger, look.start, look.end)
        if pane is not None:
            found = tracker(pane, look.days, look.limits)
            if found.outcome == "fail":
                break
    rate, n = _rate(one.looks, one.panes)
    if found is None:
        return Verdict(outcome="inconclusive", gate=QUALITY, sentence="no label is left in its panes")
    return structs.replace(found, value=rate, n=n)


def _measured(one: Decision) -> Verdict | None:
    """Tell a figure again; None where deltas are missing, so that it cannot be told."""
    ledger = Ledger()
    ledger.cells = one.cells
    if not ledger.possible():
        return None
    label, metric = metric_of(one.name)
    part = ledger.parts().get(label) if label else ledger
    if metric is None or part is None:
        return None
    read = metric.parse({"kind": one.name.rpartition(":")[2]}).measured(part)
    return _verdict(one.name, read.value, read.low, read.high, read.n, one.limits)


def _against(metric: Metric, limits: Limits) -> Verdict:
    return _verdict(metric.metric, metric.value, metric.low, metric.high, metric.n, limits)


def _verdict(name: str, value: float | None, low: float | None, high: float | None, n: int, limits: Limits) -> Verdict:
    passed = limits.passed(low, high)
    floor = limits.ceiling is None or (passed is not None and passed[2] == "below")
    statistic, limit = passed[:2] if passed else (high, limits.floor) if floor else (low, limits.ceiling)
    if value is None:
        return Verdict(outcome="inconclusive", gate=f"quality:{name}", threshold=limit, sentence="no outcome is left")
    interval = "" if low is None or high is None else f" [{low:.4g}, {high:.4g}]"
    return Verdict(
        outcome="fail" if passed else "inconclusive",
        gate=f"quality:{name}",
        statistic=statistic,
        threshold=limit,
        value=value,
        low=low,
        high=high,
        n=n,
        sentence=f"{name} is {value:.4g}{interval} over {n} outcomes; the limit is {limits}",
    )


def _rate(looks: list[Look], panes: dict[int, Cells]) -> tuple[float | None, int]:
    """Give the error rate over the panes, and its weight."""
    total = Ledger()
    for look in looks:
        total.add(panes[look.start])
    pane = labelled(total, looks[0].start, looks[-1].end)
    return (None, 0) if pane is None else (float(pane.counts.sum()) / pane.rows, int(pane.rows))


def _grounds(cells: Any) -> Any:
    """Give copies of the cells that a figure with a limit may be read from."""
    grounds = (name for name in cells if not name.startswith((FEATURE, PARITY)) and name not in NO_GROUND)
    return {name: cells[name].copy() for name in grounds}


def _figure(verdict: Verdict) -> tuple[Any, ...]:
    return verdict.outcome, verdict.value, verdict.n, verdict.statistic


def _sentence(one: Decision) -> str:
    what = {"drift": "the error rate of its panes", "metrics": one.name, "gates": "the effect"}[one.topic]
    then = "unknown" if one.then.value is None else f"{one.then.value:.4g}"
    now = "unknown" if one.now.value is None else f"{one.now.value:.4g}"
    means = "it would stand" if one.stands else "it would not stand"
    return f"{what} was {then} when it was decided and is {now} as corrected: {means}"
