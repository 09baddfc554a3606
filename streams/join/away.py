"""A request becomes a stub, and a stub with its answer a request again: pure, and each the other's inverse.

What is put away is nothing but the set of its events and what follows from it, so the same is made of the same events
again (`stubs` says what may go). An answer that does not hold what the stub knows to be there gives nothing.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any

from msgspec.structs import replace

from schemas.feedback import Feedback
from schemas.inputs import Label, Signal
from schemas.recall import Recalled, RecalledRecord
from schemas.topics import INPUTS
from streams.join.admission import Admitted, JoinBounds, Refused, admit, admitted_again, content_of
from streams.join.outcome import NOTHING, Outcome
from streams.join.policies import PolicyBook
from streams.join.resolve import COUNTS, conclude, gather
from streams.join.revise import differs
from streams.join.state import Case, Predicted, Request, Track, Waiting, absorb, tracks_of
from streams.join.stubs import Asked, Away, Stub
from streams.runtime.records import Records

Admissions = Mapping[str, Sequence[tuple[int, Admitted]]]
"""Topic → (position, what was admitted), in the order of the log."""


def leaving(request: Request, cut_ms: int, clock_ms: int, bounds: JoinBounds) -> Stub | None:
    """Give the stub of a request that may be put away at a cut; None when it has to stay."""
    if not request.cases or request.many:
        return None
    for heard in request.heard():
        if not heard.joined or heard.kept or heard.append_ms >= cut_ms:
            return None
    if any(not _settled(case, cut_ms, clock_ms) for case in request.cases):
        return None
    asks = [moment for case in request.cases for moment in _pending(case, clock_ms)]
    stub = Stub(
        0,
        min(asks, default=None),
        max(case.scope.evict_ms for case in request.cases),
        tuple(_away(case) for case in request.cases),
    )
    stub.due_ms = stub.next_due_ms(bounds.ahead_ms)
    return stub if stub.due_ms > clock_ms else None


def _settled(case: Case, cut_ms: int, clock_ms: int) -> bool:
    """Say whether a case is its standing prediction and what counts for it, all of before the cut."""
    standing = case.standing
    if case.conflicts or standing.event.at_ms >= cut_ms or standing.append_ms >= cut_ms:
        return False
    if case.scope.evict_ms <= clock_ms:
        return False
    for track in case.tracks:
        if track.revision and track.said_of is not standing.event:
            return False
        scope = track.scope
        if scope is None or any(cut_ms < moment <= clock_ms for moment in (scope.provisional_ms, scope.deadline_ms)):
            return False
    return True


def _pending(case: Case, clock_ms: int) -> Iterable[int]:
    """Give the next moment of each outcome that may say something else then."""
    for track in case.tracks:
        scope, outcome = track.scope, track.outcome
        assert scope is not None
        if outcome.status == "provisional" or (outcome is NOTHING and scope.answers):
            if clock_ms < scope.provisional_ms:
                yield scope.provisional_ms
            elif clock_ms < scope.deadline_ms:
                yield scope.deadline_ms


def _away(case: Case) -> Away:
    model, deployment = case.identity
    revisions = sum(track.revision for track in case.tracks)
    said = any(track.revision for track in case.tracks if track.name == case.tracks[0].name)
    standing = case.standing
    return Away(model, deployment, standing.event.at_ms, standing.content, case.policy, case.counter, revisions, said)


def revived(
    asked: Asked, answers: Sequence[Recalled], partition: int, bounds: JoinBounds, policies: PolicyBook
) -> Request | None:
    """Make the request of a stub and its answer, as it was when it was put away.

    None when the answer lacks a prediction or a revision that the stub knows of: it is gone from the store.
    """
    kept = set(asked.kept())
    stood = {away.content for away in asked.stub.cases}
    events = _admitted([event for answer in answers for event in answer.events], stood, partition, bounds, policies)
    before = {
        topic: [(place, one) for place, one in admitted if (topic, place) not in kept]
        for topic, admitted in events.items()
    }
    said = [feedback for answer in answers for feedback in answer.feedback]
    request = Request()
    cases = []
    for away in asked.stub.cases:
        case = _case(away, before, said, bounds, policies)
        if case is None:
            return None
        cases.append(case)
    request.cases = tuple(sorted(cases, key=lambda case: case.identity))
    request.labels = _waiting(before["labels"], request) or None
    request.signals = _waiting(before["signals"], request) or None
    for case in request.cases:
        _conclude(request, case, asked.stub.as_was_ms)
    return request


def _admitted(
    events: Sequence[RecalledRecord], stood: Collection[int], partition: int, bounds: JoinBounds, policies: PolicyBook
) -> Admissions:
    """Admit what came before. What stood was admitted, whatever the policies and settings of today say of it."""
    found: dict[str, list[tuple[int, Admitted]]] = {}
    for topic in INPUTS:
        records = Records()
        for event in events:
            if event.topic == topic:
                records.append(event.offset, event.append_ms, event.key, event.value, event.headers, event.index)
        admission = admit(topic, partition, records, bounds, policies.in_force, 0)
        admitted = [
            admitted_again(topic, records, index)
            if isinstance(one, Refused) and topic == "predictions" and content_of(records.values[index] or b"") in stood
            else one
            for index, one in enumerate(admission.records)
        ]
        found[topic] = [(records.position(one.index), one) for one in admitted if isinstance(one, Admitted)]
    return found


def _case(
    away: Away, before: Admissions, said: Sequence[Feedback], bounds: JoinBounds, policies: PolicyBook
) -> Case | None:
    """Give the case of the prediction that stood; of earlier lives of its id there may be others, and what was said."""
    standing = _standing(away, before["predictions"])
    if standing is None:
        return None
    event = standing.event
    tracks = [
        Track(one.name, None, one.item, NOTHING, one.revision, _said(one), event)
        for one in said
        if (one.model, one.deployment, one.predicted_at_ms) == (event.model, event.deployment, event.at_ms)
    ]
    if sum(track.revision for track in tracks) != away.revisions:
        return None
    policy, ours = tracks_of(standing, policies, bounds, tracks, away.policy)
    return Case((event.model, event.deployment), standing, policy, ours, counter=away.counter)


def _standing(away: Away, predictions: Sequence[tuple[int, Admitted]]) -> Predicted | None:
    """Find the prediction by its content: its duplicates may have brought an earlier time."""
    mine = [
        one
        for _, one in predictions
        if one.event.model == away.model and away.deployment in (None, one.event.deployment)
    ]
    first = next((one for one in mine if one.content == away.content), None)
    if first is None:
        return None
    append_ms = min(
        one.append_ms for one in mine if one.key == first.key and one.event.deployment == first.event.deployment
    )
    return Predicted(first.key, first.content, first.event, append_ms)


def _said(one: Feedback) -> Outcome:
    if one.label_kind is None:
        return NOTHING
    return Outcome(one.label, one.label_kind, one.weight, one.status, one.p_fake_negative, one.labelled_at_ms)


def _waiting(admitted: Sequence[tuple[int, Admitted]], request: Request) -> dict[int, Waiting[Any]]:
    """Give the events that count: only such requests are put away of which all do."""
    waiting: dict[int, Waiting[Any]] = {}
    for place, one in admitted:
        held = waiting.get(one.key)
        if held is None:
            waiting[one.key] = Waiting(one.key, one.content, one.event, one.append_ms, place, None, joined=True)
        elif absorb(held, one):
            held.offset = place
    return {key: held for key, held in waiting.items() if _counts(request, held)}


def _counts(request: Request, held: Waiting[Label] | Waiting[Signal]) -> bool:
    return any(case.stage(held.event, held.append_ms) == COUNTS for case in request.cases)


def _conclude(request: Request, case: Case, clock_ms: int) -> None:
    """Say what was known of a case, without a word about it."""
    event = case.standing.event
    for track in case.tracks:
        if track.scope is None:
            continue
        evidence = gather(track.scope, request.labels, request.signals)
        outcome = conclude(track.scope, evidence, clock_ms)
        said = track.said
        if not differs(said, track.said_of, outcome, event) and outcome.labelled_at_ms != said.labelled_at_ms:
            outcome = replace(outcome, labelled_at_ms=said.labelled_at_ms)
        track.outcome = outcome
    case.counted = case.telling()
