"""Timelines: settings, messages in order, and what the join says, as one readable table per rule.

Times in a table are ms after `T`, so `at=0` is the prediction's moment. A row is one step: its record is read, and the
clock becomes the row's. The default windows: horizon 1000, deadline 1100, reach 1600, evicted after 1650;
skew 5000, early labels 300, grace 50.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Any

from schemas.event import decode
from schemas.feedback import Feedback
from schemas.records import DeadLetter
from streams.join.admission import JoinBounds
from streams.join.chained import Chained
from streams.join.processor import JoinMeasureState, JoinProcessor
from streams.runtime.processor import Batch, Output, Processor
from streams.runtime.records import Records

T = 1_700_000_000_000
BOUNDS = JoinBounds(skew_ms=5000, early_label_ms=300, grace_ms=50, partitions=1, max_event_bytes=10_000, virtual=True)
WINDOWS = {"horizon_ms": 1000, "lateness_ms": 100, "retain_ms": 500}
TOPICS = {"p": "predictions", "l": "labels", "s": "signals", "c": "control"}


@dataclass(frozen=True)
class Row:
    """One record, read at `clock`; without a topic only the clock moves."""

    clock: int
    topic: str = ""
    value: dict[str, Any] | bytes = field(default_factory=dict)
    key: bytes | None = b"r"
    headers: tuple[tuple[str, bytes | None], ...] = ()


def p(clock: int, at: int = 0, **fields: Any) -> Row:
    """A prediction of model `m`."""
    return Row(clock, "p", {"request_id": "r", "model": "m", "at_ms": T + at, **fields})


def l(clock: int, label: Any = 1, at: int | None = None, **fields: Any) -> Row:  # noqa: E743
    """A label that was true when it was sent, unless `at` says otherwise."""
    return Row(clock, "l", {"request_id": "r", "label": label, "at_ms": T + (clock if at is None else at), **fields})


def s(clock: int, signal: str = "click", at: int | None = None, **fields: Any) -> Row:
    """A signal."""
    return Row(clock, "s", {"request_id": "r", "signal": signal, "at_ms": T + (clock if at is None else at), **fields})


def policy(clock: int = -100_000, effective: int = -90_000, **fields: Any) -> Row:
    """A policy of model `m` with the default windows."""
    told = {"model": "m", **WINDOWS, **fields, "effective_from_ms": T + effective}
    return Row(clock, "c", {"kind": "policy_set", "policy": told})


def frozen(clock: int, source: str = "desk") -> Row:
    """Labels of a source look cut off."""
    return Row(clock, "c", {"kind": "frozen", "source": source})


def thawed(clock: int, source: str = "desk") -> Row:
    """They flow again."""
    return Row(clock, "c", {"kind": "thawed", "source": source})


def clock(ms: int) -> Row:
    """Time passes."""
    return Row(ms)


class Player:
    """Feeds rows to one partition, a step each."""

    def __init__(self, bounds: JoinBounds = BOUNDS, chained: Chained[Any] | None = None) -> None:
        self.processor: JoinProcessor[Any] = JoinProcessor(bounds, chained)
        checked: Processor[JoinMeasureState[Any]] = self.processor
        self.state = checked.empty(0)
        self.outputs: list[Output] = []
        self.offsets = dict.fromkeys(TOPICS.values(), 0)
        self.steps = 0
        self.counters: dict[str, int] = {}
        self.wake_at_ms: int | None = None

    def play(self, *rows: Row) -> list[Output]:
        """Take each row as one step and give the outputs of all."""
        before = len(self.outputs)
        for row in rows:
            self.step([row], row.clock)
        return self.outputs[before:]

    def step(self, rows: list[Row], clock: int) -> list[Output]:
        """Take rows as one step."""
        inputs: dict[str, Records] = {}
        for row in rows:
            if row.topic:
                topic = TOPICS[row.topic]
                value = row.value if isinstance(row.value, bytes) else json.dumps(row.value).encode()
                inputs.setdefault(topic, Records()).append(
                    self.offsets[topic], T + row.clock, row.key, value, row.headers
                )
                self.offsets[topic] += 1
        self.steps += 1
        stepped = self.processor.step(self.state, self.batch(inputs), T + clock)
        self.outputs.extend(stepped.outputs)
        self.counters = dict(stepped.counters)
        self.wake_at_ms = stepped.wake_at_ms
        for kind in TOPICS.values():
            counted = sum(n for name, n in self.counters.items() if name.startswith(f"{kind}."))
            assert counted == self.offsets[kind], f"{kind}: {counted} counted, {self.offsets[kind]} read"
        assert all(n >= 0 for n in self.counters.values())
        return list(stepped.outputs)

    def batch(self, inputs: dict[str, Records]) -> Batch:
        """Make the batch of a step."""
        return Batch(0, self.steps, inputs)

    @property
    def feedback(self) -> list[Feedback]:
        return [decode(output.value, Feedback) for output in self.outputs if output.topic == "feedback"]

    @property
    def letters(self) -> list[DeadLetter]:
        return [decode(output.value, DeadLetter) for output in self.outputs if output.topic == "dead-letters"]

    @property
    def classes(self) -> str:
        """What is counted, without control: `predictions.final=1 labels.joined=1`."""
        return " ".join(f"{name}={n}" for name, n in self.counters.items() if n and not name.startswith("control"))


def said(event: Feedback) -> str:
    """Say a revision in one line: time, model, number, status, label, kind, and a weight that is not 1.

    `~0.3` is the probability of a fake negative; `@…` says when it became true.
    """
    words = [f"{event.joined_at_ms - T}:", event.model + (f"/{event.deployment}" if event.deployment else "")]
    words += [event.name] if event.name != "label" else []
    words += [f"[{event.item}]"] if event.item is not None else []
    words += [f"#{event.revision}", event.status]
    if event.label_kind is not None:
        words += [event.label_kind, json.dumps(event.label)]
    if event.weight != 1:
        words.append(f"x{event.weight:g}")
    if event.p_fake_negative:
        words.append(f"~{event.p_fake_negative:g}")
    if event.labelled_at_ms is not None:
        words.append(f"@{event.labelled_at_ms - T}")
    return " ".join(words)
