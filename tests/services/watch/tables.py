"""Tables with a known truth: a model whose score is right, until it is not."""

from __future__ import annotations

import numpy as np
import pyarrow as pa

START_S = 1_767_225_600
DAY_S = 86_400


def made(seed: int, rows: int, *, broken: bool = False, older: float = 0.0, days: float = 20.0) -> pa.Table:
    """Give predictions with labels, in order of time; in the last third the score means nothing, ages are higher."""
    draw = np.random.default_rng(seed)
    at = START_S + np.sort(draw.random(rows)) * days * DAY_S
    late = np.arange(rows) >= rows * 2 // 3
    score = draw.random(rows)
    truth = draw.random(rows) < (np.where(late, 0.5, score) if broken else score)
    return pa.table(
        {
            "timestamp": at,
            "score": score,
            "label": truth.astype(np.int64),
            "age": draw.normal(40, 10, rows) + np.where(late, older, 0.0),
            "channel": draw.choice(["web", "app"], rows),
        }
    )
