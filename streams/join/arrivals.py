"""Which labels met which predictions in a step: what the outage guard counts.

An **arrival** is a label, or a signal, together with a prediction that it counts for, when the later of the two is
read. It is told once and never taken back: it says that the source lives, whatever becomes of the label. A duplicate is
none; a label that counts for two predictions (a shadow's) is two. A label speaks for its `source`; a signal for
`signal:NAME`, where the policy in force makes labels of it, because elsewhere its absence gives no negative.

The objects note an arrival at a time, the columns leave rows of numbers, and both are summed by `counted`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from schemas.inputs import Label, Prediction, Signal

SIGNAL = "signal:"


class Arm(NamedTuple):
    """What is forecast by itself: a version of a model as it is deployed."""

    model: str
    version: str
    deployment: str


class Whose(NamedTuple):
    """A source and the arm that its label is about."""

    source: str
    arm: Arm


@dataclass(slots=True)
class Arrivals:
    """The arrivals of one step: for each `Whose` rows of (when it arrived, the prediction's `at_ms`).

    It arrived at the later of the two Kafka timestamps.
    """

    rows: dict[Whose, list[NDArray[np.int64]]] = field(default_factory=dict)
    alone: list[tuple[Whose, int, int]] = field(default_factory=list)

    def note(self, event: Label | Signal, prediction: Prediction, append_ms: int, predicted_ms: int) -> None:
        """Note one: a label or signal and the prediction, with the Kafka timestamps of both."""
        source = event.source if isinstance(event, Label) else SIGNAL + event.signal
        arm = Arm(prediction.model, prediction.version, prediction.deployment)
        self.alone.append((Whose(source, arm), max(append_ms, predicted_ms), prediction.at_ms))

    def add(self, whose: Whose, rows: NDArray[np.int64]) -> None:
        """Note many: a row of two numbers for each."""
        self.rows.setdefault(whose, []).append(rows)

    def keep(self, teaches: Callable[[str, str], bool]) -> None:
        """Leave out signals of which no label is made: `teaches` is asked with the model's and the signal's name."""
        self.alone = [one for one in self.alone if _speaks(one[0], teaches)]
        self.rows = {whose: rows for whose, rows in self.rows.items() if _speaks(whose, teaches)}

    def counted(self, pane_ms: int, bin_of: NDArray[np.int64]) -> dict[Whose, list[tuple[int, int, int]]]:
        """Count by pane of arrival and age: sorted (pane's number, bin of the age, count).

        The age is the number of panes since the prediction's; `bin_of` maps it to its bin, its last entry also those
        that are greater.
        """
        gathered = {whose: list(rows) for whose, rows in self.rows.items()}
        apart: dict[Whose, list[tuple[int, int]]] = {}
        for whose, arrived_ms, at_ms in self.alone:
            apart.setdefault(whose, []).append((arrived_ms, at_ms))
        for whose, pairs in apart.items():
            gathered.setdefault(whose, []).append(np.array(pairs, dtype=np.int64))
        found = {}
        last = len(bin_of) - 1
        for whose in sorted(gathered):
            panes = np.concatenate(gathered[whose]) // pane_ms
            bins = bin_of[np.clip(panes[:, 0] - panes[:, 1], 0, last)]
            cells, counts = np.unique(panes[:, 0] * len(bin_of) + bins, return_counts=True)
            pairs_of = np.divmod(cells, len(bin_of))
            found[whose] = list(zip(pairs_of[0].tolist(), pairs_of[1].tolist(), counts.tolist(), strict=True))
        return found

    def __bool__(self) -> bool:
        return bool(self.rows or self.alone)


def _speaks(whose: Whose, teaches: Callable[[str, str], bool]) -> bool:
    name = whose.source
    return not name.startswith(SIGNAL) or teaches(whose.arm.model, name[len(SIGNAL) :])
