"""Whether the labelled are like all: beside scipy's distance, and where labels go by a lot."""

import numpy as np
import pytest
from scipy.stats import ks_2samp

from streams.measure.ledger import Ledger
from streams.measure.metrics import SelectionExcess, SelectionGap
from streams.measure.scale import bins, score_edges
from streams.measure.tally import ledger_of


def ledger(scores: np.ndarray, labelled: np.ndarray) -> Ledger:
    labels = [int(score > 0.5) if said else None for score, said in zip(scores, labelled, strict=True)]
    return ledger_of(scores, labels, [f"s{i}" for i in range(len(scores))])


def test_the_gap_is_scipy_s_distance_of_the_bins() -> None:
    rng = np.random.default_rng(1)
    scores = rng.random(2_000)
    labelled = rng.random(2_000) < scores  # the bank grants what scores well
    binned = bins(score_edges(), scores)
    peer = ks_2samp(binned[labelled], binned).statistic
    found = ledger(scores, labelled)
    assert SelectionGap().value(found) == pytest.approx(peer, abs=1e-12)
    excess = SelectionExcess().value(found)
    assert excess is not None
    assert excess > 0.1


def test_labels_by_a_lot_exceed_chance_once_in_twenty_windows() -> None:
    """400 windows: 5 % are 20, four standard errors 17; the seed is fixed."""
    rng = np.random.default_rng(2)
    beyond = 0
    for _ in range(400):
        scores = rng.random(400)
        excess = SelectionExcess().value(ledger(scores, rng.random(400) < 0.4))
        assert excess is not None
        beyond += excess > 0
    assert 3 <= beyond <= 37


def test_nothing_is_said_without_labels_and_nothing_is_missing_when_all_have_one() -> None:
    scores = np.linspace(0.01, 0.99, 50)
    none = ledger(scores, np.zeros(50, dtype=bool))
    assert SelectionGap().measured(none).value is None
    assert SelectionExcess().value(Ledger()) is None
    whole = ledger(scores, np.ones(50, dtype=bool))
    assert SelectionGap().value(whole) == pytest.approx(0.0, abs=1e-12)
    assert SelectionExcess().value(whole) == pytest.approx(0.0, abs=1e-12)
