"""Published figures, held: run lengths of charts, river's detection indices, null laws.

Simulated figures are means of seeded runs; each tolerance is four standard errors, and half a unit in the last digit
that was published.
"""

import math
import random

import numpy as np
import pytest
from river import drift
from scipy import stats

from streams.judge.detectors.base import Detector
from streams.judge.detectors.charts import CUSUM, DDM, EWMA, cusum, ewma, ewma_limit
from streams.judge.detectors.river import PageHinkley
from streams.judge.distances import psi
from streams.judge.evidence import Evidence, Null

RUNS = 2_000

MONTGOMERY = {
    4.0: {0.0: 168, 0.25: 74.2, 0.5: 26.6, 0.75: 13.3, 1.0: 8.38, 1.5: 4.75, 2.0: 3.34, 3.0: 2.19},
    5.0: {0.0: 465, 0.25: 139, 0.5: 38.0, 0.75: 17.0, 1.0: 10.4, 1.5: 5.75, 2.0: 4.01, 3.0: 2.57},
}
"""Average run lengths of the two-sided CUSUM with k = 1/2, by h and shift in standard deviations."""

LUCAS_SACCUCCI = {0.4: (3.054, 14.3), 0.25: (2.998, 11.1), 0.2: (2.962, 10.4), 0.1: (2.814, 10.3), 0.05: (2.615, 11.3)}
"""Designs of the two-sided EWMA with an average run length of 500: share → (width, run length at a shift of 1)."""


def run_lengths(step: str, shift: float, rng: np.random.Generator, **chart: float) -> np.ndarray:
    """Run both sides of a chart on independent normal values until each of `RUNS` runs has alarmed."""
    lengths = np.zeros(RUNS)
    high, low = np.zeros(RUNS), np.zeros(RUNS)
    alive = np.arange(RUNS)
    for t in range(1, 100_000):
        z = rng.standard_normal(alive.size) + shift
        if step == "cusum":
            high = np.array([cusum(s, value, 0.5) for s, value in zip(high, z, strict=True)])
            low = np.array([cusum(s, -value, 0.5) for s, value in zip(low, z, strict=True)])
            out = (high > chart["h"]) | (low > chart["h"])
        else:
            high = np.array([ewma(v, value, chart["share"]) for v, value in zip(high, z, strict=True)])
            low = -high
            # The published designs have the limits of a chart that has run for long.
            out = np.abs(high) > ewma_limit(chart["share"], chart["width"], 10_000)
        lengths[alive[out]] = t
        alive, high, low = alive[~out], high[~out], low[~out]
        if not alive.size:
            return lengths
    raise AssertionError("a run never ended")


@pytest.mark.parametrize(("h", "shift"), [(h, shift) for h, row in MONTGOMERY.items() for shift in row if shift > 0])
def test_cusum_has_montgomery_s_run_lengths(h: float, shift: float) -> None:
    lengths = run_lengths("cusum", shift, np.random.default_rng(int(10 * h + 100 * shift)), h=h)
    published = MONTGOMERY[h][shift]
    error = 4 * lengths.std() / math.sqrt(RUNS) + (0.5 if published > 100 else 0.05 if published > 10 else 0.005)
    assert lengths.mean() == pytest.approx(published, abs=error)


@pytest.mark.slow
@pytest.mark.parametrize("h", sorted(MONTGOMERY))
def test_cusum_has_montgomery_s_run_lengths_without_a_shift(h: float) -> None:
    lengths = run_lengths("cusum", 0.0, np.random.default_rng(int(h)), h=h)
    assert lengths.mean() == pytest.approx(MONTGOMERY[h][0.0], abs=4 * lengths.std() / math.sqrt(RUNS) + 0.5)


@pytest.mark.parametrize("share", sorted(LUCAS_SACCUCCI))
def test_ewma_has_the_run_lengths_of_lucas_and_saccucci(share: float) -> None:
    width, published = LUCAS_SACCUCCI[share]
    lengths = run_lengths("ewma", 1.0, np.random.default_rng(int(100 * share)), share=share, width=width)
    assert lengths.mean() == pytest.approx(published, abs=4 * lengths.std() / math.sqrt(RUNS) + 0.05)


@pytest.mark.slow
def test_ewma_has_the_published_run_length_without_a_shift() -> None:
    lengths = run_lengths("ewma", 0.0, np.random.default_rng(9), share=0.2, width=2.962)
    assert lengths.mean() == pytest.approx(500, abs=4 * lengths.std() / math.sqrt(RUNS) + 5)


def alarms(detector: Detector, hits: np.ndarray) -> list[int]:
    """Give the panes of one row each at which a detector alarms."""
    tracker = detector.start(Null.of_rate("quality:error", 0.2), 100.0)
    one = np.ones(1)
    found = []
    for t, hit in enumerate(hits.astype(float).tolist()):
        pane = Evidence(t, t + 1, np.array([hit]), 1.0, one, np.array([hit]))
        if tracker.update(pane, 0.001).outcome == "fail":
            found.append(t)
    return found


@pytest.mark.parametrize("seed", range(8))
def test_ddm_alarms_where_river_s_does(seed: int) -> None:
    rng = np.random.default_rng(seed)
    hits = np.concatenate([rng.random(1_500) < 0.1, rng.random(500) < 0.3, rng.random(1_000) < 0.1])
    peer, theirs = drift.binary.DDM(), []
    for t, hit in enumerate(hits.tolist()):
        peer.update(hit)
        if peer.drift_detected:
            theirs.append(t)
    assert alarms(DDM(), hits) == theirs


def test_ddm_alarms_at_the_index_in_river_s_documentation() -> None:
    rng = random.Random(42)
    stream = [*rng.choices([0, 1], k=1000), *rng.choices([0, 1], k=1000, weights=[0.3, 0.7])]
    assert alarms(DDM(), np.array(stream)) == [1334]


@pytest.mark.parametrize("seed", range(4))
def test_page_hinkley_alarms_where_river_s_does(seed: int) -> None:
    rng = np.random.default_rng(seed)
    hits = np.concatenate([rng.random(800) < 0.1, rng.random(800) < 0.5])
    spec = PageHinkley(slack=0.01, threshold=20.0, min_panes=30, memory=10_000)
    found, at = [], 0
    while at < len(hits):  # a new one after each alarm, as ours begins anew
        peer = drift.PageHinkley(min_instances=30, delta=0.01, threshold=20.0, alpha=1.0, mode="up")
        for t in range(at, len(hits)):
            peer.update(float(hits[t]))
            if peer.drift_detected:
                found.append(t)
                break
        else:
            break
        at = t + 1
    assert alarms(spec, hits) == found
    assert found


@pytest.mark.parametrize(("cells", "n", "m"), [(10, 1_000, 1_000), (20, 5_000, 1_000)])
def test_psi_has_its_null_law(cells: int, n: int, m: int) -> None:
    """(1/n + 1/m) chi-square of B − 1 (Yurdakul and Naranjo): mean within 4 standard errors and the law's own 3 %."""
    rng = np.random.default_rng(cells)
    law = np.full(cells, 1 / cells)
    found = psi(rng.multinomial(n, law, size=4_000), rng.multinomial(m, law, size=4_000))
    scale = 1 / n + 1 / m
    mean = (cells - 1) * scale
    assert found.mean() == pytest.approx(mean, abs=4 * found.std() / math.sqrt(4_000) + 0.03 * mean)
    assert np.quantile(found, 0.95) == pytest.approx(scale * stats.chi2.ppf(0.95, cells - 1), rel=0.06)


def test_charts_are_registered_and_say_that_they_keep_no_budget() -> None:
    for one in (CUSUM(), EWMA(), DDM()):
        assert Detector.parse({"kind": one.kind}) == one
        assert not one.budgeted
