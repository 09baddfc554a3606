"""What the join says about one outcome: its label as known now, and what was said before.

An outcome is (request_id, model, deployment, name, item). `revision` counts 1, 2, … without gaps; each `was` equals the
revision before. Summing signed deltas (minus `was`, plus this one) therefore gives the batch metric exactly.
"""

from __future__ import annotations

from typing import Literal

from schemas.event import Event, LabelValue, Name, RequestId, Scalar, Share, TimeMs
from schemas.inputs import Role

Status = Literal["provisional", "final", "void"]
LabelKind = Literal["explicit", "implicit", "timeout"]


class Was(Event, frozen=True, kw_only=True, omit_defaults=True):
    """The revision before. The prediction's fields are given only when another prediction stood then (a conflict)."""

    status: Status
    label: LabelValue | None = None
    label_kind: LabelKind | None = None
    weight: float = 1.0
    predicted_at_ms: TimeMs | None = None
    version: str | None = None
    role: Role | None = None
    score: float | list[float] | None = None
    prediction: LabelValue | None = None
    threshold: float | None = None
    subject: str | None = None
    slices: dict[str, Scalar] | None = None


class Feedback(Event, frozen=True, kw_only=True, omit_defaults=True):
    """One revision of one outcome. Delivery: exactly once to a `read_committed` reader, in order per request.

    `label` is null and `status` void when what was said has been taken back. `p_fake_negative` is the chance that a
    provisional negative turns positive. `log_odds_correction` is there when only a share of silence's negatives is said
    (`negative_sample` of the policy): the logarithm of that share, to be added to the log-odds of a model that was
    trained on this feedback as it is. `clock_ms` is the join's clock and `joined_at_ms` equals it: no wall clock
    enters. `policy` is `name@version`. With `item`, `score`, `position` and `propensity` are that item's in the
    ranking; without it `score` is that of the output called `name`, if the prediction has one.
    """

    request_id: RequestId
    model: Name
    deployment: str = ""
    name: Name = "label"
    item: str | None = None
    revision: int
    status: Status
    label: LabelValue | None = None
    label_kind: LabelKind | None = None
    weight: float = 1.0
    p_fake_negative: Share = 0.0
    log_odds_correction: float | None = None
    was: Was | None = None
    policy: str
    version: str = ""
    role: Role = "primary"
    app_version: str = ""
    score: float | list[float] | None = None
    prediction: LabelValue | None = None
    threshold: float | None = None
    position: int | None = None
    slices: dict[str, Scalar] = {}
    subject: str = ""
    experiments: dict[str, str] = {}
    action: str | None = None
    propensity: Share | None = None
    features: dict[str, Scalar] = {}
    predicted_at_ms: TimeMs
    labelled_at_ms: TimeMs | None = None
    joined_at_ms: TimeMs
