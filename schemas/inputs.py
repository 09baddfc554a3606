"""What apps send: predictions, and the labels and signals that come later.

Any Kafka client may produce them as JSON, keyed by `request_id`. A prediction's identity is (request_id, model,
deployment). A label or signal without `model` concerns every prediction of its request.
"""

from __future__ import annotations

from typing import Annotated, Literal

from msgspec import UNSET, Meta, Struct, UnsetType
from msgspec.structs import force_setattr

from schemas.event import Input, LabelValue, Name, RequestId, Scalar, Share, Subject, Text, TimeMs

Role = Literal["primary", "shadow"]
Op = Literal["assert", "retract"]

LABEL_NAME = "label"
CERTAIN = 1.0


class Item(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One entry of a ranking: position counts from 0, propensity is the chance that it was shown there."""

    item: Name
    score: float | None = None
    position: int | None = None
    propensity: Share | None = None


class Prediction(Input, frozen=True, kw_only=True, omit_defaults=True):
    """A model answered a request.

    `score` is the number the model gave (for a binary classifier the probability of the positive class), or one per
    class; `prediction` is the decision taken from it. `role` is `shadow` when nobody saw the answer. `subject` is the
    pseudonymous user: the unit of randomisation, of effective sample size and of erasure. `experiments` maps a layer to
    the arm this subject is in, of at most 64 layers. `propensity` is the probability with which `action` was chosen.
    `outputs` are the scores of a model with several: a label is compared with that of its name. `items` are a ranking:
    each item has outcomes of its own, from labels and signals with that `item`; of two entries with one `item` the
    first counts.
    """

    request_id: RequestId
    at_ms: TimeMs
    model: Name
    version: Text = ""
    deployment: Text = ""
    role: Role = "primary"
    app_version: Text = ""
    score: float | list[float] | None = None
    prediction: LabelValue | None = None
    outputs: dict[str, float] | None = None
    items: list[Item] | None = None
    features: dict[str, Scalar] = {}
    embedding: list[float] | None = None
    slices: dict[str, Scalar] = {}
    subject: Subject = ""
    experiments: Annotated[dict[Text, Text], Meta(max_length=64)] = {}
    action: str | None = None
    propensity: Share | None = None
    threshold: float | None = None
    latency_ms: Annotated[float, Meta(ge=0)] | None = None
    event_id: str = ""


class Label(Input, frozen=True, kw_only=True, omit_defaults=True):
    """Somebody says what was true (`assert`), or takes back what this source said (`retract`).

    `at_ms` is when it became true, not when it was sent: the horizon of the policy is measured against it.
    `confidence` in [0, 1] becomes the weight of the outcome. A retraction needs no `label`.
    """

    request_id: RequestId
    at_ms: TimeMs
    label: LabelValue | UnsetType = UNSET
    name: Name = LABEL_NAME
    model: str | None = None
    item: str | None = None
    source: str = ""
    confidence: Share = CERTAIN
    op: Op = "assert"
    event_id: str = ""

    def __post_init__(self) -> None:
        # Defaults are left out of an event's bytes by identity: spelling one out must not make another event.
        if self.name == LABEL_NAME:
            force_setattr(self, "name", LABEL_NAME)
        if self.confidence == CERTAIN:
            force_setattr(self, "confidence", CERTAIN)
        if self.op == "assert" and self.label is UNSET:
            raise ValueError("an asserted label needs the field `label`; to take one back say `op`: `retract`")


class Signal(Input, frozen=True, kw_only=True, omit_defaults=True):
    """A user did something that may imply a label: impression, click, dwell, skip, edit, purchase, and so on."""

    request_id: RequestId
    at_ms: TimeMs
    signal: Name
    value: float | None = None
    model: str | None = None
    item: str | None = None
    event_id: str = ""
