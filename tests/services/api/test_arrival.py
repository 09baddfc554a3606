"""The curve of label delays against the textbook's Kaplan and Meier, one observation at a time."""

from collections import Counter
from fractions import Fraction

from hypothesis import given
from hypothesis import strategies as st

from services.api.arrival import arrival_curve, edge_ms, quantile

Observed = list[tuple[int, bool]]


def textbook(observed: Observed) -> list[tuple[int, Fraction]]:
    """Give the share that has come by each age, by definition."""
    curve, survives = [], Fraction(1)
    for age in sorted({age for age, came in observed if came}):
        at_risk = sum(1 for other, _ in observed if other >= age)
        came = sum(1 for other, has in observed if other == age and has)
        survives *= 1 - Fraction(came, at_risk)
        curve.append((edge_ms(age), 1 - survives))
    return curve


@given(st.lists(st.tuples(st.integers(0, 40), st.booleans()), max_size=60))
def test_curve_is_the_textbook_s(observed: Observed) -> None:
    arrived = Counter(age for age, came in observed if came)
    waiting = Counter(age for age, came in observed if not came)
    curve = arrival_curve(arrived, waiting)
    expected = textbook(observed)
    assert [age for age, _ in curve] == [age for age, _ in expected]
    assert all(abs(got - float(want)) < 1e-9 for (_, got), (_, want) in zip(curve, expected, strict=True))


def test_never_labelled_keep_the_curve_below_one() -> None:
    curve = arrival_curve({10: 80}, {60: 20})
    assert curve == [(13, curve[0][1])]
    assert abs(curve[0][1] - 0.8) < 1e-12
    assert quantile(curve, 0.9) is None
