"""What the join asks of the record, and the answer: docs/recall.md is the contract between the two.

The join puts away what it has no room for. When something comes that concerns such a request, or is due of it, it asks
for everything again, and goes on from the answer as if the request had never been away.
"""

from __future__ import annotations

from typing import Literal

from msgspec import Struct

from schemas.event import Event, RequestId, TimeMs
from schemas.feedback import Feedback

Cause = Literal["label", "signal", "prediction", "deadline", "policy"]
InputTopic = Literal["predictions", "labels", "signals"]


class RecallRequested(Event, frozen=True, kw_only=True, omit_defaults=True):
    """A step of the join asks for all of E(r) below its own offsets, and for what it last said about the request.

    `cause` is what met the stub: a label, a signal or another prediction of a request that was put away, its
    `deadline`, a `policy` that resolves anew. `step` is the number of the
    step that asks; (request_id, step) names the question. `offsets` maps each of the inputs to the next offset to read
    after that step, `clock_ms` is its clock. `deadline_ms` is the deadline of the outcome where the join still knows
    it, else 0.
    """

    request_id: RequestId
    cause: Cause
    partition: int
    step: int
    clock_ms: TimeMs
    offsets: dict[InputTopic, int]
    deadline_ms: TimeMs = 0


class RecalledRecord(Struct, frozen=True, kw_only=True, omit_defaults=True, forbid_unknown_fields=True):
    """One record of an input as it came, byte for byte (base64 in JSON); `append_ms` is its Kafka timestamp.

    Of an envelope it is the event number `index`, with its text as `value` (`schemas.envelope`).
    """

    topic: InputTopic
    partition: int
    offset: int
    index: int = 0
    append_ms: int
    key: bytes | None = None
    value: bytes | None = None
    headers: list[tuple[str, bytes | None]] = []


class Recalled(Event, frozen=True, kw_only=True, omit_defaults=True):
    """The answer to the question (request_id, step), or one of several `parts` of it (`part` counts from 0).

    `events` are the records of this request in its partition below `offsets`, in the order of topic (predictions,
    labels, signals) and offset. `found` says that a prediction is among them, in whichever part. `feedback` holds the
    last revision of each identity that was said at or before `clock_ms`, in the order of identity. Delivery: at least
    once, in the order of the questions; a repeated answer is equal byte for byte as long as the join says nothing about
    the request in between.
    """

    request_id: RequestId
    partition: int
    step: int
    clock_ms: TimeMs
    offsets: dict[InputTopic, int]
    found: bool
    part: int = 0
    parts: int = 1
    events: list[RecalledRecord] = []
    feedback: list[Feedback] = []
