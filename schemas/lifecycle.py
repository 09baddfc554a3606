"""Retraining, rollout and alerts: commands and statuses between `decide`, `train`, `serve` and people.

Ids are deterministic (made from the evidence that caused them), so that an event sent twice has one effect.
"""

from __future__ import annotations

from typing import Annotated, Literal, NamedTuple

from msgspec import Meta, Struct, field

from schemas.event import Event, Name, Share, TimeMs
from schemas.inputs import Role
from schemas.measures import Metric
from schemas.verdict import Verdict

Probability = Annotated[float, Meta(gt=0.0, lt=1.0)]


class Retrain(Event, frozen=True, kw_only=True, omit_defaults=True):
    """`decide` asks for a better model. `retrain_id` is the run's idempotency key: one run per id.

    The data window is [`from_ms`, `to_ms`) of the predictions' event time; `evidence` says why.
    """

    retrain_id: Name
    model: Name
    base_version: str
    reason: str
    evidence: list[Verdict] = []
    from_ms: TimeMs
    to_ms: TimeMs
    drift_ids: list[str] = []
    attempt: int = 1
    at_ms: TimeMs


class Candidate(Event, frozen=True, kw_only=True, omit_defaults=True):
    """`train` announces a model: where it is, what it was made of, how it did on a time-forward hold-out.

    `metrics` are the candidate's, `champion` the current version's on the same rows, `baselines` no-change and such.
    `reference` is the id of the frozen reference in `artifact`.
    """

    model: Name
    version: Name
    retrain_id: str
    artifact: str
    sha256: str
    framework: str = "torch"
    metrics: list[Metric] = []
    champion: list[Metric] = []
    baselines: dict[str, float] = {}
    reference: str = ""
    dataset: str = ""
    rows: int = 0
    error: str = ""
    at_ms: TimeMs


class Approval(Event, frozen=True, kw_only=True, omit_defaults=True):
    """A person (or CI) lets a waiting rollout go on, or ends it."""

    rollout_id: Name
    model: Name
    decision: Literal["approve", "reject", "abort"]
    stage: str = ""
    by: str = ""
    note: str = ""
    at_ms: TimeMs


class Deployment(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A version that takes `weight` of the primary traffic, or shadows (weight 0).

    `arm` is what its predictions are tagged with in the rollout's layer (see `Promote`); empty: no tag.
    """

    deployment: Name
    version: str
    weight: Share
    role: Role = "primary"
    artifact: str = ""
    arm: str = ""


class Promote(Event, frozen=True, kw_only=True, omit_defaults=True):
    """The desired state of one endpoint, keyed by it (compacted). A higher `revision` replaces a lower one.

    Serving converges to it and reports `RolloutStatus`. Primary weights sum to 1. `salt` enters the traffic hash.

    **Stages** of a rollout, and what they hold: `shadow` (the champion takes all traffic, the challenger has the role
    shadow), `canary` (both are primary; the challenger's weight is its share), `full` (the challenger alone, now the
    champion), `rollback` (the champion alone: the rollout was refused or ended). A record of an operator may leave
    `stage` and `rollout_id` empty.

    **Layer.** In the stages `shadow` and `canary` each deployment has an `arm` (`champion` or `challenger`) and the
    layer is named `f"{stage}:{rollout_id}"`. Serving tags every prediction of a deployment with an `arm`, shadows
    included, with `experiments = {layer: arm}`; a deployment without an `arm` gets no tag. The weight is not part of
    the name: a stage with other weights is another `AllocationSet` of the same layer. Without an `AllocationSet`,
    which `decide` sends before a canary's first record, `judge` compares nothing.
    """

    endpoint: Name
    model: Name
    revision: Annotated[int, Meta(ge=1)]
    rollout_id: str = ""
    stage: str = ""
    salt: str = ""
    deployments: list[Deployment]
    reason: str = ""
    evidence: list[Verdict] = []
    at_ms: TimeMs


class RolloutStatus(Event, frozen=True, kw_only=True, omit_defaults=True):
    """A server says which revision it serves, or why it cannot."""

    endpoint: Name
    model: Name
    revision: int
    server: str
    converged: bool
    error: str = ""
    at_ms: TimeMs


class Alert(Event, frozen=True, kw_only=True, omit_defaults=True):
    """Something a person should know. `fingerprint` (rule + model + slice) groups firing and resolved."""

    id: Name
    fingerprint: Name
    rule: Name
    status: Literal["firing", "resolved"] = "firing"
    severity: Literal["critical", "error", "warning", "info"] = "warning"
    model: str = ""
    version: str = ""
    slice: str = ""
    summary: str
    evidence: list[Verdict] = []
    links: dict[str, str] = {}
    at_ms: TimeMs


class Limits(NamedTuple):
    """What a figure may be at least and at most; None where there is no limit."""

    floor: float | None = None
    ceiling: float | None = None

    def passed(self, low: float | None, high: float | None) -> tuple[float, float, str] | None:
        """Give the end of an interval that lies beyond a limit as a whole, the limit, and on which side.

        >>> Limits(floor=0.8).passed(0.6, 0.7), Limits(floor=0.8).passed(0.7, 0.8), Limits(ceiling=0.5).passed(0.6, 0.7)
        ((0.7, 0.8, 'below'), None, (0.6, 0.5, 'above'))
        """
        if self.floor is not None and high is not None and high < self.floor:
            return high, self.floor, "below"
        if self.ceiling is not None and low is not None and low > self.ceiling:
            return low, self.ceiling, "above"
        return None

    def __str__(self) -> str:
        return " to ".join(f"{one:g}" for one in self if one is not None)


class DecidePolicy(Event, frozen=True, kw_only=True, omit_defaults=True):
    """What `decide` may do for one model. The default only observes: it alerts, and neither retrains nor promotes.

    - `automation`: `observe` | `retrain` (retrain by itself, promotion waits for a person at every stage)
      | `full` (promotes by itself on evidence).
    - `min_quality`: {metric: lowest acceptable value}; a closed metric whose interval lies wholly below it is a cause.
      `max_loss`: {metric: greatest acceptable value}, for metrics that should be low (`log_loss`, `mae`); one whose
      interval lies wholly above it is a cause.
    - `retrain_on`: streams (prefixes) whose drift alarm is a cause: `quality`, `score`, `feature`.
    - `window_ms`: how far back the training window reaches. `settle_ms`: how long after the cause to wait before
      the retrain event leaves, so that labels of the new regime are in the window. `cooldown_ms`: the least time
      between two retrain events. `train_timeout_ms`: after that without a candidate the run counts as failed.
    - gates: `alpha` is the error of promotion over the whole rollout (promotion needs every gate at `alpha`),
      `alpha_rollback` that of ending a good one, split evenly over the two gates; `margin` is the loss of value that
      is tolerated (non-inferiority) in canary; shadow requires superiority by `shadow_margin`. `min_subjects` are
      counted before a gate may pass; a gate may fail before. A stage without a conclusion after `max_shadow_ms` or
      `max_canary_ms` ends the rollout, or with `on_inconclusive = "hold"` waits for a person.
    - lifetime: `max_lifetime_alpha` bounds the sum of `alpha` over all candidates tested (the expected number of
      false promotions), `max_margin_sum` the sum of margins conceded since the last proven superiority. Past either
      a rollout waits for a person at every stage.
    - `resolve_after_ms`: how long a stream must be without an alarm before its alert is resolved.
    """

    model: Name
    name: Name = "observe"
    version: int = 1
    automation: Literal["observe", "retrain", "full"] = "observe"
    endpoint: str = ""
    min_quality: dict[str, float] = {}
    max_loss: dict[str, float] = {}
    retrain_on: list[str] = field(default_factory=lambda: ["quality"])
    cooldown_ms: int = 86_400_000
    window_ms: int = 30 * 86_400_000
    settle_ms: int = 0
    alpha: Probability = 0.05
    alpha_rollback: Probability = 0.05
    margin: float = 0.02
    shadow_margin: float = 0.0
    canary_weight: Probability = 0.5
    min_subjects: int = 20
    max_shadow_ms: int = 30 * 86_400_000
    max_canary_ms: int = 30 * 86_400_000
    on_inconclusive: Literal["hold", "reject"] = "reject"
    train_timeout_ms: int = 6 * 3_600_000
    max_lifetime_alpha: float = 1.0
    max_margin_sum: float = 0.1
    resolve_after_ms: int = 3_600_000

    @property
    def limits(self) -> dict[str, Limits]:
        """Give the limits of figures, by metric."""
        floors, ceilings = self.min_quality, self.max_loss
        return {name: Limits(floors.get(name), ceilings.get(name)) for name in {**floors, **ceilings}}
