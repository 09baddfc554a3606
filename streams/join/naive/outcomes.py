"""What is known of one outcome at a clock: `resolve`, and which labels and signals count for it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import msgspec
import xxhash

from schemas.event import LabelValue
from schemas.feedback import LabelKind, Status
from schemas.inputs import Label, Prediction, Signal
from schemas.policy import Attribution
from streams.join.naive.records import Bounds
from streams.join.naive.sets import Event, Standing


@dataclass(frozen=True, slots=True)
class Outcome:
    """What is known of a standing prediction. Label null is "nothing"."""

    label: LabelValue | None = None
    kind: LabelKind | None = None
    weight: float = 1.0
    status: Status = "void"
    p_fake_negative: float = 0.0
    labelled_at_ms: int | None = None


def concerns(event: Event, standing: Standing) -> bool:
    """Say whether a label or signal may be about this model."""
    body = event.body
    return not isinstance(body, Prediction) and (body.model is None or body.model == standing.body.model)


def is_about(event: Event, standing: Standing) -> bool:
    """Say whether a label or signal is about this outcome's item, or about the whole like this outcome."""
    return not isinstance(event.body, Prediction) and event.body.item == standing.item


def in_window(event: Event, standing: Standing, bounds: Bounds) -> bool:
    """Say whether a label or signal became true when it would count."""
    last_ms = standing.body.at_ms + standing.policy.horizon_ms
    if isinstance(event.body, Label) and event.body.op == "retract":
        last_ms = standing.reach_until_ms
    return standing.body.at_ms - bounds.skew_ms <= event.body.at_ms <= last_ms


def reaches(event: Event, standing: Standing, bounds: Bounds) -> bool:
    """Say whether a label or signal reaches a standing prediction."""
    in_time = event.append_ms <= standing.reach_until_ms
    not_early = standing.append_ms <= event.append_ms + bounds.early_label_ms
    return concerns(event, standing) and in_time and not_early


def counts(event: Event, standing: Standing, bounds: Bounds) -> bool:
    """Say whether a label or signal is a counted one."""
    if not reaches(event, standing, bounds) or not in_window(event, standing, bounds) or not is_about(event, standing):
        return False
    return not isinstance(event.body, Label) or event.body.name == standing.policy.label_name


def compares(rule: Attribution, value: float | None) -> bool:
    """Say whether a signal's value compares as a rule asks."""
    if rule.compare == "any":
        return True
    if value is None or rule.value is None:
        return False
    return {
        "lt": value < rule.value,
        "le": value <= rule.value,
        "gt": value > rule.value,
        "ge": value >= rule.value,
        "eq": value == rule.value,
    }[rule.compare]


def resolve(standing: Standing, events: Sequence[Event], clock_ms: int, bounds: Bounds) -> Outcome:
    """Resolve one standing prediction from E(r) at a clock: explicit, else implicit, else silence."""
    policy, at_ms = standing.policy, standing.body.at_ms
    final = clock_ms >= standing.deadline_ms
    counted = [event for event in events if counts(event, standing, bounds)]
    labels = [(event.body, event.key) for event in counted if isinstance(event.body, Label)]
    signals = [event.body for event in counted if isinstance(event.body, Signal)]

    speaking: dict[str, tuple[Label, int]] = {}
    for source in {body.source for body, _ in labels}:
        last = max((one for one in labels if one[0].source == source), key=lambda one: (one[0].at_ms, one[1]))
        if last[0].op == "assert":
            speaking[source] = last
    if speaking:
        listed = [source for source in policy.precedence if source in speaking]
        label, _ = speaking[listed[0]] if listed else max(speaking.values(), key=lambda one: (one[0].at_ms, one[1]))
        assert label.label is not msgspec.UNSET
        return Outcome(label.label, "explicit", label.confidence, "final", labelled_at_ms=label.at_ms)

    for rule in policy.attribution:
        within_ms = policy.horizon_ms if rule.within_ms is None else min(rule.within_ms, policy.horizon_ms)
        matching = [
            signal.at_ms
            for signal in signals
            if signal.signal == rule.signal and signal.at_ms <= at_ms + within_ms and compares(rule, signal.value)
        ]
        if matching:
            status: Status = "final" if final else "provisional"
            return Outcome(rule.label, "implicit", rule.weight, status, labelled_at_ms=min(matching))

    if policy.on_timeout == "unlabelled" or (standing.body.items is not None and standing.item is None):
        return Outcome()
    if not is_sampled(standing):
        return Outcome()
    whole = replace(standing, item=None)
    seen = signals + [event.body for event in events if counts(event, whole, bounds) and isinstance(event.body, Signal)]
    if policy.exposure is not None and all(signal.signal != policy.exposure for signal in seen):
        return Outcome()
    if final:
        return Outcome(policy.negative_label, "timeout", 1.0, "final")
    if policy.provisional_after_ms is not None and clock_ms >= at_ms + policy.provisional_after_ms:
        return Outcome(policy.negative_label, "timeout", 1.0, "provisional", policy.p_fake_negative)
    return Outcome()


def is_sampled(standing: Standing) -> bool:
    """Say whether silence about an outcome is among the share that is said: the request and the item decide."""
    words = [standing.body.request_id] if standing.item is None else [standing.body.request_id, standing.item]
    place = xxhash.xxh64("\0".join(words).encode(), seed=2).intdigest() / 2**64
    return standing.policy.negative_sample == 1.0 or place < standing.policy.negative_sample


def same_value(one: object, other: object) -> bool:
    """Compare two JSON values: numbers by value, `true` is no number.

    >>> same_value(1, 1.0), same_value(True, 1), same_value([1.0, "a"], [1, "a"]), same_value("1", 1)
    (True, False, True, False)
    """
    if isinstance(one, list) and isinstance(other, list):
        return len(one) == len(other) and all(same_value(a, b) for a, b in zip(one, other, strict=True))
    if isinstance(one, bool) or isinstance(other, bool):
        return one is other
    return one == other
