"""What is said to be detectable, beside the detector itself on simulated panes."""

import numpy as np
import pytest

from schemas.control import Reference
from streams.judge.bounds import JudgeBounds
from streams.judge.evidence import Evidence
from streams.judge.plan import Traffic, detectable, witness_of
from streams.judge.watch import Watch
from streams.judge.watched import QUALITY, Stream
from streams.measure.reference import learn

HOUR = 3_600_000
BOUNDS = JudgeBounds()


def reference() -> Reference:
    rng = np.random.default_rng(0)
    scores = rng.beta(2, 2, 20_000)
    labels = np.where(rng.random(20_000) < 0.1, scores < 0.5, scores >= 0.5).astype(int)
    return learn("m", "1", {"x": rng.normal(size=20_000).tolist()}, scores.tolist(), labels.tolist(), at_ms=0)


def streams() -> dict[str, Stream]:
    return {one.name: one for one in Watch(reference(), BOUNDS).streams}


@pytest.mark.parametrize("rows", [40, 2_000])
@pytest.mark.parametrize("name", [QUALITY, "feature:x"])
def test_about_half_of_the_smallest_detectable_changes_are_found_in_time(name: str, rows: int) -> None:
    """80 runs: the share found lies in [0.2, 0.98], four standard errors of a half, widened for the approximation."""
    stream, traffic = streams()[name], Traffic(rows, 64, HOUR)
    found = detectable(stream, 0.1, traffic, BOUNDS, 7.0)
    assert found.share is not None
    at, _, bound = witness_of(stream)
    assert found.share > bound
    rng = np.random.default_rng(1)
    hits = 0
    for _ in range(80):
        tracker = BOUNDS.detectors[0].start(stream.null, BOUNDS.alarm_days)
        for pane in range(7 * 24):
            units = min(64, rows)
            sizes = np.full(units, rows / units)
            if stream.histogram is None:
                buckets = rng.binomial(int(rows / units), found.share, units).astype(float)
                evidence = Evidence(pane, pane + 1, np.array([buckets.sum()]), float(sizes.sum()), sizes, buckets)
            else:
                inside = stream.null.sets[at] > 0
                share = stream.histogram.reference / stream.histogram.reference.sum()
                law = np.where(
                    inside, share / share[inside].sum() * found.share, share / share[~inside].sum() * (1 - found.share)
                )
                counts = rng.multinomial(rows, law)
                evidence = Evidence(pane, pane + 1, counts, rows, sizes)
            if tracker.update(evidence, HOUR / 86_400_000 * stream.share).outcome == "fail":
                hits += 1
                break
    assert 0.2 <= hits / 80 <= 0.98


def test_more_time_and_more_traffic_find_smaller_changes() -> None:
    stream = streams()[QUALITY]
    days = [detectable(stream, 0.1, Traffic(500, 64, HOUR), BOUNDS, one).share for one in (1.0, 7.0, 30.0)]
    rows = [detectable(stream, 0.1, Traffic(one, 64, HOUR), BOUNDS, 7.0).share for one in (50, 500, 5_000)]
    for found in (days, rows):
        assert None not in found
        assert found == sorted(found, reverse=True)  # type: ignore[type-var]


def test_one_label_a_day_finds_nothing_in_a_day_and_says_so() -> None:
    found = detectable(streams()[QUALITY], 0.1, Traffic(1, 1, 24 * HOUR), BOUNDS, 1.0)
    assert found.share is None
    assert found.effect is None
