"""The benchmark's own arithmetic: what is made is what a learner would make, and growth is what was measured."""

from __future__ import annotations

import numpy as np
import pytest

from benchmarks.judge import pace, peer, values, wide
from benchmarks.judge.made import BINS, pane, reference
from benchmarks.judge.wide import MOVED_EVERY, Shape
from streams.judge.bounds import JudgeBounds
from streams.judge.watch import Watch
from streams.measure.ledger import BUCKET_ROWS, FEATURE, SCORE
from streams.measure.reference import cuts


def test_a_made_reference_is_watched_and_its_panes_are_quiet_and_whole() -> None:
    made = reference(3)
    assert {name: cut.size for name, cut in cuts(made).items()} == dict.fromkeys(made.edges, BINS + 3)
    watch = Watch(made, JudgeBounds())
    ledger = pane(3, 500, 1)
    assert {ledger.total(name) for name in (SCORE, BUCKET_ROWS, FEATURE + "x00002")} == {500}
    assert pane(3, 500, 1) == ledger
    judged = watch.judge("traffic", ledger, 0, 1, 1.0)
    assert sum(len(one.places) for one in judged) == 4
    assert not any(verdicts.alarmed.any() for one in judged for verdicts in one.verdicts)


def test_changes_are_first_predictions_with_all_features() -> None:
    told = values.changes(np.random.default_rng(1), 4, 10, 60_000)
    assert all(one.before is None and one.after is not None and len(one.after.prediction.features) == 4 for one in told)
    assert len({one.after.prediction.request_id for one in told if one.after}) == 10


def test_a_small_pace_and_count_run_through() -> None:
    found = pace.measure(5, 50, 2)
    assert found.streams == 6
    assert values.measure(2, 2).features == 2


def test_the_growth_of_a_peer_is_refitted_from_what_it_took() -> None:
    law = peer.Growth(3.0, 0.2, 5e-6)
    found = peer.fitted(3.0, [(shape, law.seconds(shape)) for shape in peer.SHAPES])
    assert found.seconds(wide.FULL) == pytest.approx(law.seconds(wide.FULL))
    assert wide.FULL.values == 3_300_000_000
    assert str(Shape(1_000, 100, 2)) == "1,000 and 100 rows of 2 columns"


def test_one_column_in_ten_is_moved() -> None:
    draws = [np.random.default_rng(1), np.random.default_rng(1)]
    for k in range(MOVED_EVERY + 1):
        still, moved = (
            wide._values(draw, k, 5, moved=on).to_numpy() for draw, on in zip(draws, (False, True), strict=True)
        )
        assert (moved - still) == pytest.approx(wide.MOVED if k % MOVED_EVERY == 0 else 0.0)
