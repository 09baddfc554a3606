"""Panes: counts that wait until they may be believed, and what comes after.

A pane is an interval of the predictions' event time. It is closed twice: as *traffic* (features, score) when the least
clock of all sources passes its end and a grace, as *labels* when that clock passes its end plus the longest wait of the
policies in force in it (horizon + lateness). Panes of a model close in order of time, each kind by itself, and all its
versions, deployments and slices at once. A source that was never heard holds everything. Label panes wait for the clock
of the join's timers, which stands still while a freeze withholds what silence would say.

A delta that comes after closing changes the counts, and so the figures (a correction), but no detector. Closed panes
are kept while a label may still revise them (the policies' reach), at most `keep_panes` of them per model; a delta for
a pane that has left is counted and lost to `judge` (the sums in ClickHouse have it).
"""

from __future__ import annotations

from bisect import insort
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

import msgspec

from schemas.inputs import Role
from schemas.measures import PaneDelta
from schemas.policy import JoinPolicy
from streams.join.policies import PolicyBook
from streams.measure.ledger import (
    EMBEDDING,
    EMBEDDING_ROWS,
    FEATURE,
    PARITY,
    SCORE,
    SCORE_CHOSEN,
    SCORE_UNDECIDED,
    Ledger,
    N,
)

Kind = Literal["traffic", "labels"]
KINDS: tuple[Kind, Kind] = ("traffic", "labels")


class Key(NamedTuple):
    """What is measured apart within a model."""

    version: str
    deployment: str
    role: Role
    slice: str

    @classmethod
    def of(cls, plain: list[str]) -> Key:
        """Read a key from plain data."""
        version, deployment, role, part = plain
        # An event leaves out a text that *is* its default, not one that equals it: the role must be the class's own.
        return cls(version, deployment, "shadow" if role == "shadow" else "primary", part)


@dataclass(slots=True)
class Pane:
    """One key's counts in one pane. A pane that nobody is reading is packed."""

    size_ms: int
    ledger: Ledger | None = field(default_factory=Ledger)
    packed: bytes = b""
    corrected: bool = False

    def open(self) -> Ledger:
        """Give the counts, to read or to change."""
        if self.ledger is None:
            self.ledger = Ledger()
            self.ledger.add_flat(msgspec.msgpack.decode(self.packed, type=dict[str, list[int]]))
            self.packed = b""
        return self.ledger

    def read(self) -> Ledger:
        """Give the counts to read once: what is packed stays packed."""
        if self.ledger is not None:
            return self.ledger
        found = Ledger()
        found.add_flat(msgspec.msgpack.decode(self.packed, type=dict[str, list[int]]))
        return found

    def pack(self) -> bytes:
        """Keep the counts in a few kilobytes."""
        if self.ledger is not None:
            self.packed = msgspec.msgpack.encode(self.ledger.flat())
            self.ledger = None
        return self.packed


@dataclass(slots=True)
class Window:
    """The sum of one key's panes in a span of time, kept by adding what enters and taking away what leaves."""

    ledger: Ledger = field(default_factory=Ledger)
    starts: list[int] = field(default_factory=list)
    from_ms: int = 0
    to_ms: int = 0


class Closing(NamedTuple):
    """A pane of a model that is closed now."""

    due_ms: int
    kind: Kind
    model: str
    pane_ms: int


@dataclass(slots=True)
class ModelPanes:
    """All panes of one model. `closed` says up to which time each kind is closed, `gone_ms` what was forgotten."""

    panes: dict[int, dict[Key, Pane]] = field(default_factory=dict)
    waiting: dict[Kind, list[int]] = field(default_factory=lambda: {"traffic": [], "labels": []})
    closed: dict[Kind, int] = field(default_factory=lambda: {"traffic": 0, "labels": 0})
    windows: dict[Kind, dict[Key, Window]] = field(default_factory=lambda: {"traffic": {}, "labels": {}})
    live: dict[Key, Window] = field(default_factory=dict)
    fresh: set[Key] = field(default_factory=set)
    corrected: set[tuple[int, Key]] = field(default_factory=set)
    gone_ms: int = 0


@dataclass(slots=True)
class Panes:
    """The panes of every model of a partition."""

    policies: PolicyBook
    window_panes: int
    grace_ms: int
    keep_panes: int
    models: dict[str, ModelPanes] = field(default_factory=dict)
    next_due_ms: int | None = None
    late_deltas: int = 0
    lost_deltas: int = 0

    def add(self, delta: PaneDelta, least_ms: int, silent_ms: int) -> None:
        """Add signed cells. `least_ms` and `silent_ms` are the least clocks before the record that brings them."""
        model = self.models.setdefault(delta.model, ModelPanes())
        start = delta.pane_ms
        if start < model.gone_ms:
            self.lost_deltas += 1
            return
        at_start = model.panes.get(start)
        if at_start is None:
            at_start = model.panes[start] = {}
            for kind in KINDS:
                due_ms = self.due(delta.model, start, delta.pane_size_ms, kind)
                if start >= model.closed[kind] and due_ms > (least_ms if kind == "traffic" else silent_ms):
                    insort(model.waiting[kind], start)
                    self.next_due_ms = due_ms if self.next_due_ms is None else min(self.next_due_ms, due_ms)
        key = Key(delta.version, delta.deployment, delta.role, delta.slice)
        pane = at_start.get(key)
        if pane is None:
            pane = at_start[key] = Pane(delta.pane_size_ms)
        pane.open().add_flat(delta.cells)
        model.fresh.add(key)
        for kind in KINDS:
            window = model.windows[kind].get(key)
            if window is not None and start in window.starts:
                window.ledger.add_flat(_of_kind(delta.cells, kind))
        if start not in model.waiting["labels"]:
            self.late_deltas += 1
            model.corrected.add((start, key))
        if key in model.live or start + (self.window_panes + 1) * pane.size_ms > least_ms:
            self._live(model, key, start, pane, delta)

    def _live(self, model: ModelPanes, key: Key, start: int, pane: Pane, delta: PaneDelta) -> None:
        live = model.live.setdefault(key, Window())
        if start in live.starts:
            live.ledger.add_flat(delta.cells)
        elif start + pane.size_ms > live.to_ms:
            self._slide(model, live, key, start, pane, None)
        elif start >= live.from_ms:
            insort(live.starts, start)
            live.ledger.add(pane.open().cells)

    def _slide(self, model: ModelPanes, window: Window, key: Key, start: int, pane: Pane, kind: Kind | None) -> None:
        """Let a window end with this pane."""
        window.to_ms = start + pane.size_ms
        window.from_ms = window.to_ms - self.window_panes * pane.size_ms
        while window.starts and window.starts[0] < window.from_ms:
            left = model.panes[window.starts.pop(0)][key]
            window.ledger.add(_cells_of_kind(left.open(), kind), -1)
            if kind == "labels":
                left.pack()
        window.starts.append(start)
        window.ledger.add(_cells_of_kind(pane.open(), kind))

    def due(self, model: str, start: int, size_ms: int, kind: Kind) -> int:
        """Give the clock at which a pane closes."""
        end = start + size_ms
        return end + (self.grace_ms if kind == "traffic" else self.wait(model, start, end))

    def wait(self, model: str, from_ms: int, to_ms: int) -> int:
        """Give the longest wait of the policies in force in a span of time."""
        return max(policy.wait_ms for policy in self._in_force(model, from_ms, to_ms))

    def _in_force(self, model: str, from_ms: int, to_ms: int) -> Iterator[JoinPolicy]:
        yield self.policies.in_force(model, from_ms)
        for policy in self.policies.all():
            if policy.model == model and from_ms < policy.effective_from_ms < to_ms:
                yield policy

    def replan(self) -> None:
        """Look at the plan again, because a policy came."""
        heads = list(self._heads())
        self.next_due_ms = min((head.due_ms for head in heads), default=None)

    def _heads(self) -> Iterator[Closing]:
        for name, model in self.models.items():
            for kind in KINDS:
                if model.waiting[kind]:
                    start = model.waiting[kind][0]
                    size_ms = _longest(model.panes[start])
                    yield Closing(self.due(name, start, size_ms, kind), kind, name, start)

    def close(self, least_ms: int, silent_ms: int, closed: Callable[[Closing, dict[Key, Pane]], None]) -> None:
        """Close what is due, in order of (time due, kind, model); each is handed to `closed` with its windows moved.

        `least_ms` is the least clock of all sources, `silent_ms` (not later) that of the join's timers.
        """
        while self.next_due_ms is not None and self.next_due_ms <= least_ms:
            due = sorted(
                head for head in self._heads() if head.due_ms <= (least_ms if head.kind == "traffic" else silent_ms)
            )
            if not due:
                break
            head = due[0]
            model = self.models[head.model]
            model.waiting[head.kind].pop(0)
            at_start = model.panes[head.pane_ms]
            windows = model.windows[head.kind]
            for key, pane in sorted(at_start.items()):
                self._slide(model, windows.setdefault(key, Window()), key, head.pane_ms, pane, head.kind)
                model.closed[head.kind] = head.pane_ms + pane.size_ms
            closed(head, at_start)
            self.replan()
        self.replan()

    def pass_over(self) -> None:
        """Take what changed as told, for a judge that tells no figures."""
        for model in self.models.values():
            for start, key in model.corrected:
                window = model.windows["labels"].get(key)
                if window is None or start not in window.starts:
                    model.panes[start][key].pack()
            model.corrected.clear()
            model.fresh.clear()

    def forget(self, least_ms: int) -> None:
        """Let go of panes that nothing can revise any more, and of the oldest when there are too many."""
        for name, model in self.models.items():
            if not model.panes:
                continue
            self._let_go(model, least_ms)
            for start in sorted(model.panes):
                at_start = model.panes[start]
                end = start + _longest(at_start)
                reach_ms = max(policy.reach_ms for policy in self._in_force(name, start, end))
                old = least_ms > end + reach_ms + self.grace_ms or len(model.panes) > self.keep_panes
                used = any(start in model.waiting[kind] for kind in KINDS) or any(
                    start in window.starts
                    for windows in (*model.windows.values(), model.live)
                    for window in windows.values()
                )
                if not old or used or any((start, key) in model.corrected for key in at_start):
                    break
                del model.panes[start]
                model.gone_ms = end

    def _let_go(self, model: ModelPanes, least_ms: int) -> None:
        """Drop the windows of keys that are no more (a retired version, a slice seen once): they would hold panes.

        All panes of such a window have left it, so a key that comes back finds what it would have found.
        """
        closed = [(model.windows[kind], model.closed[kind]) for kind in KINDS]
        for windows, to_ms in (*closed, (model.live, least_ms)):
            for key, window in list(windows.items()):
                if window.starts and window.to_ms <= to_ms - (window.to_ms - window.from_ms):
                    for start in window.starts:
                        if windows is model.windows["labels"]:
                            model.panes[start][key].pack()
                    del windows[key]

    def dump(self) -> dict[str, Any]:
        """Give the panes as plain data; windows are told by their panes and summed again."""
        return {
            "counts": [self.late_deltas, self.lost_deltas],
            "models": {
                name: {
                    "panes": [
                        [start, list(key), pane.size_ms, pane.ledger is None, _packed(pane)]
                        for start, at_start in sorted(model.panes.items())
                        for key, pane in sorted(at_start.items())
                    ],
                    "waiting": model.waiting,
                    "closed": model.closed,
                    "windows": [
                        [kind or "live", list(key), window.starts, window.from_ms, window.to_ms]
                        for kind, windows in ((*model.windows.items(), (None, model.live)))
                        for key, window in sorted(windows.items())
                    ],
                    "fresh": sorted(list(key) for key in model.fresh),
                    "corrected": sorted([start, list(key)] for start, key in model.corrected),
                    "gone_ms": model.gone_ms,
                }
                for name, model in sorted(self.models.items())
            },
        }

    def load(self, state: dict[str, Any]) -> None:
        """Take up what `dump` gave."""
        self.late_deltas, self.lost_deltas = state["counts"]
        for name, kept in state["models"].items():
            model = self.models[name] = ModelPanes(waiting=kept["waiting"], closed=kept["closed"])
            for start, key, size_ms, packed, body in kept["panes"]:
                pane = model.panes.setdefault(start, {})[Key.of(key)] = Pane(size_ms, None, body)
                if not packed:
                    pane.open()
            for label, key, starts, from_ms, to_ms in kept["windows"]:
                kind: Kind | None = None if label == "live" else label
                window = Window(Ledger(), starts, from_ms, to_ms)
                for start in starts:
                    pane = model.panes[start][Key.of(key)]
                    was_packed = pane.ledger is None
                    window.ledger.add(_cells_of_kind(pane.open(), kind))
                    if was_packed:
                        pane.pack()
                (model.live if kind is None else model.windows[kind])[Key.of(key)] = window
            model.fresh = {Key.of(key) for key in kept["fresh"]}
            model.corrected = {(start, Key.of(key)) for start, key in kept["corrected"]}
            model.gone_ms = kept["gone_ms"]
        self.replan()


def _longest(at_start: dict[Key, Pane]) -> int:
    """Give the length of the panes that begin together: the longest, while workers with two settings overlap."""
    return max(pane.size_ms for pane in at_start.values())


_TRAFFIC = frozenset((SCORE, SCORE_CHOSEN, SCORE_UNDECIDED, N, EMBEDDING, EMBEDDING_ROWS))


def _is_traffic(name: str) -> bool:
    return name in _TRAFFIC or name.startswith((FEATURE, PARITY))


def _of_kind(cells: dict[str, list[int]], kind: Kind) -> dict[str, list[int]]:
    return {name: flat for name, flat in cells.items() if kind == "labels" or _is_traffic(name)}


def _cells_of_kind(ledger: Ledger, kind: Kind | None) -> dict[str, dict[int, int]]:
    if kind != "traffic":
        return ledger.cells
    return {name: vector for name, vector in ledger.cells.items() if _is_traffic(name)}


def _packed(pane: Pane) -> bytes:
    return pane.packed if pane.ledger is None else msgspec.msgpack.encode(pane.ledger.flat())
