"""What the machinery writes about itself: steps and dead letters."""

from __future__ import annotations

from schemas.event import Event, TimeMs


class Step(Event, frozen=True, kw_only=True, omit_defaults=True):
    """One step of one partition of one stage: enough to take it again and get the same bytes.

    `offsets` maps each input (logical topic name) to the next offset to read; `clock_ms` is the clock the step ran at;
    `counters` are cumulative; `outputs` is the number of outputs and `digest` one hash over them.
    """

    stage: str
    partition: int
    number: int
    offsets: dict[str, int]
    clock_ms: TimeMs
    cut_ms: int = 0
    counters: dict[str, int] = {}
    processor: str
    outputs: int
    digest: str


class DeadLetter(Event, frozen=True, kw_only=True, omit_defaults=True):
    """An input that could not be used, whole: it can be listed, shown, repaired and retried.

    `reason` is a short code (`not_json`, `clock_skew`, `orphan`, …; the table is in docs/bad-input.md), `detail` the
    sentence. `key` and `value` are base64, because they may be anything. `topic` is the logical name of the input.
    """

    reason: str
    detail: str
    stage: str
    topic: str
    partition: int
    offset: int
    index: int = 0
    append_ms: int
    key: str | None = None
    value: str | None = None
    headers: list[tuple[str, str | None]] = []
    request_id: str = ""
    model: str = ""
    at_ms: TimeMs
