"""Rows whose truth is known: what a trainer must find, and what it must not."""

import numpy as np

from services.train.rows import Rows

ORIGIN_MS = 1_767_225_600_000


def rows(
    count: int = 2_000, *, seed: int = 0, shuffled: bool = False, missing: float = 0.0, bent: bool = False
) -> Rows:
    """Give a row a second of three features: y follows 3 a − 2 b (or, `bent`, the sign of a · b), and c is noise."""
    random = np.random.default_rng(seed)
    x = random.normal(size=(count, 3)) * [1.0, 2.0, 5.0] + [0.0, 1.0, -3.0]
    a, b = x[:, 0], (x[:, 1] - 1) / 2
    logits = 6 * a * b if bent else 3 * a - 2 * b
    y = (random.random(count) < 1 / (1 + np.exp(-logits))).astype(int)
    if shuffled:
        y = random.permutation(y)
    x[random.random(x.shape) < missing] = np.nan
    return Rows.of(
        {name: x[:, i] for i, name in enumerate("abc")},
        y,
        ORIGIN_MS + 1_000 * np.arange(count),
        subjects=[f"s{i // 4}" for i in range(count)],
        labelled_at_ms=ORIGIN_MS + 1_000 * np.arange(count) + 5_500,
    )
