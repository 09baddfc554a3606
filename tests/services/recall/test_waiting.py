"""Lines of questions: in order within a partition, never waiting for another one."""

from __future__ import annotations

from schemas.recall import RecallRequested
from services.recall.waiting import Lines, Waiting


def asked(partition: int, offset: int, need: int, append_ms: int = 0) -> Waiting:
    question = RecallRequested(
        request_id=f"r{offset}",
        cause="deadline",
        partition=partition,
        step=offset + 1,
        clock_ms=0,
        offsets={"predictions": need, "labels": 0, "signals": 0},
    )
    return Waiting(offset, append_ms or offset, question, {"predictions": need, "feedback": 0})


def places(found: list[Waiting]) -> list[tuple[int, int]]:
    return [(one.question.partition, one.offset) for one in found]


def lines(*waiting: Waiting) -> Lines:
    made = Lines({0: 0, 1: 0})
    for one in waiting:
        made.add([one])
        made.moved(one.question.partition, one.offset + 1)
    return made


def test_a_partition_that_has_not_landed_holds_no_other_up() -> None:
    made = lines(asked(0, 0, 5), asked(0, 1, 9), asked(1, 0, 100), asked(1, 1, 100))
    assert made.bulk({}, 10) == []
    assert places(made.bulk({("predictions", 0): 8, ("predictions", 1): 99}, 10)) == [(0, 0)]
    assert places(made.bulk({("predictions", 0): 9, ("predictions", 1): 100}, 10)) == [(0, 0), (0, 1), (1, 0), (1, 1)]
    assert asked(1, 0, 100).lacks({("predictions", 1): 7}) == {"predictions": (7, 100)}


def test_who_waits_longest_goes_first_and_a_bulk_has_an_end() -> None:
    made = lines(asked(0, 0, 0, append_ms=9), asked(0, 1, 0, append_ms=9), asked(1, 0, 0, append_ms=3))
    assert places(made.bulk({}, 2)) == [(1, 0), (0, 0)]
    assert len(made.bulk({}, 0)) == 0


def test_offsets_move_when_answered() -> None:
    made = lines(asked(0, 3, 0), asked(0, 7, 0))
    made.moved(0, 9)  # past a transaction's marker
    line = made.by_partition[0]
    assert (line.answered, line.position, len(made)) == (0, 9, 2)
    made.pop(made.bulk({}, 1))
    assert line.answered == 7, "the next question is still to be answered"
    made.pop(made.bulk({}, 1))
    assert (line.answered, len(made)) == (9, 0)
    made.moved(0, 12)
    made.moved(0, 11)
    assert line.answered == 12
    made.moved(5, 1)  # not ours
