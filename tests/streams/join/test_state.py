"""A state written and read again goes on as if nothing had happened; timers; what is refused."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec
import pytest

from schemas.control import Control
from streams.join.arrivals import Arrivals
from streams.join.outcome import Change
from streams.join.snapshot import dump_pair, load_join, load_pair
from streams.join.state import JoinState, Request
from streams.runtime.processor import WHOLE, Batch, Output, whole_parts
from tests.streams.join.test_timelines import TIMELINES, Timeline
from tests.streams.join.timeline import BOUNDS, Player, T, clock, l, p, policy


@pytest.mark.parametrize("timeline", TIMELINES, ids=lambda timeline: timeline.name)
def test_reading_back_before_each_step_changes_nothing(timeline: Timeline) -> None:
    plain, reloaded = Player(), Player()
    for row in [*timeline.rows, clock(10**10)]:
        body = whole_parts(reloaded.processor, reloaded.state)
        reloaded.state = reloaded.processor.load(0, body)
        assert whole_parts(reloaded.processor, reloaded.state) == body
        assert plain.play(row) == reloaded.play(row)
        assert (plain.counters, plain.wake_at_ms) == (reloaded.counters, reloaded.wake_at_ms)


def test_labels_and_features_of_every_type_survive() -> None:
    player = Player()
    features = {"n": 2**64 - 1, "m": -(2**63), "f": 1e300, "s": "\u0000é", "b": False, "none": None}
    player.play(policy(carry="features"), p(0, features=features, score=[0.1, 0.9]), l(1, ["a", 2.0]))
    player.state = player.processor.load(0, whole_parts(player.processor, player.state))
    player.play(l(2, "x"))
    last = player.feedback[-1]
    assert last.features == features
    assert last.was is not None
    assert last.was.label == ["a", 2.0]


def test_unknown_format_is_refused() -> None:
    player = Player()
    with pytest.raises(ValueError, match="unknown snapshot format"):
        player.processor.load(0, {WHOLE: b"\x02"})
    with pytest.raises(ValueError, match="unknown snapshot format"):
        player.processor.load(0, {WHOLE: b""})


def test_snapshot_of_another_partition_is_refused() -> None:
    player = Player()
    with pytest.raises(ValueError, match="partition 0, not of partition 3"):
        player.processor.load(3, whole_parts(player.processor, player.state))
    with pytest.raises(ValueError, match="unknown snapshot format"):
        load_join(0, b"\xff", BOUNDS)


def test_what_is_known_by_each_label_name_is_told() -> None:
    listening = Listening()
    player = Player(chained=listening)
    outputs = {"label": 0.25, "refund": 0.5}
    player.play(
        policy(labels=[{"name": "refund"}, {"name": "revenue", "metrics": "value"}]),
        p(0, items=[{"item": "a"}, {"item": "b"}], outputs=outputs),
    )
    player.play(l(5, 1, name="refund"), l(6, 0, name="refund", item="b"), l(7, 1, item="a"))
    player.play(l(8, 9.5, name="revenue"))
    told = listening.changes[-1].after
    assert told is not None
    assert (told.output, told.outcome.label, told.answer.score) == ("label", None, 0.25)
    assert [(item, outcome.label) for item, outcome in told.items or ()] == [("a", 1)]
    other, revenue = told.others
    assert (other.name, other.outcome.label, other.value) == ("refund", 1, False)
    assert (revenue.name, revenue.outcome.label, revenue.value, revenue.items) == ("revenue", 9.5, True, None)
    assert [(item, outcome.label) for item, outcome in other.items or ()] == [("b", 0)]
    assert (
        player.processor.load(0, whole_parts(player.processor, player.state)).join.requests["r"].cases[0].counted
        == told
    )


def of_format_3(body: bytes) -> bytes:
    """Give the bytes of a state as the version before wrote them: nothing says how far a case was told."""
    state = msgspec.msgpack.decode(load_pair(body)[0][1:])
    for request in state[6]:
        request[2] = [case[:4] for case in request[2]]
    return dump_pair(b"\x03" + msgspec.msgpack.encode(state), load_pair(body)[1])


def test_what_the_format_before_did_not_tell_of_a_ranking_is_not_taken_back() -> None:
    listening = Listening()
    player = Player(chained=listening)
    player.play(policy(), p(0, items=[{"item": "a"}, {"item": "b"}]), l(5, item="b"))
    told = listening.changes[-1].after
    assert told is not None
    assert told.items is not None
    assert [(item, outcome.label) for item, outcome in told.items] == [("b", 1)]
    body = whole_parts(player.processor, player.state)
    player.state = player.processor.load(0, {**body, WHOLE: of_format_3(body[WHOLE])})
    for _ in range(2):  # it stays so until the case is told again
        player.state = player.processor.load(0, whole_parts(player.processor, player.state))
    listening.changes.clear()
    player.play(l(9, item="b", label=0))
    (change,) = listening.changes
    assert change.before is not None
    assert change.before.items is None
    assert change.after is not None
    assert [outcome.label for _, outcome in change.after.items or ()] == [0]


def test_snapshot_of_the_first_format_says_what_to_do() -> None:
    with pytest.raises(ValueError, match="start a new namespace, or run the older version"):
        load_join(0, b"\x01", BOUNDS)


def test_wake_is_the_next_moment() -> None:
    player = Player()
    player.play(policy(on_timeout="negative", provisional_after_ms=200), p(0))
    assert player.wake_at_ms == T + 200
    player.play(clock(200))
    assert player.wake_at_ms == T + 1100
    player.play(clock(1100))
    assert player.wake_at_ms == T + 1651
    player.play(clock(1651))
    assert player.wake_at_ms is None


def test_a_request_has_few_timers() -> None:
    player = Player()
    player.play(policy(), l(-50), p(0), *[l(n, n) for n in range(1, 200)])
    assert len(player.state.join.timers) <= 2


def test_timers_come_in_order_and_stale_ones_are_skipped() -> None:
    state = JoinState(0)
    for request_id, due_ms in (("b", 5), ("a", 5), ("c", 3)):
        state.requests[request_id] = Request()
        state.arm(request_id, state.requests[request_id], due_ms)
    state.arm("b", state.requests["b"], 4)
    del state.requests["c"]
    assert state.wake_at_ms() == 4
    taken = []
    while (one := state.take_due(5)) is not None:
        taken.append(one[0])
        one[1].due_ms = 99
    assert taken == ["b", "a"]


class Counting:
    """A chained stage that keeps a number and repeats what it is told."""

    version = "counting-1"

    def empty(self, partition: int) -> list[int]:
        return [0]

    def step(
        self,
        state: list[int],
        changes: Sequence[Change],
        control: Sequence[Control],
        batch: Batch,
        clock_ms: int,
        *,
        arrivals: Arrivals,
        timers_ms: int,
    ) -> list[Output]:
        state[0] += len(changes)
        text = f"{state[0]} {len(control)} {clock_ms - T}"
        return [Output("measures", None, text.encode())]

    def dump(self, state: list[int]) -> bytes:
        return b"\x01%d" % state[0]

    def load(self, partition: int, body: bytes) -> list[int]:
        return [int(body[1:])]


def test_chained_stage_follows_and_is_part_of_the_snapshot() -> None:
    player = Player(chained=Counting())
    assert player.processor.version == "join-6+counting-1"
    outputs = player.play(policy(on_timeout="negative"), p(0), l(5), clock(1100))
    assert [output.value for output in outputs if output.topic == "measures"] == [
        b"0 1 -100000",
        b"1 0 0",
        b"2 0 5",
        b"2 0 1100",
    ]
    assert outputs[-2].topic == "measures"
    player.state = player.processor.load(0, whole_parts(player.processor, player.state))
    assert player.play(clock(9999))[-1].value == b"2 0 9999"


class Listening(Counting):
    """A chained stage that keeps every change in mind."""

    def __init__(self) -> None:
        self.changes: list[Change] = []

    def step(
        self,
        state: list[int],
        changes: Sequence[Change],
        control: Sequence[Control],
        batch: Batch,
        clock_ms: int,
        *,
        arrivals: Arrivals,
        timers_ms: int,
    ) -> list[Output]:
        self.changes.extend(changes)
        return []


@pytest.mark.parametrize("timeline", TIMELINES, ids=lambda timeline: timeline.name)
def test_each_change_starts_where_the_last_ended(timeline: Timeline) -> None:
    if timeline.name == "reused_id_starts_anew":
        return
    listening = Listening()
    player = Player(chained=listening)
    player.play(*timeline.rows)
    last: dict[tuple[str, str], object] = {}
    for change in listening.changes:
        assert change.after is not None
        identity = change.after.prediction.model, change.after.prediction.deployment
        assert change.before == last.get(identity) != change.after
        last[identity] = change.after


def test_a_repeated_label_changes_nothing_that_is_counted() -> None:
    listening = Listening()
    player = Player(chained=listening)
    player.play(policy(), p(0), l(5), l(9), l(20, source="other"))
    player.state = player.processor.load(0, whole_parts(player.processor, player.state))
    player.play(l(30), l(40, 0))
    said = [change.after.outcome for change in listening.changes if change.after is not None]
    assert [(one.label, one.labelled_at_ms) for one in said] == [(None, None), (1, T + 5), (0, T + 40)]
