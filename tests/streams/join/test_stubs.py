"""What a request that was put away does, a step at a time: the table of timelines for the second tier."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest

from schemas.event import decode
from schemas.recall import RecallRequested
from services.recall.answer import TOPICS as LANDED
from services.recall.answer import Stored, answer
from streams.join.admission import JoinBounds
from streams.join.processor import JoinProcessor
from streams.join.stubs import AGAIN_MS
from streams.runtime.processor import Batch, whole_parts
from streams.runtime.records import Records
from tests.streams.join.timeline import BOUNDS, TOPICS, Player, Row, T, clock, l, p, policy, s, said

AHEAD = 20


class Tiered(Player):
    """A player that puts away on demand, and answers what is asked from what it has played."""

    def __init__(self, bounds: JoinBounds = BOUNDS) -> None:
        super().__init__(replace(bounds, ahead_ms=AHEAD))
        self.stored: list[Stored] = []
        self.cut_ms = 0
        self.recalled = 0
        self.answers = Records()

    def cut(self, clock_ms: int) -> None:
        """Put away what is older than a moment, in a step of its own."""
        self.cut_ms = T + clock_ms
        self.step([], clock_ms)

    def answer(self, clock_ms: int, *, lost: str = "") -> None:
        """Answer every question; without the records of a topic that is `lost`."""
        for output in self.outputs:
            if output.topic != "recall-requests":
                continue
            question = decode(output.value, RecallRequested)
            there = [one for one in self.stored if LANDED[one.topic] != lost]
            for value in answer(question, there):
                self.answers.append(self.recalled, T + clock_ms, output.key, value)
                self.recalled += 1
        self.outputs = [output for output in self.outputs if output.topic != "recall-requests"]
        self.step([], clock_ms)

    def step(self, rows: list[Row], clock: int) -> list[Any]:
        for row in rows:
            if row.topic in ("p", "l", "s"):
                self._land(TOPICS[row.topic], row)
        outputs = super().step(rows, clock)
        for output in outputs:
            if output.topic == "feedback":
                number = len(self.stored)
                self.stored.append(Stored(3, 0, number, T + clock, output.key, output.value, []))
        return outputs

    def batch(self, inputs: dict[str, Records]) -> Batch:
        answers, self.answers = self.answers, Records()
        cut_ms, self.cut_ms = self.cut_ms, 0
        offsets = {**self.offsets, "recalled": self.recalled}
        return Batch(0, self.steps, {**inputs, "recalled": answers}, offsets, cut_ms)

    def _land(self, topic: str, row: Row) -> None:
        value = row.value if isinstance(row.value, bytes) else json.dumps(row.value).encode()
        offset = self.offsets[topic]
        self.stored.append(Stored(LANDED.index(topic), 0, offset, T + row.clock, row.key, value, list(row.headers)))

    @property
    def questions(self) -> list[str]:
        """The causes of the open questions."""
        asked = [decode(output.value, RecallRequested) for output in self.outputs if output.topic == "recall-requests"]
        return [one.cause for one in asked]

    @property
    def told(self) -> list[str]:
        return [said(event) for event in self.feedback]


def away(**fields: Any) -> Tiered:
    """Give a player whose one prediction has been put away."""
    player = Tiered()
    player.play(policy(**fields), p(0), clock(10))
    player.cut(20)
    assert player.counters["recalls.away"] == 1
    assert player.counters["predictions.open"] == 1
    return player


def test_a_label_brings_its_prediction_back() -> None:
    player = away()
    player.play(l(30))
    assert player.questions == ["label"]
    assert player.counters["predictions.open"] == player.counters["labels.parked"] == 1
    assert player.counters["recalls.away"] == player.counters["recalls.open"] == 1
    assert not player.told
    player.answer(40)
    assert player.told == ["40: m #1 final explicit 1 @30"]
    assert player.counters["labels.joined"] == player.counters["predictions.final"] == 1
    assert player.counters["recalls.away"] == player.counters["recalls.open"] == 0


def test_what_comes_meanwhile_waits_beside_the_question() -> None:
    player = away()
    player.play(l(30), l(31, 0, source="late"), l(31, 0, source="late"), p(33), s(34))
    assert player.questions == ["label"], "a request is asked for once"
    assert player.counters["predictions.parked"] == 1
    player.answer(40)
    assert player.told[-1] == "40: m #2 final explicit 0 @31"
    assert player.counters["labels.duplicate"] == player.counters["predictions.duplicate"] == 1
    assert player.counters["predictions.parked"] == player.counters["labels.parked"] == 0


def test_a_deadline_is_asked_for_before_it_comes() -> None:
    player = away(on_timeout="negative")
    player.play(clock(1100 - AHEAD - 1))
    assert not player.questions
    player.play(clock(1100 - AHEAD))
    assert player.questions == ["deadline"]
    player.answer(1090)
    assert not player.told, "it is back, and silent"
    player.play(clock(1100))
    assert player.told == ["1100: m #1 final timeout 0"]


def test_a_late_answer_still_says_what_was_due() -> None:
    player = away(on_timeout="negative")
    player.play(clock(1080), clock(1200))
    assert not player.told, "nothing is said while the question is open"
    player.answer(1300)
    assert player.told == ["1300: m #1 final timeout 0"]


def test_a_deadline_without_a_word_needs_no_question() -> None:
    player = away()
    player.play(clock(1100))
    assert not player.questions
    assert player.counters["predictions.unlabelled"] == player.counters["recalls.away"] == 1
    player.play(clock(1651))
    assert player.counters["recalls.away"] == 0
    assert player.wake_at_ms is None


def test_the_last_revision_is_gone_on_from() -> None:
    player = Tiered()
    player.play(policy(), p(0), l(5), clock(10))
    player.cut(20)
    assert player.counters["recalls.away"] == 1
    player.play(l(30, 0))
    player.answer(40)
    assert player.told == ["5: m #1 final explicit 1 @5", "40: m #2 final explicit 0 @30"]
    was = player.feedback[-1].was
    assert was is not None
    assert (was.label, was.status, was.label_kind) == (1, "final", "explicit")


def test_another_policy_brings_back_what_it_is_about() -> None:
    player = away()
    player.play(policy(30, effective=-50_000, version=2, on_timeout="negative", horizon_ms=10, lateness_ms=0))
    assert player.questions == ["policy"]
    player.answer(40)
    assert player.told == ["40: m #1 final timeout 0"]


@pytest.mark.parametrize("lost", ["predictions", "feedback"])
def test_what_is_gone_from_the_store_is_counted_and_what_was_said_stays(lost: str) -> None:
    player = Tiered()
    player.play(policy(), p(0), l(5), clock(10))
    player.cut(20)
    player.play(l(30, 0))
    player.answer(40, lost=lost)
    assert player.counters["recalls.missing"] == 1
    assert player.told == ["5: m #1 final explicit 1 @5"]
    assert player.counters["predictions.final"] == player.counters["labels.parked"] == 1
    player.play(clock(30 + 300 + 50))
    assert [letter.reason for letter in player.letters] == ["orphan"]


def test_a_repeated_answer_is_nothing_new() -> None:
    player = away()
    player.play(l(30))
    again = [output for output in player.outputs if output.topic == "recall-requests"]
    player.answer(40)
    player.outputs += again
    player.answer(50)
    assert player.counters["recalls.repeated"] == 1
    assert len(player.told) == 1


def test_what_is_no_answer_is_a_dead_letter() -> None:
    player = away()
    player.answers.append(0, T + 30, b"r", b"?")
    player.recalled = 1
    player.step([], 30)
    assert player.counters["recalls.dead"] == 1
    assert [letter.topic for letter in player.letters] == ["recalled"]


@pytest.mark.parametrize(
    ("rows", "why"),
    [
        ([p(0), l(5, name="other")], "a label is parked"),
        ([p(0), p(5, at=3)], "a conflict"),
        ([p(0), *(l(n + 1, n) for n in range(17))], "very many events"),
        ([l(5)], "nobody predicted it"),
    ],
)
def test_what_is_more_than_its_events_stays(rows: list[Row], why: str) -> None:
    player = Tiered()
    player.play(policy(), *rows, clock(30))
    player.cut(40)
    assert player.counters["recalls.away"] == 0, why


def test_what_is_younger_than_the_cut_stays() -> None:
    player = Tiered()
    player.play(policy(), p(50), clock(60))
    player.cut_ms = T + 50
    player.step([], 60)
    assert player.counters["recalls.away"] == 0


def test_what_is_due_soon_stays() -> None:
    player = Tiered()
    player.play(policy(on_timeout="negative"), p(0), clock(1100 - AHEAD))
    player.cut(1100 - AHEAD)
    assert player.counters["recalls.away"] == 0


@pytest.mark.parametrize("fields", [{}, {"on_timeout": "negative"}])
def test_the_next_life_of_an_id_counts_its_revisions_from_one(fields: dict[str, Any]) -> None:
    player = Tiered()
    player.play(policy(**fields), p(0), l(5), clock(1000), clock(1700), clock(2500))
    player.play(p(3000, at=3000), clock(3010))
    player.cut(3020)
    assert player.counters["recalls.away"] == 1
    player.play(l(3030))
    player.answer(3040)
    assert player.told[-1] == "3040: m #1 final explicit 1 @3030"
    assert not player.counters["recalls.missing"]


def test_what_stood_stands_whatever_would_be_refused_today() -> None:
    player = Tiered()
    player.play(policy(), p(1500), l(1501, 1, 900), clock(1510))
    player.cut(1520)
    player.play(policy(1530, effective=-50_000, version=2, horizon_ms=950, lateness_ms=10, retain_ms=5))
    assert player.questions == ["policy"]
    player.answer(1540)
    assert not player.counters["recalls.missing"]
    assert player.told[-1] == "1540: m #2 void", "the label is too late for the new policy"


def test_how_long_before_may_change_while_something_is_away() -> None:
    player = away(on_timeout="negative")
    parts = whole_parts(player.processor, player.state)
    player.processor = JoinProcessor(replace(BOUNDS, ahead_ms=3 * AHEAD), None)
    player.state = player.processor.load(0, parts)
    player.play(clock(1100 - AHEAD))
    (stub,) = [asked.stub for asked in player.state.join.asked.values()]
    assert stub.ask_ms == T + 1100, "the deadline is where it was"
    player.answer(1100 - AHEAD + 5)
    player.play(clock(1100))
    assert player.told == ["1100: m #1 final timeout 0"]


def test_a_question_without_an_answer_is_asked_again() -> None:
    player = away()
    player.play(l(30))
    lost, player.outputs = player.outputs, []
    player.play(clock(30 + AGAIN_MS))
    assert player.questions == ["label"]
    assert player.counters["recalls.asked"] == player.counters["recalls.again"] == 1
    player.outputs = lost + player.outputs  # the first one comes after all
    player.answer(40 + AGAIN_MS)
    assert player.told[-1].startswith(f"{40 + AGAIN_MS}: m #1 final explicit 1")
    assert player.counters["recalls.repeated"] == 1
    assert player.counters["recalls.open"] == 0


def test_what_waits_beside_a_question_may_be_of_the_next_life() -> None:
    player = away()
    player.play(l(1590, 1, 500), clock(1700), clock(2000))
    player.play(p(3000, at=3000), l(3010, 1))
    player.answer(3020)
    assert player.told == ["3020: m #1 final explicit 1 @500", "3020: m #1 final explicit 1 @3010"]
    assert player.counters["predictions.final"] == 2
    assert not player.counters["predictions.conflict"]


def test_what_waits_is_judged_by_the_policy_in_force() -> None:
    player = away()
    player.play(policy(25, effective=-50_000, version=2, label_name="other"))
    player.play(l(30))
    player.answer(40)
    assert not player.told
    assert player.counters["predictions.open"] == player.counters["labels.parked"] == 1
