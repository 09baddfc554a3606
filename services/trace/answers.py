"""What was said of each standing prediction's outcomes, whether it holds together, and what is still to come. Pure."""

from __future__ import annotations

from dataclasses import replace

import msgspec

from schemas.feedback import Feedback
from schemas.inputs import Signal
from services.trace.request import Request
from services.trace.shape import Answer, Next, PolicySaid, Revision, Told
from services.trace.why import reason_of
from services.trace.words import place_of, position
from streams.join import naive
from streams.join.naive import Expected, Outcome, Record, Standing
from streams.join.verify import check_chain, check_last


def answers(request: Request) -> list[Answer]:
    """Give what became of each standing prediction, in the order of (model, deployment)."""
    return [_answer(request, one) for _, one in sorted(request.standing.items())]


def _answer(request: Request, one: Standing) -> Answer:
    body = one.body
    event = next(e for e in request.events if e.key == one.key and e.body is body)
    where = event.records[0]
    set_by = next((r for p, r in request.policies.get(request.landed.partition, []) if p is one.policy), None)
    named = {(each.policy.label_name, each.item or ""): each for each in one.outcomes}
    prefix = (body.request_id, body.model, body.deployment)
    gone = [identity for identity in request.chains if identity[:3] == prefix and identity[3:] not in named]
    return Answer(
        model=body.model,
        version=body.version,
        deployment=body.deployment,
        role=body.role,
        at_ms=body.at_ms,
        score=body.score,
        prediction=body.prediction,
        subject=body.subject,
        position=position(place_of(where)),
        conflicts=one.conflicts,
        policy=PolicySaid(
            label=one.policy.label,
            effective_from_ms=one.policy.effective_from_ms,
            set_at="" if set_by is None else position(("control", set_by.partition, set_by.offset, 0)),
            set_ms=None if set_by is None else set_by.append_ms,
            fields=msgspec.to_builtins(one.policy),
        ),
        deadline_ms=one.deadline_ms,
        reach_ms=one.reach_until_ms,
        outcomes=[_told(request, one, each) for each in one.outcomes]
        + [_told(request, one, None, *identity[3:]) for identity in sorted(gone)],
    )


def _told(request: Request, one: Standing, each: Standing | None, name: str = "", item: str = "") -> Told:
    """Tell one outcome; `each` is None for one that the policy in force does not have any more."""
    if each is not None:
        name, item = each.policy.label_name, each.item or ""
    identity = (one.body.request_id, one.body.model, one.body.deployment, name, item)
    chain = request.chains.get(identity, [])
    clock_ms = request.landed.timers.clock_ms
    problems = [found.sentence for found in check_chain(identity, [said for _, said in chain])]
    outcome = Outcome() if each is None else naive.resolve(each, request.events, clock_ms, request.bounds)
    due = each is not None and clock_ms >= each.deadline_ms
    if due and each is not None and not naive.is_beyond(request.events, request.standing, request.bounds):
        expected = Expected(outcome, each, request.landed.partition, True, True)
        problems += [found.sentence for found in check_last(identity, expected, [said for _, said in chain])]
    revisions, before = [], None
    for record, said in chain:
        why, cause = reason_of(request, each, before, said)
        revisions.append(_revision(record, said, why, cause))
        before = said
    to_come = [] if each is None else _pending(request, each, outcome)
    label = chain[-1][1].label if chain else None
    state = "void" if chain and label is None else "said" if chain else "unlabelled" if due else "open"
    return Told(name=name, item=item or None, state=state, revisions=revisions, problems=problems, pending=to_come)


def _pending(request: Request, each: Standing, outcome: Outcome) -> list[Next]:
    """Say what the clock may still bring to an outcome."""
    clock_ms, policy, body = request.landed.timers.clock_ms, each.policy, each.body
    found: list[Next] = []
    silent = policy.on_timeout == "negative" and (body.items is None or each.item is not None)
    if outcome.kind not in ("explicit", "implicit") and clock_ms < each.deadline_ms:
        early_ms = policy.provisional_after_ms
        if silent and not naive.is_sampled(each):
            silent = False
            what = "nothing is said of silence: it is left out of the sample (`negative_sample`)"
        elif silent:
            seen = "" if _exposed(request, each) else f", if signal `{policy.exposure}` comes before"
            if early_ms is not None and clock_ms < body.at_ms + early_ms:
                found.append(Next(at_ms=body.at_ms + early_ms, what=f"early negative, provisional{seen}"))
            what = f"negative by silence: {policy.negative_label!r}, final{seen}"
        else:
            what = "nothing is said of silence (`on_timeout` unlabelled)"
        found.append(Next(at_ms=each.deadline_ms, what=what))
    elif outcome.kind == "implicit" and clock_ms < each.deadline_ms:
        found.append(Next(at_ms=each.deadline_ms, what="the implicit label is final, unless a label comes before"))
    if clock_ms < body.at_ms + policy.horizon_ms:
        found.append(Next(at_ms=body.at_ms + policy.horizon_ms, what="horizon: what becomes true later counts no more"))
    if clock_ms < each.reach_until_ms:
        found.append(Next(at_ms=each.reach_until_ms, what="until then a late label or a retraction still revises"))
    return sorted(found, key=lambda one: one.at_ms)


def _exposed(request: Request, each: Standing) -> bool:
    name = each.policy.exposure
    if name is None:
        return True
    whole = replace(each, item=None)
    return any(
        isinstance(event.body, Signal)
        and event.body.signal == name
        and (naive.counts(event, each, request.bounds) or naive.counts(event, whole, request.bounds))
        for event in request.events
    )


def _revision(record: Record, said: Feedback, why: str, cause: str) -> Revision:
    return Revision(
        revision=said.revision,
        position=position(("feedback", record.partition, record.offset, record.index)),
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
