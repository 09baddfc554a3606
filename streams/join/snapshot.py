"""The join's state as bytes: one version byte, then MessagePack.

What follows from the rest (windows, the heap, the policy of each case) is worked out again on reading. Events are their
canonical JSON, which reads back to equal events. The order of requests is kept, though no output depends on it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec
from msgspec import Struct

from schemas.event import decode, encode
from schemas.feedback import LabelKind, Status
from schemas.inputs import Label, Prediction, Signal
from schemas.policy import JoinPolicy
from schemas.recall import Cause
from streams.join.admission import admitted_again
from streams.join.outcome import NOTHING, Outcome
from streams.join.policies import DEFAULT
from streams.join.resolve import Bounds
from streams.join.state import Case, JoinState, Predicted, Request, Track, Waiting, tracks_of, zeros
from streams.join.stubs import Asked, Away, Held, Stub
from streams.runtime.records import Headers, Records, place_of

PAIR = b"\x01"
FORMAT = b"\x04"
BEFORE = b"\x03", b"\x02"
"""Format 2 had no second tier. Before format 4 nothing was told of items, outputs and other label names."""


class _Outcome(Struct, array_like=True):
    label: Any
    kind: LabelKind | None
    weight: float
    status: Status
    p_fake_negative: float
    labelled_at_ms: int | None


class _Predicted(Struct, array_like=True):
    key: int
    content: int
    event: bytes
    append_ms: int


class _Track(Struct, array_like=True):
    """An outcome of which something is or was said. `said_of` is null where it is the standing prediction."""

    name: str
    item: str | None
    outcome: _Outcome | None
    revision: int
    said: _Outcome | None
    said_of: bytes | None


class _Case(Struct, array_like=True):
    """`told` is how far the case was told to the stage behind (`state.TOLD`): taken back is what was told."""

    standing: _Predicted
    conflicts: list[_Predicted]
    tracks: list[_Track]
    counter: str
    told: int = 0


class _Waiting(Struct, array_like=True):
    key: int
    content: int
    event: bytes
    append_ms: int
    offset: int
    raw: tuple[bytes | None, bytes | None, list[tuple[str, bytes | None]]] | None
    joined: bool
    kept: bool
    furthest: int


class _Request(Struct, array_like=True):
    request_id: str
    due_ms: int
    cases: list[_Case]
    labels: list[_Waiting]
    signals: list[_Waiting]


class _Away(Struct, array_like=True):
    """`policy` is (model, `effective_from_ms`, version); null for the default."""

    model: str
    deployment: str | None
    at_ms: int
    content: int
    policy: tuple[str, int, int] | None
    counter: str
    revisions: int
    said: bool


class _Stub(Struct, array_like=True):
    request_id: str
    due_ms: int
    ask_ms: int | None
    ends_ms: int
    cases: list[_Away]


class _Held(Struct, array_like=True):
    topic: str
    offset: int
    append_ms: int
    key: bytes | None
    value: bytes | None
    headers: list[tuple[str, bytes | None]]


class _Asked(Struct, array_like=True):
    stub: _Stub
    step: int
    cause: Cause
    held: list[_Held]
    parts: dict[int, bytes]
    due_ms: int = 0


class _State(Struct, array_like=True):
    partition: int
    clock_ms: int
    timers_ms: int
    frozen_ms: dict[str, int]
    counters: dict[str, int]
    policies: list[bytes]
    requests: list[_Request]
    stubs: list[_Stub] = []
    asked: list[_Asked] = []


_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(_State)
_pair = msgspec.msgpack.Decoder(tuple[bytes, bytes])


def dump_pair(join: bytes, chained: bytes) -> bytes:
    """Put the join's bytes and those of the stage behind it into one body."""
    return PAIR + _encoder.encode((join, chained))


def load_pair(body: bytes) -> tuple[bytes, bytes]:
    """Read `dump_pair`'s bytes."""
    return _pair.decode(_after_version(body, PAIR))


def dump_join(state: JoinState) -> bytes:
    """Write a state."""
    return FORMAT + _encoder.encode(
        _State(
            state.partition,
            state.clock_ms,
            state.timers_ms,
            state.frozen_ms,
            state.counters,
            [encode(policy) for policy in state.policies.all()],
            [
                _Request(
                    request_id,
                    request.due_ms,
                    [_dump_case(case) for case in request.cases],
                    [_dump_waiting(held) for held in (request.labels or {}).values()],
                    [_dump_waiting(held) for held in (request.signals or {}).values()],
                )
                for request_id, request in state.requests.items()
            ],
            [_dump_stub(request_id, stub) for request_id, stub in state.stubs.items()],
            [_dump_asked(request_id, asked) for request_id, asked in state.asked.items()],
        )
    )


def load_join(partition: int, body: bytes, bounds: Bounds) -> JoinState:
    """Read a state. Raises `ValueError` when the format or the partition is another one."""
    if body[:1] == b"\x01":
        raise ValueError(
            "the snapshot is of format 1, which told events apart by their canonical bytes; this version uses hashes "
            "of the bytes as they came, which it does not hold: start a new namespace, or run the older version"
        )
    read = _decoder.decode(_after_version(body, FORMAT, *BEFORE))
    if read.partition != partition:
        raise ValueError(f"the snapshot is of partition {read.partition}, not of partition {partition}")
    state = JoinState(partition, read.clock_ms, read.timers_ms, read.frozen_ms)
    state.counters = zeros() | read.counters
    for policy in read.policies:
        state.policies.add(decode(policy, JoinPolicy))
    for each in read.requests:
        request = Request()
        request.cases = tuple(_load_case(case, state, bounds) for case in each.cases)
        request.labels = {held.key: _load_waiting(held, Label) for held in each.labels} or None
        request.signals = {held.key: _load_waiting(held, Signal) for held in each.signals} or None
        state.requests[each.request_id] = request
        state.arm(each.request_id, request, each.due_ms)
    known = {_place(policy): policy for policy in state.policies.all()}
    for one in read.stubs:
        stub = state.stubs[one.request_id] = _load_stub(one, known)
        state.rearm(one.request_id, stub, stub.due_ms)
    for question in read.asked:
        held = [_load_held(one) for one in question.held]
        stub = _load_stub(question.stub, known)
        request_id = question.stub.request_id
        asked = state.asked[request_id] = Asked(question.step, question.cause, stub, held, question.parts, 0)
        state.rearm(request_id, asked, question.due_ms)
    return state


def _after_version(body: bytes, *known: bytes) -> bytes:
    if body[:1] not in known:
        raise ValueError(f"unknown snapshot format {body[:1]!r}: this version reads {', '.join(map(repr, known))}")
    return body[1:]


def _place(policy: JoinPolicy) -> tuple[str, int, int] | None:
    return None if policy is DEFAULT else (policy.model, policy.effective_from_ms, policy.version)


def _dump_stub(request_id: str, stub: Stub) -> _Stub:
    cases = [
        _Away(
            away.model,
            away.deployment,
            away.at_ms,
            away.content,
            _place(away.policy),
            away.counter,
            away.revisions,
            away.said,
        )
        for away in stub.cases
    ]
    return _Stub(request_id, stub.due_ms, stub.ask_ms, stub.ends_ms, cases)


def _load_stub(read: _Stub, known: Mapping[tuple[str, int, int] | None, JoinPolicy]) -> Stub:
    cases = tuple(
        Away(
            one.model,
            one.deployment,
            one.at_ms,
            one.content,
            DEFAULT if one.policy is None else known[one.policy],
            one.counter,
            one.revisions,
            one.said,
        )
        for one in read.cases
    )
    return Stub(read.due_ms, read.ask_ms, read.ends_ms, cases)


def _dump_asked(request_id: str, asked: Asked) -> _Asked:
    held = []
    for one in asked.held:
        records = one.records
        headers = list(records.headers.get(0, ()))
        held.append(
            _Held(one.topic, records.position(0), records.append_ms[0], records.keys[0], records.values[0], headers)
        )
    return _Asked(_dump_stub(request_id, asked.stub), asked.step, asked.cause, held, asked.parts, asked.due_ms)


def _load_held(read: _Held) -> Held:
    headers: dict[int, Headers] = {0: read.headers} if read.headers else {}
    offset, index = place_of(read.offset)
    indexes = {0: index} if index else {}
    records = Records([offset], [read.append_ms], [read.key], [read.value], headers, indexes)
    return Held(read.topic, records, admitted_again(read.topic, records, 0))


def _dump_outcome(outcome: Outcome) -> _Outcome | None:
    if outcome is NOTHING:
        return None
    return _Outcome(
        outcome.label,
        outcome.kind,
        outcome.weight,
        outcome.status,
        outcome.p_fake_negative,
        outcome.labelled_at_ms,
    )


def _load_outcome(read: _Outcome | None) -> Outcome:
    if read is None:
        return NOTHING
    return Outcome(read.label, read.kind, read.weight, read.status, read.p_fake_negative, read.labelled_at_ms)


def _dump_predicted(held: Predicted) -> _Predicted:
    return _Predicted(held.key, held.content, encode(held.event), held.append_ms)


def _load_predicted(read: _Predicted) -> Predicted:
    return Predicted(read.key, read.content, decode(read.event, Prediction), read.append_ms)


def _dump_case(case: Case) -> _Case:
    return _Case(
        _dump_predicted(case.standing),
        [_dump_predicted(held) for held in (case.conflicts or {}).values()],
        [_dump_track(track, case.standing.event) for track in case.tracks if track.revision],
        case.counter,
        case.told,
    )


def _dump_track(track: Track, standing: Prediction) -> _Track:
    return _Track(
        track.name,
        track.item,
        _dump_outcome(track.outcome),
        track.revision,
        _dump_outcome(track.said),
        None if track.said_of is None or track.said_of is standing else encode(track.said_of),
    )


def _load_track(read: _Track, standing: Prediction) -> Track:
    said_of = standing if read.said_of is None else decode(read.said_of, Prediction)
    outcome, said = _load_outcome(read.outcome), _load_outcome(read.said)
    return Track(read.name, None, read.item, outcome, read.revision, said, said_of)


def _load_case(read: _Case, state: JoinState, bounds: Bounds) -> Case:
    standing = _load_predicted(read.standing)
    event = standing.event
    before = [_load_track(track, event) for track in read.tracks]
    policy, tracks = tracks_of(standing, state.policies, bounds, before)
    conflicts = {held.key: _load_predicted(held) for held in read.conflicts} or None
    identity = event.model, event.deployment
    case = Case(identity, standing, policy, tracks, conflicts, counter=read.counter, told=read.told)
    case.counted = case.telling(read.told)
    return case


def _dump_waiting(held: Waiting[Any]) -> _Waiting:
    raw = None
    if held.raw is not None:
        key, value, headers = held.raw
        raw = key, value, [(name, said) for name, said in headers]
    return _Waiting(
        held.key,
        held.content,
        encode(held.event),
        held.append_ms,
        held.offset,
        raw,
        held.joined,
        held.kept,
        held.furthest,
    )


def _load_waiting(read: _Waiting, kind: type[Any]) -> Waiting[Any]:
    return Waiting(
        read.key,
        read.content,
        decode(read.event, kind),
        read.append_ms,
        read.offset,
        read.raw,
        read.joined,
        read.kept,
        read.furthest,
    )
