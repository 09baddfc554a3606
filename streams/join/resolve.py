"""The verdict on one outcome of a standing prediction: a pure function of what was heard, the policy and the clock.

`Scope` is a standing prediction seen through its policy, or one item of a ranking: every window as two absolute times,
worked out once, because a label is held against it many times. `stage` says how far a label or signal comes with it.
`resolve` gathers what counts into `Evidence` and concludes from that; evidence can be kept and added to, so that a
request with very many events (a client that sends one id for all) costs no more per event than others. docs/join.md is
the specification.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from msgspec import Struct
from xxhash import xxh64_intdigest

from schemas.event import LabelValue
from schemas.feedback import Status
from schemas.inputs import Label, Prediction, Signal
from schemas.policy import Attribution, JoinPolicy
from streams.join.outcome import NOTHING, Outcome

HeardT = TypeVar("HeardT", Label, Signal)

ORPHAN, UNKNOWN_NAME, UNKNOWN_ITEM, OUTSIDE_HORIZON, TOO_LATE, COUNTS = range(6)
"""How far a label or signal comes with an outcome; all but the last are reasons of a dead letter."""

REASONS = ("orphan", "unknown_name", "unknown_item", "outside_horizon", "too_late")


_SAMPLE_SEED = 2


class Heard(Struct, Generic[HeardT], gc=False):
    """An event of E(r): its event key, the content that stands with its hash, the least append time."""

    key: int
    content: int
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

    `item` is that of a ranking whose outcome is meant, None for the prediction as a whole; `answers` says whether
    silence may be an answer, which a ranking as a whole and what is left out of the sample do not have.
    """

    policy: JoinPolicy
    item: str | None
    answers: bool
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


def scope(prediction: Prediction, append_ms: int, policy: JoinPolicy, bounds: Bounds, item: str | None = None) -> Scope:
    """Work out the windows of a prediction. `provisional_ms` is the deadline when the policy has no early negative."""
    at_ms = prediction.at_ms
    deadline_ms = at_ms + policy.wait_ms
    reach_ms = at_ms + policy.reach_ms
    early_ms = policy.provisional_after_ms
    return Scope(
        policy,
        item,
        policy.on_timeout == "negative"
        and (item is not None or prediction.items is None)
        and (policy.negative_sample == 1.0 or sampled(prediction.request_id, item, policy.negative_sample)),
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


def sampled(request_id: str, item: str | None, rate: float) -> bool:
    """Say whether silence about a request, or one item of it, is in the sample: the same for all models and names.

    >>> sum(sampled(f"r{n}", None, 0.25) for n in range(10_000))
    2526
    """
    said = request_id if item is None else f"{request_id}\0{item}"
    return xxh64_intdigest(said.encode(), _SAMPLE_SEED) < int(rate * 2.0**64)


def stage(scope: Scope, event: Label | Signal, append_ms: int) -> int:
    """Say how far an event comes with a standing prediction: `COUNTS`, or the check at which it stops."""
    if event.model is not None and event.model != scope.model:
        return ORPHAN
    last_ms = scope.horizon_ms
    if type(event) is Label:
        if event.name != scope.policy.label_name:
            return UNKNOWN_NAME
        if event.item != scope.item:
            return UNKNOWN_ITEM
        if event.op == "retract":
            last_ms = scope.reach_ms
    elif event.item != scope.item:
        shown = event.item is None and event.signal == scope.policy.exposure  # type: ignore[union-attr]
        if not shown:
            return UNKNOWN_ITEM
    if not scope.since_ms <= event.at_ms <= last_ms:
        return OUTSIDE_HORIZON
    if not scope.heard_since_ms <= append_ms <= scope.reach_ms:
        return TOO_LATE
    return COUNTS


def known(scope: Scope, append_ms: int, bounds: Bounds) -> bool:
    """Say whether an event and a standing prediction were surely in state together."""
    return append_ms < scope.evict_ms and scope.append_ms < append_ms + bounds.early_label_ms + bounds.grace_ms


class Evidence(Struct, gc=False):
    """What the counted events of a request amount to for one standing prediction; grows by one event at a time.

    `voices` is, per source, the label that speaks or keeps it silent; `first_ms` is, per rule of `attribution`, the
    least time of a signal that matches; `exposed` says whether the signal that `exposure` names is there.
    """

    voices: dict[str, Heard[Label]]
    first_ms: list[int | None]
    exposed: bool

    def add(self, scope: Scope, heard: Heard[Label] | Heard[Signal]) -> None:
        """Take up an event that counts."""
        event = heard.event
        at_ms = event.at_ms
        if type(event) is Label:
            other = self.voices.get(event.source)
            if other is None or (other.event.at_ms, other.key) < (at_ms, heard.key):
                self.voices[event.source] = heard  # type: ignore[assignment]
            return
        assert type(event) is Signal
        policy = scope.policy
        for index, rule in enumerate(policy.attribution if event.item == scope.item else ()):
            if event.signal == rule.signal and compares(rule, event.value):
                within = rule.within_ms is None or at_ms <= scope.at_ms + rule.within_ms
                first_ms = self.first_ms[index]
                if within and (first_ms is None or at_ms < first_ms):
                    self.first_ms[index] = at_ms
        if event.signal == policy.exposure:
            self.exposed = True


Labels = Mapping[int, Heard[Label]] | None
Signals = Mapping[int, Heard[Signal]] | None


def gather(scope: Scope, labels: Labels, signals: Signals) -> Evidence:
    """Weigh everything that has been heard, by event key; what does not count is passed over."""
    evidence = Evidence({}, [None] * len(scope.policy.attribution), False)
    if labels:
        for label in labels.values():
            if stage(scope, label.event, label.append_ms) == COUNTS:
                evidence.add(scope, label)
    if signals:
        for signal in signals.values():
            if stage(scope, signal.event, signal.append_ms) == COUNTS:
                evidence.add(scope, signal)
    return evidence


def resolve(scope: Scope, labels: Labels, signals: Signals, clock_ms: int) -> Outcome:
    """Say what is known of a standing prediction at `clock_ms`, from what has been heard."""
    evidence = gather(scope, labels, signals) if labels or signals else None
    return conclude(scope, evidence, clock_ms)


def conclude(scope: Scope, evidence: Evidence | None, clock_ms: int) -> Outcome:
    """Say what is known of a standing prediction at `clock_ms`, from the evidence (None: nothing was heard)."""
    policy = scope.policy
    if evidence is not None:
        said = _speaking(evidence.voices, policy.precedence) if evidence.voices else None
        if said is not None:
            event = said.event
            label: Any = event.label  # an assertion has one: `Label` checks it
            return Outcome(label, "explicit", event.confidence, "final", 0.0, event.at_ms)
        for rule, first_ms in zip(policy.attribution, evidence.first_ms, strict=True):
            if first_ms is not None:
                status: Status = "final" if clock_ms >= scope.deadline_ms else "provisional"
                return Outcome(rule.label, "implicit", rule.weight, status, 0.0, first_ms)
    if not scope.answers or clock_ms < scope.provisional_ms:
        return NOTHING
    if policy.exposure is not None and not (evidence is not None and evidence.exposed):
        return NOTHING
    if clock_ms >= scope.deadline_ms:
        return Outcome(policy.negative_label, "timeout", 1.0, "final")
    return Outcome(policy.negative_label, "timeout", 1.0, "provisional", policy.p_fake_negative)


def _speaking(voices: Mapping[str, Heard[Label]], precedence: Sequence[str]) -> Heard[Label] | None:
    """Choose among the sources that are not silent."""
    if len(voices) > 1:
        for source in precedence:
            voice = voices.get(source)
            if voice is not None and voice.event.op == "assert":
                return voice
    said = None
    for voice in voices.values():
        if voice.event.op == "assert" and (
            said is None or (said.event.at_ms, said.key) < (voice.event.at_ms, voice.key)
        ):
            said = voice
    return said


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


def same_label(one: LabelValue | None, other: LabelValue | None) -> bool:
    """Compare two labels as JSON values.

    >>> same_label(1, 1.0), same_label(True, 1), same_label("1", 1), same_label([1.0, "a"], [1.0, "a"])
    (True, False, False, True)
    """
    if isinstance(one, bool) or isinstance(other, bool):
        return one is other
    return one == other
