"""Arena, table and wheel against a dict, a sorted list and a count: whatever comes and goes, in whatever order."""

from __future__ import annotations

import re
from random import Random
from uuid import UUID

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from streams.join.columns import layout as l
from streams.join.columns.arena import allocate, allocate_for, free, life_of
from streams.join.columns.cases import retire
from streams.join.columns.fire import gather
from streams.join.columns.ids import pack_id, unpack_id
from streams.join.columns.markers import forget, look_up, mark
from streams.join.columns.memory import Memory
from streams.join.columns.table import insert, remove, replace
from streams.join.columns.texts import text
from streams.join.columns.wheel import NEVER, first_due, link
from streams.join.columns.whole import governed
from streams.runtime.native import address, xxh64

DAY_MS = 86_400_000


def body_of(text_: str) -> np.ndarray[tuple[int], np.dtype[np.uint8]]:
    return np.frombuffer(text_.encode() + bytes(8), dtype=np.uint8)


class Heads:
    """Requests of which only something was heard: the smallest records that table and wheel know."""

    def __init__(self) -> None:
        self.memory = Memory()
        self.m = self.memory.address
        self.r = self.memory.registers
        self.arena = self.memory.area[l.ARENA]

    def hash_of(self, request_id: str) -> int:
        body = body_of(request_id)
        return int(xxh64(address(body), len(body) - 8, 0))

    def make(self, request_id: str, *, words: int = 0) -> int:
        body = request_id.encode()
        words = max(words, l.HEAD_WORDS + (len(body) + 7) // 8)
        position = int(allocate(self.m, words))
        self.arena[position] = (words << l.SIZE) | (l.HEAD << l.KIND)
        self.arena[position + 1 : position + l.HEAD_WORDS] = 0
        self.arena[position + l.W_AT] = len(body) << 48
        start = (position + l.HEAD_WORDS) * 8
        self.arena.view(np.uint8)[start : start + len(body)] = np.frombuffer(body, dtype=np.uint8)
        return position

    def find(self, request_id: str) -> int:
        body = body_of(request_id)
        return int(look_up(self.m, address(body), len(body) - 8))

    def live(self) -> int:
        return int(self.memory.area[l.LIVE][: int(self.r[l.SEGMENTS])].sum())


def test_table_is_a_dict() -> None:
    random = Random(1)
    heads = Heads()
    known: dict[str, int] = {}
    names: list[str] = []
    for number in range(30_000):
        draw = random.random()
        if draw < 0.6 or not names:
            name = f"r{number}"
            known[name] = heads.make(name)
            names.append(name)
            insert(heads.m, heads.hash_of(name), known[name])
        else:
            place = random.randrange(len(names))
            name = names[place]
            if draw < 0.7:
                by = heads.make(name)
                replace(heads.m, heads.hash_of(name), known[name], by)
                free(heads.m, known[name])
                known[name] = by
            else:
                names[place] = names[-1]
                names.pop()
                remove(heads.m, heads.hash_of(name), known[name])
                free(heads.m, known.pop(name))
                assert heads.find(name) == -1
        if number % 3_000 == 0:
            assert all(heads.find(name) == position for name, position in known.items())
    assert all(heads.find(name) == position for name, position in known.items())
    assert heads.find("never") == heads.find("") == -1
    assert heads.r[l.TABLES_USED] > 2, "the tables never split"
    assert int(heads.memory.area[l.COUNTS][: int(heads.r[l.TABLES_USED])].sum()) == len(known)
    assert heads.live() == len(known)


def test_requests_whose_hashes_collide_are_told_apart() -> None:
    """All in one neighbourhood of a table, around its end, with equal hash bits: only the ids differ."""
    random = Random(2)
    heads = Heads()
    known: dict[str, int] = {}
    place_of: dict[str, int] = {}
    for number in range(4_000):
        if random.random() < 0.55 and len(known) < 600:
            name = f"r{number}"
            place_of[name] = random.choice((l.TABLE - 1, l.TABLE - 2, 0, 1, 7)) + random.choice((0, 0, l.TABLE))
            known[name] = heads.make(name)
            insert(heads.m, place_of[name], known[name])
        elif known:
            name = random.choice(list(known))
            remove(heads.m, place_of[name], known.pop(name))
        table = heads.memory.area[l.TABLES][: l.TABLE]
        if number % 100 == 0:
            entries = {int(entry) & ((1 << 40) - 1) for entry in table[table != 0]}
            assert entries == {position + 1 for position in known.values()}
            for name, position in known.items():  # from its home on there is no gap before it
                slot = place_of[name] & (l.TABLE - 1)
                wanted = (place_of[name] << 40) | (position + 1)
                while int(table[slot]) != wanted:
                    assert table[slot] != 0, name
                    slot = (slot + 1) & (l.TABLE - 1)


def test_markers_come_and_go() -> None:
    heads = Heads()
    for round_ in range(3):
        for number in range(5_000):
            body = body_of(f"request-{number}")
            mark(heads.m, address(body), len(body) - 8)
        assert heads.find("request-4999") >= 0
        for number in range(5_000):
            body = body_of(f"request-{number}")
            forget(heads.m, address(body), len(body) - 8)
            forget(heads.m, address(body), len(body) - 8)  # one that is not there is no error
        assert heads.find("request-4999") == -1
        assert heads.r[l.MARKERS] == 0
        assert heads.live() == 0, round_
    assert heads.r[l.SEGMENTS] <= 3


class Wheel(Heads):
    def __init__(self) -> None:
        super().__init__()
        self.due = np.zeros(1 << 16, dtype=np.int64)

    def gather(self, clock_ms: int) -> list[int]:
        return self.due[: gather(self.m, self.due, clock_ms)].tolist()  # type: ignore[no-any-return]


@pytest.mark.parametrize("seed", range(6))
def test_wheel_is_a_sorted_list(seed: int) -> None:
    random = Random(seed)
    wheel = Wheel()
    due: dict[int, int] = {}
    clock_ms = random.choice((0, 1_700_000_000_000))
    wheel.r[l.BUCKET] = clock_ms >> l.BUCKET_BITS
    for number in range(1_500):
        for _ in range(random.choice((0, 1, 3))):
            position = wheel.make(f"r{number}")
            days = random.choice((0, 0, 0, 1, 48, 51, 400))
            ahead_ms = days * DAY_MS + random.choice((-5_000, 0, 1, 500, 1_023, 1_024, 60_000))
            due[position] = max(0, clock_ms + ahead_ms + random.randrange(3))
            link(wheel.m, position, due[position])
        if due and random.random() < 0.1:
            position = random.choice(list(due))
            retire(wheel.m, position)
            del due[position]
        first_ms = int(wheel.r[l.FIRST_DUE])
        assert first_ms <= min(due.values(), default=NEVER)
        clock_ms += random.choice((0, 1, 100, 1_000, 5_000, 70_000, DAY_MS, 30 * DAY_MS if number % 50 == 0 else 0))
        if number % 400 == 399:
            clock_ms += 120 * DAY_MS
        got = wheel.gather(clock_ms)
        wanted = [position for position, due_ms in due.items() if due_ms <= clock_ms]
        assert sorted(got) == sorted(wanted)
        if wanted:
            order = [(min(due[position], first_ms + (1 << 22) - 1), position) for position in got]
            assert order == sorted(order), "not in the order of due moments"
        for position in got:
            del due[position]
            free(wheel.m, position)
        assert min(due.values(), default=NEVER) >= wheel.r[l.FIRST_DUE] > clock_ms
    wheel.gather(clock_ms + 1_000 * DAY_MS)
    assert wheel.r[l.LINKED] == 0
    assert wheel.r[l.FIRST_DUE] == NEVER
    assert wheel.live() == len(due)


def test_a_record_that_is_due_beyond_a_turn_hides_no_other() -> None:
    """It waits in the last bucket of this turn, with a later moment than that of its neighbours."""
    wheel = Wheel()
    turn_ms = l.WHEEL << l.BUCKET_BITS
    far, near = wheel.make("far"), wheel.make("near")
    link(wheel.m, far, 3 * turn_ms)
    link(wheel.m, near, turn_ms)
    assert wheel.gather(turn_ms - 2_100) == []
    link(wheel.m, wheel.make("nearer"), turn_ms - 2_000)
    assert len(wheel.gather(turn_ms - 1_900)) == 1
    assert wheel.r[l.FIRST_DUE] <= turn_ms
    assert wheel.gather(turn_ms) == [near]


def test_first_due_finds_the_least_of_a_bucket() -> None:
    wheel = Wheel()
    for name, due_ms in (("a", 5_900), ("b", 5_200), ("c", 9_000)):
        link(wheel.m, wheel.make(name), due_ms)
    assert first_due(wheel.m) == 5_200


def test_segments_are_filled_again_and_nothing_grows() -> None:
    random = Random(3)
    wheel = Wheel()
    clock_ms = 1_000_000
    segments = []
    for number in range(60_000):
        clock_ms += 10
        position = wheel.make(f"r{number}", words=random.choice((8, 20, 300)))
        link(wheel.m, position, clock_ms + random.choice((1_000, 20_000, 20_000)))
        if number % 50 == 0:
            for due in wheel.gather(clock_ms):
                free(wheel.m, due)
        if number % 10_000 == 9_999:
            segments.append(int(wheel.r[l.SEGMENTS]))
    assert segments[0] == segments[-1], segments
    for due in wheel.gather(clock_ms + 30_000):
        free(wheel.m, due)
    assert wheel.live() == 0
    assert wheel.r[l.FREED] == wheel.r[l.SEGMENTS] - 1, "one segment is being filled, all others are free"


def test_a_record_as_long_as_a_segment_and_one_that_just_fits() -> None:
    heads = Heads()
    first = heads.make("a", words=l.SEGMENT_WORDS - 8)
    second = heads.make("b", words=8)
    third = heads.make("c", words=l.SEGMENT_WORDS)
    assert (first, second, third) == (0, l.SEGMENT_WORDS - 8, l.SEGMENT_WORDS)
    free(heads.m, first)
    assert heads.r[l.FREED] == 0
    free(heads.m, second)
    assert heads.r[l.FREED] == 1
    assert heads.make("d", words=8) == 0, "the free segment is filled again"


def test_what_lives_long_does_not_hold_the_segments_of_the_others() -> None:
    heads = Heads()
    lives = [int(life_of(hours * 3_600_000)) for hours in (1, 3, 13, 80)]
    assert lives == [0, 1, 2, 3]
    short: list[int] = []
    for number in range(200_000):
        life = lives[number // 100 % 4] if number % 100 == 0 else 0
        position = int(allocate_for(heads.m, 20, life))
        heads.arena[position] = 20 << l.SIZE
        if not life:
            short.append(position)
        if len(short) == 5_000:
            for one in short:
                free(heads.m, one)
            short.clear()
    # 1,500 that stay fill one segment of each life; of the others never more than five segments are in use.
    assert int(heads.r[l.SEGMENTS]) <= 3 + 5
    assert heads.live() == 1_500 + len(short)


def test_texts_are_numbered_once_up_to_a_bound() -> None:
    heads = Heads()
    numbers: dict[bytes, int] = {}
    for number in range(3_000):
        body = f"text-{number % 2_500}".encode()
        kept = np.frombuffer(body + bytes(8), dtype=np.uint8)
        got = int(text(heads.m, address(kept), len(body), 2_000))
        if body in numbers:
            assert got == numbers[body]
        elif got >= 0:
            numbers[body] = got
    assert sorted(numbers.values()) == list(range(2_000))
    assert int(text(heads.m, 0, 0, 3_000)) == 2_000, "the empty text is one too"


def test_nothing_is_governed_where_no_case_is() -> None:
    heads = Heads()
    insert(heads.m, heads.hash_of("r"), heads.make("r"))
    assert governed(heads.m, np.zeros(8, dtype=np.int64), 0) == 0


@given(st.uuids(), st.integers(0, 35), st.integers(0, 255))
def test_a_uuid_is_packed_and_what_is_none_is_not(request: UUID, place: int, byte: int) -> None:
    text_ = str(request)
    kept = np.zeros(16 // 8, dtype=np.uint64)
    body = body_of(text_)
    assert pack_id(address(body), 36, address(kept)) == 1
    assert kept.tolist() == [int(request.hex[:16], 16), int(request.hex[16:], 16)]
    out = np.zeros(48, dtype=np.uint8)
    unpack_id(address(kept), address(out))
    assert out.tobytes()[:36] == text_.encode()

    changed = bytearray(text_.encode() + bytes(8))
    changed[place] = byte
    there = np.frombuffer(bytes(changed), dtype=np.uint8)
    usual = re.fullmatch(rb"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", bytes(changed[:36])) is not None
    assert pack_id(address(there), 36, address(kept)) == usual
