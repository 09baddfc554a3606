"""Redelivery, restarts and duplicates: every decision leaves, and none of them twice under two ids."""

import json
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from schemas.control import Control, Frozen, Thawed
from schemas.event import decode
from schemas.lifecycle import Alert, Approval, DecidePolicy, Promote, Retrain
from schemas.measures import Gate
from schemas.verdict import Verdict
from streams.decide.reading import INPUTS, dead_letter, read
from streams.decide.reduce import Received
from streams.decide.rows import Effect, Rows, load
from streams.decide.state import NAMESPACE
from streams.decide.turn import command_id
from tests.streams.decide.builders import (
    MODEL,
    approval,
    candidate,
    drift,
    first,
    gate,
    metric,
    policy,
    status,
    tick,
)

KINDS: dict[str, type[Any]] = {"retrain": Retrain, "promote": Promote, "alerts": Alert}
Logs = dict[str, list[Received]]


def id_of(effect: Effect) -> str:
    """Give what tells an effect from every other."""
    if effect.topic == "control":
        return command_id(msgspec.json.decode(effect.body, type=Control))
    return command_id(decode(effect.body, KINDS[effect.topic]))


class Process:
    """What the agent does, over a dictionary: take a batch, store, send, strike out, commit. It can die anywhere."""

    def __init__(self) -> None:
        self.table: dict[bytes, bytes] = {}
        self.committed: dict[str, int] = {}
        self.sent: list[Effect] = []
        self.start()

    def start(self) -> None:
        """Begin again with what is stored and committed."""
        self.rows = Rows(self.table)
        self.rows.load_all()
        self.sent += self.rows.unsent()
        self.rows.sent()
        self.position = dict(self.committed)

    def take(self, logs: Logs, topic: str, count: int, dies: str = "") -> bool:
        """Take up the next records of a topic. False: there was none."""
        at = self.position.get(topic, 0)
        batch = logs[topic][at : at + count]
        for offset, event in enumerate(batch, at):
            self.rows.take(topic, 0, offset, event)
        if dies == "before storing":
            self.start()
            return True
        self.rows.store()
        if dies == "before sending":
            self.start()
            return True
        self.sent += self.rows.unsent()
        if dies == "before striking out":
            self.start()
            return True
        self.rows.sent()
        self.position[topic] = at + len(batch)
        if dies == "before committing":
            self.start()
            return True
        if dies != "without committing":
            self.committed[topic] = self.position[topic]
        return bool(batch)


def history() -> Logs:
    """Give a life of a model: drift, training, a refused and a promoted candidate, quality lost and regained.

    Written as if its reader were quick: what answers a command is in the log behind what caused it.
    """
    world = Rows({})
    logs: Logs = {topic: [] for topic in INPUTS}

    def say(topic: str, event: Received) -> None:
        logs[topic].append(event)
        world.take(topic, 0, len(logs[topic]) - 1, event)
        left = list(world.unsent())
        world.sent()
        for effect in left:
            if effect.topic == "promote":
                say("promote", decode(effect.body, Promote))

    def rollout_id() -> str:
        rollout = world.row(MODEL).state.rollout
        assert rollout is not None
        return rollout.id

    say("control", policy(min_quality={"accuracy": 0.8}, max_shadow_ms=300))
    say("promote", first())
    say("drift", drift(1_000))
    say("metrics", metric(1_010, 0.7))
    ran = world.row(MODEL).state.run
    assert ran is not None
    retrain = Retrain(
        retrain_id=ran.retrain_id, model=MODEL, base_version="v1", reason="", from_ms=0, to_ms=1, at_ms=1_000
    )
    say("candidates", candidate(retrain, "v2", at_ms=1_020))
    say("gates", gate(f"shadow:{rollout_id()}", 1_100, above=3.0))
    say("gates", gate(f"shadow:{rollout_id()}", 1_150, below=50.0))
    say("rollout-status", status(3, error="disk full", at_ms=1_160))
    say("rollout-status", status(3, at_ms=1_170))
    say("control", Frozen(source="market", at_ms=1_172))
    say("control", Thawed(source="market", at_ms=1_174))
    say("drift", drift(1_180))
    say("candidates", candidate(None, "v3", at_ms=1_180))
    say("gates", gate(f"shadow:{rollout_id()}", 1_200, above=30.0))
    say("approvals", approval(rollout_id(), stage="full", at_ms=1_200))
    say("metrics", metric(1_300, 0.9, version="v3"))
    say("drift", drift(1_400, alarmed=False, statistic=0.0, version="v3"))
    say("metrics", metric(1_500, 0.6, version="v3"))
    return logs


def in_time(logs: Logs) -> list[tuple[str, Received]]:
    """Give the events in an order in which a quick reader could have read them; our own promotions come back last."""

    def when(one: tuple[str, Received]) -> tuple[int, int]:
        topic, event = one
        rank = {"control": 0, "promote": 2}.get(topic, 1)
        return (getattr(event, "at_ms", 0) or getattr(event, "now_ms", 0), rank)

    first_of_all = [("control", logs["control"][0]), ("promote", logs["promote"][0])]
    rest = [
        (topic, event)
        for topic, events in logs.items()
        for event in events[1 if topic in ("control", "promote") else 0 :]
    ]
    return [*first_of_all, *sorted(rest, key=when)]


HISTORY = history()
ORDER = in_time(HISTORY)
COUNTS = st.sampled_from([1, 2, 100])
DEATHS = (
    "",
    "",
    "",
    "without committing",
    "before storing",
    "before sending",
    "before striking out",
    "before committing",
)


def test_the_history_has_every_kind_of_command() -> None:
    process, reached = Process(), dict.fromkeys(INPUTS, 0)
    for topic, _ in ORDER:
        reached[topic] += 1
        process.take(HISTORY, topic, 1)
    assert {effect.topic for effect in process.sent} == {"retrain", "promote", "alerts", "control"}
    stages = [decode(effect.body, Promote).stage for effect in process.sent if effect.topic == "promote"]
    assert stages == ["shadow", "rollback", "shadow", "canary", "full"]


@settings(max_examples=60)
@given(st.data())
def test_deaths_and_redeliveries_change_no_decision(data: st.DataObject) -> None:
    # The twin applies what the process has stored, in the same order, and never dies or reads anything again. What it
    # decided is what must leave: each command at least once, and never two under one id.
    process, twin = Process(), Rows({})
    reached, applied = dict.fromkeys(INPUTS, 0), dict.fromkeys(INPUTS, 0)
    decided: list[Effect] = []

    def take(topic: str, count: int, dies: str) -> None:
        end = min(process.position.get(topic, 0) + count, reached[topic])
        seen = {name: events[: reached[name]] for name, events in HISTORY.items()}
        process.take(seen, topic, count, dies)
        if dies != "before storing":
            for offset in range(applied[topic], end):
                twin.take(topic, 0, offset, seen[topic][offset])
            applied[topic] = max(applied[topic], end)
            decided.extend(twin.unsent())
            twin.sent()

    for topic, _ in ORDER:
        reached[topic] += 1
        take(topic, data.draw(COUNTS), data.draw(st.sampled_from(DEATHS)))
        for again in data.draw(st.lists(st.sampled_from(INPUTS), max_size=2)):
            take(again, data.draw(COUNTS), data.draw(st.sampled_from(DEATHS)))
    for topic in INPUTS:
        take(topic, 100, "")
    left: dict[str, str] = {}
    for effect in process.sent:
        assert left.setdefault(id_of(effect), effect.body) == effect.body, "two commands under one id"
    assert list(left) == list(map(id_of, decided))
    assert load(process.table[MODEL.encode()]).state == twin.row(MODEL).state


@settings(max_examples=60)
@given(st.data())
def test_an_event_sent_twice_decides_nothing_new(data: st.DataObject) -> None:
    # A producer may send an event again, any time later; each copy has an offset of its own.
    repeated = [pair for pair in ORDER if pair[0] != "control"]
    twice = list(ORDER)
    for pair in data.draw(st.lists(st.sampled_from(repeated), max_size=6)):
        twice.insert(data.draw(st.integers(twice.index(pair) + 1, len(twice))), pair)
    assert ids_of(twice) == ids_of(ORDER)


def ids_of(order: list[tuple[str, Received]]) -> list[str]:
    """Give the ids of all commands that leave, sorted."""
    rows, offsets = Rows({}), dict.fromkeys(INPUTS, 0)
    for topic, event in order:
        rows.take(topic, 0, offsets[topic], event)
        offsets[topic] += 1
    return sorted(map(id_of, rows.unsent()))


def test_time_and_freezes_reach_models_yet_to_come() -> None:
    rows = Rows({})
    rows.take("control", 0, 0, tick(500))
    rows.take("control", 0, 1, policy())
    assert rows.row(MODEL).state.clock_ms == 500
    assert rows.models() == [MODEL]
    rows.take("control", 0, 2, tick(700))
    assert rows.row(MODEL).state.clock_ms == 700
    assert rows.row(NAMESPACE).offsets == {"control/0": 3}
    assert list(rows.unsent()) == []


def alerts(rows: Rows) -> list[Alert]:
    """Give the alerts that are to be sent, and strike everything out."""
    found = [decode(effect.body, Alert) for effect in rows.unsent() if effect.topic == "alerts"]
    rows.sent()
    return found


def test_a_freeze_is_one_alert_for_all_models_until_the_thaw() -> None:
    rows = Rows({})
    rows.take("control", 0, 0, policy())
    verdict = Verdict(outcome="fail", gate="outage", statistic=0, threshold=12, value=30.5)
    frozen = Frozen(source="market", at_ms=60_000, by="guard", reason="labels of market: 0 came", evidence=verdict)
    rows.take("control", 0, 1, frozen)
    (fired,) = alerts(rows)
    assert (fired.rule, fired.status, fired.severity, fired.model) == ("outage:market", "firing", "error", "")
    assert (fired.summary, fired.evidence, fired.at_ms) == (frozen.reason, [verdict], 60_000)
    rows.take("control", 0, 2, Frozen(source="market", at_ms=70_000))
    rows.take("control", 0, 3, Thawed(source="other", at_ms=80_000))
    assert not alerts(rows)
    rows.take("control", 0, 4, Frozen(source="desk", at_ms=80_000, by="ann"))
    (other,) = alerts(rows)
    assert other.fingerprint != fired.fingerprint
    assert other.summary == "labels of desk are frozen by ann"
    rows.take("control", 0, 5, Thawed(source="market", at_ms=90_000, reason="labels of market: 31 came"))
    (resolved,) = alerts(rows)
    assert (resolved.fingerprint, resolved.status) == (fired.fingerprint, "resolved")
    assert resolved.summary == "labels of market: 31 came"
    rows.take("control", 0, 6, Frozen(source="market", at_ms=200_000))
    assert [one.id for one in alerts(rows)] != [fired.id]


def test_an_alert_of_a_freeze_survives_a_death_before_it_was_sent() -> None:
    table: dict[bytes, bytes] = {}
    rows = Rows(table)
    rows.take("control", 0, 0, Frozen(source="market", at_ms=60_000))
    rows.store()
    again = Rows(table)
    again.load_all()
    assert [one.rule for one in alerts(again)] == ["outage:market"]
    again.take("control", 0, 0, Frozen(source="market", at_ms=60_000))
    assert not alerts(again)


def test_an_allocation_goes_to_every_partition_before_its_promotion() -> None:
    process = Process()
    logs: Logs = {topic: [] for topic in INPUTS}
    logs["control"] = [policy()]
    logs["promote"] = [first()]
    logs["candidates"] = [candidate(at_ms=5)]
    for topic in ("control", "promote", "candidates"):
        process.take(logs, topic, 10)
    rollout = process.rows.row(MODEL).state.rollout
    assert rollout is not None
    logs["gates"] = [gate(f"shadow:{rollout.id}", 10, above=30.0)]
    process.sent.clear()
    process.take(logs, "gates", 1)
    allocation, promote = process.sent
    assert (allocation.topic, allocation.everywhere, allocation.at_ms) == ("control", True, 10)
    assert promote.topic == "promote"
    assert promote.key == "e"
    assert json.loads(allocation.body)["layer"] == f"canary:{rollout.id}"


def test_reading_leaves_out_what_concerns_others_and_names_what_is_wrong() -> None:
    assert read("control", 0, b'{"kind":"policy_set","policy":{"model":"m","effective_from_ms":0}}') is None
    assert read("control", 1, b'{"kind":"clock_advanced","now_ms":5}') is None
    assert read("control", 0, b'{"kind":"clock_advanced","now_ms":5}') == tick(5)
    assert read("promote", 0, None) is None
    with pytest.raises(msgspec.DecodeError) as raised:
        read("approvals", 0, b'{"rollout_id":"r","model":"m","decision":"perhaps","at_ms":1}')
    letter = dead_letter("approvals", 0, 7, 99, b"m", b"\xff", [("h", None)], raised.value)
    assert "expected a record of approvals" in letter.detail
    assert (letter.stage, letter.offset, letter.value, letter.key) == ("decide", 7, "/w==", "bQ==")


def test_a_row_of_another_format_is_refused() -> None:
    rows = Rows({})
    rows.take("control", 0, 0, policy())
    table: dict[bytes, bytes] = {}
    rows = Rows(table)
    rows.take("control", 0, 0, policy())
    rows.store()
    body = json.loads(table[MODEL.encode()])
    body["v"] = 2
    with pytest.raises(ValueError, match="newer version"):
        load(json.dumps(body).encode())


def test_policies_without_a_chance_are_refused() -> None:
    for field in ("alpha", "alpha_rollback", "canary_weight"):
        with pytest.raises(msgspec.ValidationError, match=field):
            msgspec.convert({"model": "m", field: 0.0}, DecidePolicy)


def test_what_a_person_said_is_known_by_its_content() -> None:
    assert isinstance(read("approvals", 0, msgspec.json.encode(approval("r"))), Approval)
    assert isinstance(read("gates", 0, msgspec.json.encode(gate("shadow:r", 1))), Gate)
