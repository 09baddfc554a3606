"""What is asked: a model, a policy to try, a window of its predictions, and the policies that were in force."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from msgspec.structs import replace

from schemas.control import PolicySet
from schemas.errors import USAGE, WeirError
from schemas.policy import DAY_MS, JoinPolicy
from services.cli.policy import read_policies
from streams.join.policies import DEFAULT, PolicyBook

EVER: Final = 0
"""The policy that is tried holds for all predictions of the window, whatever its file says about when it begins."""


@dataclass(frozen=True, slots=True)
class Window:
    """The predictions with `at_ms` in [`from_ms`, `to_ms`)."""

    from_ms: int
    to_ms: int


@dataclass(frozen=True, slots=True)
class Plan:
    """What is to be compared. `in_force` holds, by partition, the model's policies as it heard them."""

    model: str
    tried: JoinPolicy
    in_force: Mapping[int, Sequence[JoinPolicy]]
    window: Window

    @property
    def reach_ms(self) -> int:
        """From a prediction to the last moment at which any of the policies may still revise it."""
        known = [one for policies in self.in_force.values() for one in policies]
        return max(one.reach_ms for one in (*known, self.tried, DEFAULT))

    @property
    def same(self) -> bool:
        """Say whether the policy is that in force for the whole window, but for name, version and beginning."""
        return all(
            bare(one) == bare(self.tried)
            for policies in self.in_force.values()
            for one in during(policies, self.model, self.window)
        )


def read(file: Path, model: str | None, now_ms: int) -> JoinPolicy:
    """Read the policy to try, as `weir policy set` would; for another model when one is named. Raises `WeirError`."""
    found = [one.policy for one in read_policies(file, now_ms) if isinstance(one, PolicySet)]
    if not found:
        raise WeirError(
            f"{file} has no table [join]: a replay resolves outcomes anew, and that is what [join] is about",
            fix="see docs/policies.md for an example",
            code=USAGE,
        )
    return replace(found[0], model=model or found[0].model, effective_from_ms=EVER)


def during(policies: Iterable[JoinPolicy], model: str, window: Window) -> list[JoinPolicy]:
    """Give the policies that are in force somewhere in a window, in order.

    >>> p, q = (JoinPolicy(model="m", version=v, effective_from_ms=at) for v, at in ((1, 10), (2, 20)))
    >>> [one.version for one in during([p, q], "m", Window(15, 21))], during([p], "m", Window(0, 5))[0].name
    ([1, 2], 'default')
    """
    book = PolicyBook()
    for policy in policies:
        book.add(policy)
    moments = [window.from_ms, *(one.effective_from_ms for one in book.of(model))]
    at = sorted({one for one in moments if window.from_ms <= one < window.to_ms})
    return [replace(one, model=model) if one is DEFAULT else one for one in (book.in_force(model, one) for one in at)]


def bare(policy: JoinPolicy) -> JoinPolicy:
    """Give a policy without what only says which it is."""
    return replace(policy, name="default", version=1, effective_from_ms=EVER)


MOST_DAYS = 36_525


def window_of(days: float | None, since: str | None, until: str | None, clock_ms: int) -> Window:
    """Read a window; without an end it ends at the join's clock. Raises `WeirError` (usage).

    >>> window_of(1, None, None, 5 * DAY_MS)
    Window(from_ms=345600000, to_ms=432000000)
    >>> window_of(None, "1970-01-02", "86400001", 0)
    Window(from_ms=86400000, to_ms=86400001)
    >>> window_of(0, None, None, 5 * DAY_MS)
    Traceback (most recent call last):
    schemas.errors.WeirError: --days 0: expected more than 0
      fix: leave it out for 30
    """
    if since is not None and days is not None:
        raise WeirError("--days and --from both say where the window begins", fix="give one of them", code=USAGE)
    if days is not None and not 0 < days < MOST_DAYS:
        raise WeirError(f"--days {days:g}: expected more than 0", fix="leave it out for 30", code=USAGE)
    to_ms = clock_ms if until is None else moment(until, "--to")
    from_ms = to_ms - round((30 if days is None else days) * DAY_MS) if since is None else moment(since, "--from")
    if not from_ms < to_ms:
        raise WeirError(
            f"the window ends ({to_ms}) before it begins ({from_ms})", fix="swap --from and --to", code=USAGE
        )
    return Window(max(from_ms, 0), to_ms)


def moment(text: str, flag: str) -> int:
    """Read a moment: milliseconds since the epoch, or a date or time in ISO 8601, UTC unless it says otherwise."""
    if text.isdigit():
        return int(text)
    try:
        at = datetime.fromisoformat(text)
    except ValueError:
        raise WeirError(
            f"{flag} {text!r} is no moment: expected a date, a time in ISO 8601 or milliseconds since the epoch",
            fix=f"{flag} 2026-01-31, {flag} 2026-01-31T14:00 or {flag} 1769868000000",
            code=USAGE,
        ) from None
    return int((at if at.tzinfo else at.replace(tzinfo=UTC)).timestamp() * 1000)
