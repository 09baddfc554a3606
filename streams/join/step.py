"""One step of the join: predictions meet what later turned out to be true. Pure; `docs/join.md` is the specification.

A step takes the records at the timers' clock of the step before, then the timers at its own. Every event is put into
E(r), the set of its request, and each case (identity) that it concerns is *settled*: resolved anew, its revision
emitted when the outcome differs, its class moved, and the change told to the stage that is chained behind. Settling is
idempotent, so order, duplication and batching of the records decide only about the revisions in between.

What concerns a request that has been put away is kept beside a question until the answer brings it back (`recalling`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from schemas.control import Control, Frozen, PolicySet, Thawed
from schemas.inputs import Prediction
from schemas.recall import Recalled
from schemas.topics import INPUTS
from streams.join.admission import Admitted, JoinBounds, admit, origin_of, read_control
from streams.join.arrivals import Arrivals
from streams.join.columns.lane import Told
from streams.join.dead import dead_letter
from streams.join.outcome import Change
from streams.join.policies import too_late
from streams.join.recalling import Recalling
from streams.join.resolve import COUNTS, stage
from streams.join.settling import Settling
from streams.join.state import Case, JoinState, Predicted, Request, Waiting, absorb, tracks_of
from streams.join.stubs import Asked, Stub
from streams.runtime.clock import RECALLED
from streams.runtime.processor import Batch, Output, Outputs
from streams.runtime.records import Records, place_of
from streams.runtime.unfold import unfold


@dataclass(frozen=True, slots=True)
class JoinStepped:
    """What a step of the join gives. `counters` are cumulative; `control` holds the control events that took effect or
    concern others, for the stages behind.
    """

    outputs: Outputs
    changes: list[Change]
    control: list[Control]
    counters: Mapping[str, int]
    wake_at_ms: int | None
    arrivals: Arrivals


class Join:
    """The join of one namespace. It keeps nothing: the state of a partition is `JoinState`."""

    def __init__(self, bounds: JoinBounds) -> None:
        self.bounds = bounds

    def step(self, state: JoinState, batch: Batch, clock_ms: int) -> JoinStepped:
        """Advance `state` by one batch and the clock."""
        step = _Step(self.bounds, state, batch, max(clock_ms, state.clock_ms))
        control = batch.inputs.get("control")
        if control:
            step.take_control(control)
        step.timers_ms = state.held_ms(step.clock_ms)
        if state.columns is not None:
            state.columns.begin(step.seen_ms, step.clock_ms)
        recalled = batch.inputs.get(RECALLED)
        if recalled:
            step.take_recalled(recalled)
        for topic in INPUTS:
            records = batch.inputs.get(topic)
            if records:
                step.take(topic, records)
        step.take_timers()
        if batch.cut_ms:
            step.recalling.put_away(batch.cut_ms, step.timers_ms)
        step.outputs.extend(step.recalling.questions())
        if state.columns is not None:
            state.columns.met(step.arrivals)
        step.arrivals.keep(lambda model, signal: state.policies.attributes(model, signal, step.clock_ms))
        state.clock_ms, state.timers_ms = step.clock_ms, step.timers_ms
        return JoinStepped(step.outputs, step.changes, step.control, state.counted(), state.wake_at_ms(), step.arrivals)


class _Step:
    """One step at work: where outputs and changes gather. `timers_ms` is its timers' clock, `seen_ms` that of the step
    before.
    """

    def __init__(self, bounds: JoinBounds, state: JoinState, batch: Batch, clock_ms: int) -> None:
        self.bounds = bounds
        self.state = state
        self.counters = state.counters
        self.clock_ms = clock_ms
        self.seen_ms = self.timers_ms = state.timers_ms
        self.cases = Settling(bounds, state, clock_ms)
        self.outputs, self.changes = self.cases.outputs, self.cases.changes
        self.control: list[Control] = []
        self.arrivals = Arrivals()
        self.recalling = Recalling(bounds, state, batch, clock_ms)

    # Control.

    def take_control(self, records: Records) -> None:
        for index in range(len(records)):
            event = read_control(self.state.partition, records, index, self.bounds, self.clock_ms)
            if isinstance(event, Output):
                self.counters["control.dead"] += 1
                self.outputs.append(event)
            elif isinstance(event, PolicySet):
                self.take_policy(event, records, index)
            else:
                applied = self.freeze(event)
                self.counters["control.applied" if applied else "control.ignored"] += 1
                self.control.append(event)

    def freeze(self, event: Control) -> bool:
        """Hold or release the timers' clock, if that is what a control event asks for."""
        if isinstance(event, Frozen):
            self.state.frozen_ms.setdefault(event.source, self.state.clock_ms)
            return True
        if isinstance(event, Thawed):
            self.state.frozen_ms.pop(event.source, None)
            return True
        return False

    def take_policy(self, event: PolicySet, records: Records, index: int) -> None:
        policy = event.policy
        append_ms = records.append_ms[index]
        if not self.bounds.virtual and too_late(policy, append_ms):
            detail = (
                f"`effective_from_ms` is {policy.effective_from_ms}, the record was appended at {append_ms}: a policy "
                "takes effect at the earliest a minute after it is appended, so that every partition has heard of it"
            )
            origin = origin_of("control", self.state.partition, records, index)
            self.counters["control.dead"] += 1
            self.outputs.append(dead_letter(origin, "policy_too_late", detail, self.clock_ms, model=policy.model))
            return
        self.counters["control.applied"] += 1
        self.control.append(event)
        if self.state.policies.add(policy):
            self.apply(policy.model)

    def apply(self, model: str) -> None:
        """Resolve anew what another policy than before is in force for."""
        if self.state.columns is not None:
            for position in self.state.columns.govern(model, self.state.policies.of(model)):
                if self.state.columns.is_stub(position):
                    self.recalling.ask(*self.state.lift_stub(position), "policy")
                else:
                    self.state.lift(position)
        self.recalling.govern(model)
        found = [
            (request_id, case.identity, request, case)
            for request_id, request in self.state.requests.items()
            for case in request.cases
            if case.identity[0] == model and self.state.policies.in_force(model, case.scope.at_ms) is not case.policy
        ]
        for request_id, _, request, case in sorted(found, key=lambda entry: entry[:2]):
            self.cases.rescope(case)
            self.cases.reclass(request)
            self.cases.settle(request, case, self.seen_ms)
            self.state.arm(request_id, request, case.due_ms(self.seen_ms))

    # Records.

    def tell(self, told: Told) -> None:
        self.outputs.extend(told.blocks)
        self.changes += told.changes

    def take(self, topic: str, records: Records) -> None:
        state = self.state
        counters = self.counters
        records = unfold(topic, records, written=state.columns is None)
        if state.columns is not None:
            told, left = state.columns.take(topic, records)
            self.tell(told)
            if not left:
                return
            records = records.select(left)
        admission = admit(topic, state.partition, records, self.bounds, state.policies.in_force, self.clock_ms)
        counters["keys.differ"] += admission.differing
        for record in admission.records:
            if not isinstance(record, Admitted):
                counters[f"{topic}.{record.counted}"] += 1
                self.outputs.append(record.output)
            elif not self.recalling.keep(topic, records, record):
                self.take_admitted(topic, records, record)

    def take_admitted(self, topic: str, records: Records, record: Admitted) -> None:
        if topic == "predictions":
            self.take_prediction(record)
        else:
            self.take_heard(topic, records, record)

    def take_recalled(self, records: Records) -> None:
        """Go on with what was put away and is answered for; what waited beside the question is taken now."""
        for index in range(len(records)):
            heard = self.recalling.hear(records, index)
            if isinstance(heard, Output):
                self.outputs.append(heard)
            elif heard is not None:
                self.take_back(*heard)

    def take_back(self, asked: Asked, answers: list[Recalled]) -> None:
        """Take a request back, under the policies that are in force, and then what waited beside the question.

        Of that, what came when the request would have left finds it gone: it may be of the id's next life.
        """
        request_id, policies = answers[0].request_id, self.state.policies
        request = self.recalling.revive(asked, answers) or Request()
        for case in request.cases:
            if policies.in_force(case.identity[0], case.scope.at_ms) is not case.policy:
                self.cases.rescope(case)
                self.cases.reclass(request)
        for held in asked.held:
            moment_ms = min(held.admitted.append_ms, self.timers_ms)
            if request.cases and all(case.scope.evict_ms <= moment_ms for case in request.cases):
                self.visit(request_id, request)
            self.take_admitted(held.topic, held.records, held.admitted)
        for case in request.cases:
            self.cases.settle(request, case, self.seen_ms)
            self.state.arm(request_id, request, case.due_ms(self.seen_ms))

    def take_prediction(self, record: Admitted) -> None:
        event: Prediction = record.event
        request_id = event.request_id
        request = self.state.find(request_id) or self.state.begin(request_id)
        identity = event.model, event.deployment
        for case in request.cases:
            if case.identity == identity:
                if not self.take_again(case, record):
                    return
                break
        else:
            standing = Predicted(record.key, record.content, event, record.append_ms)
            case = Case(identity, standing, *tracks_of(standing, self.state.policies, self.bounds))
            request.cases = tuple(sorted((*request.cases, case), key=_identity)) if request.cases else (case,)
            for held in request.heard():
                if case.stage(held.event, held.append_ms) == COUNTS:
                    self.arrivals.note(held.event, event, held.append_ms, record.append_ms)
        if request.labels or request.signals:
            self.cases.reclass(request)
        self.cases.settle(request, case, self.seen_ms)
        self.state.arm(request_id, request, case.due_ms(self.seen_ms))

    def take_again(self, case: Case, record: Admitted) -> bool:
        """Take another prediction of an identity, duplicate or conflict. True when another content or time stands."""
        standing = case.standing
        key, event, append_ms = record.key, record.event, record.append_ms
        if case.conflicts is None:
            case.conflicts = {}
        held = standing if key == standing.key else case.conflicts.get(key)
        if held is None:
            self.counters["predictions.conflict"] += 1
            held = case.conflicts[key] = Predicted(key, record.content, event, append_ms)
            changed = False
        else:
            self.counters["predictions.duplicate"] += 1
            changed = absorb(held, record)
        if held is not standing:
            if (held.event.at_ms, held.key) > (standing.event.at_ms, standing.key):
                return False
            del case.conflicts[held.key]
            case.conflicts[standing.key] = standing
            case.standing = held
            changed = True
        if changed:
            self.cases.rescope(case)
        return changed

    def take_heard(self, topic: str, records: Records, record: Admitted) -> None:
        event: Any = record.event
        index = record.index
        key = record.key
        request = self.state.find(event.request_id) or self.state.begin(event.request_id)
        waiting: dict[int, Any] | None = request.labels if topic == "labels" else request.signals
        if waiting is None:
            waiting = {}
            if topic == "labels":
                request.labels = waiting
            else:
                request.signals = waiting
        held: Waiting[Any] | None = waiting.get(key)
        if held is not None:
            self.counters[f"{topic}.duplicate"] += 1
            stood = held.content
            changed = absorb(held, record)
            # of equals the first stands, in whatever order they are taken
            place = records.position(index)
            if held.content != stood or (record.content == stood and place_of(place) < place_of(held.offset)):
                held.offset = place
                held.raw = None if held.joined else _raw(records, index)
            if not changed:
                return
            self.cases.reclass(request)
            for case in request.cases:
                for track in case.tracks:
                    track.evidence = None
                self.cases.settle(request, case, self.seen_ms)
        else:
            held = waiting[key] = Waiting(key, record.content, event, record.append_ms, records.position(index), None)
            for case in request.cases:
                if case.stage(event, record.append_ms) == COUNTS:
                    self.arrivals.note(event, case.standing.event, record.append_ms, case.standing.append_ms)
                for track in case.tracks:
                    if track.scope is not None and stage(track.scope, event, record.append_ms) == COUNTS:
                        held.joined = True
                        if track.evidence is not None:
                            track.evidence.add(track.scope, held)
                        self.cases.settle_track(request, case, track, self.seen_ms)
                if held.joined:
                    self.cases.count(case, self.seen_ms)
            if held.joined:
                self.counters[f"{topic}.joined"] += 1
            else:
                self.counters[f"{topic}.parked"] += 1
                held.raw = _raw(records, index)
        if not request.cases:
            self.state.arm(event.request_id, request, self.cases.end_ms(held))

    # Timers.

    def take_timers(self) -> None:
        state = self.state
        if state.columns is not None:
            told, left = state.columns.fire(self.timers_ms)
            self.tell(told)
            for position in left:
                if state.columns.is_stub(position):
                    self.recalling.ask(*state.lift_stub(position, linked=False), "deadline")
                else:
                    state.lift(position, linked=False)
            self.counters["keys.differ"] += state.columns.differing
        while (taken := state.take_due(self.timers_ms)) is not None:
            request_id, request = taken
            if isinstance(request, Stub):
                self.recalling.look(request_id, request, self.timers_ms)
                continue
            if isinstance(request, Asked):
                self.recalling.ask_again(request_id, request)
                continue
            due_ms = request.next_due_ms(self.seen_ms, self.bounds)
            if due_ms is not None and due_ms > request.due_ms:
                state.rearm(request_id, request, due_ms)
                continue
            self.visit(request_id, request)

    def visit(self, request_id: str, request: Request) -> None:
        """Say what the timers' clock makes of a request, and let what has come to its end leave."""
        for case in request.cases:
            self.cases.settle(request, case, self.timers_ms)
        if any(case.scope.evict_ms <= self.timers_ms for case in request.cases):
            self.cases.evict(request, self.timers_ms)
        if not request.cases:
            self.cases.end(request_id, request, self.timers_ms)
        due_ms = request.next_due_ms(self.timers_ms, self.bounds)
        if due_ms is None:
            self.state.end(request_id)
        else:
            self.state.rearm(request_id, request, due_ms)


def _identity(case: Case) -> tuple[str, str]:
    return case.identity


def _raw(records: Records, index: int) -> tuple[bytes | None, bytes | None, Any]:
    return records.keys[index], records.values[index], records.headers.get(index, ())
