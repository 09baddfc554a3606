"""Which training runs a request taught: `services.train.dataset`'s rule for one request.

A run pins offsets; whether a row is below them is exact. The pins lie in the model's card, or in the plan of a run that
is not done; where the registry is not on this machine, all that can be said is what the window holds.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import msgspec
import xxhash

from schemas.event import decode
from schemas.feedback import Feedback
from schemas.inputs import Prediction
from schemas.lifecycle import Candidate, Promote, Retrain
from schemas.policy import JoinPolicy
from schemas.settings import Settings
from services.trace.landed import Landed, Reader
from services.trace.shape import Answer, Taught
from services.train.teaching import is_settled, waits_of, weight_of
from streams.join import naive
from streams.join.naive import Record
from streams.measure.reading import binary

Pins = Mapping[str, int]


class _Lineage(msgspec.Struct):
    pins: dict[str, int] = {}


class _Card(msgspec.Struct):
    lineage: _Lineage


def taught(reader: Reader, answer: Answer, landed: Landed, policies: Sequence[JoinPolicy]) -> list[Taught]:
    """Say of every run whose window holds the answer whether its data set does."""
    found = []
    candidates = reader.candidates(answer.model)
    promotes = reader.promotes(answer.model)
    for retrain in reader.retrains(answer.model, answer.at_ms):
        candidate = candidates.get(retrain.retrain_id)
        pins = pins_of(reader.settings, retrain, candidate)
        included, why = is_taught(retrain, pins, answer.deployment, landed, policies, clock_ms(reader, pins, landed))
        if candidate is not None and candidate.error:
            included, why = False, f"the run failed: {candidate.error}"
        version = candidate.version if candidate is not None and not candidate.error else ""
        found.append(
            Taught(
                retrain_id=retrain.retrain_id,
                version=version,
                included=included,
                why=why,
                at_ms=candidate.at_ms if candidate else retrain.at_ms,
                promoted=promoted(promotes, version),
            )
        )
    return found


def promoted(promotes: Sequence[Promote], version: str) -> list[str]:
    """Say where a version has been put to work, in the order in which it was."""
    said = (
        f"{one.endpoint} {one.stage or 'set'}"
        for one in promotes
        if version and any(each.version == version for each in one.deployments)
    )
    return list(dict.fromkeys(said))


def pins_of(settings: Settings, retrain: Retrain, candidate: Candidate | None) -> Pins | None:
    """Find what a run pinned; None when neither its model nor its plan is on this machine."""
    from services.train.artifact import CARD, locate, registry_of, runs_of

    if candidate is not None and not candidate.error:
        card = _read(locate(settings, candidate.model, candidate.version, candidate.artifact) / CARD)
        if card is not None:
            return msgspec.json.decode(card, type=_Card).lineage.pins or None
    plan = _read(runs_of(registry_of(settings), retrain.model, retrain.retrain_id) / "plan.json")
    return None if plan is None else msgspec.json.decode(plan, type=_Lineage).pins


def _read(path: Path) -> bytes | None:
    try:
        return path.read_bytes()
    except OSError:
        return None


def clock_ms(reader: Reader, pins: Pins | None, landed: Landed) -> int:
    """Give where the timers of the request's partition stood at the pins; 0 where no step was pinned."""
    if pins is None:
        return landed.timers.clock_ms
    below = pins.get(f"steps/{landed.partition}", 0)
    return reader.timers(landed.partition, landed.control, below).clock_ms if below else 0


def is_taught(
    retrain: Retrain,
    pins: Pins | None,
    deployment: str,
    landed: Landed,
    policies: Sequence[JoinPolicy],
    clock_ms: int,
) -> tuple[bool | None, str]:
    """Say whether the row of one deployment's answer is in a run's data set, and why; None: that cannot be told.

    `clock_ms` is the timers' clock at the pins.
    """
    rows = _standing(retrain, pins, landed)
    row = rows.get(deployment)
    if row is None:
        return False, "no primary prediction of it lies in the window, below the pinned offset"
    said = {(one.deployment, one.name): one for one in _below(pins, landed)}
    names = _label_names(retrain, policies)
    named = next((name for name in names if (deployment, name) in said), names[0])
    last = said.get((deployment, named))
    if last is None:
        return False, "nothing had been said of it when the run began"
    if last.predicted_at_ms != row.at_ms:
        return False, "what had been said was about another prediction of this identity"
    if last.label is None:
        return False, f"revision {last.revision} had taken its label back"
    wait_ms = waits_of(retrain.model, policies).get((last.policy, named))
    due_ms = None if wait_ms is None else row.at_ms + wait_ms
    if not is_settled(last.status, last.label_kind, due_ms, clock_ms):
        return False, f"revision {last.revision} was {last.status}"
    if last.weight <= 0:
        return False, "its weight was 0"
    y = binary(last.label)
    if y is None:
        return False, f"its label {last.label!r} is not binary"
    others = {place: one for place, one in rows.items() if place != deployment and (place, named) in said}
    if any((one.at_ms, place) < (row.at_ms, deployment) for place, one in others.items()):
        return False, "the request counts once, with the deployment that answered first"
    weight = weight_of(last.label_kind, last.weight, last.log_odds_correction)
    row_text = f"row with label {y}, weight {weight:g}, from revision {last.revision}"
    if pins is None:
        return None, f"{row_text}, if it had landed: the run's pins are not on this machine"
    return True, row_text


def _standing(retrain: Retrain, pins: Pins | None, landed: Landed) -> dict[str, Prediction]:
    """Give, by deployment, the primary prediction that the data set takes."""
    found: list[tuple[int, int, Prediction]] = []
    for topic, record in landed.records:
        if topic != "predictions" or not _is_below(pins, topic, record):
            continue
        try:
            one = decode(record.value or b"", Prediction)
        except (ValueError, RecursionError):
            continue
        if one.model == retrain.model and one.role == "primary" and retrain.from_ms <= one.at_ms < retrain.to_ms:
            found.append((one.at_ms, xxhash.xxh64_intdigest(one.event_id.encode()), one))
    found.sort(key=lambda each: each[:2], reverse=True)
    return {one.deployment: one for _, _, one in found}


def _below(pins: Pins | None, landed: Landed) -> list[Feedback]:
    """Give what had been said of wholes below the pins, in the order of revisions."""
    said = [decode(one.value or b"", Feedback) for one in landed.feedback if _is_below(pins, "feedback", one)]
    return sorted((one for one in said if one.item is None and one.role == "primary"), key=lambda one: one.revision)


def _is_below(pins: Pins | None, topic: str, record: Record) -> bool:
    return pins is None or record.offset < pins.get(f"{topic}/{record.partition}", 0)


def _label_names(retrain: Retrain, policies: Sequence[JoinPolicy]) -> list[str]:
    mine = [JoinPolicy(model=retrain.model)]
    mine += [one for one in policies if one.model == retrain.model and one.effective_from_ms < retrain.to_ms]
    mine.sort(key=lambda one: (one.effective_from_ms, one.version), reverse=True)
    return [one.label_name for one in mine]


def policies_of(landed: Landed, bounds: naive.Bounds) -> list[JoinPolicy]:
    """Give the join policies that the request's partition has heard."""
    read = (naive.read_policy(one, bounds) for one in landed.control if one.partition == landed.partition)
    return [one for one in read if isinstance(one, JoinPolicy)]
