"""Our curves of label delays beside lifelines' Kaplan and Meier (tests/golden/lifelines_km.py made the file)."""

import json
from collections import Counter
from pathlib import Path

import pytest

from services.api.arrival import arrival_curve, edge_ms
from streams.judge.development import CELLS, Development
from tests.golden.delays import delays

GOLDEN = json.loads((Path(__file__).parents[2] / "golden" / "lifelines_km.json").read_text(encoding="utf-8"))
PUBLISHED = {6: 0.857, 7: 0.807, 10: 0.753, 13: 0.690, 16: 0.627, 22: 0.538, 23: 0.448}
"""The 6-MP group of Freireich et al. (1963) as textbooks print it (Klein and Moeschberger, Survival Analysis)."""


@pytest.mark.parametrize("name", ["6-MP", "placebo", "lung"])
def test_the_curve_of_arrivals_equals_lifelines(name: str) -> None:
    """An age in weeks or days stands for a bin's number: the estimator only knows their order."""
    of = GOLDEN[name]
    pairs = list(zip(of["times"], of["ended"], strict=True))
    arrived, waiting = (Counter(time for time, ended in pairs if ended == kind) for kind in (1, 0))
    assert name == "placebo" or waiting  # censored
    ages = sorted(arrived)
    found = arrival_curve(arrived, waiting)
    survival = dict(of["survival"])
    assert [age for age, _ in found] == [edge_ms(age) for age in ages]
    assert [1 - share for _, share in found] == pytest.approx([survival[age] for age in ages], abs=1e-12)
    if name == "6-MP":
        assert dict(zip(ages, (1 - share for _, share in found), strict=True)) == pytest.approx(PUBLISHED, abs=6e-4)


def test_the_law_of_development_is_kaplan_and_meier_s_on_closed_panes() -> None:
    """What has closed is cut off nowhere; the weights are those of a half-life of panes.

    At the last age, when every label has come, lifelines repeats the age before where weights are no integers: what is
    left is then a rounding error below 0, whose logarithm it leaves out.
    """
    law = Development()
    for pane in delays():
        so_far = [[int((pane <= age).sum())] * CELLS for age in range(16)]
        law.learn(100, list(enumerate(so_far)), so_far[-1])
    survival = dict(GOLDEN["delays"]["survival"])
    ages = list(range(15))
    found = law.parts(ages)
    assert law.parts([15]).tolist() == [[1.0] * CELLS]
    for cell in range(CELLS):
        assert (1 - found[:, cell]).tolist() == pytest.approx([survival[age] for age in ages], abs=1e-9)
