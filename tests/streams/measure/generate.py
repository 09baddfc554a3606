"""Predictions and outcomes of every odd shape, for the tests of `streams.measure`."""

from __future__ import annotations

from typing import Any

from hypothesis import strategies as st
from msgspec.structs import replace

from schemas.control import EmbeddingReference, ParityRow, ParitySet, Reference
from schemas.event import LabelValue
from schemas.inputs import Item, Prediction
from streams.join.outcome import NOTHING, Change, Counted, Items, Named, Outcome

REFERENCE = Reference(
    id="ref-test",
    model="a",
    version="1",
    n=100,
    edges={"price": [0.0, 1.5, 2.0], "constant": []},
    ranges={"price": [-1.0, 4.0], "constant": [3.0, 3.0]},
    categories={"plan": ["free", "pro", "true", "7"]},
    embedding=EmbeddingReference(
        dimension=3, bandwidth=1.5, centre=[0.5, -1.0, 1e6], seed=7, frequencies=4, sums=[0] * 8, rows=[0, 0, 0, 0]
    ),
)
FROZEN = ParitySet(
    id="par-test",
    model="a",
    version="1",
    key=["country", "plan"],
    relative=1e-3,
    rows=[
        ParityRow(key=["DE", "free"], features={"price": 1.5, "constant": 3, "unknown": None}, score=0.5),
        ParityRow(key=["DE", "7"], features={"price": 4, "constant": 2.9, "unknown": 1.0009}),
        ParityRow(key=["3", "pro"], features={"price": "much", "constant": None, "unknown": 2.0}, score=1.1),
        ParityRow(key=["3", "true"], features={"price": True}, score=0.0),
    ],
    until_ms=280,
    at_ms=20,
)
VECTORS: tuple[list[float] | None, ...] = (
    None,
    [],
    [1.0],
    [0.5, -1.0, 1e6],
    [0.25, 3.0, 1_000_000.5],
    [0.1, -7.3, 999_999.9],
    [0.5, -1.0, 1e6 + 769.0],  # a bandwidth too far
    [0.5, 1e308, 0.0],
    [1.0, 2.0, 3.0, 4.0],
)

LISTS: tuple[list[float | str], ...] = (["a"], ["b", "a"], ["a", "b", "b", "c"], [1.0, "1"], [0.0], [-0.0], [])
LONG = "ü" * 33
FIGURES = (-3.75, 1e-7, 1e6 + 0.1, 123456.789, 1e30, 2.0**100, -1e31, 10**40, 5e-324)

labels: st.SearchStrategy[LabelValue] = st.sampled_from(
    [0, 1, 0.0, 1.0, True, False, "0", "1", "yes", "no", 2, 7, 7.0, 2.5, -1, 2**60, *LISTS, *FIGURES, LONG]
)
features = st.fixed_dictionaries(
    {},
    optional={
        "price": st.sampled_from([-2.0, -1.0, -0.5, 0.0, 1.5, 1.99, 2, 4, 4.5, None, "much", True]),
        "constant": st.sampled_from([3, 2.9, 3.1, None]),
        "plan": st.sampled_from(["free", "pro", "gone", True, 7, 7.0, 0.5, None]),
        "unknown": st.just(1.0),
    },
)


@st.composite
def rankings(draw: st.DrawFn) -> list[Item] | None:
    """No list, an empty one, or one with or without positions and scores, items twice among them."""
    if draw(st.integers(0, 2)) == 0:
        return None
    bare = draw(st.booleans())
    entries = [
        Item(
            item=draw(st.sampled_from("abcdefghijkl")),
            score=None if bare else draw(st.sampled_from([0.1, 0.5, 0.5, -0.0, 0.0, 2.0])),
            position=draw(st.sampled_from([None, 0, 1, 7])) if draw(st.booleans()) else None,
        )
        for _ in range(draw(st.integers(0, 14)))
    ]
    if draw(st.booleans()):
        return [Item(item=one.item, score=one.score, position=draw(st.integers(-1, 4))) for one in entries]
    return entries


@st.composite
def items_of(draw: st.DrawFn, prediction: Prediction) -> Items | None:
    """What is known of the items of a ranking: of some of them a label."""
    if not prediction.items:
        return None
    listed = sorted({entry.item for entry in prediction.items})
    found = [(item, draw(outcomes())) for item in draw(st.lists(st.sampled_from(listed), unique=True))]
    return tuple(one for one in found if one[1].label is not None)


@st.composite
def counteds(draw: st.DrawFn, prediction: Prediction, revision: int = 0) -> Counted:
    """What is known of a prediction, by its first label name and by others."""
    names = draw(st.lists(st.sampled_from(["refund", "a:b", "100%", "third"]), unique=True, max_size=2))
    others = tuple(
        Named(name, draw(outcomes()), draw(items_of(prediction)), value=False)
        if draw(st.booleans())
        else Named(name, draw(outcomes()), None, value=True)
        for name in names
    )
    output = draw(st.sampled_from([None, "label"])) if "label" in (prediction.outputs or {}) else None
    return Counted(prediction, draw(outcomes()), revision, draw(items_of(prediction)), output, others)


@st.composite
def predictions(draw: st.DrawFn, request_id: str = "r") -> Prediction:
    """A prediction of one of two models."""
    return Prediction(
        request_id=request_id,
        at_ms=draw(st.integers(0, 300)),
        model=draw(st.sampled_from(["a", "b"])),
        version=draw(st.sampled_from(["1", "2"])),
        role=draw(st.sampled_from(["primary", "shadow"])),
        score=draw(
            st.one_of(
                st.none(),
                st.floats(0, 1),
                st.sampled_from([0.0, 1.0, 0.5, 1e-9, 1.0 - 1e-12, -0.1, 1.1]),
                st.just([0.2, 0.8]),
            )
        ),
        prediction=draw(st.one_of(st.none(), labels)),
        features=draw(features),
        slices=draw(st.sampled_from([{}, {"country": "DE"}, {"country": 3.0}, {"country": None}, {"plan": "x"}])),
        subject=draw(st.sampled_from(["", "u1", "u2", "ü3"])),
        threshold=draw(st.sampled_from([None, 0.1, 0.9])),
        latency_ms=draw(st.sampled_from([None, 0.0, 0.01, 12.5, 1e12])),
        items=draw(rankings()),
        embedding=draw(st.sampled_from(VECTORS)),
        outputs=draw(st.sampled_from([None, {}, {"label": 0.25, "a:b": 0.75}, {"refund": -0.5, "label": 1.0}])),
    )


@st.composite
def outcomes(draw: st.DrawFn) -> Outcome:
    """Nothing, or a label of some kind."""
    if draw(st.booleans()):
        return NOTHING
    return Outcome(
        label=draw(labels),
        kind=draw(st.sampled_from(["explicit", "implicit", "timeout"])),
        weight=draw(st.sampled_from([1.0, 0.5, 0.0004, 0.0, 0.3335])),
        status=draw(st.sampled_from(["provisional", "final"])),
        labelled_at_ms=draw(st.sampled_from([None, 0, 50, 10_000])),
    )


@st.composite
def histories(draw: st.DrawFn) -> list[list[Counted | None]]:
    """For each of a few identities, what counted of it one after the other; None means nothing stood."""
    found: list[list[Counted | None]] = []
    for i in range(draw(st.integers(1, 5))):
        steps: list[Counted | None] = []
        prediction = draw(predictions(f"r{i}"))
        for revision in range(draw(st.integers(1, 4))):
            what = draw(st.sampled_from(["label", "label", "items", "items", "other", "gone"]))
            if what == "gone":
                steps.append(None)
                continue
            last = steps[-1] if steps else None
            if what == "items" and last is not None:
                others = (Named("refund", draw(outcomes())), *(one for one in last.others if one.name != "refund"))
                steps.append(replace(last, items=draw(items_of(prediction)), others=others))
                continue
            if what == "other":
                prediction = draw(predictions(f"r{i}"))
            steps.append(draw(counteds(prediction, revision)))
        found.append(steps)
    return found


def changes_of(history: list[Counted | None]) -> list[Change]:
    """Give the changes that lead through a history."""
    found, before = [], None
    for after in history:
        if before is not None or after is not None:
            found.append(Change(before, after))
        before = after
    return found


def standing(histories_: list[list[Counted | None]]) -> list[Counted]:
    """Give what counts at the end."""
    last: list[Any] = [history[-1] for history in histories_]
    return [counted for counted in last if counted is not None]
