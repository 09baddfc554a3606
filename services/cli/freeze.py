"""Freezes and thaws by hand: a copy into every partition of `control`, as the outage guard does it."""

from __future__ import annotations

import difflib
import getpass
import time

from schemas.control import Frozen, Thawed
from schemas.errors import USAGE, WeirError
from schemas.event import encode
from schemas.settings import Settings
from services.cli.policy import send_control
from services.cli.standing import Standing, named, read_standing


def freeze(settings: Settings, source: str, reason: str, *, thaw: bool, as_json: bool = False) -> None:
    """Freeze or thaw a source of labels. Raises `WeirError` when Kafka refuses, and for a thaw of what is not frozen.

    A source that nothing has come from may be frozen, before its first label; a name that is close to one that a policy
    knows is asked about.
    """
    now = read_standing(settings)
    if thaw and source not in now.frozen:
        frozen = ", ".join(repr(name) for name in now.frozen) or "nothing"
        raise WeirError(f"{named(source)} are not frozen; frozen: {frozen}", fix="weir freezes", code=USAGE)
    by = getpass.getuser()
    kind = Thawed if thaw else Frozen
    name = named(source)
    told = f"{name} {'thawed' if thaw else 'frozen'} by {by}" + (f": {reason}" if reason else "")
    event = kind(source=source, reason=told, at_ms=int(time.time() * 1000), by=by)
    send_control(settings, [event])
    if as_json:
        print(encode(event).decode())
    elif thaw:
        print(f"{name}: negatives, retrainings and promotions go on, unless another source is frozen")
    else:
        print(f"{name}: no negatives, retrainings or promotions until `weir thaw {source or chr(39) * 2}`")
        close = difflib.get_close_matches(source, known := _sources(now), 1)
        if close and source not in known:
            print(f"no policy knows a source {source!r}; did you mean {close[0]!r}? Then thaw this one.")


def _sources(now: Standing) -> list[str]:
    """Give the sources that join policies speak of."""
    joins = now.joins()
    signals = {f"signal:{rule.signal}" for one in joins for policy in one.outcomes for rule in policy.attribution}
    return sorted(signals.union(*(one.precedence for one in joins)))
