"""The benchmark's own arithmetic: simulated panes keep their word, canaries are the gate's, delays are counted."""

from __future__ import annotations

import math
from itertools import pairwise

import numpy as np
import pytest

from benchmarks.statistics import canaries, delays, nulls
from benchmarks.statistics.__main__ import COUNTABLE, merged, told
from benchmarks.statistics.counted import Rate, median_delay, share_interval, tuned
from benchmarks.statistics.simulated import by_bucket, clustered, independent, next_hour, seasonal, shifted
from schemas.control import AllocationSet
from schemas.lifecycle import DecidePolicy
from schemas.measures import Trial
from streams.judge.detectors import ESR
from streams.judge.gates import GATES, Layer


def test_rates_and_shares_carry_exact_intervals() -> None:
    rate = Rate.of(0, 10.0)
    assert (rate.value, rate.low) == (0.0, 0.0)
    assert rate.high == pytest.approx(-math.log(0.025) / 10)
    assert list(share_interval(0, 10)) == pytest.approx([0.0, 1 - 0.025**0.1])
    assert list(share_interval(10, 10)) == pytest.approx([0.025**0.1, 1.0])


def test_a_median_is_never_when_half_never_came() -> None:
    assert median_delay([1, 2, None]) == 2
    assert median_delay([1, None]) is None
    assert median_delay([1, 3]) == 2


def test_tuning_finds_the_parameter_whichever_way_it_points() -> None:
    assert tuned(lambda x: x, 3.0, 0.01, 100.0, steps=30)[0] == pytest.approx(3.0)
    assert list(tuned(lambda x: 1 / x, 3.0, 100.0, 0.01, steps=30)) == pytest.approx([1 / 3, 3.0])


def test_panes_are_sums_of_whole_subjects_at_the_rate_asked_for() -> None:
    rates = np.linspace(0.05, 0.3, 400)
    for make, spread in ((independent, 0.05), (clustered, 0.12)):
        sizes, hits = make(np.random.default_rng(1), rates, 60)
        again = make(np.random.default_rng(1), rates, 60)
        assert (again[0] == sizes).all()
        assert (again[1] == hits).all()
        assert (hits <= sizes).all()
        assert sizes.sum(axis=1).mean() == pytest.approx(60, rel=0.1)
        error = hits.sum(axis=1) / sizes.sum(axis=1) - rates
        assert abs(error.mean()) < 4 * spread / math.sqrt(rates.size)
    assert by_bucket(np.array([[3], [3]]), np.ones((2, 1)), np.ones((2, 1)))[0][:, 3].tolist() == [1.0, 1.0]


def test_a_moving_rate_keeps_its_spread_and_its_day() -> None:
    draw = np.random.default_rng(2)
    logits = 0.2 * draw.standard_normal(4_000)
    for _ in range(20):
        before, logits = logits, next_hour(draw, logits)
    assert logits.std() == pytest.approx(0.2, rel=0.1)
    assert np.corrcoef(before, logits)[0, 1] == pytest.approx(0.9, abs=0.02)
    assert shifted(0.3, np.zeros(1))[0] == pytest.approx(0.3)
    assert np.mean([seasonal(0.1, t) for t in range(1_440)]) == pytest.approx(0.1)


@pytest.mark.parametrize(("share", "rate"), [(0.5, 0.3), (0.05, 0.1)])
def test_a_canary_at_once_is_the_gate_subject_by_subject(share: float, rate: float) -> None:
    draw = np.random.default_rng(3)
    values, new = (draw.random(300) < rate).astype(float), draw.random(300) < share
    policy = DecidePolicy(model="m", margin=0.0)
    layer = Layer("m", "canary", 1)
    layer.allocate(AllocationSet(model="m", layer="canary", share=share, from_ms=0))
    said = []
    for first, last in pairwise(range(0, 301, 50)):
        for i in range(first, last):
            trial = Trial(
                request_id=f"r{i}",
                model="m",
                layer="canary",
                arm="challenger" if new[i] else "champion",
                subject=f"s{i}",
                at_ms=i,
                value=float(values[i]),
                source=0,
                step=1,
            )
            layer.take(trial, lambda _: 0)
        layer.close(last + 1, 0, lambda _: 0)
        said.append(layer.look(policy, last))
    above, below = canaries.evidence(values, new, share, 50)
    assert [gate.e_above for gate in said if gate] == pytest.approx(np.exp(above), rel=1e-9)
    assert [gate.e_below for gate in said if gate] == pytest.approx(np.exp(below), rel=1e-9)
    assert said[-1] is not None
    assert said[-1].alpha_rollback == policy.alpha_rollback / GATES


def test_a_real_difference_is_decided_and_a_canary_counts_each_run_once() -> None:
    draw = np.random.default_rng(4)
    new = draw.random(4_000) < 0.5
    above, below = canaries.evidence((draw.random(4_000) < np.where(new, 0.6, 0.3)).astype(float), new, 0.5, 1_000)
    assert above[-1] > math.log(20) > below[-1]
    found = canaries.run(0.5, 0.1, 4, 2_000, 10)
    assert max(found.better, found.worse) <= found.either <= found.runs == 4


def test_alarms_are_counted_from_the_end_of_what_was_learnt() -> None:
    class Thousandth:
        """Cries at every thousandth event."""

        n, drift_detected = 0, False

        def update(self, _: int) -> None:
            self.n += 1
            self.drift_detected = self.n % 1_000 == 0

    quiet = delays.events(0, delays.LEARN + 3_000)
    (found,) = (list(run) for run in delays.one_by_one(lambda _: Thousandth(), 0.0, [quiet]))
    assert found == [1_000, 2_000, 3_000]
    (regular,) = (list(run) for run in delays.dummy(1_000.0, [quiet]))
    assert len(regular) == 3
    loud = delays.events(0, delays.LEARN + 3_000, 0.6, 0, delays.LEARN + 1_000)
    (said,) = (list(run) for run in delays.e_sr("subject", 0.05, 100.0, [loud]))
    assert 1_000 < said[0] <= 1_200
    assert all(at % delays.PANE == 0 for at in said)


def test_weeks_are_judged_by_the_shipped_detector_and_pooled() -> None:
    assert nulls.bounds_of(1.0).detectors == (ESR(),)
    found = nulls.steady(1, 2, (0.05, COUNTABLE), panes=30)
    assert [(one.how, one.budget, one.promised) for one in found[:4]] == [
        (nulls.LEARNT, 0.05, 0.05),
        (nulls.LEARNT, 5.0, 5.0),
        (nulls.AT_LIMIT, 0.05, pytest.approx(0.04)),
        (nulls.AT_LIMIT, 5.0, pytest.approx(4.0)),
    ]
    twice = merged([*found, *found])
    assert len(twice) == len(found)
    assert twice[0].alarms.exposure == pytest.approx(2 * found[0].alarms.exposure)
    assert told(twice)["null_budget"] == pytest.approx(4.0)
    moved = nulls.moving(1, 2, COUNTABLE, panes=70)
    assert {one.promised for one in moved} == {None}
    assert len({(one.name, one.how) for one in moved}) == 10
