"""A challenger's way through shadow and canary to full, or back.

Levels, not edges: every event first updates what is known, then `advance` looks at all of it. So it does not matter
which of two topics was read first, and what a freeze held back goes on at the thaw.

**Error of promotion.** A candidate that is not better than the champion by `shadow_margin` passes shadow with at most
the probability `alpha`, at all looks together, and full needs canary besides (an intersection of gates, each at
`alpha`). **Error of ending a good one**: `alpha_rollback`, half of it in each gate, because one failing gate ends the
rollout. Over a model's lifetime the expected number of false promotions is at most the ledger's `alpha_sum`.

A passed gate is no reason to wait for more: the evidence is valid at every look. A rollback waits for nobody and is
never frozen.
"""

from __future__ import annotations

from msgspec.structs import replace

from schemas.control import AllocationSet
from schemas.event import encode
from schemas.lifecycle import Approval, Candidate, DecidePolicy, Deployment, Promote
from schemas.measures import Gate
from schemas.verdict import Verdict
from streams.decide.state import GATES, NEXT, ModelState, Promoted, Rollout
from streams.decide.turn import Turn, hashed, shortened

APPROVAL, ENDED, REFUSED, VOID = "approval-needed", "rollout-ended", "candidate-refused", "approval-void"


def layer(rollout: Rollout) -> str:
    """Give the layer of the stage that a rollout is in (`schemas.lifecycle.Promote`)."""
    return f"{rollout.stage}:{rollout.id}"


def nominated(turn: Turn, event: Candidate) -> None:
    """Take up a candidate as a challenger, or say why not."""
    state = turn.state
    champion = state.champion
    why = ""
    if state.policy.automation == "observe":
        why = "the policy only observes"
    elif champion is None:
        why = "nobody has promoted a first version, so there is no champion to compare it with"
    elif state.rollout is not None:
        why = f"{state.rollout.challenger.version} is still being rolled out"
    elif champion.version == event.version:
        why = "it is the version that serves"
    if why or champion is None:
        turn.fire(REFUSED, event.version, f"candidate {event.version} is not taken up: {why}", severity="info")
        return
    turn.resolve(REFUSED, f"candidate {event.version} is taken up")
    rollout_id = hashed("rollout", state.model, event.version, event.retrain_id)
    name = event.version if event.version != champion.deployment else f"{event.version}-{rollout_id[-6:]}"
    challenger = Deployment(
        deployment=name, version=event.version, weight=0.0, artifact=event.artifact, arm="challenger"
    )
    ledger, policy = state.ledger, state.policy
    within = ledger.alpha_sum + policy.alpha <= policy.max_lifetime_alpha + 1e-9
    turn.update(
        rollout=Rollout(
            id=rollout_id,
            stage="waiting",
            since_ms=turn.now_ms,
            champion=champion,
            challenger=challenger,
            within=within,
        )
    )


def looked(turn: Turn, event: Gate) -> None:
    """Keep the latest look at the stage that the rollout is in."""
    rollout = turn.state.rollout
    if rollout is None or rollout.stage == "waiting" or event.layer != layer(rollout):
        return
    known = rollout.gate
    if known is None or (event.at_ms, event.n) > (known.at_ms, known.n):
        turn.update(rollout=replace(rollout, gate=event))


def answered(turn: Turn, event: Approval) -> None:
    """Do what a person says: approve the next stage, or end the rollout. Heard twice, it counts once."""
    if not turn.first_time(hashed("approval", encode(event))):
        return
    rollout, previous = turn.state.rollout, turn.state.previous
    by = f" by {event.by}" if event.by else ""
    note = f": {event.note}" if event.note else ""
    if rollout is not None and rollout.id == event.rollout_id:
        target = NEXT[rollout.stage]
        if event.decision != "approve":
            said = "rejected" if event.decision == "reject" else "aborted"
            _end(turn, rollout, f"{said}{by}{note}")
        elif event.stage in ("", target):
            turn.update(rollout=replace(rollout, approved=target))
        else:
            _void(turn, event, f"it is for the stage {event.stage!r}, and the next one is {target!r}")
    elif event.decision == "abort" and previous is not None and previous.rollout_id == event.rollout_id:
        turn.update(rollout=None, previous=None)
        why = f"{event.rollout_id} was aborted{by} after it had gone to full{note}"
        _promote(turn, "rollback", event.rollout_id, [previous.champion], why, [])
        turn.update(ledger=replace(turn.state.ledger, rollbacks=turn.state.ledger.rollbacks + 1))
        turn.resolve(APPROVAL, why)
    else:
        _void(turn, event, "no such rollout is under way")


def _void(turn: Turn, event: Approval, why: str) -> None:
    summary = f"the {event.decision} of {event.rollout_id} has no effect: {why}"
    turn.fire(VOID, hashed("approval", encode(event)), summary, severity="info")


def promoted(turn: Turn, event: Promote) -> None:
    """Follow the endpoint's record: our own coming back, or somebody else's, who then has the last word."""
    state = turn.state
    if event.revision <= state.read.get(event.endpoint, 0):
        return
    turn.update(read={**state.read, event.endpoint: event.revision})
    known = state.desired.get(event.endpoint)
    if known is not None and (event.revision < known.revision or event == known):
        return
    rollout = state.rollout
    turn.update(desired={**state.desired, event.endpoint: event})
    if rollout is not None and event.endpoint == state.endpoint:
        turn.update(rollout=None)
        why = f"revision {event.revision} of {event.endpoint} was promoted by somebody else"
        _tell_end(turn, rollout, why, refusal=True)
    if champion_of_changed(state, turn.state):
        turn.update(causes=[], previous=None, attempt=0)


def champion_of_changed(before: ModelState, after: ModelState) -> bool:
    """Say whether another version serves now."""
    old, new = before.champion, after.champion
    return (old.version if old else "") != (new.version if new else "")


def judged(policy: DecidePolicy, rollout: Rollout) -> Verdict:
    """Say what the latest look at the stage shows, as a verdict. Without one it is inconclusive, never a pass."""
    gate, shadow = rollout.gate, rollout.stage == "shadow"
    name = layer(rollout)
    bar = policy.shadow_margin if shadow else -policy.margin
    if gate is None or gate.effect is None or gate.low is None or abs(gate.bar - bar) > 1e-12:
        sentence = gate.sentence if gate is not None and gate.low is None else f"{name}: no evidence yet"
        return Verdict(outcome="inconclusive", gate=name, sentence=sentence)
    above, below = 1.0 / policy.alpha, GATES / policy.alpha_rollback
    goal = f"better by more than {bar:g}" if shadow else f"not worse by {policy.margin:g}"
    if gate.e_below >= below:
        outcome, means = "fail", f"it is not {goal}"
        statistic, threshold = gate.e_below, below
    else:
        statistic, threshold = gate.e_above, above
        if gate.e_above < above:
            outcome, means = "inconclusive", f"whether it is {goal} is open"
        elif gate.n < policy.min_subjects:
            outcome, means = "inconclusive", f"{policy.min_subjects} subjects are asked for"
        elif not shadow and gate.high is not None and gate.high < 0:
            outcome, means = "inconclusive", "it is worse than the champion, though within the margin"
        else:
            outcome, means = "pass", f"it is {goal}"
    return Verdict(
        outcome=outcome,  # type: ignore[arg-type]
        gate=name,
        statistic=statistic,
        threshold=threshold,
        value=gate.effect,
        low=gate.low,
        high=gate.high,
        n=gate.n,
        maturity=gate.maturity,
        sentence=f"{rollout.stage}: {gate.sentence}; evidence {statistic:.3g} of {threshold:.3g}: {means}",
    )


def advance(turn: Turn) -> None:
    """Move the rollout as far as evidence, people and policy allow."""
    while (rollout := turn.state.rollout) is not None:
        if not _advance(turn, rollout):
            return


def _advance(turn: Turn, rollout: Rollout) -> bool:
    """Take one step. True: the rollout is in another stage now, or over."""
    state, policy = turn.state, turn.state.policy
    target = NEXT[rollout.stage]
    starting = rollout.stage == "waiting"
    verdict = None if starting else judged(policy, rollout)
    if verdict is not None and verdict.outcome == "fail" and rollout.approved != target:
        _end(turn, rollout, "the evidence is against it", verdict)
        return True
    if state.frozen:
        return False
    if rollout.approved == target:
        _move(turn, rollout, verdict, "a person approved it")
        return True
    automatic = policy.automation == "full" and rollout.within
    if starting:
        if automatic:
            _move(turn, rollout, None, f"{rollout.challenger.version} was trained")
            return True
        why = "its policy leaves every stage to a person"
        if not rollout.within:
            why = f"the model's lifetime alpha ({policy.max_lifetime_alpha:g}) is spent"
        _ask(turn, rollout, why, None)
        return False
    assert verdict is not None
    if verdict.outcome == "pass":
        conceded = rollout.stage == "canary" and not (rollout.proven or _affordable(state))
        if automatic and not conceded:
            _move(turn, rollout, verdict, "the evidence is for it")
            return True
        why = f"margins conceded since the last proven superiority would pass {policy.max_margin_sum:g}"
        _ask(turn, rollout, why if automatic else "its evidence is for it", verdict)
        return False
    limit_ms = policy.max_shadow_ms if rollout.stage == "shadow" else policy.max_canary_ms
    if turn.now_ms - rollout.since_ms >= limit_ms:
        why = f"no conclusion within {limit_ms // 1000} s of {rollout.stage}"
        if policy.on_inconclusive == "reject":
            _end(turn, rollout, why, verdict)
            return True
        _ask(turn, rollout, why, verdict)
    return False


def _affordable(state: ModelState) -> bool:
    return state.ledger.margin_sum + state.policy.margin <= state.policy.max_margin_sum + 1e-9


def _ask(turn: Turn, rollout: Rollout, why: str, verdict: Verdict | None) -> None:
    """Tell, once a stage, that a person has to decide."""
    target = NEXT[rollout.stage]
    if rollout.asked == target:
        return
    turn.update(rollout=replace(rollout, asked=target))
    summary = f"{rollout.challenger.version} waits to go to {target} ({why}): approve, reject or abort {rollout.id}"
    evidence = [*rollout.evidence, *([verdict] if verdict is not None else [])]
    turn.fire(APPROVAL, f"{rollout.id}/{target}", summary, version=rollout.challenger.version, evidence=evidence)


def _move(turn: Turn, rollout: Rollout, verdict: Verdict | None, why: str) -> None:
    """Go to the next stage and promote what it holds."""
    policy, target = turn.state.policy, NEXT[rollout.stage]
    turn.resolve(APPROVAL, f"{rollout.id} went on to {target}")
    evidence = [*rollout.evidence, *([verdict] if verdict is not None else [])]
    reason = f"{rollout.challenger.version} goes to {target}: {why}"
    if not rollout.charged:
        ledger = turn.state.ledger
        turn.update(ledger=replace(ledger, candidates=ledger.candidates + 1, alpha_sum=ledger.alpha_sum + policy.alpha))
    champion = replace(rollout.champion, arm="champion")
    if target == "shadow":
        turn.resolve(ENDED, f"{rollout.challenger.version} is being tried")
        challenger = replace(rollout.challenger, role="shadow", weight=0.0)
        _promote(turn, "shadow", rollout.id, [champion, challenger], reason, evidence)
    elif target == "canary":
        share = policy.canary_weight
        turn.commands.append(
            AllocationSet(
                model=turn.state.model,
                layer=f"canary:{rollout.id}",
                share=share,
                from_ms=turn.now_ms,
                at_ms=turn.now_ms,
            )
        )
        both = [replace(champion, weight=1.0 - share), replace(rollout.challenger, weight=share)]
        _promote(turn, "canary", rollout.id, both, reason, evidence)
    else:
        _to_full(turn, rollout, evidence, reason)
        return
    turn.update(
        rollout=replace(
            rollout,
            stage=target,
            since_ms=turn.now_ms,
            evidence=evidence,
            gate=None,
            approved="",
            proven=rollout.proven or (verdict is not None and verdict.outcome == "pass" and policy.shadow_margin >= 0),
            charged=True,
        )
    )


def _to_full(turn: Turn, rollout: Rollout, evidence: list[Verdict], reason: str) -> None:
    ledger, policy = turn.state.ledger, turn.state.policy
    alone = replace(rollout.challenger, weight=1.0, role="primary", arm="")
    _promote(turn, "full", rollout.id, [alone], reason, evidence)
    margin_sum = 0.0 if rollout.proven else ledger.margin_sum + policy.margin
    turn.update(
        rollout=None,
        previous=Promoted(rollout_id=rollout.id, champion=rollout.champion),
        causes=[],
        attempt=0,
        figures={},
        ledger=replace(turn.state.ledger, promotions=ledger.promotions + 1, margin_sum=margin_sum),
    )


def _end(turn: Turn, rollout: Rollout, why: str, verdict: Verdict | None = None) -> None:
    """End a rollout: the champion serves alone again, at once."""
    evidence = [*rollout.evidence, *([verdict] if verdict is not None else [])]
    if rollout.stage != "waiting":  # before that no server has heard of it
        reason = f"{rollout.challenger.version} ends in {rollout.stage}: {why}"
        _promote(turn, "rollback", rollout.id, [rollout.champion], reason, evidence)
    ledger, in_canary = turn.state.ledger, rollout.stage == "canary"
    turn.update(
        rollout=None,
        ledger=replace(ledger, refusals=ledger.refusals + (not in_canary), rollbacks=ledger.rollbacks + in_canary),
    )
    _tell_end(turn, rollout, why, evidence, refusal=not in_canary)


def _tell_end(turn: Turn, rollout: Rollout, why: str, evidence: list[Verdict] | None = None, *, refusal: bool) -> None:
    version = rollout.challenger.version
    turn.resolve(APPROVAL, f"{rollout.id} is over: {why}")
    said = "was refused in" if refusal else "was rolled back from"
    turn.fire(
        ENDED,
        rollout.id,
        f"{version} {said} {rollout.stage}: {why}",
        severity="info" if refusal else "warning",
        version=version,
        evidence=evidence,
    )


def _promote(
    turn: Turn, stage: str, rollout_id: str, deployments: list[Deployment], reason: str, evidence: list[Verdict]
) -> None:
    state = turn.state
    known = state.desired.get(state.endpoint)
    event = Promote(
        endpoint=state.endpoint,
        model=state.model,
        revision=known.revision + 1 if known is not None else 1,
        rollout_id=rollout_id,
        stage=stage,
        salt=rollout_id,
        deployments=deployments,
        reason=shortened(reason),
        evidence=evidence,
        at_ms=turn.now_ms,
    )
    turn.commands.append(event)
    turn.update(desired={**state.desired, state.endpoint: event})
    turn.resolve(VOID, f"revision {event.revision} of {event.endpoint} was promoted")
