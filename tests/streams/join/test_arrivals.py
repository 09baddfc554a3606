"""Arrivals: a label and the prediction that it counts for, told once, when the later of the two is read."""

from __future__ import annotations

from collections.abc import Sequence
from random import Random
from typing import Any

import numpy as np
import pytest

from schemas.control import Control
from schemas.inputs import Label, Prediction, Signal
from streams.join.arrivals import Arm, Arrivals, Whose
from streams.join.outcome import Change
from streams.join.processor import JoinProcessor
from streams.measure.ages import BIN_OF, EDGES, LIMIT, OLDER
from streams.runtime.processor import Batch, Output
from tests.streams.join.timeline import Player, Row, T, clock, l, p, policy, s


class Hearing:
    """A chained stage that keeps what arrived: (source, model, arrived, predicted), times from `T`."""

    version = "hearing-1"

    def __init__(self) -> None:
        self.heard: list[tuple[str, str, int, int]] = []

    def empty(self, partition: int) -> list[int]:
        return []

    def step(
        self,
        state: list[int],
        changes: Sequence[Change],
        control: Sequence[Control],
        batch: Batch,
        clock_ms: int,
        *,
        arrivals: Arrivals,
        timers_ms: int,
    ) -> list[Output]:
        for whose, cells in arrivals.counted(1, np.arange(100_000)).items():
            for at_ms, age_ms, count in cells:
                self.heard += [(whose.source, whose.arm.model, at_ms - T, at_ms - age_ms - T)] * count
        return []

    def dump(self, state: list[int]) -> bytes:
        return b"1"

    def load(self, partition: int, body: bytes) -> list[int]:
        return []


@pytest.mark.parametrize("columns", [True, False])
@pytest.mark.parametrize(
    ("rows", "expected"),
    [
        pytest.param([p(0), l(5)], [("", "m", 5, 0)], id="label_after"),
        pytest.param([l(5), p(7, at=6)], [("", "m", 7, 6)], id="label_before_counts_when_the_prediction_comes"),
        pytest.param([p(0), l(5), l(5)], [("", "m", 5, 0)], id="a_duplicate_is_none"),
        pytest.param([p(0), l(5), l(9, op="retract")], [("", "m", 5, 0), ("", "m", 9, 0)], id="a_retraction_too"),
        pytest.param([p(0), l(5, source="desk")], [("desk", "m", 5, 0)], id="by_source"),
        pytest.param([p(0), l(5, name="other")], [], id="of_another_name"),
        pytest.param([p(0), l(5, model="other")], [], id="of_another_model"),
        pytest.param([p(0), l(1001)], [], id="beyond_the_horizon"),
        pytest.param([l(5)], [], id="of_no_prediction"),
        pytest.param([p(0), s(5, "impression")], [], id="a_signal_that_makes_no_label"),
        pytest.param([p(0), s(5, "click")], [("signal:click", "m", 5, 0)], id="a_signal_that_makes_one"),
        pytest.param([p(0), p(0, deployment="two"), l(5)], [("", "m", 5, 0), ("", "m", 5, 0)], id="of_two_predictions"),
    ],
)
def test_what_arrives(rows: list[Row], expected: list[tuple[str, str, int, int]], columns: bool) -> None:
    hearing = Hearing()
    player = Player(chained=hearing)
    player.processor = JoinProcessor(player.processor.join.bounds, hearing, columns=columns)
    player.state = player.processor.empty(0)
    player.play(policy(attribution=[{"signal": "click", "label": 1}]), *rows, clock(9999))
    assert hearing.heard == expected


def test_ages_have_bins_of_an_eighth() -> None:
    assert BIN_OF.tolist() == [int(np.searchsorted(EDGES, age, side="right")) - 1 for age in range(LIMIT + 1)]
    assert BIN_OF[:16].tolist() == list(range(16))
    assert BIN_OF[LIMIT] == OLDER
    widths = np.diff(EDGES)
    assert (widths[16:] * 8 <= EDGES[16:-1]).all()
    assert (widths[16:] * 17 > EDGES[16:-1]).all()


@pytest.mark.parametrize("seed", range(5))
def test_rows_and_single_ones_count_alike(seed: int) -> None:
    random = Random(seed)
    together, alone = Arrivals(), Arrivals()
    naive: dict[tuple[Whose, int, int], int] = {}
    for _ in range(300):
        source, version = random.choice(("", "desk")), random.choice(("v1", "v2"))
        arrived, at = random.randrange(-50, 200_000), random.randrange(0, 200_000)
        whose = Whose(source, Arm("m", version, ""))
        prediction = Prediction(request_id="r", at_ms=at, model="m", version=version)
        label: Any = Label(request_id="r", at_ms=at, label=1, source=source)
        alone.note(label, prediction, arrived, arrived - random.randrange(5))
        together.add(whose, np.array([[arrived, at]]))
        age = min(max(arrived // 60 - at // 60, 0), LIMIT)
        place = whose, arrived // 60, int(BIN_OF[age])
        naive[place] = naive.get(place, 0) + 1
    expected = sorted((*place, count) for place, count in naive.items())
    for arrivals in (together, alone):
        found = arrivals.counted(60, BIN_OF)
        assert [(whose, *cell) for whose, cells in found.items() for cell in cells] == expected


def test_a_signal_is_named_apart_from_a_source_of_labels() -> None:
    arrivals = Arrivals()
    arrivals.note(Signal(request_id="r", at_ms=1, signal="click"), Prediction(request_id="r", at_ms=1, model="m"), 1, 2)
    assert arrivals.alone == [(Whose("signal:click", Arm("m", "", "")), 2, 1)]
    arrivals.keep(lambda model, signal: (model, signal) != ("m", "click"))
    assert not arrivals
