"""Which alerts are told, when an attempt is repeated, when it is given up. Pure: state in, state out.

**Grouping.** Alerts of one fingerprint make an episode: it begins with the first `firing` and ends with `resolved`. The
first is told at once; while it fires, it is told again only when `repeat_ms` have passed since it was last told, be it
because another alert came or because nobody said that it is over. One thing does not wait: a severity higher than any
of this episode so far. `resolved` is told once. Severity `info` is news and is not repeated by itself.

**Retries** follow Standard Webhooks: only 2xx is success, 410 means "never again", everything else is tried again by
`RETRY_MS`: ten attempts over 3.1 days, then the delivery is dead. 429 and 503 may ask for more patience
(`Retry-After`), which then holds for the whole endpoint.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from datetime import UTC
from email.utils import parsedate_to_datetime
from typing import Literal

from schemas.lifecycle import Alert

SECOND_MS, MINUTE_MS, HOUR_MS = 1_000, 60_000, 3_600_000

RETRY_MS = (
    0,
    5 * SECOND_MS,
    5 * MINUTE_MS,
    30 * MINUTE_MS,
    *(hours * HOUR_MS for hours in (2, 5, 10, 14, 20, 24)),
)
"""How long after the previous attempt each one is made; after the last the delivery is dead."""

MAX_HOLD_MS = 24 * HOUR_MS
"""The longest `Retry-After` that is honoured: a receiver must not be able to silence itself for a year."""

GONE = 410
THROTTLED = (429, 503)
_SEVERITY = ("info", "warning", "error", "critical")

State = Literal["pending", "delivered", "dead"]


@dataclass(frozen=True, slots=True)
class Episode:
    """A fingerprint from its first firing to its end. `grouped` counts the alerts that were not told."""

    fingerprint: str
    firing: bool
    alert: Alert
    since_ms: int
    told_ms: int
    worst: str
    repeats: int = 0
    grouped: int = 0


@dataclass(frozen=True, slots=True)
class Notice:
    """Tell this. `since_ms` is when the episode began, `repeat` how often it has been told before."""

    alert: Alert
    since_ms: int
    repeat: int


@dataclass(frozen=True, slots=True)
class Answer:
    """What an attempt brought: an HTTP status with what it said, or None and the error."""

    status: int | None
    said: str = ""
    retry_after: str = ""
    took_ms: int = 0

    def __str__(self) -> str:
        return self.said if self.status is None else f"HTTP {self.status} {self.said}".rstrip()


@dataclass(frozen=True, slots=True)
class Fate:
    """What becomes of a delivery, and of its endpoint: `hold_until_ms` 0 holds nothing, `disable` ends it."""

    state: State
    next_attempt_ms: int = 0
    hold_until_ms: int = 0
    disable: bool = False


def receive(known: Episode | None, alert: Alert, now_ms: int, repeat_ms: int) -> tuple[Episode, Notice | None]:
    """Take up an alert; give the episode as it becomes and what to tell, if anything."""
    if alert.status == "resolved":
        return _end(known, alert, now_ms)
    if known is None or not known.firing:
        begun = Episode(alert.fingerprint, True, alert, alert.at_ms, now_ms, alert.severity)
        return begun, Notice(alert, alert.at_ms, 0)
    worse = _SEVERITY.index(alert.severity) > _SEVERITY.index(known.worst)
    if not worse and now_ms - known.told_ms < repeat_ms:
        return replace(known, alert=alert, grouped=known.grouped + 1), None
    worst = alert.severity if worse else known.worst
    told = replace(known, alert=alert, worst=worst, told_ms=now_ms, repeats=known.repeats + 1)
    return told, Notice(alert, told.since_ms, told.repeats)


def _end(known: Episode | None, alert: Alert, now_ms: int) -> tuple[Episode, Notice | None]:
    if known is not None and not known.firing:
        return replace(known, grouped=known.grouped + 1), None
    # An end without a beginning is told too: the beginning may have been told before this store was lost.
    since_ms = known.since_ms if known is not None else alert.at_ms
    grouped = known.grouped if known is not None else 0
    ended = Episode(alert.fingerprint, False, alert, since_ms, now_ms, alert.severity, grouped=grouped)
    return ended, Notice(alert, since_ms, 0)


def reminder_ms(episode: Episode, repeat_ms: int) -> int | None:
    """Give when an episode is to be told again by itself; None: never."""
    if not episode.firing or episode.alert.severity == "info" or repeat_ms <= 0:
        return None
    return episode.told_ms + repeat_ms


def remind(episode: Episode, now_ms: int, repeat_ms: int) -> tuple[Episode, Notice | None]:
    """Tell again what still fires, when it is time."""
    due_ms = reminder_ms(episode, repeat_ms)
    if due_ms is None or now_ms < due_ms:
        return episode, None
    told = replace(episode, told_ms=now_ms, repeats=episode.repeats + 1)
    return told, Notice(told.alert, told.since_ms, told.repeats)


def wants(rules: Iterable[str], rule: str) -> bool:
    """Say whether an endpoint with these rules takes alerts of a rule. No rules: all; a final `*` stands for the rest.

    >>> wants([], "drift:score"), wants(["drift:*"], "drift:score"), wants(["training-failed"], "drift:score")
    (True, True, False)
    """
    patterns = tuple(rules)
    return not patterns or any(
        rule.startswith(pattern[:-1]) if pattern.endswith("*") else rule == pattern for pattern in patterns
    )


def settle(attempts: int, answer: Answer, now_ms: int) -> Fate:
    """Decide a delivery after its `attempts`-th attempt (1, 2, …) was answered at `now_ms`.

    >>> settle(1, Answer(500), 0)
    Fate(state='pending', next_attempt_ms=5000, hold_until_ms=0, disable=False)
    >>> settle(10, Answer(500), 0).state
    'dead'
    """
    status = answer.status
    if status is not None and 200 <= status < 300:
        return Fate("delivered")
    if status == GONE:
        return Fate("dead", disable=True)
    patience_ms = retry_after_ms(answer.retry_after, now_ms) if status in THROTTLED else 0
    hold_until_ms = now_ms + patience_ms if patience_ms else 0
    if attempts >= len(RETRY_MS):
        return Fate("dead", hold_until_ms=hold_until_ms)
    return Fate("pending", max(now_ms + RETRY_MS[attempts], hold_until_ms), hold_until_ms)


def retry_after_ms(header: str, now_ms: int) -> int:
    """Read a `Retry-After`: seconds or an HTTP date. What cannot be read is 0; `MAX_HOLD_MS` is the most.

    >>> retry_after_ms("120", 0), retry_after_ms("Thu, 01 Jan 1970 00:01:00 GMT", 50_000), retry_after_ms("soon", 0)
    (120000, 10000, 0)
    """
    header = header.strip()
    if header.isascii() and header.isdigit():
        return MAX_HOLD_MS if len(header) > 9 else min(int(header) * SECOND_MS, MAX_HOLD_MS)
    try:
        moment = parsedate_to_datetime(header)
        if moment.tzinfo is None:
            moment = moment.replace(tzinfo=UTC)
        return min(max(0, int(moment.timestamp() * 1000) - now_ms), MAX_HOLD_MS)
    except (ValueError, OverflowError, IndexError):
        return 0
