"""From records to a story: what each was taken for, what was said and why, what is still to come. Pure.

The join keeps no reasons, so they are found again from the same records by the naive twin's functions, one for each
rule of docs/join.md: what the story tells is what the specification says, and where `feedback` says otherwise, that is
named as a problem. Only records that the join had read at its newest landed step take part.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import msgspec

from schemas.event import decode
from schemas.feedback import Feedback
from schemas.inputs import Label, Prediction, Signal
from schemas.policy import JoinPolicy
from schemas.settings import Settings
from services.trace.landed import Landed
from services.trace.shape import (
    VERSION,
    Answer,
    Clock,
    Fate,
    Happened,
    Letter,
    Next,
    PolicySaid,
    Revision,
    Story,
    Told,
)
from streams.join import naive
from streams.join.naive import Admitted, Bounds, Event, Expected, Record, Refused, Standing
from streams.join.verify import check_chain, check_last

Place = tuple[str, int, int]
MOST_TEXT = 80

REFUSED: Mapping[str, str] = {
    "": "its request belongs to another partition: forwarded there",
    "not_json": "it is not JSON",
    "too_large": "it is larger than `max_event_bytes`",
    "bad_event": "it is JSON, but no event of this topic",
    "misrouted_twice": "it was forwarded once already and is in a wrong partition again",
    "clock_skew": "its `at_ms` is further from Kafka's timestamp than `skew_ms`",
    "too_late": "it reached us after the reach of its policy",
}


def bounds_of(settings: Settings) -> Bounds:
    """Give the twin's bounds of a namespace."""
    join = settings.join
    return Bounds(
        partitions=settings.partitions,
        skew_ms=join.skew_ms,
        early_label_ms=join.early_label_ms,
        grace_ms=join.grace_ms,
        max_event_bytes=join.max_event_bytes,
        virtual=settings.clock == "virtual",
    )


def tell(landed: Landed, bounds: Bounds, namespace: str) -> Story:
    """Tell what the join made of a request. Panes, alarms and data sets are added by others."""
    found = _Telling(landed, bounds)
    step = landed.step
    events = [found.happened(topic, record) for topic, record in landed.records]
    story = Story(
        v=VERSION,
        request_id=landed.request_id,
        namespace=namespace,
        known=bool(landed.feedback) or any(one.fate not in ("dead", "quarantined") for one in events),
        clock=Clock(
            partition=landed.partition,
            step=step.number if step else None,
            clock_ms=landed.clock_ms,
            held=landed.held_ms is not None,
        ),
        events=events,
        dead_letters=[
            Letter(
                id=f"{one.topic}/{one.partition}/{one.offset}",
                reason=one.reason,
                detail=one.detail,
                stage=one.stage,
                at_ms=one.at_ms,
            )
            for one in landed.dead_letters
        ],
        answers=found.answers(),
    )
    if landed.held_ms is not None:
        story.notes.append("a source of labels is frozen: the join's timers stand still until the thaw")
    if found.unread:
        story.notes.append(f"{len(found.unread)} records have landed and were not read by the newest landed step yet")
    if found.standing and naive.is_beyond(found.events, found.standing, bounds):
        story.notes.append("the request id came back after its state had ended: the join may have started it anew")
    said = {identity[:3] for identity in found.chains}
    for identity in sorted(said - {(landed.request_id, *key[1:]) for key in found.standing}):
        story.notes.append(f"feedback of {identity[1]!r} {identity[2]!r} has landed, its prediction has not")
    return story


class _Telling:
    """One request at work: its records as the rules of docs/join.md take them."""

    def __init__(self, landed: Landed, bounds: Bounds) -> None:
        self.landed, self.bounds = landed, bounds
        self.policies: dict[int, list[tuple[JoinPolicy, Record]]] = {}
        for record in landed.control:
            policy = naive.read_policy(record, bounds)
            if isinstance(policy, JoinPolicy):
                self.policies.setdefault(record.partition, []).append((policy, record))
        self.read: dict[Place, Admitted | Refused] = {}
        self.unread: set[Place] = set()
        for topic, record in landed.records:
            place = topic, record.partition, record.offset
            self.read[place] = naive.admit(topic, record, self._policies(record.partition), bounds)
            step = landed.step
            if step and record.partition == step.partition and record.offset >= step.offsets.get(topic, 0):
                self.unread.add(place)
        taken = [one for place, one in self.read.items() if isinstance(one, Admitted) and place not in self.unread]
        self.events = naive.events_of(taken)
        self.standing = naive.standing_of(self.events, self._policies(landed.partition))
        self.outcomes = [each for one in self.standing.values() for each in one.outcomes]
        self.event_of = {(r.topic, r.partition, r.offset): event for event in self.events for r in event.records}
        self.chains: dict[naive.OutcomeId, list[tuple[Record, Feedback]]] = {}
        for record in landed.feedback:
            said = decode(record.value or b"", Feedback)
            identity = (said.request_id, said.model, said.deployment, said.name, said.item or "")
            self.chains.setdefault(identity, []).append((record, said))
        self.reasons = {(one.topic, one.partition, one.offset): one.reason for one in landed.dead_letters}

    def _policies(self, partition: int) -> list[JoinPolicy]:
        return [policy for policy, _ in self.policies.get(partition, [])]

    # Events.

    def happened(self, topic: str, record: Record) -> Happened:
        place = topic, record.partition, record.offset
        read = self.read[place]
        headers = dict(record.headers)
        fate, why = self.fate(place, read)
        body = read.body if isinstance(read, Admitted) else None
        hop = headers.get("weir-hop")
        return Happened(
            position=position(place),
            topic=topic,
            append_ms=record.append_ms,
            at_ms=body.at_ms if body else None,
            original_ms=read.append_ms if isinstance(read, Admitted) and hop is not None else None,
            forwarded_from="" if hop is None else hop.decode("utf-8", "replace"),
            fate=fate,
            why=why,
            says=says(body) if body else "",
            event_id=body.event_id if body else "",
            key=None if record.key is None else record.key.decode("utf-8", "replace"),
            headers={name: (value or b"").decode("utf-8", "replace") for name, value in record.headers},
            body=_readable(record.value),
        )

    def fate(self, place: Place, read: Admitted | Refused) -> tuple[Fate, str]:
        if place in self.unread:
            return "unread", "landed, and not read by the join's newest landed step"
        if isinstance(read, Refused):
            fates: dict[str, Fate] = {"forwarded": "forwarded", "quarantined": "quarantined"}
            return fates.get(read.fate, "dead"), REFUSED.get(read.reason, read.reason)
        event = self.event_of[place]
        first = event.records[0]
        if (first.topic, first.partition, first.offset) != place:
            return "duplicate", f"the same event as {position((first.topic, first.partition, first.offset))}"
        if isinstance(event.body, Prediction):
            stands = self.standing[naive.identity_of(event.body)]
            if stands.key == event.key:
                return "standing", ""
            return "conflict", f"another prediction of this identity stands, made at {stands.body.at_ms}"
        counted = [one for one in self.outcomes if naive.counts(event, one, self.bounds)]
        if counted:
            return "joined", f"counts for {', '.join(sorted({_named(one) for one in counted}))}"
        reason = self.reasons.get(place) or naive.why_dead(event, self.outcomes, self.bounds)
        if place in self.reasons:
            return "dead", ENDED.get(reason, reason)
        end_ms = event.append_ms + self.bounds.early_label_ms + self.bounds.grace_ms
        waits = "waits for its prediction" if not self.standing else "counts for no prediction of its request"
        return "parked", f"{waits}; if that stays so it ends as a dead letter ({reason}) at {end_ms} or later"

    # Predictions.

    def answers(self) -> list[Answer]:
        return [self.answer(one) for _, one in sorted(self.standing.items())]

    def answer(self, one: Standing) -> Answer:
        body = one.body
        event = next(e for e in self.events if e.key == one.key and e.body is body)
        where = event.records[0]
        set_by = next((r for p, r in self.policies.get(self.landed.partition, []) if p is one.policy), None)
        named = {(each.policy.label_name, each.item or ""): each for each in one.outcomes}
        prefix = (body.request_id, body.model, body.deployment)
        gone = [identity for identity in self.chains if identity[:3] == prefix and identity[3:] not in named]
        return Answer(
            model=body.model,
            version=body.version,
            deployment=body.deployment,
            role=body.role,
            at_ms=body.at_ms,
            score=body.score,
            prediction=body.prediction,
            subject=body.subject,
            position=position((where.topic, where.partition, where.offset)),
            conflicts=one.conflicts,
            policy=PolicySaid(
                label=one.policy.label,
                effective_from_ms=one.policy.effective_from_ms,
                set_at="" if set_by is None else position(("control", set_by.partition, set_by.offset)),
                set_ms=None if set_by is None else set_by.append_ms,
                fields=msgspec.to_builtins(one.policy),
            ),
            deadline_ms=one.deadline_ms,
            reach_ms=one.reach_until_ms,
            outcomes=[self.told(one, each) for each in one.outcomes]
            + [self.told(one, None, *identity[3:]) for identity in sorted(gone)],
        )

    def told(self, one: Standing, each: Standing | None, name: str = "", item: str = "") -> Told:
        """Tell one outcome; `each` is None for one that the policy in force does not have any more."""
        if each is not None:
            name, item = each.policy.label_name, each.item or ""
        identity = (one.body.request_id, one.body.model, one.body.deployment, name, item)
        chain = self.chains.get(identity, [])
        clock_ms = self.landed.clock_ms
        problems = [found.sentence for found in check_chain(identity, [said for _, said in chain])]
        outcome = naive.Outcome() if each is None else naive.resolve(each, self.events, clock_ms, self.bounds)
        due = each is not None and clock_ms >= each.deadline_ms
        if due and each is not None and not naive.is_beyond(self.events, self.standing, self.bounds):
            expected = Expected(outcome, each, self.landed.partition, True, True)
            problems += [found.sentence for found in check_last(identity, expected, [said for _, said in chain])]
        revisions, before = [], None
        for record, said in chain:
            why, cause = self.why(one, each, before, said)
            revisions.append(_revision(record, said, why, cause))
            before = said
        pending = [] if each is None else self.pending(each, outcome)
        label = chain[-1][1].label if chain else None
        state = "void" if chain and label is None else "said" if chain else "unlabelled" if due else "open"
        return Told(name=name, item=item or None, state=state, revisions=revisions, problems=problems, pending=pending)

    def why(self, one: Standing, each: Standing | None, before: Feedback | None, said: Feedback) -> tuple[str, str]:
        """Say why a revision came, and the position of the event that speaks in it."""
        policy = self.policy_of(said, each)
        text, cause = self.speaks(one, policy, said)
        if before is None:
            return text, cause
        if said.was is not None and said.was.predicted_at_ms is not None:
            return f"another prediction of this identity stands now; {text}", cause
        if before.policy != said.policy:
            return f"policy {said.policy} is in force instead of {before.policy}; {text}", cause
        if said.label is not None and before.label_kind == "explicit" and said.label_kind != "explicit":
            back = self.retraction(said)
            if back is not None:
                return f"{says(back.body)}; {text}", _position(back)
        if said.label is not None and before.label is not None:
            was = "the negative of silence" if before.label_kind == "timeout" else f"the {before.label_kind} label"
            return f"corrects {was} {before.label!r}: {text}", cause
        return text, cause

    def speaks(self, one: Standing, policy: JoinPolicy, said: Feedback) -> tuple[str, str]:
        at_ms = said.predicted_at_ms
        about = [event for event in self.events if getattr(event.body, "item", None) == said.item]
        if said.label_kind == "explicit":
            for event in about:
                body = event.body
                if (
                    isinstance(body, Label)
                    and body.op == "assert"
                    and body.name == said.name
                    and body.at_ms == said.labelled_at_ms
                    and naive.same_value(body.label, said.label)
                ):
                    after = span(event.append_ms - at_ms)
                    return f"{says(body)} came {after} after the prediction", _position(event)
            return "an explicit label, which has not landed", ""
        if said.label_kind == "implicit":
            for number, rule in enumerate(policy.attribution, 1):
                for event in about:
                    body = event.body
                    if (
                        isinstance(body, Signal)
                        and body.signal == rule.signal
                        and body.at_ms == said.labelled_at_ms
                        and naive.same_value(rule.label, said.label)
                        and rule.weight == said.weight
                        and naive.compares(rule, body.value)
                    ):
                        return f"rule {number} of `attribution`: {rule_text(rule)}", _position(event)
            return "a rule of `attribution`, whose signal has not landed", ""
        if said.label_kind == "timeout":
            if said.status == "provisional":
                early, fake = span(policy.provisional_after_ms or 0), said.p_fake_negative
                return f"silence for `provisional_after_ms` ({early}): an early negative, fake with chance {fake:g}", ""
            return f"silence until the deadline, {span(policy.wait_ms)} after the prediction: `on_timeout` negative", ""
        back = self.retraction(said)
        if back is not None:
            return f"taken back: {says(back.body)}", _position(back)
        return "what was said does not count any more", ""

    def retraction(self, said: Feedback) -> Event | None:
        """Find the last retraction of the label that a feedback is about."""
        found = [
            event
            for event in self.events
            if isinstance(event.body, Label)
            and event.body.op == "retract"
            and (event.body.name, event.body.item) == (said.name, said.item)
        ]
        return max(found, key=lambda event: event.body.at_ms, default=None)

    def policy_of(self, said: Feedback, each: Standing | None) -> JoinPolicy:
        """Find the policy that a feedback names, as it is for its label name."""
        named = [
            policy
            for policy in self._policies(self.landed.partition)
            if policy.model == said.model
            and policy.label == said.policy
            and policy.effective_from_ms <= said.predicted_at_ms
        ]
        if not named:
            return each.policy if each is not None else JoinPolicy(model=said.model)
        whole = max(named, key=lambda policy: policy.effective_from_ms)
        return next((one for one in whole.outcomes if one.label_name == said.name), whole)

    # What is to come.

    def pending(self, each: Standing, outcome: naive.Outcome) -> list[Next]:
        """Say what the clock may still bring to an outcome."""
        clock_ms, policy, body = self.landed.clock_ms, each.policy, each.body
        found: list[Next] = []
        silent = policy.on_timeout == "negative" and (body.items is None or each.item is not None)
        if outcome.kind not in ("explicit", "implicit") and clock_ms < each.deadline_ms:
            early_ms = policy.provisional_after_ms
            if silent and not naive.is_sampled(each):
                silent = False
                what = "nothing is said of silence: it is left out of the sample (`negative_sample`)"
            elif silent:
                seen = "" if self.exposed(each) else f", if signal `{policy.exposure}` comes before"
                if early_ms is not None and clock_ms < body.at_ms + early_ms:
                    found.append(Next(at_ms=body.at_ms + early_ms, what=f"early negative, provisional{seen}"))
                what = f"negative by silence: {policy.negative_label!r}, final{seen}"
            else:
                what = "nothing is said of silence (`on_timeout` unlabelled)"
            found.append(Next(at_ms=each.deadline_ms, what=what))
        elif outcome.kind == "implicit" and clock_ms < each.deadline_ms:
            found.append(Next(at_ms=each.deadline_ms, what="the implicit label is final, unless a label comes before"))
        if clock_ms < body.at_ms + policy.horizon_ms:
            found.append(
                Next(at_ms=body.at_ms + policy.horizon_ms, what="horizon: what becomes true later counts no more")
            )
        if clock_ms < each.reach_until_ms:
            found.append(Next(at_ms=each.reach_until_ms, what="until then a late label or a retraction still revises"))
        return sorted(found, key=lambda one: one.at_ms)

    def exposed(self, each: Standing) -> bool:
        name = each.policy.exposure
        if name is None:
            return True
        whole = replace(each, item=None)
        return any(
            isinstance(event.body, Signal)
            and event.body.signal == name
            and (naive.counts(event, each, self.bounds) or naive.counts(event, whole, self.bounds))
            for event in self.events
        )


ENDED: Mapping[str, str] = {
    "orphan": "orphan: no prediction of this request and model was known in time",
    "unknown_name": "unknown_name: no prediction of this request has an outcome of this label name",
    "unknown_item": "unknown_item: no prediction of this request lists this item",
    "outside_horizon": "outside_horizon: its `at_ms` lies outside the window of every prediction of this request",
    "too_late": "too_late: it reached us after the reach of every prediction of this request",
}


def says(body: Prediction | Label | Signal) -> str:
    """Say an event in a few words.

    >>> says(Label(request_id="r", at_ms=5, label=1, source="desk"))
    'label 1 from `desk`'
    >>> says(Signal(request_id="r", at_ms=5, signal="dwell", value=2.5, item="sofa"))
    'signal dwell 2.5, item sofa'
    """
    if isinstance(body, Prediction):
        words = [f"{body.model} {body.version}".strip()]
        words += [f"on {body.deployment}"] if body.deployment else []
        words += ["as shadow"] if body.role == "shadow" else []
        words += [f"score {short(body.score)}"] if body.score is not None else []
        words += [f"says {short(body.prediction)}"] if body.prediction is not None else []
        words += [f"{len(body.items)} items"] if body.items is not None else []
        return ", ".join(words)
    item = f", item {body.item}" if body.item is not None else ""
    of = f", of {body.model}" if body.model is not None else ""
    if isinstance(body, Signal):
        value = "" if body.value is None else f" {body.value:g}"
        return f"signal {body.signal}{value}{item}{of}"
    source = f" from `{body.source}`" if body.source else ""
    if body.op == "retract":
        return f"`{body.name}` retracted{source}{item}{of}"
    sure = "" if body.confidence == 1.0 else f", confidence {body.confidence:g}"
    return f"{body.name} {short(body.label)}{source}{item}{of}{sure}"


def rule_text(rule: Any) -> str:
    """Say a rule of attribution.

    >>> from schemas.policy import Attribution
    >>> rule_text(Attribution(signal="dwell", label=0, weight=0.5, compare="lt", value=2, within_ms=60_000))
    '`dwell` lt 2 within 1 min gives 0 with weight 0.5'
    """
    asked = "" if rule.compare == "any" else f" {rule.compare} {rule.value:g}"
    within = "" if rule.within_ms is None else f" within {span(rule.within_ms)}"
    weight = "" if rule.weight == 1.0 else f" with weight {rule.weight:g}"
    return f"`{rule.signal}`{asked}{within} gives {short(rule.label)}{weight}"


def _revision(record: Record, said: Feedback, why: str, cause: str) -> Revision:
    return Revision(
        revision=said.revision,
        position=position(("feedback", record.partition, record.offset)),
        status=said.status,
        label=said.label,
        kind=said.label_kind,
        weight=said.weight,
        p_fake_negative=said.p_fake_negative,
        log_odds_correction=said.log_odds_correction,
        policy=said.policy,
        joined_at_ms=said.joined_at_ms,
        labelled_at_ms=said.labelled_at_ms,
        why=why,
        cause=cause,
    )


def position(place: Place) -> str:
    """Write a position as dead letters name it."""
    return "/".join(map(str, place))


def _position(event: Event) -> str:
    first = event.records[0]
    return position((first.topic, first.partition, first.offset))


def _named(one: Standing) -> str:
    item = "" if one.item is None else f" of {one.item}"
    at = f" on {one.body.deployment}" if one.body.deployment else ""
    return f"{one.body.model}{at} `{one.policy.label_name}`{item}"


def short(value: object) -> str:
    text = msgspec.json.encode(value).decode()
    return text if len(text) <= MOST_TEXT else text[: MOST_TEXT - 1] + "…"


def span(span_ms: int) -> str:
    """Write a span of time.

    >>> span(250), span(5_000), span(90_000), span(7_200_000), span(604_800_000)
    ('250 ms', '5 s', '1.5 min', '2 h', '7 d')
    """
    for unit, size in (("d", 86_400_000), ("h", 3_600_000), ("min", 60_000), ("s", 1_000)):
        if abs(span_ms) >= size:
            return f"{span_ms / size:.3g} {unit}"
    return f"{span_ms} ms"


def _readable(value: bytes | None) -> Any:
    """Give a body as JSON where it is JSON, else as text."""
    if value is None:
        return None
    try:
        return msgspec.json.decode(value)
    except (ValueError, RecursionError):
        return value.decode("utf-8", "replace")
