"""Revisions: when one is due, and the `feedback` record that says it."""

from __future__ import annotations

import math
from typing import Any

from msgspec import Struct
from msgspec.structs import fields

from schemas.event import encode
from schemas.feedback import Feedback, Was
from schemas.inputs import LABEL_NAME, Item, Prediction
from schemas.policy import JoinPolicy
from streams.join.outcome import Outcome
from streams.join.resolve import same_label
from streams.runtime.processor import Output


def _default(kind: type[Struct], name: str) -> float:
    return next(float(field.default) for field in fields(kind) if field.name == name)


_WEIGHT, _FAKE = _default(Feedback, "weight"), _default(Feedback, "p_fake_negative")
_WAS_WEIGHT = _default(Was, "weight")


def _usual(value: float, default: float) -> float:
    """Give the default itself where a value equals it: only then msgspec leaves it out."""
    return default if value == default else value


def differs(said: Outcome, of: Prediction | None, now: Outcome, prediction: Prediction) -> bool:
    """Say whether a revision is due: `said` was emitted last, of the prediction `of`.

    Predictions are compared by identity: a standing one is replaced only by one with another content hash.
    """
    if not same_label(said.label, now.label):
        return True
    return now.label is not None and (said.kind != now.kind or said.weight != now.weight or of is not prediction)


def feedback(
    prediction: Prediction,
    policy: JoinPolicy,
    of: tuple[str, str | None],
    outcome: Outcome,
    revision: int,
    was: Was | None,
    *,
    negative_sample: float,
    partition: int,
    clock_ms: int,
) -> Output:
    """Make the `feedback` record of a revision of `of` (label name, item), keyed and placed as the prediction is."""
    name, item = of
    entry = _entry(prediction, item)
    event = Feedback(
        request_id=prediction.request_id,
        model=prediction.model,
        deployment=prediction.deployment,
        name=LABEL_NAME if name == LABEL_NAME else name,  # defaults are left out by identity
        item=item,
        revision=revision,
        status=outcome.status,
        label=outcome.label,
        label_kind=outcome.kind,
        weight=_usual(outcome.weight, _WEIGHT),
        p_fake_negative=_usual(outcome.p_fake_negative, _FAKE),
        log_odds_correction=math.log(negative_sample) if negative_sample < 1.0 else None,
        was=was,
        policy=policy.label,
        version=prediction.version,
        role=prediction.role,
        app_version=prediction.app_version,
        score=_score(prediction, name, item),
        prediction=prediction.prediction,
        threshold=prediction.threshold,
        position=entry.position if entry else None,
        slices=prediction.slices,
        subject=prediction.subject,
        experiments=prediction.experiments,
        action=prediction.action,
        propensity=entry.propensity if entry else prediction.propensity if item is None else None,
        features=prediction.features if policy.carry == "features" else {},
        predicted_at_ms=prediction.at_ms,
        labelled_at_ms=outcome.labelled_at_ms,
        joined_at_ms=clock_ms,
    )
    return Output("feedback", prediction.request_id.encode(), encode(event), partition)


def _entry(prediction: Prediction, item: str | None) -> Item | None:
    """Find an item in a ranking; of several entries of one item the first counts."""
    if item is None:
        return None
    return next((entry for entry in prediction.items or () if entry.item == item), None)


def _score(prediction: Prediction, name: str, item: str | None) -> float | list[float] | None:
    """Give the score that an outcome is about: the item's, the output's of that name, or else the prediction's."""
    if item is not None:
        entry = _entry(prediction, item)
        return None if entry is None else entry.score
    if prediction.outputs is not None and name in prediction.outputs:
        return prediction.outputs[name]
    return prediction.score


def was(said: Outcome, of: Prediction, prediction: Prediction, about: tuple[str, str | None]) -> Was:
    """Repeat the revision before; with the fields of its prediction when that was another one than now stands."""
    then: dict[str, Any] = {}
    if of is not prediction:
        then = {
            "predicted_at_ms": of.at_ms,
            "version": of.version,
            "role": of.role,
            "score": _score(of, *about),
            "prediction": of.prediction,
            "threshold": of.threshold,
            "subject": of.subject,
            "slices": of.slices,
        }
    weight = _usual(said.weight, _WAS_WEIGHT)
    return Was(status=said.status, label=said.label, label_kind=said.kind, weight=weight, **then)
