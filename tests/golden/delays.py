"""Delays of labels in panes by a formula, for `lifelines_km` and the test that reads its file."""

import numpy as np
from numpy.typing import NDArray


def delays() -> list[NDArray[np.int64]]:
    """Give 30 panes of labels, each with its delay in whole panes: log-normal, slower from pane to pane, at most 15."""
    found = []
    for pane in range(30):
        n = 40 + 7 * pane % 23
        u = (np.arange(1, n + 1) - 0.5) / n
        logistic = np.log(u / (1 - u))  # near enough to a normal's quantiles, and without SciPy
        found.append(np.minimum(np.floor(np.exp(0.9 + 0.01 * pane + 0.5 * logistic)), 15).astype(np.int64))
    return found
