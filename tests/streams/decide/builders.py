"""Events for the timelines, with everything said that a test does not care about."""

from typing import Any

import msgspec

from schemas.control import AllocationSet, ClockAdvanced, DecidePolicySet
from schemas.lifecycle import (
    Alert,
    Approval,
    Candidate,
    DecidePolicy,
    Deployment,
    Promote,
    Retrain,
    RolloutStatus,
)
from schemas.measures import Drift, Gate, Metric, Review
from schemas.verdict import Verdict
from streams.decide.reduce import Received, now_of, reduce
from streams.decide.state import ModelState, empty
from streams.decide.turn import Command

MODEL, ENDPOINT = "m", "e"


def policy(automation: str = "full", *, at_ms: int = 0, **fields: Any) -> DecidePolicySet:
    """Give a policy with short times."""
    said = {"cooldown_ms": 1_000, "window_ms": 500, "resolve_after_ms": 100, "endpoint": ENDPOINT, **fields}
    return DecidePolicySet(policy=DecidePolicy(model=MODEL, automation=automation, **said), at_ms=at_ms)  # type: ignore[arg-type]


def first(version: str = "v1", revision: int = 1, *, at_ms: int = 0) -> Promote:
    """Give an operator's promotion."""
    own = Deployment(deployment=version, version=version, weight=1.0, artifact=f"registry/{version}")
    return Promote(endpoint=ENDPOINT, model=MODEL, revision=revision, deployments=[own], at_ms=at_ms)


def drift(
    at_ms: int, *, alarmed: bool = True, stream: str = "quality:error", version: str = "v1", statistic: float = 50.0
) -> Drift:
    """Give what a detector says; the alarm bound is 40."""
    outcome = "fail" if alarmed else "pass"
    verdict = Verdict(outcome=outcome, statistic=statistic, threshold=40.0, n=100, sentence=f"{stream} is worse")  # type: ignore[arg-type]
    return Drift(
        id=f"drift-{stream}-{version}-{at_ms}",
        model=MODEL,
        version=version,
        deployment=version,
        stream=stream,
        detector="esr",
        from_ms=max(at_ms - 10, 0),
        to_ms=at_ms,
        reference="r",
        evidence=verdict,
        alarmed=alarmed,
        at_ms=at_ms,
    )


def metric(
    at_ms: int, value: float, *, half: float = 0.05, version: str = "v1", span_ms: int = 10, **fields: Any
) -> Metric:
    """Give a closed accuracy."""
    return Metric(
        id=f"metric-{version}-{at_ms}-{span_ms}",
        model=MODEL,
        version=version,
        deployment=version,
        metric="accuracy",
        from_ms=max(at_ms - span_ms, 0),
        to_ms=at_ms,
        value=value,
        low=value - half,
        high=value + half,
        n=100,
        at_ms=at_ms,
        **{"closed": True, **fields},
    )


def candidate(retrain: Retrain | None = None, version: str = "v2", *, error: str = "", at_ms: int = 0) -> Candidate:
    """Give what training answers."""
    return Candidate(
        model=MODEL,
        version=version,
        retrain_id=retrain.retrain_id if retrain else "by-hand",
        artifact=f"registry/{version}",
        sha256="0" * 64,
        error=error,
        at_ms=at_ms,
    )


def gate(layer: str, at_ms: int, *, above: float = 1.0, below: float = 1.0, n: int = 100, **fields: Any) -> Gate:
    """Give a look of the judge: `above` and `below` are the evidence that it is better and worse than the bar."""
    shadow = layer.startswith("shadow:")
    said: dict[str, Any] = {"effect": 0.0, "low": -0.1, "high": 0.1, "bar": 0.0 if shadow else -0.02, **fields}
    return Gate(
        id=f"gate-{layer}-{at_ms}",
        model=MODEL,
        layer=layer,
        paired=shadow,
        alpha=0.05,
        alpha_rollback=0.05,
        e_above=above,
        e_below=below,
        n=n,
        maturity=1.0,
        sentence="challenger minus champion is …",
        at_ms=at_ms,
        **said,
    )


def review(decision_id: str, at_ms: int, *, stands: bool = False, overturned: int = 1, **fields: Any) -> Review:
    """Give what the judge says of a decision whose ground was corrected."""
    then, now = Verdict(outcome="fail", value=0.3), Verdict(outcome="inconclusive", value=0.1)
    said: dict[str, Any] = {"topic": "drift", "name": "quality:error", "version": "v1", **fields}
    return Review(
        id=f"review-{decision_id}-{at_ms}",
        model=MODEL,
        decision_id=decision_id,
        decided_ms=0,
        then=then,
        now=now,
        stands=stands,
        overturned=overturned,
        sentence="it was 0.3 and is 0.1",
        at_ms=at_ms,
        **said,
    )


def approval(rollout_id: str, decision: str = "approve", *, stage: str = "", at_ms: int = 0) -> Approval:
    """Give what a person says."""
    return Approval(rollout_id=rollout_id, model=MODEL, decision=decision, stage=stage, by="ann", at_ms=at_ms)  # type: ignore[arg-type]


def status(revision: int, *, error: str = "", at_ms: int = 0, server: str = "s1") -> RolloutStatus:
    """Give what a server says."""
    return RolloutStatus(
        endpoint=ENDPOINT,
        model=MODEL,
        revision=revision,
        server=server,
        converged=not error,
        error=error,
        at_ms=at_ms,
    )


def tick(now_ms: int) -> ClockAdvanced:
    """Give the time."""
    return ClockAdvanced(now_ms=now_ms)


class World:
    """A model's state with what left so far. `bounce` dumps and reads the state again before every event."""

    def __init__(self, *events: Received, bounce: bool = True) -> None:
        self.state = empty(MODEL)
        self.bounce = bounce
        self.all: list[Command] = []
        self.tell(*events)

    def tell(self, *events: Received) -> list[Command]:
        """Take up events and give what left because of them. Our own promotions come back at the end."""
        left: list[Command] = []
        for event in events:
            left += self._one(event)
        for command in tuple(left):
            if isinstance(command, Promote):
                assert self._one(command) == [], "our own record came back and changed something"
        self.all += left
        return left

    def _one(self, event: Received) -> list[Command]:
        if self.bounce:
            self.state = msgspec.json.decode(msgspec.json.encode(self.state), type=ModelState)
        before = msgspec.json.encode(self.state)
        old = self.state
        self.state, commands = reduce(old, event, now_of(old.clock_ms, event))
        assert msgspec.json.encode(old) == before, "a reducer changed the past"
        return commands

    @property
    def rollout_id(self) -> str:
        """The rollout that is under way."""
        assert self.state.rollout is not None
        return self.state.rollout.id


def told(commands: list[Command]) -> list[str]:
    """Say commands in a word each."""
    words = []
    for command in commands:
        if isinstance(command, Retrain):
            words.append(f"retrain {command.base_version}")
        elif isinstance(command, Promote):
            shares = ", ".join(
                f"{one.version} {'shadow' if one.role == 'shadow' else f'{one.weight:g}'}"
                for one in command.deployments
            )
            words.append(f"promote {command.stage}: {shares}")
        elif isinstance(command, Alert):
            words.append(f"{command.status} {command.rule}")
        else:
            assert isinstance(command, AllocationSet)
            words.append(f"allocate {command.layer.partition(':')[0]} {command.share:g}")
    return words
