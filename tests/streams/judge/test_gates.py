"""Gates: what a unit is, what the limits cover at every look, and that A/A rollouts of any share stay quiet."""

import math

import numpy as np
import pytest

from schemas.control import AllocationSet
from schemas.lifecycle import DecidePolicy
from schemas.measures import Gate, Trial
from streams.judge.betting import GRID, Wealth
from streams.judge.gates import Layer

WAIT = 1_000
POLICY = DecidePolicy(model="m", alpha=0.05, alpha_rollback=0.05, margin=0.02)


def trial(
    subject: str, arm: str, at_ms: int, value: float, request: str = "", revision: int = 1, void: bool = False
) -> Trial:
    return Trial(
        request_id=request or f"{subject}-{at_ms}",
        model="m",
        layer="canary",
        arm=arm,
        subject=subject,
        at_ms=at_ms,
        value=value,
        revision=revision,
        void=void,
        source=0,
        step=1,
    )


def wait(at_ms: int) -> int:
    return WAIT


def canary(share: float = 0.5, window_ms: int = 100) -> Layer:
    layer = Layer("m", "canary", window_ms)
    layer.allocate(AllocationSet(model="m", layer="canary", share=share, from_ms=0))
    return layer


def look(layer: Layer, clock_ms: int = 10**9) -> Gate | None:
    layer.close(clock_ms, 0, wait)
    return layer.look(POLICY, clock_ms)


def test_a_subject_counts_once_with_the_mean_of_its_window() -> None:
    layer = canary()
    for at_ms, value in ((0, 1.0), (50, 0.0), (99, 1.0), (100, 0.0)):  # the last lies after the window
        layer.take(trial("u", "challenger", at_ms, value), wait)
    gate = look(layer)
    assert gate is not None
    assert (gate.n, gate.challengers, gate.champions) == (1, 1, 0)
    # v = 2/3 against c = 1/2 at a share of one half
    assert gate.effect == pytest.approx((2 / 3 - 0.5) / 0.5)


def test_a_subject_waits_for_its_window_and_the_last_label() -> None:
    layer = canary()
    layer.take(trial("u", "champion", 10, 1.0), wait)
    assert look(layer, 10 + 100 + WAIT - 1) is None
    assert look(layer, 10 + 100 + WAIT) is not None


def test_late_trials_and_later_requests_of_a_subject_are_left_out() -> None:
    layer = canary()
    layer.take(trial("u", "champion", 10, 1.0), wait)
    look(layer)
    layer.take(trial("u", "champion", 20, 0.0), wait)
    layer.take(trial("u", "champion", 90_000, 0.0), wait)
    assert look(layer) is None
    assert layer.counts.late == 2


def test_revisions_and_voids_replace_what_was_said() -> None:
    one, other = canary(), canary()
    one.take(trial("u", "champion", 10, 0.0, "r", 1), wait)
    one.take(trial("u", "champion", 10, 1.0, "r", 2), wait)
    one.take(trial("u", "champion", 10, 0.0, "r", 1), wait)  # an old one again
    one.take(trial("u", "champion", 20, 0.0, "s", 1), wait)
    one.take(trial("u", "champion", 20, 0.0, "s", 2, void=True), wait)
    other.take(trial("u", "champion", 10, 1.0, "r", 1), wait)
    assert look(one) == look(other)


def test_an_earlier_first_appearance_moves_the_window() -> None:
    layer = canary()
    layer.take(trial("u", "champion", 150, 0.0), wait)
    layer.take(trial("u", "challenger", 60, 1.0), wait)  # its label came later
    gate = look(layer)
    assert gate is not None
    assert gate.challengers == 1
    assert gate.effect == pytest.approx(1.0)


def test_subjects_before_the_shares_held_or_between_stages_are_burned() -> None:
    layer = Layer("m", "canary", 100)
    layer.take(trial("early", "champion", 10, 1.0), wait)
    layer.take(trial("stage", "champion", 1_200, 1.0), wait)
    layer.take(trial("between", "challenger", 2_500, 1.0), wait)
    for share, from_ms in ((0.1, 1_000), (0.0, 2_000), (0.5, 3_000)):
        layer.allocate(AllocationSet(model="m", layer="canary", share=share, from_ms=from_ms))
    gate = look(layer)
    assert gate is not None
    assert (gate.n, gate.burned) == (1, 2)


def test_without_shares_nothing_is_said() -> None:
    layer = Layer("m", "canary", 100)
    layer.take(trial("u", "champion", 10, 1.0), wait)
    gate = look(layer)
    assert gate is not None
    assert (gate.effect, gate.low, gate.high, gate.n) == (None, None, None, 0)
    assert "never told" in gate.sentence


def test_shadow_pairs_by_request() -> None:
    layer = Layer("m", "shadow:2", 100)
    for request, old, new in (("a", 1.0, 0.0), ("b", 1.0, 1.0)):
        layer.take(trial("u", "champion", 10, old, request), wait)
        layer.take(trial("u", "challenger", 10, new, request), wait)
    layer.take(trial("u", "champion", 10, 1.0, "alone"), wait)
    gate = look(layer)
    assert gate is not None
    assert (gate.n, gate.effect, gate.paired) == (1, -0.5, True)


def test_a_dump_goes_on_exactly() -> None:
    rng = np.random.default_rng(1)
    whole, parts = canary(0.3), canary(0.3)
    for i in range(80):
        one = trial(f"u{i % 50}", "challenger" if rng.random() < 0.3 else "champion", i * 20, float(rng.random() < 0.8))
        for layer in (whole, parts):
            layer.take(one, wait)
            layer.close(i * 20, 0, wait)
        import msgspec

        parts = Layer.load(msgspec.msgpack.decode(msgspec.msgpack.encode(parts.dump())))
    assert look(whole) == look(parts)
    assert whole.dump() == parts.dump()


def test_evidence_agrees_with_limits() -> None:
    rng = np.random.default_rng(2)
    wealth = Wealth()
    for _ in range(400):
        wealth.update(float(rng.choice([-1, 0, 1], p=[0.05, 0.75, 0.2])), -1.0, 1.0)
    low, high = wealth.limits(0.05, 0.05)
    assert -1 < low < 0.15 < high < 1
    for candidate in GRID[1:-1]:  # bounded bets cannot refute the ends
        assert (wealth.e_above(float(candidate)) >= 20) == (candidate <= low)
        assert (wealth.e_below(float(candidate)) >= 20) == (candidate >= high)


def test_a_difference_outside_its_ends_is_an_error() -> None:
    with pytest.raises(ValueError, match="expected a difference"):
        Wealth().update(1.5, -1.0, 1.0)


def canary_run(
    rng: np.random.Generator, share: float, old: float, new: float, units: int, look_every: int
) -> list[tuple[float, float]]:
    """Give the limits at every look of one canary."""
    layer = canary(share, window_ms=1)
    said = []
    for i in range(units):
        challenger = rng.random() < share
        value = float(rng.random() < (new if challenger else old))
        layer.take(trial(f"u{i}", "challenger" if challenger else "champion", i * 10, value), wait)
        if (i + 1) % look_every == 0:
            layer.close(10**9, 0, wait)
            said.append(layer.wealth.limits(0.05, 0.05))
    return said


@pytest.mark.slow
@pytest.mark.parametrize(("share", "rate", "units"), [(0.5, 0.8, 600), (0.05, 0.05, 1_500), (0.01, 0.1, 3_000)])
def test_an_equal_challenger_is_hardly_ever_called_different(share: float, rate: float, units: int) -> None:
    """A/A with a look at every subject or two: each side errs in at most 5 % of canaries; 60 canaries, bound 9.

    At exactly 5 % the count exceeds 9 with probability 4e-4 on each side. Asymptotic sequences call 27–57 % wrong here.
    """
    rng = np.random.default_rng(3)
    better = worse = 0
    for _ in range(60):
        said = canary_run(rng, share, rate, rate, units, 10)
        better += any(low > 0 for low, _ in said)
        worse += any(high < 0 for _, high in said)
    assert better <= 9
    assert worse <= 9


@pytest.mark.slow
def test_the_limits_cover_a_true_effect_at_every_look() -> None:
    """The effect is −0.1; each limit may fail in 5 % of 60 runs (bound 9: wrong with probability 4e-4)."""
    rng = np.random.default_rng(4)
    runs = [canary_run(rng, 0.5, 0.8, 0.7, 800, 10) for _ in range(60)]
    assert sum(any(low > -0.1 for low, _ in said) for said in runs) <= 9
    assert sum(any(high < -0.1 for _, high in said) for said in runs) <= 9
    assert np.mean([said[-1][1] < 0 for said in runs]) > 0.5  # and most see that it is worse


@pytest.mark.slow
def test_stages_are_not_pooled() -> None:
    """5 % of a good morning, then 50 % of a bad evening, no effect: pooled rates would say −34 %."""
    rng = np.random.default_rng(5)
    wrong = 0
    for _ in range(40):
        layer = Layer("m", "canary", 1)
        layer.allocate(AllocationSet(model="m", layer="canary", share=0.05, from_ms=0))
        layer.allocate(AllocationSet(model="m", layer="canary", share=0.5, from_ms=10_000))
        for i in range(2_000):
            share, rate = (0.05, 0.9) if i < 1_000 else (0.5, 0.4)
            arm = "challenger" if rng.random() < share else "champion"
            layer.take(trial(f"u{i}", arm, i * 10, float(rng.random() < rate)), wait)
        gate = look(layer)
        assert gate is not None
        assert gate.low is not None
        assert gate.high is not None
        wrong += not gate.low <= 0 <= gate.high
    assert wrong <= 9  # two sides of 5 %: at most 10 % of 40; exceeded with probability below 0.01 at equality


@pytest.mark.parametrize("paired", [False, True])
def test_a_challenger_that_guesses_is_refused_soon(paired: bool) -> None:
    """Accuracy 0.5 against 0.8, subjects of one request: worse beyond any margin within some hundred subjects."""
    rng = np.random.default_rng(6)
    layer = Layer("m", "shadow:2", 1) if paired else canary(0.5, 1)
    for i in range(400):
        old, new = float(rng.random() < 0.8), float(rng.random() < 0.5)
        arms = [("champion", old), ("challenger", new)]
        for arm, value in arms if paired else [arms[int(rng.random() < 0.5)]]:
            layer.take(trial(f"u{i}", arm, i * 10, value, f"r{i}"), wait)
    gate = look(layer)
    assert gate is not None
    assert gate.e_below > 1 / gate.alpha_rollback
    assert gate.e_above < 1
    assert gate.high is not None
    assert gate.high < gate.bar
    assert math.isfinite(gate.e_below)
