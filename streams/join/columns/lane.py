"""The columnar join of one partition: what `streams.join.processor` asks of it.

`Columns` takes the plain records and timers of a step and hands the rest back; it turns a request into objects when the
object path asks for it (`lift`), and knows from then on that it lives there (`mark`, `forget`). State is a function of
what was taken, byte for byte, so a step that is taken again gives the same bytes.
"""

from __future__ import annotations

import ctypes
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from schemas.inputs import Label, Signal
from schemas.policy import JoinPolicy
from streams.join.admission import JoinBounds
from streams.join.arrivals import SIGNAL, Arm, Arrivals, Whose
from streams.join.columns import layout as l
from streams.join.columns.arrow import ROOM, take_rows
from streams.join.columns.away import put_away, stow
from streams.join.columns.fire import fire, gather
from streams.join.columns.markers import forget, leave_request, look_up, mark, surrender
from streams.join.columns.memory import LABEL_NAME, WORKSPACE, Memory
from streams.join.columns.plan import Plan
from streams.join.columns.policies import PolicyTable
from streams.join.columns.reading import Reading, field
from streams.join.columns.take import take
from streams.join.columns.texts import text
from streams.join.columns.wheel import NEVER
from streams.join.columns.whole import governed
from streams.join.outcome import Change
from streams.join.policies import DEFAULT, PolicyBook
from streams.join.state import Request, Waiting
from streams.join.stubs import OPEN, PROVISIONAL, Away, Stub
from streams.runtime.native import PADDED, Words, address, padded
from streams.runtime.processor import Block
from streams.runtime.records import Records
from streams.runtime.rows import Envelope
from streams.runtime.unfold import write

TOPICS = ("predictions", "labels", "signals")
_NAMED = {
    **{f"predictions.{name}": k for k, name in enumerate(l.P_CLASSES)},
    **{f"labels.{name}": l.LABEL_COUNTERS + k for k, name in enumerate(l.H_CLASSES)},
    **{f"signals.{name}": l.SIGNAL_COUNTERS + k for k, name in enumerate(l.H_CLASSES)},
}
_FIRE = 1 << 16


class _Answered(msgspec.Struct):
    """Who answered: the beginning of a prediction's repeated texts."""

    model: str
    version: str = ""
    deployment: str = ""


class _Whose(msgspec.Struct):
    """All that is asked of a record that `scan` could not read."""

    request_id: str


_whose = msgspec.json.Decoder(_Whose)
_arm = msgspec.json.Decoder(_Answered)


@dataclass(slots=True)
class Told:
    """What a call gave: feedback, and the changes for the stage behind."""

    blocks: list[Block]
    changes: list[Change]


@dataclass(slots=True)
class Lifted:
    """A request as objects, and by how much the counters of its classes move over."""

    request_id: str
    request: Request
    counters: list[str]


class Columns:
    """The plain requests of a partition. `chained`: changes are wanted, with all of a prediction's fields."""

    def __init__(self, partition: int, bounds: JoinBounds, *, chained: bool) -> None:
        self.partition = partition
        self.bounds = bounds
        self.chained = chained
        self.memory = Memory()
        self._r = self.memory.registers
        self._m = self.memory.address
        self._arena = self.memory.area[l.ARENA]
        r = self._r
        r[l.PARTITION], r[l.PARTITIONS] = partition, bounds.partitions
        r[l.SKEW], r[l.EARLY], r[l.GRACE] = bounds.skew_ms, bounds.early_label_ms, bounds.grace_ms
        r[l.AHEAD] = bounds.ahead_ms
        r[l.MOST_BYTES] = bounds.max_event_bytes
        r[l.CHAINED] = chained
        r[l.KEEP] = chained or bounds.virtual  # there a policy that carries features may come later
        self.policies = PolicyTable(self.memory, self.name, DEFAULT)
        self.reading = Reading(self.memory, self.policies, bounds)

    # Taking.

    def begin(self, seen_ms: int, clock_ms: int) -> None:
        """Begin a step: records are resolved at `seen_ms`, outputs say `clock_ms`."""
        WORKSPACE.enter(self._r)
        self._r[l.SEEN], self._r[l.CLOCK] = seen_ms, clock_ms
        if not self._r[l.LINKED]:  # an empty wheel goes to the clock in one turn
            self._r[l.BUCKET] = max(int(self._r[l.BUCKET]), (seen_ms or clock_ms) >> l.BUCKET_BITS)

    def take(self, topic: str, records: Records) -> tuple[Told, list[int]]:
        """Take records of an input; gives also the indices of those that the object path must take."""
        packed = records.packed()
        table = np.ascontiguousarray(packed.table)
        told = Told([], [])
        done = 0
        if packed.unwritten:
            ROOM.clear()
        for first, last, envelope in packed.unwritten:
            self._take(topic, table, done, first, told)
            packed.kept += self._take_rows(topic, table, first, last, envelope, told)
            done = last
        self._take(topic, table, done, len(packed), told)
        left = WORKSPACE.slow[: self._r[l.SLOW_N]].tolist()
        WORKSPACE.clear(self._r)
        return told, left

    def _take(self, topic: str, table: Words, done: int, last: int, told: Told) -> None:
        while done < last:
            done = take(self._m, address(table), done, last, TOPICS.index(topic), address(LABEL_NAME))
            self._tell(told)
            if self._r[l.UNSURE]:
                self._leave(table[self._r[l.UNSURE] - 1])
                self._r[l.UNSURE] = 0

    def _take_rows(
        self, topic: str, table: Words, first: int, last: int, envelope: Envelope, told: Told
    ) -> list[NDArray[Any]]:
        """Take the events of an envelope, which are rows of a table; gives the arrays that these point into now."""
        plan = Plan.of(envelope, topic)
        if plan is None or not ROOM.has(plan.room):
            body = write(table[first:last], envelope.keys(), envelope.texts())
            self._take(topic, table, first, last, told)
            return [body]
        kept: list[NDArray[Any]] = []
        done = first
        while done < last:
            rows = address(plan.rows)
            at = rows, len(plan.rows), rows + plan.ids * plan.rows.strides[0], ROOM.address, address(table)
            done = take_rows(self._m, *at, first, done, last, TOPICS.index(topic), address(LABEL_NAME))
            self._tell(told)
            if done < 0:
                row = -1 - done
                event = envelope.select(row - first)
                kept.append(write(table[row : row + 1], event.keys(), event.texts()))
                self._take(topic, table, row, row + 1, told)
                done = row + 1
        return kept

    def _leave(self, row: Words) -> None:
        """Leave what follows of the same request to the object path too, whose decoder is the only one to read it."""
        try:
            request_id = _whose.decode(ctypes.string_at(int(row[0]), max(int(row[1]), 0))).request_id.encode()
        except (ValueError, RecursionError):
            return  # nobody can
        request = padded(request_id)
        leave_request(self._m, address(request), len(request) - PADDED)

    def fire(self, clock_ms: int) -> tuple[Told, list[int]]:
        """Visit what is due; gives also the positions of what the object path must visit (`lift` them)."""
        told = Told([], [])
        due = WORKSPACE.due
        count = gather(self._m, due, clock_ms)
        done = 0
        while done < count:
            done = fire(self._m, due, done, min(count, done + _FIRE), clock_ms)
            self._tell(told)
        left = WORKSPACE.slow[: self._r[l.SLOW_N]].tolist()
        WORKSPACE.clear(self._r)
        return told, left

    def _tell(self, told: Told) -> None:
        r = self._r
        count, used = int(r[l.OUT_N]), int(r[l.OUT_FILL] - r[l.OUT])
        if count:
            spans = WORKSPACE.out_spans[: 4 * count].reshape(count, 4).copy()
            spans[:, 0] -= r[l.OUT]
            spans[:, 2] -= r[l.OUT]
            body = WORKSPACE.out.view(np.uint8)[: used + 8].copy()
            told.blocks.append(Block("feedback", self.partition, body, spans))
        if r[l.CHANGES_N]:
            told.changes += self.reading.changes(int(r[l.CHANGES_N]))
        r[l.OUT_FILL] = r[l.OUT]
        r[l.OUT_N] = r[l.CHANGES_N] = 0

    def met(self, arrivals: Arrivals) -> None:
        """Give the arrivals of this step."""
        rows = WORKSPACE.met[: int(self._r[l.MET_N]) * l.MET_WORDS].reshape(-1, l.MET_WORDS)
        if not len(rows):
            return
        order = np.argsort(rows[:, 0], kind="stable")
        sorted_ = rows[order]
        starts = np.flatnonzero(np.r_[True, sorted_[1:, 0] != sorted_[:-1, 0]]).tolist()
        for start, end in pairwise([*starts, len(rows)]):
            arrivals.add(self._whose(int(sorted_[start, 0])), sorted_[start:end, 1:])

    def _whose(self, word: int) -> Whose:
        name = self.reading.text(field(word, 0, 20)).decode()
        arm = _arm.decode(b"{" + self.reading.text(field(word, 20, 20)) + b"}")
        source = SIGNAL + name if field(word, 40, 1) else name
        return Whose(source, Arm(arm.model, arm.version, arm.deployment))

    @property
    def differing(self) -> int:
        """How many records of this step had a Kafka key that differs from their request id."""
        return int(self._r[l.DIFFERING])

    def counters(self) -> dict[str, int]:
        """Give the counters of what lives or lived here."""
        values = self.memory.area[l.COUNTERS]
        return {name: int(values[k]) for name, k in _NAMED.items()} | {"recalls.away": self.stubs}

    def wake_at_ms(self) -> int | None:
        """Give a moment that is not after the first due one."""
        first = int(self._r[l.FIRST_DUE])
        return None if first >= NEVER else first

    def __len__(self) -> int:
        return int(self._r[l.CASES] + self._r[l.HEADS_N])

    # Policies.

    def govern(self, model: str, policies: Sequence[JoinPolicy]) -> list[int]:
        """Take up a model's policies; gives the positions of cases that another one is in force for now."""
        number = self.policies.govern(model, policies)
        count = governed(self._m, WORKSPACE.due, number)
        return WORKSPACE.due[:count].tolist()  # type: ignore[no-any-return]

    def adopt(self, book: PolicyBook, requests: Iterable[str]) -> None:
        """Take up what a state without columns knows: its policies, and which requests live in objects."""
        for model in sorted({policy.model for policy in book.all()}):
            self.policies.govern(model, book.of(model))
        for request_id in requests:
            self.mark(request_id)

    def name(self, body: bytes) -> int:
        """Give the number of a text. Raises `ValueError` when there are too many."""
        entered = padded(body)
        number = int(text(self._m, address(entered), len(body), l.MOST_TEXTS))
        if number < 0:
            raise ValueError(f"more than {l.MOST_TEXTS} names in one partition")
        return number

    # Changing over to the object path.

    def find(self, request_id: str) -> int:
        """Give the position of a request that lives here, or -1."""
        body = padded(request_id.encode())
        position = look_up(self._m, address(body), len(body) - PADDED)
        if position < 0 or field(int(self._arena[position]), l.KIND, 3) in (l.MARKER, l.STUB):
            return -1
        return int(position)

    def mark(self, request_id: str) -> None:
        """Note that a new request lives in the object path."""
        body = padded(request_id.encode())
        mark(self._m, address(body), len(body) - PADDED)

    def forget(self, request_id: str) -> None:
        """Note that a request has left the object path."""
        body = padded(request_id.encode())
        forget(self._m, address(body), len(body) - PADDED)

    def lift(self, position: int, *, linked: bool = True) -> Lifted:
        """Turn a request into objects; a marker stays. `linked` is false for what `fire` has just given."""
        words = self._arena
        word = int(words[position])
        is_case = field(word, l.KIND, 3) == l.CASE
        counters: list[str] = []
        request = Request(due_ms=int(words[position + l.W_DUE]) & ((1 << 48) - 1))
        if is_case:
            request_id = self.reading.request_id(position)
            request.cases = (self.reading.case(position),)
            counters.append(f"predictions.{l.P_CLASSES[field(word, l.CLASS, 4)]}")
        else:
            request_id = self.reading.id_of_head(position)
        labels: dict[int, Waiting[Label]] = {}
        signals: dict[int, Waiting[Signal]] = {}
        for heard in self.reading.heard(position):
            of_label, joined, waiting = self.reading.waiting(heard, request_id)
            waiting.kept = joined and not is_case
            (labels if of_label else signals)[waiting.key] = waiting
            counters.append(f"{'labels' if of_label else 'signals'}.{'joined' if joined else 'parked'}")
        request.labels, request.signals = labels or None, signals or None
        values = self.memory.area[l.COUNTERS]
        for name in counters:
            values[_NAMED[name]] -= 1
        surrender(self._m, position, linked)
        return Lifted(request_id, request, counters)

    # The second tier.

    @property
    def stubs(self) -> int:
        """How many requests have been put away and left their stub here."""
        return int(self._r[l.STUBS])

    @property
    def used_bytes(self) -> int:
        """How much memory the state takes: segments with something in them, and tables."""
        r = self._r
        segments = int(r[l.SEGMENTS] - r[l.FREED]) * l.SEGMENT_WORDS
        return 8 * (segments + int(r[l.TABLES_USED]) * l.TABLE)

    @property
    def oldest_ms(self) -> int | None:
        """The time of the oldest prediction here that has not been put away, about; None when there is none."""
        oldest = self.memory.area[l.OLDEST][: int(self._r[l.SEGMENTS])]
        known = oldest[oldest > 0]
        return int(known.min()) if len(known) else None

    def put_away(self, cut_ms: int, clock_ms: int) -> int:
        """Put away what may go at a cut (`streams.join.away.leaving`); gives how many."""
        return int(put_away(self._m, WORKSPACE.due, cut_ms, clock_ms))

    def is_stub(self, position: int) -> bool:
        """Say whether a record is a stub."""
        return field(int(self._arena[position]), l.KIND, 3) == l.STUB

    def find_stub(self, request_id: str) -> int:
        """Give the position of the stub of a request, or -1."""
        body = padded(request_id.encode())
        position = int(look_up(self._m, address(body), len(body) - PADDED))
        return position if position >= 0 and self.is_stub(position) else -1

    def lift_stub(self, position: int, *, linked: bool = True) -> tuple[str, Stub]:
        """Turn a stub into an object, out of what is counted here; a marker stays."""
        word, due, chain, content, at = (int(self._arena[position + k]) for k in range(l.HEAD_WORDS))
        at_ms = field(at, 0, 48)
        request_id = self.reading.id_of_head(position)
        policy = self.reading.policy(position)
        place = field(word, l.CLASS, 4)
        model = self.reading.text(field(chain, l.S_MODEL, 20)).decode()
        counter = f"predictions.{l.P_CLASSES[place]}"
        revisions = field(word, l.REVISION, 20)
        away = Away(model, None, at_ms, content & (2**64 - 1), policy, counter, revisions, revisions > 0)
        due_ms = field(due, 0, 48)
        ask_ms = _ask_ms(policy, at_ms, due_ms) if _asks(counter, policy) else None
        self.memory.area[l.COUNTERS][place] -= 1
        surrender(self._m, position, linked)
        return request_id, Stub(due_ms, ask_ms, at_ms + policy.reach_ms + self.bounds.grace_ms + 1, (away,))

    def stow(self, request_id: str, stub: Stub) -> bool:
        """Keep the stub of a request of the objects here, if the compiled path knows all that is due of it."""
        away = stub.cases[0]
        policy = away.policy
        if (
            len(stub.cases) > 1
            or policy.labels
            or _asks(away.counter, policy) is (stub.ask_ms is None)
            or away.revisions >= 1 << 19
            or stub.ends_ms >= 1 << 47
        ):
            return False
        body = padded(request_id.encode())
        marker = int(look_up(self._m, address(body), len(body) - PADDED))
        number = self.policies.add(policy)
        place = l.P_CLASSES.index(away.counter.removeprefix("predictions."))
        content = away.content - (1 << 64) if away.content >> 63 else away.content
        model = self.name(away.model.encode())
        stow(self._m, marker, stub.due_ms, number, away.at_ms, model, content, place, away.revisions)
        self.memory.area[l.COUNTERS][place] += 1
        return True


def _asks(counter: str, policy: JoinPolicy) -> bool:
    """Say whether a plain request in this class has to be back before its next moment."""
    return counter == PROVISIONAL or (counter == OPEN and policy.on_timeout == "negative")


def _ask_ms(policy: JoinPolicy, at_ms: int, due_ms: int) -> int:
    """Give the moment that a stub waits for: it is due by `ahead_ms` before that, which may have changed since.

    One that waits for its deadline was put away when its early moment had passed, and is due later than that.
    """
    if policy.provisional_after_ms is not None and due_ms <= at_ms + policy.provisional_after_ms:
        return at_ms + policy.provisional_after_ms
    return at_ms + policy.wait_ms
