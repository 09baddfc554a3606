"""What `decide` reads and how bytes become what a reducer can be told."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from typing import Any

import msgspec

from schemas.control import ClockAdvanced, Control, DecidePolicySet, Frozen, Thawed
from schemas.lifecycle import Approval, Candidate, Promote, RolloutStatus
from schemas.measures import Drift, Gate, Metric, Review
from schemas.records import DeadLetter
from streams.decide.reduce import Received

_KINDS: dict[str, Any] = {
    "control": Control,
    "metrics": Metric,
    "drift": Drift,
    "gates": Gate,
    "reviews": Review,
    "candidates": Candidate,
    "approvals": Approval,
    "promote": Promote,
    "rollout-status": RolloutStatus,
}
_decoders = {topic: msgspec.json.Decoder(kind) for topic, kind in _KINDS.items()}

INPUTS = tuple(_KINDS)
"""The logical topics that are read, each from its beginning at the first start."""
OUTPUTS = ("retrain", "promote", "alerts", "control", "dead-letters")


def read(topic: str, partition: int, value: bytes | None) -> Received | None:
    """Decode a record; None for what concerns somebody else (`control` has a copy in every partition: one is enough).

    Raises `msgspec.DecodeError` or `UnicodeDecodeError` that says what was expected.
    """
    if value is None or (topic == "control" and partition != 0):
        return None
    event = _decoders[topic].decode(value)
    if topic == "control" and not isinstance(event, (DecidePolicySet, ClockAdvanced, Frozen, Thawed)):
        return None
    return event  # type: ignore[no-any-return]


def dead_letter(
    topic: str,
    partition: int,
    offset: int,
    append_ms: int,
    key: bytes | None,
    value: bytes | None,
    headers: Sequence[tuple[str, bytes | None]],
    error: Exception,
) -> DeadLetter:
    """Say of a record why it could not be used, whole."""
    return DeadLetter(
        reason="unreadable",
        detail=f"expected a record of {topic}: {error}",
        stage="decide",
        topic=topic,
        partition=partition,
        offset=offset,
        append_ms=append_ms,
        key=_base64(key),
        value=_base64(value),
        headers=[(name, _base64(body)) for name, body in headers],
        at_ms=append_ms,
    )


def _base64(value: bytes | None) -> str | None:
    return None if value is None else base64.b64encode(value).decode("ascii")
