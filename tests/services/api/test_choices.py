"""Thresholds over HTTP's own function: beside a count over rows, from deltas that really lie in ClickHouse."""

from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from schemas.event import encode
from schemas.measures import Measures, PaneDelta
from schemas.settings import ClickHouse, Settings
from services.api.choices import choices, places
from services.api.store import Store
from services.record.land import Span
from services.record.land import Store as Landing
from streams.measure.ledger import Ledger
from streams.measure.tally import ledger_of
from streams.measure.thresholds import thresholds
from streams.runtime.records import Records

MINUTE = 60_000


@given(
    st.dictionaries(st.integers(0, 2047), st.integers(1, 9), min_size=1, max_size=40),
    st.dictionaries(st.integers(0, 2047), st.integers(1, 9), max_size=40),
    st.integers(3, 60),
)
@settings(max_examples=25, deadline=None)
def test_at_most_so_many_places_and_never_without_the_ends_and_the_best(
    positives: dict[int, int], negatives: dict[int, int], points: int
) -> None:
    read = thresholds(Ledger({"score.pos": positives, "score.neg": negatives}))
    assert read is not None
    found = places(read, points)
    assert len(found) <= points
    assert found == sorted(set(found))
    assert {0, read.best, len(read.tp) - 1} <= set(found)
    if len({*positives, *negatives}) + 4 <= points:  # enough for all: nothing that changes is left out
        assert {(read.tp[at], read.fp[at]) for at in found} == set(zip(read.tp.tolist(), read.fp.tolist(), strict=True))


def land(at: ClickHouse, events: list[Measures]) -> Settings:
    found = Settings(namespace="judged", clickhouse=at)
    store = Landing(found)
    store.prepare()
    records = Records()
    for place, event in enumerate(events):
        records.append(place, place, None, encode(event))
    store.land("measures", [Span(0, 0, len(events), records)])
    store.close()
    return found


def pane(ledger: Ledger, at: int = 0, version: str = "1", **more: Any) -> PaneDelta:
    given_ = PaneDelta(
        model='m"ü', version=version, deployment="d", pane_ms=at * MINUTE, pane_size_ms=MINUTE, cells=ledger.flat()
    )
    return msgspec.structs.replace(given_, **more)


def rows(seed: int, n: int = 300) -> tuple[list[float], list[int], list[str]]:
    rng = np.random.default_rng(seed)
    scores = rng.random(n)
    labels = (rng.random(n) < scores).astype(int)
    return scores.tolist(), labels.tolist(), [f"u{i % 50}" for i in range(n)]


@pytest.mark.clickhouse
def test_what_has_landed_gives_precision_recall_and_cost_of_the_rows(at: ClickHouse) -> None:
    first, second, wrong = rows(1), rows(2), rows(3)
    mistaken = ledger_of(*wrong)
    folded = Ledger()  # a slice has a quarter of the bins
    for name in ("score.pos", "score.neg"):
        folded.add_pairs(name, [(place // 4, count) for place, count in mistaken.cells[name].items()])
    events = [
        Measures(source=0, sources=1, step=1, clock_ms=MINUTE, panes=[pane(ledger_of(*first), 0), pane(mistaken, 1)]),
        Measures(source=0, sources=1, step=2, clock_ms=2 * MINUTE, panes=[pane(Ledger() - mistaken, 1)]),
        Measures(source=0, sources=1, step=3, clock_ms=3 * MINUTE, panes=[pane(ledger_of(*second), 2)]),
        Measures(
            source=0,
            sources=1,
            step=4,
            clock_ms=4 * MINUTE,
            panes=[
                pane(mistaken, 3, role="shadow"),
                pane(mistaken, 3, model="other"),
                pane(folded, 3, slice="a=b"),
                pane(mistaken, 9),  # after the window
                pane(ledger_of([0.5], [1], ["u"]), 3, version="2"),
            ],
        ),
    ]
    asked = land(at, events)
    store = Store(asked)
    told = choices(asked, store, 'm"ü', cost_fp=1.0, cost_fn=4.0, to_ms=5 * MINUTE, points=2_000)
    newest, other = told["versions"]
    assert (newest["version"], newest["positives"], newest["negatives"]) == ("2", 1.0, 0.0)
    assert newest["points"][-1]["threshold"] is None
    assert newest["points"][-1]["precision"] is None
    scores, labels = np.array(first[0] + second[0]), np.array(first[1] + second[1])
    for point in other["points"]:
        chosen = scores >= (np.inf if point["threshold"] is None else point["threshold"])
        tp, fp = int((chosen & (labels == 1)).sum()), int((chosen & (labels == 0)).sum())
        fn = int(labels.sum()) - tp
        assert (point["tp"], point["fp"], point["fn"]) == (tp, fp, fn)
        assert point["recall"] == pytest.approx(tp / labels.sum())
        assert point["precision"] == (pytest.approx(tp / (tp + fp)) if tp + fp else None)
        assert point["cost"] == pytest.approx((fp + 4 * fn) / labels.size)
    assert other["best"]["cost"] == min(point["cost"] for point in other["points"])
    assert other["best"]["threshold"] == pytest.approx(0.2, abs=0.1)  # calibrated scores: cost_fp / (cost_fp + cost_fn)
    later = choices(asked, store, 'm"ü', cost_fp=1.0, cost_fn=1.0, from_ms=2 * MINUTE, to_ms=3 * MINUTE)
    assert [one["positives"] for one in later["versions"]] == [float(sum(second[1]))]
    sliced = choices(asked, store, 'm"ü', cost_fp=1.0, cost_fn=1.0, slice_="a=b", to_ms=5 * MINUTE)
    assert [one["positives"] for one in sliced["versions"]] == [float(sum(wrong[1]))]
    assert choices(asked, store, "nobody", cost_fp=1.0, cost_fn=1.0)["versions"] == []
    halved = choices(asked, store, 'm"ü', cost_fp=1.0, cost_fn=1.0, from_ms=MINUTE, to_ms=20 * MINUTE, points=5)
    assert all(len(one["points"]) <= 5 for one in halved["versions"])
    store.close()
