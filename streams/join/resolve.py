"""The verdict on one standing prediction: a pure function of what has been heard, the policy and the clock.

`Scope` is a standing prediction seen through its policy: every window as two absolute times, worked out once, because a
label is held against it many times. `stage` says how far a label or signal comes with it; `resolve` says what is known.
docs/join.md is the specification, and its numbers (explicit, implicit, silence) name the functions here.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from msgspec import Struct

from schemas.event import LabelValue
from schemas.feedback import Status
from schemas.inputs import Label, Prediction, Signal
from schemas.policy import Attribution, JoinPolicy
from streams.join.outcome import NOTHING, Outcome

HeardT = TypeVar("HeardT", Label, Signal)

ORPHAN, UNKNOWN_NAME, OUTSIDE_HORIZON, TOO_LATE, COUNTS = range(5)
"""How far a label or signal comes with a standing prediction; all but the last are reasons of a dead letter."""

REASONS = ("orphan", "unknown_name", "outside_horizon", "too_late")


class Heard(Struct, Generic[HeardT], gc=False):
    """An event of E(r): its event key, the content that stands, the least append time."""

    key: str
    event: HeardT
    append_ms: int


@dataclass(frozen=True, slots=True)
class Bounds:
    """The namespace's bounds that windows depend on."""

    skew_ms: int
    early_label_ms: int
    grace_ms: int


class Scope(Struct, frozen=True, gc=False):
    """A standing prediction through its policy. All times are absolute and inclusive, except that a deadline has passed
    when clock ≥ it, and that the prediction leaves state when clock ≥ `evict_ms`.
    """

    policy: JoinPolicy
    model: str
    at_ms: int
    append_ms: int
    since_ms: int
    horizon_ms: int
    reach_ms: int
    heard_since_ms: int
    provisional_ms: int
    deadline_ms: int
    evict_ms: int


def scope(prediction: Prediction, append_ms: int, policy: JoinPolicy, bounds: Bounds) -> Scope:
    """Work out the windows of a prediction. `provisional_ms` is the deadline when the policy has no early negative."""
    at_ms = prediction.at_ms
    deadline_ms = at_ms + policy.wait_ms
    reach_ms = at_ms + policy.reach_ms
    early_ms = policy.provisional_after_ms
    return Scope(
        policy,
        prediction.model,
        at_ms,
        append_ms,
        at_ms - bounds.skew_ms,
        at_ms + policy.horizon_ms,
        reach_ms,
        append_ms - bounds.early_label_ms,
        deadline_ms if early_ms is None else at_ms + early_ms,
        deadline_ms,
        reach_ms + bounds.grace_ms + 1,
    )


def stage(scope: Scope, event: Label | Signal, append_ms: int) -> int:
    """Say how far an event comes with a standing prediction: `COUNTS`, or the check at which it stops."""
    if event.model is not None and event.model != scope.model:
        return ORPHAN
    last_ms = scope.horizon_ms
    if type(event) is Label:
        if event.name != scope.policy.label_name:
            return UNKNOWN_NAME
        if event.op == "retract":
            last_ms = scope.reach_ms
    if not scope.since_ms <= event.at_ms <= last_ms:
        return OUTSIDE_HORIZON
    if not scope.heard_since_ms <= append_ms <= scope.reach_ms:
        return TOO_LATE
    return COUNTS


def known(scope: Scope, append_ms: int, bounds: Bounds) -> bool:
    """Say whether an event and a standing prediction were surely in state together."""
    return append_ms < scope.evict_ms and scope.append_ms < append_ms + bounds.early_label_ms + bounds.grace_ms


def resolve(
    scope: Scope,
    labels: Mapping[str, Heard[Label]] | None,
    signals: Mapping[str, Heard[Signal]] | None,
    clock_ms: int,
) -> Outcome:
    """Say what is known of a standing prediction at `clock_ms`, from what has been heard (by event key)."""
    if labels:
        explicit = _explicit(scope, labels)
        if explicit is not None:
            return explicit
    policy = scope.policy
    if signals and policy.attribution:
        implicit = _implicit(scope, signals, clock_ms)
        if implicit is not None:
            return implicit
    if policy.on_timeout == "unlabelled" or clock_ms < scope.provisional_ms:
        return NOTHING
    if policy.exposure is not None and not (signals and _exposed(scope, signals, policy.exposure)):
        return NOTHING
    if clock_ms >= scope.deadline_ms:
        return Outcome(policy.negative_label, "timeout", 1.0, "final")
    return Outcome(policy.negative_label, "timeout", 1.0, "provisional", policy.p_fake_negative)


def _explicit(scope: Scope, labels: Mapping[str, Heard[Label]]) -> Outcome | None:
    last: dict[str, Heard[Label]] = {}
    for heard in labels.values():
        event = heard.event
        if stage(scope, event, heard.append_ms) == COUNTS:
            other = last.get(event.source)
            if other is None or (other.event.at_ms, other.key) < (event.at_ms, heard.key):
                last[event.source] = heard
    speaking = [heard for heard in last.values() if heard.event.op == "assert"]
    if not speaking:
        return None
    said = speaking[0]
    if len(speaking) > 1:
        said = max(speaking, key=lambda heard: (heard.event.at_ms, heard.key))
        for source in scope.policy.precedence:
            if source in last and last[source].event.op == "assert":
                said = last[source]
                break
    event = said.event
    label: Any = event.label  # an assertion has one: `Label` checks it
    return Outcome(label, "explicit", event.confidence, "final", 0.0, event.at_ms)


def _implicit(scope: Scope, signals: Mapping[str, Heard[Signal]], clock_ms: int) -> Outcome | None:
    counted = [heard.event for heard in signals.values() if stage(scope, heard.event, heard.append_ms) == COUNTS]
    if not counted:
        return None
    for rule in scope.policy.attribution:
        last_ms = scope.horizon_ms if rule.within_ms is None else min(scope.horizon_ms, scope.at_ms + rule.within_ms)
        times = [
            event.at_ms
            for event in counted
            if event.signal == rule.signal and event.at_ms <= last_ms and compares(rule, event.value)
        ]
        if times:
            status: Status = "final" if clock_ms >= scope.deadline_ms else "provisional"
            return Outcome(rule.label, "implicit", rule.weight, status, 0.0, min(times))
    return None


def compares(rule: Attribution, value: float | None) -> bool:
    """Say whether a signal's value compares with a rule's as the rule asks.

    >>> compares(Attribution(signal="dwell", label=0, compare="lt", value=2000.0), 150.0)
    True
    >>> compares(Attribution(signal="dwell", label=0, compare="lt", value=2000.0), None)
    False
    """
    if rule.compare == "any":
        return True
    asked = rule.value
    if value is None or asked is None:
        return False
    match rule.compare:
        case "lt":
            return value < asked
        case "le":
            return value <= asked
        case "gt":
            return value > asked
        case "ge":
            return value >= asked
        case "eq":
            return value == asked


def _exposed(scope: Scope, signals: Mapping[str, Heard[Signal]], name: str) -> bool:
    return any(
        heard.event.signal == name and stage(scope, heard.event, heard.append_ms) == COUNTS
        for heard in signals.values()
    )


def same_label(one: LabelValue | None, other: LabelValue | None) -> bool:
    """Compare two labels as JSON values.

    >>> same_label(1, 1.0), same_label(True, 1), same_label("1", 1), same_label([1.0, "a"], [1.0, "a"])
    (True, False, False, True)
    """
    if isinstance(one, bool) or isinstance(other, bool):
        return one is other
    return one == other
