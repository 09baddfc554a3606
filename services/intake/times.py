"""Foreign times: units, time zones, and whether a unit can be the right one.

A unit is wrong by a factor of a thousand, so what it gives lies decades from the record's own time. Where that is so
and another unit gives a time near it, the right one can be named.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, tzinfo
from decimal import Decimal
from typing import Any

from schemas.event import MAX_MS

PER_MS = {"s": (1000, 1), "ms": (1, 1), "us": (1, 1_000), "ns": (1, 1_000_000)}
"""Milliseconds are the number times the first, divided by the second."""
DAY_MS = 86_400_000
NEAR_MS, FAR_MS = 2 * 366 * DAY_MS, 5 * 366 * DAY_MS

_MOST = 10**24
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MS = timedelta(milliseconds=1)


class BadTime(Exception):
    """A time that cannot be read, or whose unit is wrong: `reason` and a sentence."""

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(detail)
        self.reason = reason


def to_ms(value: Any, unit: str, zone: tzinfo | None = None) -> int:
    """Give milliseconds since the epoch, rounded down. Raises `BadTime`.

    >>> to_ms(1767225600123456, "us"), to_ms("1767225600.5", "s")
    (1767225600123, 1767225600500)
    >>> to_ms("2026-01-01T01:00:00.123456+01:00", "iso")
    1767225600123
    >>> to_ms("2026-01-01 00:00", "iso")
    Traceback (most recent call last):
    services.intake.times.BadTime: the time has no zone of its own: say `zone`, such as "UTC"
    """
    if unit == "iso":
        return _from_text(value, zone)
    if type(value) is int and abs(value) <= _MOST:  # one of thousands of digits could not even be told
        many, few = PER_MS[unit]
        return value * many // few
    if isinstance(value, bool) or not isinstance(value, (int, float, str, Decimal)):
        raise BadTime("bad_time", f"a time is a number in {unit}, and this is {_kind(value)}")
    try:
        exact = Decimal(value if not isinstance(value, float) else repr(value))
        many, few = PER_MS[unit]
        if abs(exact) > _MOST:  # such a number, written out, could take all the memory there is
            raise ValueError
        return int((exact * many / few).to_integral_value(rounding="ROUND_FLOOR"))
    except (ArithmeticError, ValueError):  # of decimals, too
        hint = ': say unit = "iso"' if isinstance(value, str) else ""
        raise BadTime("bad_time", f"a time is a number in {unit}, and this is {_kind(value)}{hint}") from None


def check(value: Any, unit: str, ms: int, near_ms: int) -> None:
    """Raise `BadTime` when the time cannot be, or when another unit gives a time near `near_ms`, and this one does not.

    `near_ms` is the record's own time, by Kafka's clock.

    >>> check(1767225600, "ms", 1767225600, 1767225700000)
    Traceback (most recent call last):
    services.intake.times.BadTime: read as ms it is 1970-01-21, 56 years from the record's own time (2026-01-01); \
read as s it is 2026-01-01: say unit = "s"
    >>> check(1767225600000, "ms", 1767225600000, 1767225700000)
    """
    if near_ms > 0 and unit != "iso" and abs(ms - near_ms) > FAR_MS:
        for other in PER_MS:
            if other == unit:
                continue
            try:
                would_ms = to_ms(value, other)
            except BadTime:
                return
            if abs(would_ms - near_ms) <= NEAR_MS:
                years = round(abs(ms - near_ms) / (365.25 * DAY_MS))
                raise BadTime(
                    "wrong_unit",
                    f"read as {unit} it is {day(ms)}, {years} years from the record's own time ({day(near_ms)}); "
                    f'read as {other} it is {day(would_ms)}: say unit = "{other}"',
                )
    if not 0 <= ms <= MAX_MS:
        raise BadTime("bad_time", f"{ms} ms since the epoch lies outside the years 1970 to 9999: check `unit`")


def day(ms: int) -> str:
    """Give the day of a time, or its number where there is no such day."""
    try:
        return (_EPOCH + timedelta(milliseconds=ms)).date().isoformat()
    except OverflowError:
        return f"{ms} ms"


def _from_text(value: Any, zone: tzinfo | None) -> int:
    if not isinstance(value, str):
        raise BadTime("bad_time", f'unit "iso" reads text, and this is {_kind(value)}: say s, ms, us or ns')
    try:
        moment = datetime.fromisoformat(value.strip())
    except ValueError:
        raise BadTime("bad_time", "the text is no ISO 8601 time, such as 2026-01-31T12:00:00Z") from None
    if moment.tzinfo is None:
        if zone is None:
            raise BadTime("no_zone", 'the time has no zone of its own: say `zone`, such as "UTC"')
        moment = moment.replace(tzinfo=zone)
    try:
        return (moment - _EPOCH) // _MS
    except OverflowError:
        raise BadTime("bad_time", "the time lies outside the years 1 to 9999") from None


def _kind(value: Any) -> str:
    names = {bool: "true or false", str: "text", dict: "an object", list: "a list", type(None): "null"}
    return names.get(
        type(value), "no such number" if isinstance(value, (int, float, Decimal)) else type(value).__name__
    )
