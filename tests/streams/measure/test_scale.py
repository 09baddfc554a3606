"""The stored tables and the integer losses."""

from __future__ import annotations

import hashlib
import json
import math
from bisect import bisect_right

import numpy as np
import pytest

from streams.measure import scale


def test_tables_are_golden() -> None:
    """They are part of every ledger ever written: a change of one bit is a new version of the vocabulary."""
    body = json.dumps(scale.tables(), sort_keys=True).encode()
    assert hashlib.sha256(body).hexdigest() == "ab7d5fc8860507f4b30555185c2469ad5c7cfad51e676b6a9ab055b9560443b9"


def test_edges_are_uniform_in_logit() -> None:
    edges = scale.score_edges()
    assert len(edges) == 2047
    for i, edge in enumerate(edges):
        assert math.log(edge / (1 - edge)) == pytest.approx(-16 + (i + 1) / 64, abs=1e-8)
    assert list(edges) == sorted(set(edges))


def test_a_score_equal_to_an_edge_goes_right() -> None:
    for i in (0, 1, 1023, 2046):
        edge = scale.score_edges()[i]
        assert scale.score_bin(edge) == i + 1
        assert scale.score_bin(math.nextafter(edge, 0)) == i


def scores() -> np.ndarray[tuple[int], np.dtype[np.float64]]:
    rng = np.random.default_rng(0)
    logit = 1 / (1 + np.exp(-rng.normal(0, 6, 20_000)))
    return np.concatenate([rng.random(20_000), logit, [0.0, 1.0, 0.5, 2**-23, 1 - 2**-23, 5e-324, 2**-24]])


def test_losses_lie_within_the_stated_error() -> None:
    p = scores()
    y = np.random.default_rng(1).integers(0, 2, len(p))
    exact = -np.log(np.clip(np.where(y == 1, p, 1 - p), 2**-23, 1 - 2**-23)) * 1e6
    assert np.abs(scale.log_losses(p, y) - exact).max() <= 0.65
    assert np.abs(scale.briers(p, y) - (p - y) ** 2 * 1e6).max() <= 1.0


def test_one_and_many_give_the_same_integers() -> None:
    p = scores()
    y = np.random.default_rng(2).integers(0, 2, len(p))
    pairs = list(zip(p.tolist(), y.tolist(), strict=True))
    assert scale.log_losses(p, y).tolist() == [scale.log_loss(a, b) for a, b in pairs]
    assert scale.briers(p, y).tolist() == [scale.brier(a, b) for a, b in pairs]
    assert scale.bins(scale.score_edges(), p).tolist() == [bisect_right(scale.score_edges(), a) for a in p.tolist()]


def test_spans_are_told_within_one_percent() -> None:
    for span in np.geomspace(0.01, 1e11, 500).tolist():
        assert scale.span_value(scale.span_bin(span)) == pytest.approx(span, rel=0.0101)
    assert scale.span_bin(-5.0) == 0
    assert scale.span_value(0) == 0.0
    assert scale.span_bin(1e13) == len(scale.span_edges())
