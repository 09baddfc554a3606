"""The outage guard: freezes when labels of a source look cut off, and thaws when they are back. Pure.

It knows all sources, models and arms: every partition of the join tells it what arrived (`ArmDelta`), and it looks at a
pane once every partition's clock has passed its end. Each arm of a source has its own forecast
(`streams.judge.forecast`), over windows of several lengths; `streams.judge.looks` says when a source has fallen.

**Freeze and thaw.** A source that has fallen in any window is frozen. It thaws when at `LOOKS` looks in a row an arm
was back over the middle between its bound and its expectation, in that window or a shorter one: the way back is further
than the way there, so that a source at its bound does not flap. A freeze that lasts `max_freeze_ms` thaws by itself; so
does one whose guard was switched off. What is normal then, or after a thaw by hand, is not what was: the source is
learnt anew, from the next label on. No window reaches back over a freeze or thaw. What a person froze only a person
thaws.

**Learning.** While a source is frozen or has fallen nothing is learnt of it. An arm that falls alone is learnt, because
that may be its new way; but not as a measure of how irregular it is.

**Blind.** When the clock leaps over panes, nobody read meanwhile, and what came is not known by pane: windows that
reach back there are neither looked at nor learnt. A partition that is not read holds the clock, and so the guard.
Labels of predictions from before the guard began are not counted, because nobody knows how many there were.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from schemas.control import Frozen, Thawed
from schemas.measures import ArmDelta, ArmForecast, Forecast, ForecastState
from schemas.settings import Guard as Bounds
from streams.join.arrivals import Arm
from streams.judge.figures import event_id
from streams.judge.forecast import SPAN, WINDOWS, Law, Learnt, Traffic
from streams.judge.looks import NOTHING_DUE, Flow, Look, looks_at, named, span
from streams.measure.ages import EDGES, LIMIT

LOOKS: Final = 3
GAP: Final = 3
"""The clock may leap over fewer panes than this."""
HALF_LIFE_MS: Final = 86_400_000
LEAST_PANES: Final = 20
"""What warm-up asks for at least."""
PERIOD_MS: Final = 30 * 86_400_000
MOST_SOURCES: Final = 64
MOST_ARMS: Final = 64
"""More sources, and arms of a source, are not watched, and counted."""
BY: Final = "guard"
_OLDEST: Final = [*(EDGES[1:] - 1).tolist(), LIMIT]
"""The greatest age of each bin, in panes."""


@dataclass(slots=True)
class Source:
    """One label source. `since_ms` is when it was frozen (-1: it is not), `window` the window that it fell in.

    `told_ms` is the time of the guard's last freeze or thaw, `since` the first pane that windows reach back to.
    """

    flows: dict[Arm, Flow] = field(default_factory=dict)
    since_ms: int = -1
    by: str = ""
    window: int = 0
    back: int = 0
    told_ms: int = -1
    since: int = 0


@dataclass(slots=True)
class Guard:
    """All that the guard knows. `at` is the pane that it looks at next (-1: it has not begun).

    It began with the pane `begun`, and has seen every pane since `since`. Where the clock is virtual (`leaps`) it may
    leap: whoever drives it has let everything arrive before. `heard_ms` is the clock before the first arm was told.
    """

    bounds: Bounds
    leaps: bool = False
    pane_ms: int = 0
    at: int = -1
    begun: int = 0
    since: int = 0
    traffic: dict[Arm, Counter[int]] = field(default_factory=dict)
    sources: dict[str, Source] = field(default_factory=dict)
    unwatched: int = 0
    heard_ms: int = -1

    # What is told.

    def take(self, delta: ArmDelta) -> None:
        """Take up what came of an arm."""
        if not self.pane_ms:
            self.pane_ms = delta.pane_size_ms
            if self.heard_ms > 0:  # before a virtual clock is told what time it is, it says 0
                self.at = self.begun = self.since = self.heard_ms // self.pane_ms
        if delta.pane_size_ms != self.pane_ms:
            self._restart(delta.pane_size_ms)
        arm = Arm(delta.model, delta.version, delta.deployment)
        counts = self.traffic.setdefault(arm, Counter())
        for at, count in _pairs(delta.predictions):
            counts[at] += count
        for source, flat in delta.labels.items():
            flow = self._flow(source, arm)
            if flow is None:
                continue
            for at, age, count in zip(flat[::3], flat[1::3], flat[2::3], strict=True):
                if self.at < 0 or at - self.begun < _OLDEST[age]:
                    continue
                flow.seen[at] = flow.seen.get(at, 0) + count
                flow.fresh.setdefault(max(at, self.at), Counter())[age] += count

    def _flow(self, name: str, arm: Arm) -> Flow | None:
        source = self.sources.get(name)
        if source is None:
            if len(self.sources) >= MOST_SOURCES:
                self.unwatched += 1
                return None
            source = self.sources[name] = Source()
        flow = source.flows.get(arm)
        if flow is None:
            if len(source.flows) >= MOST_ARMS:
                self.unwatched += 1
                return None
            flow = source.flows[arm] = Flow(born=self.at)
        return flow

    def _restart(self, pane_ms: int) -> None:
        """Begin anew, because panes have another length now. What is frozen stays so."""
        self.pane_ms, self.at = pane_ms, -1
        self.traffic.clear()
        self.sources = {
            name: Source({}, one.since_ms, one.by, one.window, told_ms=one.told_ms)
            for name, one in self.sources.items()
            if one.since_ms >= 0
        }

    def hear(self, event: Frozen | Thawed) -> None:
        """Take up a freeze or thaw from `control`: a person's, or one of its own that it does not remember."""
        source = self.sources.get(event.source)
        if event.by == BY:
            if source is None:
                source = self.sources[event.source] = Source()
            if event.at_ms <= source.told_ms:
                return
            source.told_ms = event.at_ms
        if isinstance(event, Frozen):
            if source is None:
                source = self.sources[event.source] = Source()
            if source.since_ms < 0:
                source.since_ms, source.by, source.back = event.at_ms, event.by, 0
                source.window = max(WINDOWS)
        elif source is not None and source.since_ms >= 0:
            source.since_ms, source.by, source.since = -1, "", self.at
            self._forget(source)

    def _forget(self, source: Source) -> None:
        for flow in source.flows.values():
            flow.learnt = Learnt()
            flow.born = self.at

    # Looking.

    def look(self, clock_ms: int) -> tuple[list[Frozen | Thawed], list[Forecast]]:
        """Look at every pane that has ended at `clock_ms`, the least clock of all partitions of the join."""
        said: list[Frozen | Thawed] = []
        forecasts: list[Forecast] = []
        if not self.pane_ms or clock_ms < 0:
            self.heard_ms = clock_ms
            return said, forecasts
        now = clock_ms // self.pane_ms
        if self.at < 0:
            self.begun = now
        if self.at < 0 or (now - self.at > GAP and not self.leaps):
            self.at = self.since = now
        while self.at < now:
            pane, self.at = self.at, self.at + 1
            forecasts = []
            traffic = {arm: Traffic(counts, pane) for arm, counts in sorted(self.traffic.items())}
            for name, source in sorted(self.sources.items()):
                event, forecast = self._look_at(name, source, pane, traffic)
                if event is not None:
                    said.append(event)
                forecasts.append(forecast)
            self._prune(pane)
        return said, forecasts

    def _look_at(
        self, name: str, source: Source, pane: int, traffic: Mapping[Arm, Traffic]
    ) -> tuple[Frozen | Thawed | None, Forecast]:
        since = max(self.since, source.since)
        windows = [window for window in WINDOWS if pane - window + 1 >= since]
        looks = looks_at(source.flows, pane, windows, traffic, self.law, self.warm_up)
        at_ms = (pane + 1) * self.pane_ms
        fallen = next((look for look in looks if look.fallen), None)
        event: Frozen | Thawed | None = None
        if source.since_ms < 0:
            if fallen is not None and self.bounds.enabled:
                source.since_ms, source.by, source.window, source.back = at_ms, BY, fallen.window, 0
                source.told_ms, source.since = at_ms, self.at
                event = Frozen(source=name, at_ms=at_ms, by=BY, **self._why(name, fallen))
        elif source.by == BY:
            event = self._thaw(name, source, looks, at_ms)
        if source.since_ms < 0 and fallen is None:
            self._learn(source, pane, traffic, looks)
        for flow in source.flows.values():
            flow.fresh.pop(pane, None)
        return event, self._forecast(name, source, looks, fallen, at_ms)

    def _thaw(self, name: str, source: Source, looks: list[Look], at_ms: int) -> Thawed | None:
        back = next((look for look in looks if look.window <= source.window and look.back), None)
        source.back = source.back + 1 if back is not None else 0
        if not self.bounds.enabled:
            told: dict[str, Any] = {"reason": f"{named(name)} thaws: the guard is switched off"}
        elif back is not None and source.back >= LOOKS:
            told = self._why(name, back)
        elif at_ms - source.since_ms >= self.bounds.max_freeze_ms:
            told = {
                "reason": f"{named(name)} thaws: the longest freeze of {span(self.bounds.max_freeze_ms)} is over, and "
                "its labels are not back; what is normal is learnt anew"
            }
        else:
            return None
        source.since_ms, source.by, source.told_ms, source.since = -1, "", at_ms, self.at
        if source.back < LOOKS:
            self._forget(source)
        return Thawed(source=name, at_ms=at_ms, by=BY, **told)

    def _learn(self, source: Source, pane: int, traffic: Mapping[Arm, Traffic], looks: list[Look]) -> None:
        for arm, flow in source.flows.items():
            if pane < flow.born or not (flow.learnt.panes or flow.window(pane, 1)):
                continue
            seen = {look.window: flow.window(pane, look.window) for look in looks if not look.below(arm)}
            flow.learnt.learn(traffic[arm], flow.fresh.get(pane, {}), seen, self.keep)

    def _prune(self, pane: int) -> None:
        """Let go of what no window reaches any more."""
        for arm, counts in list(self.traffic.items()):
            for at in [at for at in counts if at <= pane - SPAN]:
                del counts[at]
            if not counts:
                del self.traffic[arm]
        for name, source in list(self.sources.items()):
            for arm, flow in list(source.flows.items()):
                for at in [at for at in flow.seen if at <= pane - max(WINDOWS)]:
                    del flow.seen[at]
                for at in [at for at in flow.fresh if at <= pane]:
                    del flow.fresh[at]
                if arm not in self.traffic:
                    if flow.seen:
                        self.traffic[arm] = Counter()
                    else:
                        del source.flows[arm]
            if not source.flows and source.since_ms < 0:
                del self.sources[name]

    # Bounds.

    @property
    def law(self) -> Law:
        """What a bound is made with."""
        looks = PERIOD_MS / self.pane_ms * len(WINDOWS)
        return Law(self.bounds.false_freezes / looks, self.bounds.share)

    @property
    def warm_up(self) -> int:
        """How many panes an arm is learnt before it is judged."""
        return max(math.ceil(self.bounds.warm_up_ms / self.pane_ms), LEAST_PANES)

    @property
    def keep(self) -> float:
        """The weight that the past keeps from pane to pane."""
        return float(0.5 ** (self.pane_ms / HALF_LIFE_MS))

    # Saying.

    def _why(self, name: str, look: Look) -> dict[str, Any]:
        verdict = look.verdict(name, self.pane_ms)
        return {"reason": verdict.sentence, "evidence": verdict}

    def _forecast(self, name: str, source: Source, looks: list[Look], fallen: Look | None, at_ms: int) -> Forecast:
        # The last pane of warm-up is learnt after the look.
        young = [flow.learnt.panes for flow in source.flows.values() if flow.learnt.panes <= self.warm_up]
        learnt = max(young, default=self.warm_up)
        told = fallen or next((look for look in looks if look.judged), looks[-1] if looks else None)
        state: ForecastState = "small"
        if source.since_ms >= 0:
            state = "frozen"
        elif told is not None and told.judged:
            state = "watched"
        elif young:
            state = "learning"
        expected, bound, seen = told.sums() if told is not None else (0.0, 0, 0)
        return Forecast(
            id=event_id("forecast", name, at_ms),
            source=name,
            state=state,
            learnt_ms=min(learnt, self.warm_up) * self.pane_ms,
            warm_up_ms=self.warm_up * self.pane_ms,
            window_ms=0 if told is None else told.window * self.pane_ms,
            expected=round(expected, 3),
            bound=bound,
            seen=seen,
            since_ms=max(source.since_ms, 0),
            by=source.by,
            sentence=self._sentence(name, state, learnt, told),
            arms=[self._arm(arm, flow, told) for arm, flow in sorted(source.flows.items())],
            at_ms=at_ms,
        )

    def _arm(self, arm: Arm, flow: Flow, told: Look | None) -> ArmForecast:
        due, seen = (told.judged.get(arm) if told is not None else None) or (NOTHING_DUE, 0)
        state: ForecastState = "learning" if flow.learnt.panes < self.warm_up else "watched" if due.bound else "small"
        return ArmForecast(
            model=arm.model,
            version=arm.version,
            deployment=arm.deployment,
            state=state,
            expected=round(due.expected, 3),
            bound=due.bound,
            seen=seen,
        )

    def _sentence(self, name: str, state: ForecastState, learnt: int, told: Look | None) -> str:
        if state == "learning":
            return f"{named(name)}: learning, {learnt} of {self.warm_up} panes of {span(self.pane_ms)}"
        if told is None or not told.judged:
            return f"{named(name)}: too small or too irregular to tell an outage from chance, so it is never frozen"
        return str(self._why(name, told)["reason"])

    # Keeping.

    def dump(self) -> dict[str, Any]:
        """Give everything as plain data."""
        return {
            "pane_ms": self.pane_ms,
            "at": self.at,
            "begun": self.begun,
            "since": self.since,
            "unwatched": self.unwatched,
            "heard_ms": self.heard_ms,
            "traffic": [[*arm, _flat(counts)] for arm, counts in sorted(self.traffic.items())],
            "sources": [
                [name, one.since_ms, one.by, one.window, one.back, one.told_ms, one.since, _flows(one)]
                for name, one in sorted(self.sources.items())
            ],
        }

    def load(self, plain: dict[str, Any]) -> None:
        """Take up what `dump` gave."""
        self.pane_ms, self.at, self.unwatched = plain["pane_ms"], plain["at"], plain["unwatched"]
        self.begun, self.since, self.heard_ms = plain["begun"], plain["since"], plain["heard_ms"]
        self.traffic = {Arm(*arm): Counter(dict(_pairs(flat))) for *arm, flat in plain["traffic"]}
        for name, since_ms, by, window, back, told_ms, since, flows in plain["sources"]:
            source = self.sources[name] = Source({}, since_ms, by, window, back, told_ms, since)
            for arm, learnt, seen, fresh, born in flows:
                of_age = {at: Counter(dict(_pairs(flat))) for at, flat in fresh}
                source.flows[Arm(*arm)] = Flow(Learnt.load(learnt), dict(_pairs(seen)), of_age, born)


def _flows(source: Source) -> list[Any]:
    return [
        [
            list(arm),
            flow.learnt.dump(),
            _flat(flow.seen),
            [[at, _flat(ages)] for at, ages in sorted(flow.fresh.items())],
            flow.born,
        ]
        for arm, flow in sorted(source.flows.items())
    ]


def _flat(counts: Mapping[int, int]) -> list[int]:
    return [n for pair in sorted(counts.items()) for n in pair]


def _pairs(flat: list[int]) -> list[tuple[int, int]]:
    return list(zip(flat[::2], flat[1::2], strict=True))
