"""What a step does about requests that have been put away: questions, what waits beside them, answers.

docs/recall.md is the contract with whoever answers. Questions leave at the end of the step, in the order of request
ids, with the step's own vector: so the records that made them are in the answer.
"""

from __future__ import annotations

import msgspec
from msgspec.structs import replace

from schemas.event import encode
from schemas.recall import Cause, InputTopic, Recalled, RecallRequested
from streams.join.admission import Admitted, JoinBounds, origin_of
from streams.join.away import leaving, revived
from streams.join.dead import dead_letter
from streams.join.state import JoinState, Request
from streams.join.stubs import AGAIN_MS, FINAL, OPEN, PROVISIONAL, Asked, Held, Stub, after_silence
from streams.runtime.clock import RECALLED
from streams.runtime.processor import Batch, Output
from streams.runtime.records import Records

_KINDS: tuple[InputTopic, ...] = ("predictions", "labels", "signals")
_CAUSES: dict[str, Cause] = {"predictions": "prediction", "labels": "label", "signals": "signal"}
_answers = msgspec.json.Decoder(Recalled)


class Recalling:
    """The questions of one step."""

    def __init__(self, bounds: JoinBounds, state: JoinState, batch: Batch, clock_ms: int) -> None:
        self.bounds, self.state, self.batch, self.clock_ms = bounds, state, batch, clock_ms
        self._new: list[str] = []

    def keep(self, topic: str, records: Records, record: Admitted) -> bool:
        """Keep a record beside the question about its request. False: the request has not been put away."""
        state = self.state
        if not state.has_away:
            return False
        request_id = record.event.request_id
        asked = state.asked.get(request_id)
        if asked is None:
            stub = state.take_stub(request_id)
            if stub is None:
                return False
            asked = self.ask(request_id, stub, _CAUSES[topic])
        asked.held.append(Held(topic, _alone(records, record.index), replace(record, index=0)))
        state.counters[f"{topic}.parked"] += 1
        return True

    def ask(self, request_id: str, stub: Stub, cause: Cause) -> Asked:
        """Open a question about a request whose stub has been taken."""
        asked = self.state.asked[request_id] = Asked(self.batch.step, cause, stub, [], {}, 0)
        self.state.counters["recalls.asked"] += 1
        self._put(request_id, asked)
        return asked

    def ask_again(self, request_id: str, asked: Asked) -> None:
        """Put a question once more, as one of this step: it, or its answer, may have been lost."""
        asked.step = self.batch.step
        asked.parts.clear()
        self.state.counters["recalls.again"] += 1
        self._put(request_id, asked)

    def _put(self, request_id: str, asked: Asked) -> None:
        self.state.rearm(request_id, asked, self.clock_ms + AGAIN_MS)
        self._new.append(request_id)

    def questions(self) -> list[Output]:
        """Give the questions of this step."""
        found = []
        for request_id in sorted(self._new):
            asked = self.state.asked[request_id]
            question = RecallRequested(
                request_id=request_id,
                cause=asked.cause,
                partition=self.state.partition,
                step=asked.step,
                clock_ms=self.clock_ms,
                offsets={topic: self.batch.offsets[topic] for topic in _KINDS},
                deadline_ms=asked.stub.cases[0].deadline_ms,
            )
            found.append(Output("recall-requests", request_id.encode(), encode(question), self.state.partition))
        return found

    def hear(self, records: Records, index: int) -> tuple[Asked, list[Recalled]] | Output | None:
        """Take one record of `recalled`: a question with its whole answer, a dead letter, or nothing to do yet."""
        counters = self.state.counters
        try:
            answer = _answers.decode(records.values[index] or b"")
        except msgspec.DecodeError as error:
            counters["recalls.dead"] += 1
            origin = origin_of(RECALLED, self.state.partition, records, index)
            return dead_letter(origin, "bad_event", f"no answer of recall: {error}", self.clock_ms)
        asked = self.state.asked.get(answer.request_id)
        if asked is None or asked.step != answer.step:
            counters["recalls.repeated"] += 1
            return None
        asked.parts[answer.part] = records.values[index] or b""
        if len(asked.parts) < answer.parts:
            return None
        del self.state.asked[answer.request_id]
        parts = sorted(asked.parts.items())
        return asked, [answer if part == answer.part else _answers.decode(body) for part, body in parts]

    def revive(self, asked: Asked, answers: list[Recalled]) -> Request | None:
        """Bring back the request that was answered for; None when the store does not hold it any more."""
        state, request_id = self.state, answers[0].request_id
        request = revived(asked, answers, state.partition, self.bounds, state.policies)
        for held in asked.held:
            state.counters[f"{held.topic}.parked"] -= 1
        if request is not None:
            state.counters["recalls.answered"] += 1
            state.requests[request_id] = request
            return request
        state.counters["recalls.missing"] += 1
        state.end(request_id)
        for case in asked.stub.cases:  # nobody can say more of it than has been said
            said = {OPEN: after_silence(case), PROVISIONAL: FINAL}.get(case.counter, case.counter)
            state.counters[case.counter] -= 1
            state.counters[said] += 1
        return None

    def look(self, request_id: str, stub: Stub, clock_ms: int) -> None:
        """Do what is due of a stub: ask, let a deadline pass in silence, or let it go."""
        if stub.ask_ms is not None and clock_ms >= stub.ask_ms - self.bounds.ahead_ms:
            self.ask(request_id, self.state.stubs.pop(request_id), "deadline")
            return
        for case in stub.cases:
            if stub.silent(case) and clock_ms >= case.deadline_ms:
                self.state.counters[case.counter] -= 1
                case.counter = after_silence(case)
                self.state.counters[case.counter] += 1
        if clock_ms >= stub.ends_ms:
            self.state.end(request_id)
        else:
            self.state.rearm(request_id, stub, stub.next_due_ms(self.bounds.ahead_ms))

    def govern(self, model: str) -> None:
        """Ask for what another policy than before is in force for."""
        state = self.state
        found = [
            request_id
            for request_id, stub in state.stubs.items()
            for case in stub.cases
            if case.model == model and state.policies.in_force(model, case.at_ms) is not case.policy
        ]
        for request_id in dict.fromkeys(found):
            self.ask(request_id, state.stubs.pop(request_id), "policy")

    def put_away(self, cut_ms: int, clock_ms: int) -> None:
        """Put away what may go at a cut."""
        state = self.state
        count = 0
        if state.columns is not None:
            count = state.columns.put_away(cut_ms, clock_ms)
        for request_id, request in list(state.requests.items()):
            stub = leaving(request, cut_ms, clock_ms, self.bounds)
            if stub is not None:
                state.put_away(request_id, stub)
                count += 1
        state.counters["recalls.put_away"] += count


def _alone(records: Records, index: int) -> Records:
    headers = records.headers.get(index)
    return Records(
        [records.offsets[index]],
        [records.append_ms[index]],
        [records.keys[index]],
        [records.values[index]],
        {0: headers} if headers else {},
        {0: records.indexes[index]} if index in records.indexes else {},
    )
