"""What lies in the arena, read back into objects: cases, what was heard of them, outcomes, changes."""

from __future__ import annotations

from typing import Any
from uuid import UUID

import msgspec
import numpy as np
from numpy.typing import NDArray

from schemas.event import decode
from schemas.inputs import Label, Prediction, Signal
from schemas.policy import JoinPolicy
from streams.join.admission import JoinBounds
from streams.join.columns import layout as l
from streams.join.columns.memory import WORKSPACE, Memory
from streams.join.columns.policies import PolicyTable
from streams.join.columns.render import RECITED, recite, recite_changes
from streams.join.outcome import NOTHING, Change, Counted, Outcome
from streams.join.resolve import scope
from streams.join.state import Case, Predicted, Track, Waiting
from streams.runtime.native import address

_KINDS = (None, "explicit", "implicit", "timeout")
_STATUSES = ("provisional", "final", "void")
_POSITION = (1 << 40) - 1
_prediction = msgspec.json.Decoder(Prediction)


class Reading:
    """Reads the records of one partition. A position is that of a record's first word in the arena."""

    def __init__(self, memory: Memory, policies: PolicyTable, bounds: JoinBounds) -> None:
        self._memory, self._policies, self._bounds = memory, policies, bounds
        self._arena = memory.area[l.ARENA]
        self._bytes: NDArray[np.uint8] = self._arena.view(np.uint8)

    def text(self, number: int) -> bytes:
        start, end = self._memory.area[l.TEXT_AT][number : number + 2].tolist()
        return self._memory.area[l.TEXT].view(np.uint8)[start:end].tobytes()

    def heard(self, position: int) -> list[int]:
        """Give the positions of what was heard of a request, the oldest first."""
        found = []
        heard = (int(self._arena[position + l.W_HEARD]) & _POSITION) - 1
        while heard >= 0:
            found.append(heard)
            heard = (int(self._arena[heard + l.W_HEARD_NEXT]) & _POSITION) - 1
        return found[::-1]

    def id_of_head(self, position: int) -> str:
        """Give the request id of a head or a stub."""
        size = field(int(self._arena[position + l.W_AT]), 48, 8)
        flags = field(int(self._arena[position]), l.FLAGS, 8)
        return _unpacked(self._slice((position + l.HEAD_WORDS) * 8, size), flags).decode()

    def _slice(self, start: int, size: int) -> bytes:
        return self._bytes[start : start + size].tobytes()

    def _start(self, position: int) -> int:
        flags = field(int(self._arena[position]), l.FLAGS, 8)
        return (position + l.CASE_WORDS + bool(flags & l.EVENT_ID) + bool(flags & l.LONG)) * 8

    def request_id(self, position: int) -> str:
        size = field(int(self._arena[position + l.W_AT]), 48, 8)
        flags = field(int(self._arena[position]), l.FLAGS, 8)
        return _unpacked(self._slice(self._start(position), size), flags).decode()

    def prediction(self, position: int) -> Prediction:
        """Read the standing prediction of a case: all that was kept of it."""
        out = np.empty(RECITED, dtype=np.uint8)
        end = recite(self._memory.address, position, address(out), 1)
        return _prediction.decode(out[: end - address(out)].tobytes())

    def case(self, position: int) -> Case:
        words = self._arena
        word = int(words[position])
        event = self.prediction(position)
        key = int(words[position + l.W_KEY]) & (2**64 - 1)
        content = key
        if field(word, l.FLAGS, 8) & l.EVENT_ID:
            content = int(words[position + l.W_CONTENT]) & (2**64 - 1)
        append_ms = field(int(words[position + l.W_APPEND]), 0, 48)
        policy = self.policy(position)
        revision = field(word, l.REVISION, 20)
        said = int(words[position + l.W_HEARD])
        by = (int(words[position + l.W_SAID]) & _POSITION) - 1
        kind, rule = field(said, 40, 2), field(said, 46, 8)
        told = self.outcome(policy, kind, field(said, 42, 2), rule, by) if revision else NOTHING
        counted = self.outcome(policy, kind, field(said, 44, 2), rule, by)
        return Case(
            identity=(event.model, event.deployment),
            standing=Predicted(key, content, event, append_ms),
            policy=policy,
            tracks=(
                Track(
                    name=policy.label_name,
                    scope=scope(event, append_ms, policy, self._bounds),
                    outcome=counted,
                    revision=revision,
                    said=told,
                    said_of=event if revision else None,
                ),
            ),
            counted=Counted(event, counted, revision),
            counter=f"predictions.{l.P_CLASSES[field(word, l.CLASS, 4)]}",
        )

    def policy(self, position: int) -> JoinPolicy:
        return self._policies.policies[field(int(self._arena[position + l.W_DUE]), 48, 16)]

    def waiting(self, position: int, request_id: str) -> tuple[bool, bool, Waiting[Any]]:
        w = [int(word) for word in self._arena[position : position + l.HEARD_WORDS]]
        of_label = field(w[0], l.KIND, 3) == l.LABEL
        joined = bool(field(w[0], l.FLAGS, 8) & l.JOINED)
        raw = self._slice((position + l.HEARD_WORDS) * 8, w[l.W_REST] & 0xFFFFFFFF)
        event: Any = decode(raw, Label) if of_label else decode(raw, Signal)
        waiting: Waiting[Any] = Waiting(
            key=w[l.W_HEARD_KEY] & (2**64 - 1),
            content=w[l.W_HEARD_CONTENT] & (2**64 - 1),
            event=event,
            append_ms=w[l.W_HEARD_APPEND],
            offset=w[l.W_OFFSET],
            raw=None if joined else (request_id.encode(), raw, ()),
            joined=joined,
        )
        return of_label, joined, waiting

    def outcome(self, policy: JoinPolicy, kind: int, status: int, rule: int, by: int) -> Outcome:
        if kind == l.NONE:
            return NOTHING
        named: Any = _STATUSES[status]
        if kind == l.TIMEOUT:
            fake = policy.p_fake_negative if status == l.PROVISIONAL else 0.0
            return Outcome(policy.negative_label, "timeout", 1.0, named, fake)
        at_ms = int(self._arena[by + l.W_HEARD_AT])
        if kind == l.IMPLICIT:
            given = policy.attribution[rule]
            return Outcome(given.label, "implicit", given.weight, named, 0.0, at_ms)
        value, rest = int(self._arena[by + l.W_VALUE]), int(self._arena[by + l.W_REST])
        label = msgspec.json.decode(self._slice(by * 8 + (value & 0xFFFFFFFF), field(value, 32, 32)))
        size = field(rest, 56, 8)
        weight = float(self._slice(by * 8 + field(rest, 32, 24), size)) if size else 1.0
        return Outcome(label, "explicit", weight, named, 0.0, at_ms)

    def changes(self, count: int) -> list[Change]:
        rows = WORKSPACE.changes[: count * l.CHANGE].reshape(count, l.CHANGE).tolist()
        found: list[Change] = []
        while len(found) < count:
            first = len(found)
            done = int(recite_changes(self._memory.address, first, count))
            ends = WORKSPACE.out_spans[: done - first].tolist()
            body = WORKSPACE.out.view(np.uint8)[: ends[-1]].tobytes()
            start = 0
            for end, row in zip(ends, rows[first:done], strict=True):
                position, had, before, before_by, revision_before, after, after_by, revision = row
                event = _prediction.decode(body[start:end])
                start = end
                policy = self.policy(position)
                was = None
                if had:
                    outcome = self.outcome(policy, before & 3, (before >> 2) & 3, (before >> 8) & 255, before_by)
                    was = Counted(event, outcome, revision_before)
                outcome = self.outcome(policy, after & 3, (after >> 2) & 3, (after >> 8) & 255, after_by)
                found.append(Change(was, Counted(event, outcome, revision)))
        return found


def field(word: int, shift: int, bits: int) -> int:
    """Give some bits of a word."""
    return (word >> shift) & ((1 << bits) - 1)


def _unpacked(request: bytes, flags: int) -> bytes:
    if not flags & l.PACKED:
        return request
    first, second = (int.from_bytes(request[k : k + 8], "little") for k in (0, 8))
    return str(UUID(int=first << 64 | second)).encode()
