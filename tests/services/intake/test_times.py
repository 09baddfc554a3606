"""Foreign times: every unit against exact arithmetic, zones, and units that cannot be."""

from __future__ import annotations

import contextlib
from datetime import UTC, datetime, timedelta, timezone
from fractions import Fraction
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas.event import MAX_MS
from services.intake import times
from services.intake.times import BadTime, to_ms

NOW_MS = 1_767_225_600_000
UNITS = {"s": Fraction(1000), "ms": Fraction(1), "us": Fraction(1, 1000), "ns": Fraction(1, 10**6)}
anything = st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text(), st.lists(st.integers()))


@given(st.integers(-(10**20), 10**20), st.sampled_from(sorted(UNITS)))
def test_whole_numbers_are_exact_in_every_unit(value: int, unit: str) -> None:
    expected = (value * UNITS[unit]).__floor__()
    assert to_ms(value, unit) == expected
    assert to_ms(str(value), unit) == expected


@given(st.decimals(0, 10**12, places=6))
def test_decimal_seconds_are_exact(value: Any) -> None:
    assert to_ms(str(value), "s") == (Fraction(value) * 1000).__floor__()


@given(
    st.datetimes(datetime(1970, 1, 2), datetime(2100, 1, 1)),
    st.integers(-14 * 60, 14 * 60),
    st.sampled_from(["T", " "]),
)
def test_texts_with_an_offset_are_moments(naive: datetime, minutes: int, separator: str) -> None:
    moment = naive.replace(tzinfo=timezone(timedelta(minutes=minutes)))
    expected = (moment - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(milliseconds=1)
    assert to_ms(moment.isoformat(separator), "iso") == expected
    assert to_ms(moment.isoformat(separator), "iso", ZoneInfo("Asia/Tokyo")) == expected, "its own zone counts"


def test_naive_times_take_the_zone_that_the_mapping_says() -> None:
    berlin = ZoneInfo("Europe/Berlin")
    assert to_ms("2026-01-01 01:00:00", "iso", berlin) == NOW_MS
    assert to_ms("2026-07-01T02:00:00", "iso", berlin) == to_ms("2026-07-01T00:00:00Z", "iso")
    assert to_ms("2026-01-01", "iso", UTC) == NOW_MS
    with pytest.raises(BadTime, match="no zone"):
        to_ms("2026-01-01 01:00:00", "iso")


@pytest.mark.parametrize("right", sorted(UNITS))
@pytest.mark.parametrize("said", sorted(UNITS))
def test_every_wrong_unit_is_named(said: str, right: str) -> None:
    value = int(NOW_MS / UNITS[right])
    ms = to_ms(value, said)
    if said == right:
        times.check(value, said, ms, NOW_MS + 5_000)
        return
    with pytest.raises(BadTime, match=f'say unit = "{right}"') as caught:
        times.check(value, said, ms, NOW_MS + 5_000)
    assert caught.value.reason == "wrong_unit"


def test_a_number_of_thousands_of_digits_is_a_bad_time() -> None:
    for unit in UNITS:
        with pytest.raises(BadTime, match="no such number"):
            to_ms(10**4_299, unit)


def test_an_old_time_is_no_wrong_unit() -> None:
    ten_years = NOW_MS - 10 * 366 * times.DAY_MS
    times.check(ten_years, "ms", ten_years, NOW_MS)
    times.check(5, "ms", 5, 0)  # no time to compare with
    with pytest.raises(BadTime, match="outside the years"):
        times.check(-5, "ms", -5, NOW_MS)


@given(anything, st.sampled_from([*UNITS, "iso"]), st.integers(-1, 2 * MAX_MS))
def test_nothing_else_is_ever_raised(value: Any, unit: str, near_ms: int) -> None:
    ms = 0
    with contextlib.suppress(BadTime):
        ms = to_ms(value, unit, UTC)
        try:
            times.check(value, unit, ms, near_ms)
        except BadTime:
            ms = 0
    assert 0 <= ms <= MAX_MS


@pytest.mark.parametrize("text", ["1e999999999", "-1e999999999", "1e-999999999", "NaN", "Infinity", "1_0", "٣", "0x10"])
def test_strange_numbers_take_no_memory(text: str) -> None:
    with contextlib.suppress(BadTime):
        assert abs(to_ms(text, "s")) < 10**30
