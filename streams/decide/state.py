"""What `decide` knows of one model: plain frozen values, so that a reducer cannot change the past by accident.

Dictionaries and lists inside are replaced, never changed in place. Everything encodes to JSON and back without loss:
that is what the table keeps.
"""

from __future__ import annotations

from typing import Literal

from msgspec import Struct, field

from schemas.lifecycle import DecidePolicy, Deployment, Promote
from schemas.measures import Gate
from schemas.verdict import Verdict

Stage = Literal["waiting", "shadow", "canary"]

NEXT: dict[Stage, Literal["shadow", "canary", "full"]] = {"waiting": "shadow", "shadow": "canary", "canary": "full"}
NAMESPACE = "*"
"""The name of the state that holds what concerns every model."""
GATES = 2
"""How many gates a rollout passes (shadow and canary): the error of ending a good one is split evenly over them."""
REMEMBERED = 256
"""How many pieces of evidence already used are remembered, so that one sent twice counts once."""
MAX_CAUSES = 20


class Cause(Struct, frozen=True, kw_only=True):
    """A reason to retrain: an alarm, or a figure below its limit. `id` is the event's."""

    id: str
    version: str
    drift: bool
    verdict: Verdict
    at_ms: int


class Run(Struct, frozen=True, kw_only=True):
    """A retrain event without its candidate yet."""

    retrain_id: str
    at_ms: int


class Firing(Struct, frozen=True, kw_only=True):
    """An alert that a person has been told of. `last_ms` is its latest evidence, `span_ms` the longest window of it."""

    id: str
    rule: str
    slice: str = ""
    severity: Literal["critical", "error", "warning", "info"] = "warning"
    last_ms: int
    span_ms: int = 0


class Rollout(Struct, frozen=True, kw_only=True):
    """A challenger on its way. `since_ms` is when its stage began; `gate` is the latest look at that stage.

    `approved` is the stage that a person let it go to, `asked` the one that a person was asked about. `proven`: shadow
    showed it to be better than the champion. `charged`: its alpha stands in the ledger. `within`: the lifetime budget
    allowed it to be tested without a person.
    """

    id: str
    stage: Stage
    since_ms: int
    champion: Deployment
    challenger: Deployment
    evidence: list[Verdict] = []
    gate: Gate | None = None
    approved: str = ""
    asked: str = ""
    proven: bool = False
    charged: bool = False
    within: bool = True


class Ledger(Struct, frozen=True, kw_only=True):
    """A model's lifetime of decisions.

    `alpha_sum` is the sum of alphas over the candidates tested: an upper bound of the expected number of false
    promotions. `margin_sum` is the sum of margins conceded since the last proven superiority.
    """

    candidates: int = 0
    alpha_sum: float = 0.0
    margin_sum: float = 0.0
    promotions: int = 0
    refusals: int = 0
    rollbacks: int = 0


class Promoted(Struct, frozen=True, kw_only=True):
    """The last rollout that went to full, and what served before it: an abort goes back there."""

    rollout_id: str
    champion: Deployment


class ModelState(Struct, frozen=True, kw_only=True):
    """Everything about one model.

    `desired` holds by endpoint the record of the highest revision read or sent, `read` the highest revision read back
    from the topic. `retrained_ms` is when the last retrain event left (−1: never) and `attempt` counts them since the
    last promotion. `alerts` maps a fingerprint to what fires, `servers` a server to its last status [revision, time],
    `figures` a metric to the end of the latest window looked at, `frozen` a label source to why it is frozen,
    `followed` the id of evidence to the retrain event that it led to.
    """

    v: int = 1
    model: str
    policy: DecidePolicy
    clock_ms: int = 0
    desired: dict[str, Promote] = {}
    read: dict[str, int] = {}
    causes: list[Cause] = []
    run: Run | None = None
    retrained_ms: int = -1
    attempt: int = 0
    rollout: Rollout | None = None
    previous: Promoted | None = None
    alerts: dict[str, Firing] = {}
    servers: dict[str, list[int]] = {}
    figures: dict[str, int] = {}
    frozen: dict[str, str] = {}
    seen: list[str] = []
    followed: dict[str, str] = {}
    ledger: Ledger = field(default_factory=Ledger)

    @property
    def endpoint(self) -> str:
        """The endpoint that this model is promoted to: the policy's, else the first that somebody promoted it to."""
        return self.policy.endpoint or next(iter(self.desired), "")

    @property
    def champion(self) -> Deployment | None:
        """What serves, challengers aside; None until somebody has promoted a first version."""
        if self.rollout is not None:
            return self.rollout.champion
        promoted = self.desired.get(self.endpoint)
        return None if promoted is None else champion_of(promoted)


def champion_of(promote: Promote) -> Deployment | None:
    """Give the primary deployment of most weight that is no challenger, alone and untagged.

    >>> v1 = Deployment(deployment="v1", version="v1", weight=0.5, arm="champion")
    >>> v2 = Deployment(deployment="v2", version="v2", weight=0.5, arm="challenger")
    >>> best = champion_of(Promote(endpoint="e", model="m", revision=1, deployments=[v2, v1], at_ms=0))
    >>> best.version, best.weight, best.arm
    ('v1', 1.0, '')
    """
    primary = [one for one in promote.deployments if one.role == "primary"]
    own = [one for one in primary if one.arm != "challenger"] or primary
    if not own:
        return None
    best = max(own, key=lambda one: one.weight)
    return Deployment(deployment=best.deployment, version=best.version, weight=1.0, artifact=best.artifact)


def empty(model: str) -> ModelState:
    """Give the state of a model of which nothing is known: its policy only observes."""
    return ModelState(model=model, policy=DecidePolicy(model=model))
