"""Values on their way: found by a path or given, translated, and made what the field of ours takes, or refused."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any
from zoneinfo import ZoneInfo

import msgspec

from schemas.envelope import MAPS, STRINGS
from schemas.mapping import Items, Taken, Value
from services.intake import times
from services.intake.paths import MISSING, Get, getter

Take = Callable[[Any, Any, Any], Any]
"""(here, document, what is known of the record) → value, `MISSING` or None. Raises `Unfit`."""
Fit = Callable[[Any], Any]

SHOWN = 60
_canonical = msgspec.json.Encoder(order="deterministic").encode
_INTEGERS = range(-(2**63), 2**64)
_SCALES = {"s": 1e3, "ms": 1.0, "us": 1e-3, "ns": 1e-6}


class Unfit(Exception):
    """A value that no event can carry: a short `reason` and a sentence."""

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(detail)
        self.reason = reason


def shown(value: Any) -> str:
    """Give a value (of a protected document) for a sentence."""
    try:
        text = _canonical(value).decode()
    except (TypeError, RecursionError, UnicodeEncodeError, msgspec.MsgspecError):
        text = type(value).__name__
    return text if len(text) <= SHOWN else text[: SHOWN - 1] + "…"


def text(value: Any) -> str:
    """Take text; a whole number is written out, because ids are often numbers (and 7.0 where others are missing)."""
    if isinstance(value, str):
        return value
    if isinstance(value, float) and value.is_integer() and abs(value) < 2**53:
        return str(int(value))
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    raise Unfit("wrong_type", f"expected text or a whole number, found {shown(value)}")


def number(value: Any) -> int | float:
    """Take a finite number."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        hint = "; `number = true` reads numbers from text" if isinstance(value, str) else ""
        raise Unfit("wrong_type", f"expected a number, found {shown(value)}{hint}")
    return _finite(value)


def scalar(value: Any) -> Any:
    """Take a number, text, true, false or null."""
    if value is None or isinstance(value, (str, bool)):
        return value
    if isinstance(value, (int, float)):
        return _finite(value)
    raise Unfit("wrong_type", f"expected a number, text or true/false, found {shown(value)}")


def answer(value: Any) -> Any:
    """Take what a label or a prediction may be: one of the above, or a list of numbers and texts."""
    return [scalar(one) for one in value] if isinstance(value, list) else scalar(value)


def score(value: Any) -> Any:
    """Take a number, or a list of them."""
    return [number(one) for one in value] if isinstance(value, list) else number(value)


def vector(value: Any) -> list[int | float]:
    """Take a list of numbers."""
    if not isinstance(value, list):
        raise Unfit("wrong_type", f"expected a list of numbers, found {shown(value)}")
    return [number(one) for one in value]


def _finite(value: int | float) -> int | float:
    if isinstance(value, int):
        if value not in _INTEGERS:
            raise Unfit("wrong_type", "a whole number does not fit 64 bits: send it as text")
    elif not math.isfinite(value):
        raise Unfit("wrong_type", "the number is not finite")
    return value


FITS: dict[str, Fit] = {
    "score": score,
    "prediction": answer,
    "label": answer,
    "embedding": vector,
    **dict.fromkeys(("propensity", "threshold", "latency_ms", "confidence", "value", "position"), number),
    **dict.fromkeys(STRINGS, text),
}
_MEMBERS: dict[str, Fit] = {"features": scalar, "slices": scalar, "outputs": number, "experiments": text}


def taker(name: str, source: Any) -> Take:
    """Compile where the value of one of our fields comes from."""
    if name in MAPS:
        return _members(name, source)
    if isinstance(source, Items):
        return _items(source)
    if name == "at_ms":
        return _time(source)
    return _value(source, FITS.get(name, answer), scale=name == "latency_ms")


def named(source: Any) -> str:
    """Say where a value comes from, for a sentence."""
    if isinstance(source, str):
        return f"`{source}`"
    if isinstance(source, Items):
        return f"`{source.each}`"
    if isinstance(source, Taken):
        return " and ".join(f"`{path}`" for path in source.join or [source.path or "value"])
    return "a table"


def origin(source: Value) -> tuple[Get, Taken | None]:
    """Give what finds the foreign value, and what else is said of it."""
    if isinstance(source, str):
        return getter(source), None
    if source.join is not None:
        return _joined(source), source
    if source.value is not None:
        constant = source.value
        return (lambda here, document, about: constant), source
    return getter(source.path or "."), source


def _value(source: Value, fit: Fit, *, scale: bool = False) -> Take:
    get, said = origin(source)
    factor = _SCALES.get(said.unit or "ms", 1.0) if said is not None and scale else 1.0
    if said is None or not (said.map or said.number or said.default is not None or factor != 1.0):

        def plain(here: Any, document: Any, about: Any) -> Any:
            value = get(here, document, about)
            return value if value is MISSING or value is None else fit(value)

        return plain
    told = said

    def taken(here: Any, document: Any, about: Any) -> Any:
        value = _translated(get(here, document, about), told)
        if value is MISSING or value is None:
            return value
        fitted = fit(value)
        return fitted if factor == 1.0 else fitted * factor

    return taken


def _translated(value: Any, said: Taken) -> Any:
    if value is None and "null" not in said.map and said.default is None:
        return None
    if value is not MISSING and said.map:
        key = value if isinstance(value, str) else shown(value)
        value = said.map.get(key, MISSING)
        if value is MISSING and said.default is None:
            raise Unfit("unmapped_value", f"`map` has nothing for {shown(key)}: add it, or say `default`")
    if (value is MISSING or value is None) and said.default is not None:
        return said.default
    if said.number and isinstance(value, str):
        try:
            return int(value) if value.strip().lstrip("+-").isdigit() else float(value)
        except ValueError:
            raise Unfit("wrong_type", f"{shown(value)} is no number") from None
    return value


def _joined(said: Taken) -> Get:
    parts = [getter(path) for path in said.join or ()]

    def joined(here: Any, document: Any, about: Any) -> Any:
        found = [part(here, document, about) for part in parts]
        if any(one is MISSING for one in found):
            return MISSING
        return None if any(one is None for one in found) else said.by.join(map(text, found))

    return joined


def _time(source: Value) -> Take:
    get, said = origin(source)
    own = source == "@time"
    unit = (said.unit if said else None) or "ms"
    zone = ZoneInfo(said.zone) if said and said.zone else None

    def taken(here: Any, document: Any, about: Any) -> Any:
        value = get(here, document, about)
        if said is not None:
            value = _translated(value, said)
        if value is MISSING or value is None or own:
            return value
        try:
            ms = times.to_ms(value, unit, zone)
            times.check(value, unit, ms, about.get("time", 0))
        except times.BadTime as error:
            raise Unfit(error.reason, str(error)) from None
        return ms

    return taken


def _members(name: str, source: Any) -> Take:
    """Compile a map of ours: a path to an object whose members are taken as they are, or a table of sources."""
    fit = _MEMBERS[name]
    if isinstance(source, str):
        get = getter(source)

        def whole(here: Any, document: Any, about: Any) -> Any:
            found = get(here, document, about)
            if found is MISSING or found is None:
                return found
            if not isinstance(found, dict):
                raise Unfit("wrong_type", f"expected an object, found {shown(found)}")
            return {key: _member(fit, key, value) for key, value in found.items()}

        return whole
    takes = [(key, _value(one, fit), isinstance(one, Taken) and one.required) for key, one in source.items()]
    nullable = name in ("features", "slices")

    def taken(here: Any, document: Any, about: Any) -> Any:
        out: dict[str, Any] = {}
        for key, take, required in takes:
            try:
                value = take(here, document, about)
            except Unfit as error:
                raise Unfit(error.reason, f"`{key}`: {error}") from None
            if value is MISSING or (value is None and not nullable):
                if required:
                    raise Unfit("missing_field", f"`{key}` needs {named(source[key])}, and it is not there")
                continue
            out[key] = value
        return out

    return taken


def _member(fit: Fit, key: str, value: Any) -> Any:
    try:
        return fit(value)
    except Unfit as error:
        raise Unfit(error.reason, f"`{key}`: {error}") from None


def _items(source: Items) -> Take:
    get = getter(source.each)
    said: Mapping[str, Any] = {
        name: getattr(source, name) for name in ("item", "score", "position", "propensity") if getattr(source, name)
    }
    takes = [(name, _value(one, text if name == "item" else number)) for name, one in said.items()]

    def taken(here: Any, document: Any, about: Any) -> Any:
        found = get(here, document, about)
        if found is MISSING or found is None:
            return found
        if not isinstance(found, list):
            raise Unfit("wrong_type", f"expected a list, found {shown(found)}")
        entries = []
        for one in found:
            values = {name: take(one, document, about) for name, take in takes}
            entries.append({name: held for name, held in values.items() if held is not MISSING and held is not None})
        return entries

    return taken
