"""What the judge of one partition knows, and how a snapshot holds it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import msgspec
from msgspec import Struct

from schemas.control import ParitySet, Reference
from schemas.lifecycle import DecidePolicy
from schemas.policy import JoinPolicy
from streams.join.policies import PolicyBook
from streams.judge.bounds import JudgeBounds
from streams.judge.controls import Controls
from streams.judge.gates import Layer
from streams.judge.guard import Guard
from streams.judge.outlooks import ModelOutlook
from streams.judge.panes import Panes
from streams.judge.reviews import Reviews
from streams.judge.shares import ALWAYS, reference_part
from streams.judge.surge import Surges
from streams.judge.watch import Watch

_FORMAT, _BEFORE = b"judge/2\n", b"judge/1\n"
"""The format written, and the one before, which still opens: it had the logarithms of the detectors' wealth."""


@dataclass(slots=True)
class JudgeState:
    """What one partition knows.

    `since` says from when on each model with a reference takes part in the budget, `ranks` which of the versions judged
    here came first, `spread` how many partitions there are (`shares`).
    """

    partition: int
    panes: Panes
    sources: dict[int, int] = field(default_factory=dict)
    source_count: int = 0
    told_ms: int = -1
    policies: PolicyBook = field(default_factory=PolicyBook)
    decide: dict[str, DecidePolicy] = field(default_factory=dict)
    references: dict[tuple[str, str], Reference] = field(default_factory=dict)
    since: dict[str, int] = field(default_factory=dict)
    ranks: dict[tuple[str, str], int] = field(default_factory=dict)
    watches: dict[tuple[str, str, str], Watch] = field(default_factory=dict)
    controls: dict[tuple[str, str, str], Controls] = field(default_factory=dict)
    layers: dict[tuple[str, str], Layer] = field(default_factory=dict)
    outlooks: dict[str, ModelOutlook] = field(default_factory=dict)
    surges: dict[str, Surges] = field(default_factory=dict)
    reviews: dict[str, Reviews] = field(default_factory=dict)
    counters: dict[str, int] = field(default_factory=dict)
    held: dict[int, int] = field(default_factory=dict)
    guard: Guard | None = None
    spread: int = 1
    parities: dict[tuple[str, str], ParitySet] = field(default_factory=dict)
    remarks: list[str] = field(default_factory=list)
    """What a person should know of how this state was loaded."""

    def watch(self, model: str, version: str, bounds: JudgeBounds) -> Watch:
        """Start to watch a version that has a reference, with its part of the references' probability."""
        rank = self.ranks.setdefault((model, version), len(self.ranks) + 1)
        parity = self.parities.get((model, version))
        return Watch(self.references[model, version], bounds, part=reference_part(rank, self.spread), parity=parity)

    def freeze(self, given: ParitySet, bounds: JudgeBounds) -> None:
        """Take a version's frozen rows unless it has some. What is watched already goes on, with these beside it."""
        if (given.model, given.version) in self.parities:
            return
        self.parities[given.model, given.version] = given
        for at, watch in self.watches.items():
            if at[:2] == (given.model, given.version):
                self.watches[at] = self.watch(given.model, given.version, bounds)
                self.watches[at].load(watch.dump())

    def least_ms(self) -> int:
        """Give the least clock of all sources; −1 until every one was heard."""
        if not self.source_count or len(self.sources) < self.source_count:
            return -1
        return min(self.sources.values())

    def silent_ms(self) -> int:
        """Give the least clock of the join's timers; −1 until every source was heard."""
        return min([self.least_ms(), *self.held.values()])

    def wait(self, model: str) -> Any:
        """Give the function from a time to the wait of the policy in force then."""
        return lambda at_ms: self.policies.in_force(model, at_ms).wait_ms

    def reach(self, model: str) -> Any:
        """Give the function from a time to how long after it the policy in force then lets labels revise."""
        return lambda at_ms: self.policies.in_force(model, at_ms).reach_ms

    def count(self, name: str, by: int = 1) -> None:
        """Count something."""
        self.counters[name] = self.counters.get(name, 0) + by


class _Kept(Struct):
    """What a snapshot holds."""

    sources: dict[int, int]
    source_count: int
    told_ms: int
    policies: list[JoinPolicy]
    decide: dict[str, DecidePolicy]
    references: list[Reference]
    watches: list[tuple[str, str, str, dict[str, Any]]]
    layers: list[dict[str, Any]]
    counters: dict[str, int]
    panes: dict[str, Any]
    held: dict[int, int] = {}
    guard: dict[str, Any] | None = None
    outlooks: dict[str, dict[str, Any]] = {}
    controls: list[tuple[str, str, str, dict[str, Any]]] = []
    surges: dict[str, list[Any]] = {}
    reviews: dict[str, dict[str, Any]] = {}
    since: dict[str, int] | None = None
    ranks: list[tuple[str, str]] = []
    parities: list[ParitySet] = []


def packed(state: JudgeState) -> bytes:
    """Give the whole state as bytes that begin with a format version."""
    kept = _Kept(
        sources=dict(sorted(state.sources.items())),
        source_count=state.source_count,
        told_ms=state.told_ms,
        policies=state.policies.all(),
        decide=dict(sorted(state.decide.items())),
        references=[reference for _, reference in sorted(state.references.items())],
        watches=[(*at, watch.dump()) for at, watch in sorted(state.watches.items())],
        layers=[layer.dump() for _, layer in sorted(state.layers.items())],
        counters=state.counters,
        panes=state.panes.dump(),
        held=dict(sorted(state.held.items())),
        guard=None if state.guard is None else state.guard.dump(),
        outlooks={model: outlook.dump() for model, outlook in sorted(state.outlooks.items())},
        surges={model: surges.dump() for model, surges in sorted(state.surges.items())},
        since=dict(sorted(state.since.items())),
        ranks=list(state.ranks),
        parities=[given for _, given in sorted(state.parities.items())],
        reviews={model: reviews.dump() for model, reviews in sorted(state.reviews.items())},
        controls=[(*at, controls.dump()) for at, controls in sorted(state.controls.items())],
    )
    return _FORMAT + msgspec.msgpack.encode(kept)


def unpacked(body: bytes, state: JudgeState, bounds: JudgeBounds) -> JudgeState:
    """Read `packed`'s bytes into an empty state. Raises `ValueError` for a format it does not know."""
    if not body.startswith((_FORMAT, _BEFORE)):
        raise ValueError(f"expected a snapshot of format {_FORMAT.decode().strip()!r}, got {body[:16]!r}")
    kept = msgspec.msgpack.decode(body[len(_FORMAT) :], type=_Kept)
    state.sources, state.source_count, state.told_ms = kept.sources, kept.source_count, kept.told_ms
    state.counters = kept.counters
    for policy in kept.policies:
        state.policies.add(policy)
    state.decide = kept.decide
    state.references = {(one.model, one.version): one for one in kept.references}
    state.since = dict.fromkeys((one.model for one in kept.references), ALWAYS) if kept.since is None else kept.since
    state.ranks = {at: rank for rank, at in enumerate(kept.ranks, 1)}
    state.parities = {(one.model, one.version): one for one in kept.parities}
    for model, version, deployment, trackers in kept.watches:
        watch = state.watches[model, version, deployment] = state.watch(model, version, bounds)
        begun = watch.load(trackers)
        if begun:
            state.count("begun_anew", len(begun))
            state.remarks.append(
                f"{model} {version} {deployment}: {len(begun)} detectors begin anew without their evidence, because "
                f"[judge] cells or detectors have changed: {', '.join(begun[:5])}{', …' * (len(begun) > 5)}"
            )
    for model, version, deployment, plain in kept.controls:
        at = (model, version, deployment)
        state.controls[at] = Controls(state.watches[at], "|".join(at), plain)
    for layer in kept.layers:
        state.layers[layer["model"], layer["layer"]] = Layer.load(layer, bounds.review_subjects)
    state.panes.load(kept.panes)
    state.held = kept.held
    state.outlooks = {model: ModelOutlook.load(plain) for model, plain in kept.outlooks.items()}
    state.surges = {model: Surges.load(plain) for model, plain in kept.surges.items()}
    state.reviews = {model: Reviews.load(model, bounds, plain) for model, plain in kept.reviews.items()}
    if state.guard is not None and kept.guard is not None:
        state.guard.load(kept.guard)
    return state
