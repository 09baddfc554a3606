"""What a step makes of cases: resolved anew, said where it differs, counted in its class, told to the stage behind.

Settling is idempotent: a case that nothing has changed says nothing.
"""

from __future__ import annotations

from typing import Any

from msgspec.structs import replace

from schemas.event import encode
from streams.join.admission import JoinBounds
from streams.join.dead import Origin, dead_letter
from streams.join.outcome import NOTHING, Change
from streams.join.resolve import COUNTS, REASONS, conclude, gather, known
from streams.join.revise import differs, feedback, was
from streams.join.state import TOLD, Case, JoinState, Request, Track, Waiting, tracks_of
from streams.runtime.processor import Outputs
from streams.runtime.records import place_of

ENDED = {
    "orphan": "no prediction of this request and model is known: it never came, came too late, or left state long ago",
    "unknown_name": "no prediction of this request accepts the name: compare it with `label_name` and `labels` of the "
    "policy",
    "unknown_item": "no prediction of this request lists its `item` among its `items`",
    "outside_horizon": "its `at_ms` lies outside the window of every prediction of this request: compare `horizon_ms`",
    "too_late": "its Kafka timestamp lies beyond the reach of every prediction of this request: compare `recall_ms`, "
    "`retain_ms` and the namespace's `early_label_ms`",
}


class Settling:
    """The cases of one step: `outputs` and `changes` gather here."""

    def __init__(self, bounds: JoinBounds, state: JoinState, clock_ms: int) -> None:
        self.bounds, self.state, self.counters, self.clock_ms = bounds, state, state.counters, clock_ms
        self.outputs = Outputs()
        self.changes: list[Change] = []

    def rescope(self, case: Case) -> None:
        """Put a case under the policy that is in force for it."""
        case.policy, case.tracks = tracks_of(case.standing, self.state.policies, self.bounds, case.tracks)

    def reclass(self, request: Request) -> None:
        """Say anew of every label and signal of a request whether it counts."""
        for topic, waiting in _heard(request):
            for held in waiting.values():
                joined = held.kept or any(case.stage(held.event, held.append_ms) == COUNTS for case in request.cases)
                if joined is not held.joined:
                    self.counters[f"{topic}.{'joined' if joined else 'parked'}"] += 1
                    self.counters[f"{topic}.{'parked' if joined else 'joined'}"] -= 1
                    held.joined = joined
                    held.raw = None

    def settle(self, request: Request, case: Case, clock_ms: int) -> None:
        """Resolve all outcomes of a case at `clock_ms`; emit, count and tell what follows."""
        for track in case.tracks:
            self.settle_track(request, case, track, clock_ms)
        self.count(case, clock_ms)

    def settle_track(self, request: Request, case: Case, track: Track, clock_ms: int) -> None:
        """Resolve one outcome and emit what follows; `count` is due after it."""
        prediction = case.standing.event
        scope = track.scope
        outcome = NOTHING
        if scope is not None:
            evidence = track.evidence
            if evidence is None and (request.labels or request.signals):
                evidence = gather(scope, request.labels, request.signals)
                if request.many:
                    track.evidence = evidence
            outcome = conclude(scope, evidence, clock_ms)
        said = track.said
        if differs(said, track.said_of, outcome, prediction):
            track.revision += 1
            self.outputs.append(
                feedback(
                    prediction,
                    case.policy,
                    (track.name, track.item),
                    outcome,
                    track.revision,
                    None if track.said_of is None else was(said, track.said_of, prediction, (track.name, track.item)),
                    negative_sample=1.0 if scope is None else scope.policy.negative_sample,
                    partition=self.state.partition,
                    clock_ms=self.clock_ms,
                )
            )
            track.said = outcome
            track.said_of = prediction
        elif outcome.labelled_at_ms != said.labelled_at_ms:
            # A source that repeats itself later is no revision. What is counted stays what the last revision said, so
            # that it can be counted again from `feedback`.
            outcome = replace(outcome, labelled_at_ms=said.labelled_at_ms)
        track.outcome = outcome

    def count(self, case: Case, clock_ms: int) -> None:
        """Tell what stands and what is known of it by `label_name`, and move the prediction's class."""
        before, after = case.counted, case.telling()
        if (
            before is None
            or before.prediction is not after.prediction
            or before.revision != after.revision
            or before.outcome != after.outcome
            or before.items != after.items
            or before.output != after.output
            or before.others != after.others
        ):
            case.counted, case.told = after, TOLD
            self.changes.append(Change(before, after))
        counter = f"predictions.{case.class_at(clock_ms)}"
        if counter != case.counter:
            self.counters[counter] += 1
            if case.counter:
                self.counters[case.counter] -= 1
            case.counter = counter

    def evict(self, request: Request, timers_ms: int) -> None:
        """Let the cases leave whose time is over; what counted for them is kept as that."""
        gone = [case for case in request.cases if case.scope.evict_ms <= timers_ms]
        request.cases = tuple(case for case in request.cases if case.scope.evict_ms > timers_ms)
        for case in gone:
            for held in request.heard():
                reached = case.stage(held.event, held.append_ms)
                if reached == COUNTS:
                    held.kept = True
                elif known(case.scope, held.append_ms, self.bounds):
                    held.furthest = max(held.furthest, reached)

    def end(self, request_id: str, request: Request, timers_ms: int) -> None:
        """Give up what waited for a prediction long enough."""
        for topic, waiting in _heard(request):
            for one in sorted(key for key, held in waiting.items() if self.end_ms(held) <= timers_ms):
                held = waiting.pop(one)
                if held.joined:
                    continue
                self.counters[f"{topic}.parked"] -= 1
                self.counters[f"{topic}.dead"] += 1
                key, value, headers = held.raw or (request_id.encode(), encode(held.event), ())
                offset, index = place_of(held.offset)
                origin = Origin(topic, self.state.partition, offset, held.append_ms, key, value, headers, index)
                reason = REASONS[held.furthest]
                model = held.event.model or ""
                self.outputs.append(
                    dead_letter(origin, reason, ENDED[reason], self.clock_ms, request_id=request_id, model=model)
                )

    def end_ms(self, held: Waiting[Any]) -> int:
        """Say how long a record waits for a prediction."""
        return held.append_ms + self.bounds.early_label_ms + self.bounds.grace_ms


def _heard(request: Request) -> list[tuple[str, dict[int, Any]]]:
    named = (("labels", request.labels), ("signals", request.signals))
    return [(topic, waiting) for topic, waiting in named if waiting]
