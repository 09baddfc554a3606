"""The clock alone: least of what was seen, never back, jumps waited out, virtual time from control."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from schemas.control import ClockAdvanced, Thawed
from schemas.event import encode
from streams.runtime.clock import BrokerClock, VirtualClock
from streams.runtime.records import Records

INPUTS = ("control", "predictions", "labels", "signals")


def at(*moments: int) -> Records:
    records = Records()
    for offset, moment in enumerate(moments):
        records.append(offset, moment, None, b"")
    return records


def test_clock_waits_for_every_input_but_control() -> None:
    clock = BrokerClock(INPUTS, grace_ms=1000)
    clock.read("predictions", at(10, 20))
    clock.read("labels", at(15))
    assert clock.advance() == 0
    clock.confirm("signals", 12)
    assert clock.advance() == 12
    clock.read("control", at(5))
    assert clock.advance() == 12


def test_empty_read_says_nothing() -> None:
    clock = BrokerClock(INPUTS, grace_ms=1000)
    clock.read("labels", at())
    assert clock.seen == {}


def test_append_times_that_go_back_do_not_turn_the_clock_back() -> None:
    clock = BrokerClock(("labels",), grace_ms=1000)
    clock.read("labels", at(50))
    assert clock.advance() == 50
    clock.read("labels", at(40))
    assert clock.advance() == 50


def test_first_moment_is_no_jump() -> None:
    clock = BrokerClock(("labels",), grace_ms=10)
    clock.confirm("labels", 1_000_000)
    assert clock.advance() == 1_000_000


def test_jump_is_waited_out_in_broker_time() -> None:
    clock = BrokerClock(("labels",), grace_ms=100, ms=1000)
    clock.confirm("labels", 1100)
    assert clock.advance() == 1100
    assert not clock.held
    clock.confirm("labels", 1201)
    assert clock.advance() == 1100
    assert clock.held
    clock.confirm("labels", 1300)
    assert clock.advance() == 1100
    clock.confirm("labels", 1301)
    assert clock.advance() == 1301
    assert not clock.held


def test_seen_survives_in_a_snapshot() -> None:
    clock = BrokerClock(("labels", "signals"), grace_ms=100)
    clock.confirm("labels", 70)
    again = BrokerClock(("labels", "signals"), grace_ms=100, ms=clock.ms, seen=clock.seen)
    again.confirm("signals", 60)
    assert again.advance() == 60


Moves = st.lists(st.tuples(st.sampled_from(INPUTS), st.integers(0, 10_000)), max_size=40)


@given(moves=Moves, grace_ms=st.integers(0, 500))
def test_clock_never_goes_back_nor_past_what_was_seen(moves: list[tuple[str, int]], grace_ms: int) -> None:
    clock = BrokerClock(INPUTS, grace_ms=grace_ms)
    greatest: dict[str, int] = {}
    before = 0
    for name, moment in moves:
        clock.confirm(name, moment)
        greatest[name] = max(greatest.get(name, 0), moment)
        now = clock.advance()
        assert now >= before
        assert now <= min(greatest.get(other, 0) for other in INPUTS[1:])
        before = now


def control(*bodies: bytes | None) -> Records:
    records = Records()
    for offset, body in enumerate(bodies):
        records.append(offset, 7, None, body)
    return records


def test_virtual_clock_follows_the_driver_alone() -> None:
    clock = VirtualClock()
    clock.read("predictions", at(99))
    clock.confirm("predictions", 99)
    assert clock.advance() == 0
    clock.read(
        "control", control(None, b"\xff clock_advanced", encode(ClockAdvanced(now_ms=500)), encode(Thawed(source="a")))
    )
    assert clock.advance() == 500
    clock.read("control", control(encode(ClockAdvanced(now_ms=400))))
    assert clock.advance() == 500


def test_virtual_clock_takes_no_other_input_for_control() -> None:
    clock = VirtualClock()
    clock.read("labels", control(encode(ClockAdvanced(now_ms=500))))
    assert clock.advance() == 0
