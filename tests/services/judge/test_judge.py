"""`weir judge replay` and `weir judge plan` on what has landed in a real engine."""

from __future__ import annotations

import json
from typing import Any

import pytest
from msgspec import structs

from schemas.errors import WeirError
from schemas.event import decode, encode
from schemas.measures import Drift
from schemas.settings import ClickHouse, Settings
from schemas.verdict import Verdict
from services.judge.again import judge_replay, pair
from services.judge.plan import judge_plan
from services.record.land import Span, Store
from streams.judge.bounds import JudgeBounds
from streams.judge.processor import Judge
from streams.runtime.records import Records
from tests.streams.judge.test_processor import MINUTE, batch, control, stream

JUDGE = {"window_panes": 3, "grace_ms": 0, "live_ms": 30_000, "budget": 50.0}
LATE = 41 * MINUTE


def drift(stream: str, minute: int) -> Drift:
    evidence = Verdict(outcome="fail", gate=stream, sentence="said")
    return Drift(
        id=f"{stream}{minute}", model="m", version="1", deployment="d", stream=stream, detector="e_sr",
        from_ms=0, to_ms=minute * MINUTE, reference="r", evidence=evidence, alarmed=True, at_ms=0,
    )  # fmt: skip


def land(settings: Settings, topic: str, bodies: list[bytes], append_ms: int) -> None:
    store = Store(settings)
    store.prepare()
    count = len(bodies)
    records = Records(list(range(count)), [append_ms] * count, [b"k"] * count, list(bodies))
    store.land(topic, [Span(0, 0, count, records)])
    store.close()


@pytest.fixture
def settings(at: ClickHouse) -> Settings:
    """Give a namespace in which a model became worse at minute 30, with the alarms that its judge raised."""
    settings = Settings(namespace="judged", clickhouse=at, judge=JUDGE, clock="virtual")
    judge = Judge(JudgeBounds.model_validate(JUDGE), virtual=True)
    state = judge.empty(0)
    events = stream(40, 30)
    judge.step(state, batch(0, control=control()), 0)
    outputs = judge.step(state, batch(1, measures=events), 0).outputs
    drifts = [one.value for one in outputs if one.topic == "drift"]
    assert sum(decode(body, Drift).alarmed for body in drifts) >= 2
    land(settings, "control", [encode(one) for one in control()], LATE - 1)  # type: ignore[arg-type]
    land(settings, "measures", [encode(one) for one in events], LATE)
    land(settings, "drift", drifts, LATE)
    return settings


def asked(capsys: pytest.CaptureFixture[str]) -> dict[str, Any]:
    return dict(json.loads(capsys.readouterr().out))


def test_a_smaller_budget_lets_alarms_go_and_the_present_one_gives_those_that_were_raised(
    settings: Settings, capsys: pytest.CaptureFixture[str]
) -> None:
    judge_replay(settings, budget=49.0, as_json=True)
    told = asked(capsys)
    assert told["check"]["equal"]
    assert told["check"]["raised"] == len(told["alarms"]) >= 2
    assert told["remain"] == len(told["alarms"])
    judge_replay(settings, budget=1e-12, as_json=True)
    told = asked(capsys)
    assert told["check"]["equal"]
    assert told["remain"] < len(told["alarms"])
    judge_replay(settings, budget=1e-12, as_json=False)
    said = capsys.readouterr().out
    assert said.startswith(f"Judged again with budget 50 → 1e-12: {told['remain']} of {len(told['alarms'])} alarms")
    assert ": gone" in said


def test_a_replay_under_other_bounds_than_those_in_force_then_says_so(
    settings: Settings, capsys: pytest.CaptureFixture[str]
) -> None:
    changed = settings.model_copy(update={"judge": {**JUDGE, "epsilon_error": 0.9, "epsilon_share": 0.9}})
    judge_replay(changed, budget=49.0)
    assert "Careful: with the bounds in force the replay raises" in capsys.readouterr().out


def test_what_cannot_be_compared_is_refused(settings: Settings) -> None:
    with pytest.raises(WeirError, match="these are the bounds in force"):
        judge_replay(settings, budget=50.0)
    with pytest.raises(WeirError, match="budget"):
        judge_replay(settings, budget=-1.0)


def test_an_empty_namespace_says_what_to_start(at: ClickHouse) -> None:
    settings = Settings(namespace="judged", clickhouse=at)
    store = Store(settings)
    store.prepare()
    store.close()
    with pytest.raises(WeirError, match="no deltas of `measure` have landed"):
        judge_replay(settings, budget=1.0)
    with pytest.raises(WeirError, match=r"no version has a reference yet\n.*weir reference learn"):
        plan(settings)


def plan(settings: Settings, **more: Any) -> int:
    full: dict[str, Any] = {
        "model": None, "rows_a_day": None, "subjects": 64, "error_rate": 0.1, "reference_rows": 5_000, "as_json": True,
    }  # fmt: skip
    return judge_plan(settings, **{**full, **more})


def test_a_plan_is_made_of_the_traffic_that_was_measured(
    settings: Settings, capsys: pytest.CaptureFixture[str]
) -> None:
    plan(settings)
    (told,) = asked(capsys)["plans"]
    assert told["rows_a_day"] == pytest.approx(60 * 1440)
    assert told["labelled_a_day"] == pytest.approx(60 * 1440)
    error = {one["stream"]: one for one in told["streams"]}["quality:error"]
    assert 0.1 < error["detectable"]["30"] < error["detectable"]["7"] < error["detectable"]["1"] < 0.5
    plan(settings, as_json=False)
    assert "About half of the changes" in capsys.readouterr().out
    with pytest.raises(WeirError, match="models that have: m"):
        plan(settings, model="other")


def test_a_plan_can_be_made_of_supposed_traffic(capsys: pytest.CaptureFixture[str]) -> None:
    plan(Settings(namespace="nowhere"), rows_a_day=1.0, subjects=1)
    (told,) = asked(capsys)["plans"]
    assert told["streams"][0]["detectable"]["1"] is None
    with pytest.raises(WeirError, match="--rows-a-day above 0"):
        plan(Settings(namespace="nowhere"), rows_a_day=-1.0)


def test_each_past_alarm_takes_one_of_the_replay_before_the_next() -> None:
    past = [drift("a", 5), drift("a", 9), drift("b", 5)]
    elsewhere = structs.replace(drift("b", 6), slice="country=IT")
    assert [one.again for one in pair([drift("b", 5)], [elsewhere])[0]] == [None]
    found, new = pair(past, [drift("a", 6), drift("a", 20), drift("b", 30), drift("c", 1)])
    assert [(one.alarm.id, one.again.id if one.again else None) for one in found] == [
        ("a5", "a6"),
        ("b5", "b30"),
        ("a9", "a20"),
    ]
    assert [one.id for one in new] == ["c1"]
    found, _ = pair(past, [])
    assert [one.again for one in found] == [None] * 3
