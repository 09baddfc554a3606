"""From drift and figures to alerts and retrain events, as timelines."""

import pytest

from schemas.control import Frozen, Thawed
from schemas.lifecycle import Alert, Promote, Retrain
from tests.streams.decide.builders import (
    World,
    candidate,
    drift,
    first,
    gate,
    metric,
    policy,
    review,
    status,
    tick,
    told,
)

ALARM = "firing drift:quality:error"
LOW = "firing quality:accuracy"


def test_an_alarm_on_quality_asks_for_a_better_model_and_says_why() -> None:
    world = World(policy(), first())
    alert, retrain = world.tell(drift(1_000))
    assert told([alert, retrain]) == [ALARM, "retrain v1"]
    assert isinstance(alert, Alert)
    assert isinstance(retrain, Retrain)
    assert (retrain.from_ms, retrain.to_ms, retrain.at_ms) == (500, 1_000, 1_000)
    assert retrain.evidence[0].statistic == 50.0
    assert retrain.reason == "quality:error is worse"
    assert retrain.drift_ids == ["drift-quality:error-v1-1000"]
    assert alert.severity == "error"
    assert "quality:error of v1 drifted" in alert.summary


@pytest.mark.parametrize(
    ("said", "events", "expected"),
    [
        pytest.param({"automation": "observe"}, [drift(10)], [ALARM], id="observing only alerts"),
        pytest.param({}, [drift(10, stream="score")], ["firing drift:score"], id="a stream that is no cause"),
        pytest.param(
            {"retrain_on": ["quality", "feature"]},
            [drift(10, stream="feature:price")],
            ["firing drift:feature:price", "retrain v1"],
            id="a prefix of a stream that is a cause",
        ),
        pytest.param({}, [drift(10, version="v0")], [ALARM], id="another version's alarm is no cause"),
        pytest.param({}, [drift(10, alarmed=False)], [], id="no alarm"),
        pytest.param({"min_quality": {"accuracy": 0.8}}, [metric(10, 0.7)], [LOW, "retrain v1"], id="below"),
        pytest.param({"min_quality": {"accuracy": 0.8}}, [metric(10, 0.78)], [], id="the interval reaches the limit"),
        pytest.param({"min_quality": {"accuracy": 0.8}}, [metric(10, 0.7, closed=False)], [], id="not closed"),
        pytest.param({"min_quality": {"accuracy": 0.8}}, [metric(10, 0.7, slice="a=b")], [], id="a slice"),
        pytest.param({"min_quality": {"accuracy": 0.8}}, [metric(10, 0.7, role="shadow")], [], id="a shadow"),
        pytest.param({"min_quality": {"accuracy": 0.8}}, [metric(10, 0.7, version="v0")], [], id="not serving"),
        pytest.param({"min_quality": {"auc": 0.8}}, [metric(10, 0.7)], [], id="another metric"),
        pytest.param(
            {"automation": "observe", "min_quality": {"accuracy": 0.8}}, [metric(10, 0.7)], [LOW], id="observed low"
        ),
        pytest.param({"max_loss": {"accuracy": 0.6}}, [metric(10, 0.7)], [LOW, "retrain v1"], id="above"),
        pytest.param({"max_loss": {"accuracy": 0.66}}, [metric(10, 0.7)], [], id="the interval reaches the ceiling"),
        pytest.param({"max_loss": {"accuracy": 0.8}}, [metric(10, 0.7)], [], id="below the ceiling"),
        pytest.param({"settle_ms": 90}, [drift(10), tick(99)], [ALARM], id="not settled"),
        pytest.param({"settle_ms": 90}, [drift(10), tick(100)], [ALARM, "retrain v1"], id="settled"),
        pytest.param({}, [drift(10), drift(20), drift(5_000)], [ALARM, "retrain v1"], id="one in flight"),
    ],
)
def test_causes(said: dict[str, object], events: list[object], expected: list[str]) -> None:
    world = World(policy(**said), first())  # type: ignore[arg-type]
    assert told(world.tell(*events)) == expected  # type: ignore[arg-type]


def test_all_causes_until_it_leaves_are_evidence() -> None:
    world = World(policy(settle_ms=100, min_quality={"accuracy": 0.8}), first())
    world.tell(drift(10), metric(20, 0.7), drift(30))
    (retrain,) = world.tell(tick(110))
    assert isinstance(retrain, Retrain)
    assert [verdict.gate for verdict in retrain.evidence] == ["", "quality:accuracy", ""]
    assert retrain.drift_ids == ["drift-quality:error-v1-10", "drift-quality:error-v1-30"]
    assert (retrain.from_ms, retrain.to_ms) == (0, 110)


def test_a_cause_in_the_cooldown_waits_for_its_end() -> None:
    world = World(policy(), first())
    (_, retrain) = world.tell(drift(1_000))
    assert isinstance(retrain, Retrain)
    world.tell(candidate(retrain, error="too few rows"))
    assert told(world.tell(drift(1_500), tick(1_999))) == []
    again = world.tell(tick(2_000))
    assert told(again) == ["retrain v1"]
    assert again[0].attempt == 2  # type: ignore[union-attr]
    assert again[0] != retrain


def test_an_alert_is_told_once_and_resolved_when_the_stream_has_been_quiet() -> None:
    world = World(policy("observe"), first())
    assert told(world.tell(drift(100))) == [ALARM]
    assert told(world.tell(drift(150), drift(200, alarmed=False, statistic=1.0))) == []
    assert told(world.tell(drift(249, alarmed=False, statistic=1.0))) == [], "not quiet for long enough"
    assert told(world.tell(drift(260, alarmed=False, statistic=30.0))) == [], "more than half of an alarm"
    assert told(world.tell(drift(270, alarmed=False, statistic=20.0))) == ["resolved drift:quality:error"]
    assert told(world.tell(drift(280, alarmed=False, statistic=1.0))) == []
    firing, resolved = world.all
    assert isinstance(firing, Alert)
    assert isinstance(resolved, Alert)
    assert firing.fingerprint == resolved.fingerprint
    assert firing.id != resolved.id
    assert told(world.tell(drift(300))) == [ALARM]
    assert world.all[-1].id != firing.id  # type: ignore[union-attr]


def test_quality_is_resolved_when_the_value_is_back_on_a_window_as_long() -> None:
    world = World(policy("observe", min_quality={"accuracy": 0.8}), first())
    assert told(world.tell(metric(100, 0.6, span_ms=50))) == [LOW]
    assert told(world.tell(metric(110, 0.79, span_ms=50))) == [], "not shown to be below, but not back either"
    assert told(world.tell(metric(120, 0.9, span_ms=10))) == [], "a short window does not speak for a long one"
    assert told(world.tell(metric(90, 0.9, span_ms=50))) == [], "an older window"
    assert told(world.tell(metric(120, 0.81, span_ms=50))) == ["resolved quality:accuracy"]


def test_a_loss_is_resolved_when_it_is_back_below_its_ceiling() -> None:
    world = World(policy("observe", max_loss={"accuracy": 0.5}), first())
    (alert,) = world.tell(metric(100, 0.6))
    assert isinstance(alert, Alert)
    assert alert.summary == "accuracy of v1 is 0.6 [0.55, 0.65] over 100 outcomes, above the limit 0.5"
    assert (alert.evidence[0].statistic, alert.evidence[0].threshold) == (0.6 - 0.05, 0.5)
    assert told(world.tell(metric(110, 0.52))) == [], "not shown to be above, but not back either"
    assert told(world.tell(metric(120, 0.49))) == ["resolved quality:accuracy"]


def test_training_that_fails_is_told_and_resolved_by_a_candidate() -> None:
    world = World(policy(cooldown_ms=0), first())
    (_, retrain) = world.tell(drift(10))
    assert isinstance(retrain, Retrain)
    assert told(world.tell(candidate(retrain, error="too few rows"))) == ["firing training-failed"]
    assert world.state.run is None
    (again,) = world.tell(drift(20))
    assert isinstance(again, Retrain)
    assert told(world.tell(candidate(again)))[:2] == ["resolved training-failed", "promote shadow: v1 1, v2 shadow"]


def test_training_that_never_answers_is_given_up() -> None:
    world = World(policy(train_timeout_ms=100), first())
    world.tell(drift(10))
    assert told(world.tell(tick(109))) == []
    assert told(world.tell(tick(110))) == ["firing training-failed"]
    assert told(world.tell(drift(120), tick(1_010))) == ["retrain v1"]


def test_nothing_is_retrained_while_labels_are_frozen() -> None:
    world = World(policy(), first(), Frozen(source="market", reason="no labels", at_ms=5))
    assert told(world.tell(drift(10), tick(500))) == [ALARM]
    assert told(world.tell(Thawed(source="other", at_ms=600))) == []
    assert told(world.tell(Thawed(source="market", at_ms=700))) == ["retrain v1"]


def test_without_a_champion_the_version_that_drifted_is_the_base() -> None:
    world = World(policy())
    assert told(world.tell(drift(10, version="theirs"))) == [ALARM, "retrain theirs"]


def test_a_policy_that_only_observes_forgets_the_causes() -> None:
    world = World(policy(settle_ms=100), first())
    world.tell(drift(10), policy("observe"), policy(settle_ms=100))
    assert told(world.tell(tick(1_000))) == []


def test_a_server_that_cannot_serve_is_told_until_it_can() -> None:
    world = World(policy(), first())
    assert told(world.tell(status(2, error="no such artifact", at_ms=10))) == ["firing serving:s1"]
    assert told(world.tell(status(2, error="no such artifact", at_ms=11))) == []
    assert told(world.tell(status(1, at_ms=12))) == [], "a status from before"
    assert told(world.tell(status(2, at_ms=13))) == ["resolved serving:s1"]
    assert told(world.tell(status(2, error="no such artifact", at_ms=10))) == [], "sent twice, long ago"


def test_a_persons_clock_moves_nothing() -> None:
    far_ms = 9_000_000_000_000
    world = World(policy(settle_ms=100), first())
    world.tell(drift(10), status(1, at_ms=far_ms), candidate(version="v9", at_ms=far_ms))
    assert world.state.clock_ms == 10
    assert not any(isinstance(command, Retrain) for command in world.all)


def test_a_decision_that_would_not_stand_is_told_once_with_what_followed() -> None:
    world = World(policy(), first())
    _, retrain = world.tell(drift(10))
    assert isinstance(retrain, Retrain)
    decision = "drift-quality:error-v1-10"
    assert told(world.tell(review(decision, 20, stands=True, overturned=0))) == []
    (alert,) = world.tell(review(decision, 30))
    assert isinstance(alert, Alert)
    assert (alert.rule, alert.severity) == (f"review:{decision}", "warning")
    assert retrain.retrain_id in alert.summary
    assert [one.value for one in alert.evidence] == [0.3, 0.1]
    assert told(world.tell(review(decision, 35))) == []  # heard twice
    assert told(world.tell(review(decision, 40, stands=True))) == [f"resolved review:{decision}"]
    assert told(world.tell(review(decision, 50, overturned=2))) == []  # once a decision


def test_a_review_moves_nothing_and_its_alert_ends_by_itself() -> None:
    world = World(policy(), first())
    before = world.state
    (alert,) = world.tell(review("metric-1", 10, topic="metrics", name="accuracy"))
    assert isinstance(alert, Alert)
    assert alert.severity == "info"
    assert "nothing that is known followed" in alert.summary
    after = world.state
    assert (after.causes, after.run, after.rollout, after.desired) == (
        before.causes, before.run, before.rollout, before.desired,
    )  # fmt: skip
    assert told(world.tell(tick(109))) == []
    assert told(world.tell(tick(110))) == ["resolved review:metric-1"]


def test_the_review_of_a_gate_names_the_rollout_that_went_on_it() -> None:
    world = World(policy(), first())
    shadow = world.tell(candidate(at_ms=5))[0]
    assert isinstance(shadow, Promote)
    layer = f"shadow:{shadow.rollout_id}"
    world.tell(gate(layer, 1_100, above=30.0))
    (alert,) = world.tell(review("gate-1", 1_200, topic="gates", name=layer, layer=layer, version=""))
    assert isinstance(alert, Alert)
    assert f"{shadow.rollout_id} is under way on it, in canary" in alert.summary
    canary = f"canary:{shadow.rollout_id}"
    world.tell(gate(canary, 1_300, above=30.0, high=0.2))
    alert = world.tell(review("gate-2", 1_400, topic="gates", name=canary, layer=canary, version=""))[-1]
    assert isinstance(alert, Alert)
    assert f"{shadow.rollout_id} went to full on it" in alert.summary
    assert alert.severity == "warning"
