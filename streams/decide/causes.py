"""From drift and figures to alerts and causes, and from causes to a retrain event.

An alarm is an edge: it is told once and its alert is resolved only after `resolve_after_ms` without another, when the
evidence has also fallen to half of what it takes to alarm (hysteresis). A figure is a level: it fires when its whole
interval lies beyond the limit, and is resolved when the value itself is back within, on a window no shorter than the
one that fired. Both are causes only for the version that serves: what is known of another says nothing about it.

A review (`streams.judge.reviews`) says that the ground of a decision was corrected. Where the decision would not stand
a person is told, once, with what followed from it. Nothing is undone or done by itself.
"""

from __future__ import annotations

from schemas.lifecycle import Candidate, Limits, Retrain
from schemas.measures import Drift, Metric, Review
from schemas.verdict import Verdict
from streams.decide.state import MAX_CAUSES, REMEMBERED, Cause, ModelState, Run
from streams.decide.turn import Severity, Turn, hashed

TRAINING, REVIEW = "training-failed", "review"
QUIET_SHARE = 0.5


def drifted(turn: Turn, event: Drift) -> None:
    """Take up what a detector says."""
    rule = f"drift:{event.stream}"
    if not event.alarmed:
        _maybe_quiet(turn, event, rule)
        return
    if not turn.first_time(event.id):
        return
    severity: Severity = "error" if event.stream.startswith("quality") else "warning"
    sentence = event.evidence.sentence or f"{event.detector} alarms on {event.stream}"
    turn.fire(
        rule,
        event.id,
        f"{event.stream} of {event.version} drifted: {sentence}",
        severity=severity,
        version=event.version,
        slice_=event.slice,
        evidence=[event.evidence],
        last_ms=event.at_ms,
    )
    if any(event.stream.startswith(prefix) for prefix in turn.state.policy.retrain_on):
        _add(turn, Cause(id=event.id, version=event.version, drift=True, verdict=event.evidence, at_ms=event.at_ms))


def _maybe_quiet(turn: Turn, event: Drift, rule: str) -> None:
    firing = turn.firing(rule, event.slice)
    if firing is None or event.at_ms - firing.last_ms < turn.state.policy.resolve_after_ms:
        return
    statistic, threshold = event.evidence.statistic, event.evidence.threshold
    if statistic is not None and threshold is not None and statistic > QUIET_SHARE * threshold:
        return
    quiet_s = (event.at_ms - firing.last_ms) // 1000
    summary = f"{event.stream} of {event.version} has been quiet for {quiet_s} s"
    turn.resolve(rule, summary, version=event.version, slice_=event.slice)


def measured(turn: Turn, event: Metric) -> None:
    """Take up a figure that has a limit."""
    state = turn.state
    limits = state.policy.limits.get(event.metric)
    if limits is None or not _counts(state, event) or event.value is None:
        return
    if event.to_ms < state.figures.get(event.metric, -1):
        return  # about a time that a later figure has already spoken of
    rule, span_ms = f"quality:{event.metric}", event.to_ms - event.from_ms
    verdict = beyond(event, limits)
    if verdict is not None:
        if turn.first_time(event.id):
            turn.fire(
                rule,
                event.id,
                verdict.sentence,
                severity="error",
                version=event.version,
                evidence=[verdict],
                last_ms=event.at_ms,
                span_ms=span_ms,
            )
            _add(turn, Cause(id=event.id, version=event.version, drift=False, verdict=verdict, at_ms=event.at_ms))
    else:
        firing = turn.firing(rule)
        back = limits.passed(event.value, event.value) is None
        if firing is not None and back and span_ms >= firing.span_ms:
            summary = f"{event.metric} of {event.version} is back at {event.value:.4g}, the limit is {limits}"
            turn.resolve(rule, summary, version=event.version)
    turn.update(figures={**turn.state.figures, event.metric: event.to_ms})


def _counts(state: ModelState, event: Metric) -> bool:
    if not event.closed or event.estimator != "realised" or event.role != "primary" or event.slice:
        return False
    champion = state.champion
    return champion is None or champion.version == event.version


def beyond(event: Metric, limits: Limits) -> Verdict | None:
    """Say that a figure lies beyond a limit with its whole interval; None when it does not, or cannot be told."""
    passed = limits.passed(event.low, event.high)
    if passed is None:
        return None
    statistic, limit, where = passed
    interval = f"{event.value:.4g} [{event.low:.4g}, {event.high:.4g}]" if event.low is not None else f"{event.value}"
    found = f"{event.metric} of {event.version} is {interval} over {event.n} outcomes"
    return Verdict(
        outcome="fail",
        gate=f"quality:{event.metric}",
        statistic=statistic,
        threshold=limit,
        value=event.value,
        low=event.low,
        high=event.high,
        n=event.n,
        maturity=event.maturity,
        sentence=f"{found}, {where} the limit {limit:g}",
    )


def _add(turn: Turn, cause: Cause) -> None:
    state = turn.state
    if state.policy.automation == "observe":
        return
    champion = state.champion
    if champion is not None and champion.version != cause.version:
        return
    if len(state.causes) < MAX_CAUSES:
        turn.update(causes=[*state.causes, cause])


def maybe_retrain(turn: Turn) -> None:
    """Let a retrain event leave when there is a cause, it has settled, and nothing stands against it."""
    state, policy = turn.state, turn.state.policy
    if not state.causes or policy.automation == "observe":
        return
    if state.frozen or state.run is not None or state.rollout is not None:
        return
    due_ms = state.causes[0].at_ms + policy.settle_ms
    if state.retrained_ms >= 0:
        due_ms = max(due_ms, state.retrained_ms + policy.cooldown_ms)
    if turn.now_ms < due_ms:
        return
    champion = state.champion
    base = champion.version if champion is not None else state.causes[0].version
    first = state.causes[0]
    event = Retrain(
        retrain_id=hashed("retrain", state.model, base, first.id),
        model=state.model,
        base_version=base,
        reason=first.verdict.sentence or f"{first.verdict.gate or first.id} of {base}",
        evidence=[cause.verdict for cause in state.causes],
        from_ms=max(turn.now_ms - policy.window_ms, 0),
        to_ms=turn.now_ms,
        drift_ids=[cause.id for cause in state.causes if cause.drift],
        attempt=state.attempt + 1,
        at_ms=turn.now_ms,
    )
    turn.commands.append(event)
    turn.update(
        causes=[],
        run=Run(retrain_id=event.retrain_id, at_ms=turn.now_ms),
        retrained_ms=turn.now_ms,
        attempt=event.attempt,
        followed=_last({**state.followed, **{cause.id: event.retrain_id for cause in state.causes}}),
    )


def _last(followed: dict[str, str]) -> dict[str, str]:
    return dict(list(followed.items())[-REMEMBERED:])


def reviewed(turn: Turn, event: Review) -> None:
    """Tell, once a decision, that it would not stand on the figures as corrected; resolve it when it would again."""
    rule = f"{REVIEW}:{event.decision_id}"
    if event.stands:
        turn.resolve(rule, f"{event.name}: {event.sentence}", version=event.version)
    elif event.overturned == 1:
        followed = _followed(turn.state, event)
        what = {"drift": "the alarm on", "metrics": "the limit of", "gates": "the gate"}[event.topic]
        turn.fire(
            rule,
            event.id,
            f"what {what} {event.name} was decided on has been corrected: {event.sentence}; "
            f"{followed or 'nothing that is known followed from it'}",
            severity="warning" if followed else "info",
            version=event.version,
            evidence=[event.then, event.now],
            last_ms=event.at_ms,
        )


def _followed(state: ModelState, event: Review) -> str:
    """Say what a decision led to, as far as it is remembered."""
    if event.topic != "gates":
        run = state.followed.get(event.decision_id)
        return f"it led to {run}" if run else ""
    rollout_id = event.layer.partition(":")[2]
    if state.rollout is not None and state.rollout.id == rollout_id:
        return f"{rollout_id} is under way on it, in {state.rollout.stage}"
    if state.previous is not None and state.previous.rollout_id == rollout_id:
        return f"{rollout_id} went to full on it"
    return ""


def expire_reviews(turn: Turn) -> None:
    """Let the alerts about reviews end by themselves: they ask for nothing, and somebody has been told."""
    for one in list(turn.state.alerts.values()):
        old = turn.now_ms - one.last_ms >= turn.state.policy.resolve_after_ms
        if one.rule.startswith(f"{REVIEW}:") and old:
            turn.resolve(one.rule, "it has been told; the reviews of the model keep it")


def expire_run(turn: Turn) -> None:
    """Give up a run that has not answered in time."""
    run, timeout_ms = turn.state.run, turn.state.policy.train_timeout_ms
    if run is None or turn.now_ms - run.at_ms < timeout_ms:
        return
    turn.update(run=None)
    summary = f"no candidate came within {timeout_ms // 1000} s of {run.retrain_id}; the next cause may ask again"
    turn.fire(TRAINING, run.retrain_id, summary, severity="error")


def trained(turn: Turn, event: Candidate) -> bool:
    """Close the run that a candidate answers. False: it brings an error and no model."""
    if turn.state.run is not None and turn.state.run.retrain_id == event.retrain_id:
        turn.update(run=None)
    if event.error:
        summary = f"training for {turn.state.model} gave no candidate: {event.error}"
        turn.fire(TRAINING, event.retrain_id, summary, severity="error", version=event.version)
        return False
    turn.resolve(TRAINING, f"{event.version} was trained", version=event.version)
    return True
