"""The outage guard: against its twin, as timelines, and how often it freezes falsely on simulated traffic."""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from random import Random
from typing import Any

import msgspec
import numpy as np
import pytest

from schemas.control import Frozen, Thawed
from schemas.measures import ArmDelta, Forecast
from schemas.settings import Guard as Bounds
from streams.judge.forecast import WINDOWS, Law, Learnt, Traffic, lower
from streams.judge.guard import BY, GAP, MOST_ARMS, MOST_SOURCES, Guard
from streams.measure.ages import BIN_OF, LIMIT
from tests.streams.judge.naive_guard import Naive, quantile

MINUTE = 60_000
HOUR = 60 * MINUTE
QUICK = Bounds(warm_up_ms=30 * MINUTE)


@dataclass
class World:
    """Traffic and its labels, pane by pane, into a guard. `told` has what it said as (pane, kind, source)."""

    seed: int = 0
    bounds: Bounds = QUICK
    pane_ms: int = MINUTE
    naive: bool = False
    pane: int = 0
    due: dict[tuple[str, str], dict[int, Counter[int]]] = field(default_factory=lambda: defaultdict(dict))
    told: list[tuple[int, str, str]] = field(default_factory=list)
    forecasts: dict[str, Forecast] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.random = np.random.default_rng(self.seed)
        self.guard = Guard(self.bounds, pane_ms=self.pane_ms)
        self.guard.look(0)
        self.twin = Naive(self.bounds, self.pane_ms)
        self.twin.begin(0)

    def go(self, panes: int, *arms: dict[str, Any]) -> World:
        """Let panes pass; see `_arm` for what an arm may be told."""
        for _ in range(panes):
            for delta in [self._arm(**arm) for arm in arms]:
                self.guard.take(delta)
                if self.naive:
                    pairs = list(zip(delta.predictions[::2], delta.predictions[1::2], strict=True))
                    cells = {
                        name: list(zip(flat[::3], flat[1::3], flat[2::3], strict=True))
                        for name, flat in delta.labels.items()
                    }
                    self.twin.take((delta.model, delta.version, delta.deployment), pairs, cells)
            self.pane += 1
            said, forecasts = self.guard.look(self.pane * self.pane_ms)
            self.told += [(self.pane - 1, "frozen" if isinstance(e, Frozen) else "thawed", e.source) for e in said]
            self.said = said
            self.forecasts = {one.source: one for one in forecasts}
            if self.naive:
                self.twin.look(self.pane)
        return self

    def _arm(
        self,
        version: str = "v1",
        rate: float = 100.0,
        share: float = 0.3,
        delay: float = 10.0,
        arrive: float = 1.0,
        source: str = "market",
        burst: float = 0.0,
        every: int = 1,
    ) -> ArmDelta:
        """Make one pane of an arm: `rate` predictions, labels for `share` of them after `delay` panes on average.

        `arrive` is the share of the labels due now that come, `burst` the variance of the rate, `every` how many panes
        the loader of labels waits.
        """
        mean = rate * self.random.gamma(1 / burst, burst) if burst else rate
        made = int(self.random.poisson(mean))
        ahead = self.random.exponential(delay, self.random.binomial(made, share)).astype(int)
        waiting = self.due[source, version]
        for age in ahead.tolist():
            at = -(-(self.pane + age) // every) * every
            waiting.setdefault(at, Counter())[self.pane] += 1
        cells: Counter[int] = Counter()
        for predicted, count in waiting.pop(self.pane, Counter()).items():
            cells[int(BIN_OF[min(self.pane - predicted, LIMIT)])] += int(self.random.binomial(count, arrive))
        flat = [n for age in sorted(cells) if cells[age] for n in (self.pane, age, cells[age])]
        return ArmDelta(
            model="ctr",
            version=version,
            pane_size_ms=self.pane_ms,
            predictions=[self.pane, made] if made else [],
            labels={source: flat} if flat else {},
        )


# The twin.


@pytest.mark.parametrize("seed", range(6))
def test_the_twin_says_the_same(seed: int) -> None:
    random = Random(seed)
    bounds = Bounds(
        warm_up_ms=random.choice((20, 25)) * MINUTE,
        max_freeze_ms=random.choice((15, 200)) * MINUTE,
        false_freezes=random.choice((0.1, 100.0)),
        share=random.choice((0.5, 0.9)),
    )
    world = World(seed, bounds, naive=True)
    expected: dict[tuple[int, str], tuple[float, int, int]] = {}
    versions = [f"v{k}" for k in range(random.choice((1, 2)))]
    arms: list[dict[str, Any]] = [
        {"version": version, "rate": random.choice((0.5, 20, 200)), "delay": 3.0} for version in versions
    ]
    arms.append({"source": "desk", "rate": random.choice((5, 50)), "delay": random.choice((1.0, 30.0))})
    for phase in range(6):
        cut = random.choice((0.0, 0.1, 1.0)) if phase % 2 else 1.0
        told = [{**arm, "arrive": cut if arm.get("source") != "desk" else 1.0} for arm in arms]
        for _ in range(random.choice((10, 20)) if phase else 30):
            world.go(1, *told)
            for name, one in world.forecasts.items():
                expected[world.pane - 1, name] = one.expected, one.bound, one.seen
    assert world.told == world.twin.told
    assert expected.keys() == world.twin.figures.keys()
    for place, (mean, bound, seen) in expected.items():
        naive = world.twin.figures[place]
        assert (bound, seen) == naive[1:], place
        assert mean == pytest.approx(naive[0], rel=1e-6, abs=1e-3), place


def test_the_twin_is_compared_on_freezes_and_thaws() -> None:
    said = Counter()  # type: ignore[var-annotated]
    world = World(1, Bounds(warm_up_ms=0), naive=True)
    for arrive, panes in ((1.0, 30), (0.0, 8), (1.0, 10)):
        world.go(panes, {"rate": 200, "delay": 3.0, "arrive": arrive})
    said.update(kind for _, kind, _ in world.told)
    assert world.told == world.twin.told
    assert said == {"frozen": 1, "thawed": 1}


@pytest.mark.parametrize("seed", range(3))
def test_a_bound_is_the_quantile(seed: int) -> None:
    random = Random(seed)
    for _ in range(200):
        expected, phi = 10 ** random.uniform(-1, 3.5), random.choice((0.0, 10 ** random.uniform(-5, 1)))
        p = 10 ** random.uniform(-8, -1)
        assert lower(expected, phi, p) == quantile(expected, phi, p), (expected, phi, p)


# Timelines.


def test_a_cut_off_freezes_and_the_return_thaws() -> None:
    world = World().go(60, {})
    assert world.forecasts["market"].state == "watched"
    assert not world.told
    world.go(2, {"arrive": 0.0})
    assert world.told == [(60, "frozen", "market")]
    frozen = world.forecasts["market"]
    assert (frozen.state, frozen.since_ms, frozen.by) == ("frozen", 61 * MINUTE, BY)
    assert frozen.expected > frozen.bound > frozen.seen == 0
    world.go(30, {"arrive": 0.0})
    assert len(world.told) == 1
    world.go(10, {})
    assert world.told[1] == (94, "thawed", "market")
    assert len(world.told) == 2
    assert world.forecasts["market"].state == "watched"


def test_what_is_said_carries_the_forecast() -> None:
    world = World().go(60, {}).go(1, {"arrive": 0.0})
    (frozen,) = world.said
    assert isinstance(frozen, Frozen)
    evidence = frozen.evidence
    assert evidence is not None
    assert (frozen.by, evidence.outcome, evidence.statistic, evidence.n) == ("guard", "fail", 0, 0)
    assert evidence.value is not None
    assert evidence.threshold is not None
    assert evidence.value > evidence.threshold > 0
    assert frozen.reason == evidence.sentence
    assert frozen.reason.startswith("labels of market: 0 came in 1 min, in 1 arm; ")


def test_one_arm_that_falls_is_no_outage() -> None:
    both: list[dict[str, Any]] = [{"version": "v1"}, {"version": "v2", "rate": 50.0}]
    world = World().go(60, *both)
    world.go(120, {"version": "v1", "share": 0.0, "arrive": 0.0}, both[1])
    assert not world.told


def test_all_arms_that_fall_are_one() -> None:
    both: list[dict[str, Any]] = [{"version": "v1"}, {"version": "v2", "rate": 50.0}]
    world = World().go(60, *both).go(1, *({**arm, "arrive": 0.0} for arm in both))
    assert world.told == [(60, "frozen", "market")]
    assert len(world.forecasts["market"].arms) == 2


def test_an_arm_too_small_to_judge_holds_the_freeze_back_while_it_lives() -> None:
    large, small = {"version": "v1"}, {"version": "v2", "rate": 4.0, "share": 1.0, "delay": 0.01}
    world = World().go(60, large, small).go(20, {**large, "arrive": 0.0}, small)
    assert not world.told
    world = World().go(60, large, small).go(5, {**large, "arrive": 0.0}, {**small, "arrive": 0.0})
    assert world.told == [(64, "frozen", "market")]  # when five panes without a label mean something of the small one


def test_other_sources_are_not_frozen() -> None:
    one, other = {"source": "market"}, {"source": "desk"}
    world = World().go(60, one, other).go(5, {**one, "arrive": 0.0}, other)
    assert world.told == [(60, "frozen", "market")]
    assert world.forecasts["desk"].state == "watched"


@pytest.mark.parametrize("delay", [0.5, 10.0, 60.0])
def test_traffic_that_ends_is_no_outage(delay: float) -> None:
    world = World(bounds=Bounds(warm_up_ms=2 * HOUR)).go(300, {"delay": delay}).go(300, {"delay": delay, "rate": 0.0})
    assert not world.told


def test_labels_of_one_age_end_with_the_traffic() -> None:
    """All labels come after exactly an hour, as a job delivers them: no bin of ages may expect them any longer."""
    world = World()
    for pane in range(400):
        made = 100 if pane < 250 else 0
        came = {"market": [pane, int(BIN_OF[61]), 30]} if 61 <= pane < 250 + 61 else {}
        world.guard.take(ArmDelta(model="m", pane_size_ms=MINUTE, predictions=[pane, made], labels=came))
        said, _ = world.guard.look((pane + 1) * MINUTE)
        assert not said, pane


def test_a_small_source_is_exempt_and_says_so() -> None:
    world = World().go(300, {"rate": 0.2}).go(100, {"rate": 0.2, "arrive": 0.0})
    assert not world.told
    world.go(1, {"rate": 2.0})
    assert world.forecasts["market"].state == "small"
    assert "too small or too irregular" in world.forecasts["market"].sentence


def test_warm_up_is_told() -> None:
    world = World().go(11, {"arrive": 1.0})
    told = world.forecasts["market"]
    assert (told.state, told.learnt_ms, told.warm_up_ms) == ("learning", 11 * MINUTE, 30 * MINUTE)
    assert told.sentence == "labels of market: learning, 11 of 30 panes of 1 min"
    world.go(5, {"arrive": 0.0})
    assert not world.told


def test_the_longest_freeze_ends_by_itself_and_all_is_learnt_anew() -> None:
    world = World(bounds=Bounds(warm_up_ms=30 * MINUTE, max_freeze_ms=20 * MINUTE)).go(60, {})
    world.go(20, {"arrive": 0.0})
    assert world.told == [(60, "frozen", "market")]
    world.go(1, {"arrive": 0.0})
    assert world.told[1:] == [(80, "thawed", "market")]
    (thawed,) = world.said
    assert "the longest freeze of 20 min is over" in thawed.reason
    world.go(60, {"arrive": 0.0})
    assert len(world.told) == 2
    world.go(40, {}).go(1, {"arrive": 0.0})
    assert world.told[2:] == [(181, "frozen", "market")]


def test_a_person_thaws_what_the_guard_froze_and_it_learns_anew() -> None:
    world = World().go(60, {}).go(5, {"arrive": 0.0})
    world.guard.hear(Thawed(source="market", at_ms=65 * MINUTE, by="ann"))
    world.go(20, {"arrive": 0.0})
    assert world.told == [(60, "frozen", "market")]
    assert world.forecasts["market"].state == "learning"


def test_what_a_person_froze_only_a_person_thaws() -> None:
    world = World(bounds=Bounds(warm_up_ms=30 * MINUTE, max_freeze_ms=10 * MINUTE)).go(60, {})
    world.guard.hear(Frozen(source="market", at_ms=60 * MINUTE, by="ann"))
    world.go(30, {})
    assert not world.told
    assert (world.forecasts["market"].state, world.forecasts["market"].by) == ("frozen", "ann")
    world.guard.hear(Thawed(source="market", at_ms=90 * MINUTE, by="ann"))
    world.go(1, {})
    assert world.forecasts["market"].state == "learning"


def test_its_own_events_read_back_change_nothing() -> None:
    world, other = World().go(60, {}), World().go(60, {})
    for arrive, panes in ((0.0, 5), (1.0, 8)):
        for _ in range(panes):
            world.go(1, {"arrive": arrive})
            other.go(1, {"arrive": arrive})
            for event in other.said:
                other.guard.hear(event)
    assert world.told == other.told
    assert [kind for _, kind, _ in world.told] == ["frozen", "thawed"]
    assert world.guard.dump() == other.guard.dump()


def test_a_guard_that_forgot_takes_up_its_freeze_and_ends_it() -> None:
    world = World(bounds=Bounds(warm_up_ms=30 * MINUTE, max_freeze_ms=20 * MINUTE))
    world.guard.hear(Frozen(source="market", at_ms=0, by=BY))
    world.go(19, {"arrive": 0.0})
    assert world.forecasts["market"].state == "frozen"
    world.go(1, {"arrive": 0.0})
    assert world.told == [(19, "thawed", "market")]


def test_switched_off_it_forecasts_and_thaws_what_it_froze() -> None:
    off = World(bounds=Bounds(warm_up_ms=30 * MINUTE, enabled=False)).go(60, {}).go(10, {"arrive": 0.0})
    assert not off.told
    assert off.forecasts["market"].state == "watched"
    world = World().go(60, {}).go(1, {"arrive": 0.0})
    world.guard.bounds = Bounds(warm_up_ms=30 * MINUTE, enabled=False)
    world.go(1, {"arrive": 0.0})
    assert world.told == [(60, "frozen", "market"), (61, "thawed", "market")]


def test_panes_that_nobody_read_are_not_looked_at() -> None:
    world = World().go(60, {"rate": 2_000.0})
    world.guard.look((60 + GAP + 1) * MINUTE)
    assert world.guard.look((60 + GAP + 1) * MINUTE + 1) == ([], [])
    said, _ = world.guard.look((60 + GAP + 2) * MINUTE)
    assert [type(one).__name__ for one in said] == ["Frozen"]  # nothing came in a pane that was read from its beginning


def test_a_leap_over_few_panes_is_no_gap() -> None:
    world = World().go(60, {"rate": 2_000.0})
    said, _ = world.guard.look((60 + GAP) * MINUTE)
    assert [type(one).__name__ for one in said] == ["Frozen"]
    assert world.guard.since == 0


def test_a_clock_that_stands_holds_the_guard() -> None:
    world = World().go(60, {})
    assert world.guard.look(60 * MINUTE) == ([], [])
    assert world.guard.look(61 * MINUTE - 1) == ([], [])
    assert world.guard.at == 60


def test_labels_older_than_the_guard_are_not_counted() -> None:
    guard = Guard(QUICK)
    guard.take(ArmDelta(model="m", pane_size_ms=MINUTE, labels={"s": [100, 3, 7]}))
    guard.look(100 * MINUTE)
    guard.take(ArmDelta(model="m", pane_size_ms=MINUTE, labels={"s": [105, 3, 1, 105, 6, 10]}))
    assert guard.sources["s"].flows.popitem()[1].seen == {105: 1}


def test_a_virtual_clock_that_was_not_told_yet_is_no_beginning() -> None:
    guard = Guard(QUICK, leaps=True)
    guard.look(0)
    at = 29_000_000
    guard.take(ArmDelta(model="m", pane_size_ms=MINUTE, predictions=[at, 1], labels={"s": [at, 0, 1]}))
    guard.look(at * MINUTE)
    assert guard.begun == at, "else it looks at every minute since 1970"


def test_sources_and_arms_are_limited_and_counted() -> None:
    guard = Guard(QUICK)
    guard.take(ArmDelta(model="m", pane_size_ms=MINUTE, labels={f"s{k}": [0, 0, 1] for k in range(MOST_SOURCES + 3)}))
    for k in range(MOST_ARMS + 2):
        guard.take(ArmDelta(model="m", version=f"v{k}", pane_size_ms=MINUTE, labels={"s0": [0, 0, 1]}))
    assert guard.unwatched == 3 + 3
    assert len(guard.sources) == MOST_SOURCES


def test_what_is_gone_is_forgotten() -> None:
    world = World().go(60, {}).go(1_700, {"rate": 0.0})
    assert not world.guard.sources
    assert not world.guard.traffic


def test_a_snapshot_keeps_everything() -> None:
    world = World().go(50, {}, {"version": "v2", "source": "desk"}).go(3, {"arrive": 0.0})
    plain = msgspec.msgpack.decode(msgspec.msgpack.encode(world.guard.dump()))
    other = World(pane=world.pane)
    other.guard = Guard(QUICK)
    other.guard.load(plain)
    assert other.guard.dump() == world.guard.dump()
    other.due, other.random = world.due, np.random.default_rng(5)
    before = {key: {at: Counter(ages) for at, ages in one.items()} for key, one in world.due.items()}
    other.go(10, {})
    world.due, world.random = defaultdict(dict, before), np.random.default_rng(5)
    told = len(world.told)
    world.go(10, {})
    assert world.told[told:] == other.told
    assert world.guard.dump() == other.guard.dump()


def test_the_longer_the_window_the_smaller_the_source_that_can_be_judged() -> None:
    learnt = Learnt()
    seen = dict.fromkeys(WINDOWS, 0)
    history: Counter[int] = Counter()
    for pane in range(800):
        history[pane] = 1
        seen = {window: min(window, pane + 1) for window in WINDOWS}
        learnt.learn(Traffic(history, pane), {0: 1}, seen, 1.0)
    bounds = [learnt.due(Traffic(history, 799), window, Law(1e-6, 0.5)).bound for window in WINDOWS]
    assert bounds == sorted(bounds)
    assert bounds[0] == 0 < bounds[-1]


# How often it freezes falsely, and how soon it freezes.


def _days(kind: str, seed: int, days: int, rate: float) -> Iterator[tuple[World, dict[str, Any]]]:
    world = World(seed, Bounds(false_freezes=1.0))
    for minute in range(days * 1440):
        tide = math.sin(2 * math.pi * minute / 1440)
        arm: dict[str, Any] = {"rate": rate}
        if kind == "clustered":
            arm |= {"burst": 0.5}
        elif kind == "batches":
            arm |= {"every": 10}
        elif kind == "daily":
            arm |= {"rate": rate * (1 + 0.8 * tide)}
        elif kind == "closed at night":
            arm |= {"rate": rate * max(tide, 0.0)}
        elif kind == "rates that move":
            arm |= {"share": 0.3 * (1 + 0.4 * math.sin(2 * math.pi * minute / 1440 + 1))}
        yield world, arm


@pytest.mark.slow
@pytest.mark.parametrize("rate", [20.0, 500.0])
@pytest.mark.parametrize("kind", ["poisson", "clustered", "batches", "daily", "closed at night", "rates that move"])
def test_false_freezes_stay_within_what_is_stated(kind: str, rate: float) -> None:
    """Six days; one false freeze in 30 days is allowed, so 0.2 are expected at most: two would be 1 in 60."""
    world = World()
    for world, arm in _days(kind, 7, 6, rate):
        world.go(1, arm)
    assert sum(kind == "frozen" for _, kind, _ in world.told) <= 1


@pytest.mark.parametrize(("rate", "most"), [(1000.0, 1), (60.0, 5), (10.0, 15)])
def test_how_soon_a_cut_off_is_noticed(rate: float, most: int) -> None:
    world = World().go(150, {"rate": rate}).go(most, {"rate": rate, "arrive": 0.0})
    assert [kind for _, kind, _ in world.told] == ["frozen"]
