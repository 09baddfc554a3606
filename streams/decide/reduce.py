"""The pure reducer: a model's state, an event and the time give the next state and the commands that follow.

The time is the clock of the judge's events (and of a virtual clock's), which no producer's clock can move: a person's
or a server's `at_ms` is used only while nothing else has told the time. What is due (a settled cause, a stage without a
conclusion) is therefore due at the first event at or after its moment.
"""

from __future__ import annotations

from msgspec.structs import replace

from schemas.control import ClockAdvanced, DecidePolicySet, Frozen, Thawed
from schemas.lifecycle import Approval, Candidate, Promote, RolloutStatus
from schemas.measures import Drift, Gate, Metric, Review
from streams.decide import causes, rollout
from streams.decide.state import NAMESPACE, ModelState
from streams.decide.turn import Command, Turn

Received = (
    Metric
    | Drift
    | Gate
    | Review
    | Candidate
    | Approval
    | Promote
    | RolloutStatus
    | DecidePolicySet
    | ClockAdvanced
    | Frozen
    | Thawed
)
"""What a model's state can be told."""


def tells_time(event: Received) -> int | None:
    """Give the time that an event proves to have come, if it is one whose clock can be believed."""
    if isinstance(event, ClockAdvanced):
        return event.now_ms
    return event.at_ms if isinstance(event, (Metric, Drift, Gate, Review)) else None


def now_of(clock_ms: int, event: Received) -> int:
    """Give the time at which an event is taken up by a state whose clock stands at `clock_ms`."""
    told_ms = tells_time(event)
    if told_ms is not None:
        return max(clock_ms, told_ms)
    own_ms = 0 if isinstance(event, ClockAdvanced) else event.at_ms
    return clock_ms or own_ms


def reduce(state: ModelState, event: Received, now_ms: int) -> tuple[ModelState, list[Command]]:
    """Give what a model's state becomes and the commands that leave, in their order.

    Total and deterministic: any event that decodes has an answer. The same evidence given again gives no command, or
    one whose id is that of the command it gave before. `now_ms` is `now_of(state.clock_ms, event)`.
    """
    turn = Turn(state, now_ms)
    if tells_time(event) is not None and now_ms > state.clock_ms:
        turn.update(clock_ms=now_ms)
    if isinstance(event, Metric):
        causes.measured(turn, event)
    elif isinstance(event, Drift):
        causes.drifted(turn, event)
    elif isinstance(event, Gate):
        rollout.looked(turn, event)
    elif isinstance(event, Review):
        causes.reviewed(turn, event)
    elif isinstance(event, Candidate):
        if turn.first_time(f"candidate/{event.retrain_id}/{event.version}") and causes.trained(turn, event):
            rollout.nominated(turn, event)
    elif isinstance(event, Approval):
        rollout.answered(turn, event)
    elif isinstance(event, Promote):
        rollout.promoted(turn, event)
    elif isinstance(event, RolloutStatus):
        _reported(turn, event)
    elif isinstance(event, DecidePolicySet):
        _instructed(turn, event)
    elif isinstance(event, Frozen):
        turn.update(frozen={**turn.state.frozen, event.source: event.reason})
        _froze(turn, event)
    elif isinstance(event, Thawed):
        turn.update(frozen={key: why for key, why in turn.state.frozen.items() if key != event.source})
        _thawed(turn, event)
    rollout.advance(turn)
    causes.expire_run(turn)
    causes.expire_reviews(turn)
    causes.maybe_retrain(turn)
    return turn.state, turn.commands


def _instructed(turn: Turn, event: DecidePolicySet) -> None:
    """Take a policy. What waits for a person under the old one is asked again under the new one, if it still waits."""
    turn.update(policy=event.policy)
    if turn.state.rollout is not None:
        turn.update(rollout=replace(turn.state.rollout, asked=""))
    if event.policy.automation == "observe":
        turn.update(causes=[])


def _froze(turn: Turn, event: Frozen) -> None:
    """Tell of a freeze, once for all models, until the thaw."""
    if turn.state.model == NAMESPACE:
        summary = event.reason or f"labels of {event.source} are frozen by {event.by or 'somebody'}"
        evidence = [] if event.evidence is None else [event.evidence]
        turn.fire(_outage(event), f"{event.source}/{event.at_ms}", summary, severity="error", evidence=evidence)


def _thawed(turn: Turn, event: Thawed) -> None:
    if turn.state.model == NAMESPACE:
        evidence = [] if event.evidence is None else [event.evidence]
        turn.resolve(_outage(event), event.reason or f"labels of {event.source} are thawed", evidence=evidence)


def _outage(event: Frozen | Thawed) -> str:
    return f"outage:{event.source}"


def _reported(turn: Turn, event: RolloutStatus) -> None:
    """Tell of a server that cannot do what is desired, until it can."""
    known = turn.state.servers.get(event.server)
    if known is not None and [event.revision, event.at_ms] < known:
        return
    turn.update(servers={**turn.state.servers, event.server: [event.revision, event.at_ms]})
    rule = f"serving:{event.server}"[:128]
    if event.converged:
        turn.resolve(rule, f"{event.server} serves revision {event.revision} of {event.endpoint}")
    elif event.error:
        summary = f"{event.server} cannot serve revision {event.revision} of {event.endpoint}: {event.error}"
        # With the time: the same server may fail at the same revision again, and that is another alert.
        turn.fire(rule, f"{event.server}/{event.revision}/{event.at_ms}", summary, severity="critical")
