"""A challenger's way, as timelines: evidence, people, time, freezes, the ledger."""

from typing import Any

import pytest

from schemas.control import AllocationSet, Frozen, Thawed
from schemas.lifecycle import Alert, Deployment, Promote
from streams.decide.rollout import layer
from tests.streams.decide.builders import (
    World,
    approval,
    candidate,
    drift,
    first,
    gate,
    policy,
    tick,
    told,
)

SHADOW, CANARY = "promote shadow: v1 1, v2 shadow", "promote canary: v1 0.5, v2 0.5"
FULL, BACK = "promote full: v2 1", "promote rollback: v1 1"
PASS, FAIL = 20.0, 40.0


def started(automation: str = "full", **said: object) -> World:
    """Give a world with v1 serving and v2 nominated."""
    return World(policy(automation, **said), first(), tick(1_000), candidate())  # type: ignore[arg-type]


def look(world: World, at_ms: int, **evidence: Any) -> list[str]:
    """Let the judge look at the stage the rollout is in, and say what leaves."""
    rollout = world.state.rollout
    assert rollout is not None
    return told(world.tell(gate(layer(rollout), at_ms, **evidence)))


def test_evidence_carries_a_challenger_to_full() -> None:
    world = started()
    assert told(world.all) == [SHADOW]
    rollout_id = world.rollout_id
    assert look(world, 1_100, above=19.9) == []
    assert look(world, 1_200, above=PASS) == ["allocate canary 0.5", CANARY]
    assert look(world, 1_300, above=PASS, low=-0.01) == [FULL]
    shadow, allocation, canary, full = world.all
    assert isinstance(shadow, Promote)
    assert isinstance(allocation, AllocationSet)
    assert isinstance(canary, Promote)
    assert isinstance(full, Promote)
    assert [one.revision for one in (shadow, canary, full)] == [2, 3, 4]
    assert {one.rollout_id for one in (shadow, canary, full)} == {rollout_id}
    assert [one.arm for one in shadow.deployments] == ["champion", "challenger"]
    assert shadow.deployments[1].artifact == "registry/v2"
    assert shadow.salt == rollout_id
    assert (allocation.layer, allocation.from_ms) == (f"canary:{rollout_id}", 1_200)
    assert [verdict.outcome for verdict in full.evidence] == ["pass", "pass"]
    assert [verdict.gate for verdict in full.evidence] == [f"shadow:{rollout_id}", f"canary:{rollout_id}"]
    assert "evidence 20 of 20: it is better by more than 0" in full.evidence[0].sentence
    assert full.deployments[0].arm == ""
    assert world.state.champion is not None
    assert world.state.champion.version == "v2"
    assert world.state.rollout is None
    assert world.state.ledger.promotions == 1
    assert world.state.ledger.margin_sum == 0.0


def test_an_equal_challenger_is_not_promoted_as_better() -> None:
    world = started(max_shadow_ms=500)
    for at_ms in range(1_010, 1_500, 10):
        assert look(world, at_ms, above=1.0, below=1.0) == []
    assert told(world.tell(tick(1_500))) == [BACK, "firing rollout-ended"]
    ended = world.all[-1]
    assert isinstance(ended, Alert)
    assert "no conclusion" in ended.summary
    assert ended.severity == "info"
    assert world.state.champion is not None
    assert world.state.champion.version == "v1"
    assert world.state.ledger.refusals == 1


def test_a_worse_challenger_is_refused_in_shadow() -> None:
    world = started()
    assert look(world, 1_100, below=39.9) == []
    assert look(world, 1_200, below=FAIL) == [BACK, "firing rollout-ended"]
    promote = world.all[-2]
    assert isinstance(promote, Promote)
    assert promote.evidence[-1].outcome == "fail"
    assert "evidence 40 of 40" in promote.evidence[-1].sentence


def test_forced_into_canary_a_worse_challenger_is_rolled_back() -> None:
    world = started()
    assert told(world.tell(approval(world.rollout_id, stage="canary"))) == ["allocate canary 0.5", CANARY]
    assert world.state.rollout is not None
    assert not world.state.rollout.proven
    assert look(world, 1_200, below=FAIL) == [BACK, "firing rollout-ended"]
    ended = world.all[-1]
    assert isinstance(ended, Alert)
    assert ended.severity == "warning"
    assert world.state.ledger.rollbacks == 1


def test_worse_within_the_margin_is_no_pass() -> None:
    world = started()
    look(world, 1_100, above=PASS)
    assert look(world, 1_200, above=PASS, high=-0.001, low=-0.015) == []
    assert look(world, 1_300, above=PASS, high=0.001, low=-0.015) == [FULL]


@pytest.mark.parametrize(
    "evidence",
    [
        pytest.param({"above": PASS, "n": 19}, id="too few subjects"),
        pytest.param({"above": PASS, "low": None, "effect": None}, id="the shares were never told"),
        pytest.param({"above": PASS, "bar": -0.5}, id="compared with another bar"),
        pytest.param({}, id="nothing to tell"),
    ],
)
def test_what_is_no_evidence_holds(evidence: dict[str, Any]) -> None:
    world = started()
    assert look(world, 1_100, **evidence) == []
    assert world.state.rollout is not None


def test_a_look_at_another_layer_or_an_older_one_counts_nothing() -> None:
    world = started()
    assert told(world.tell(gate("shadow:rollout-other", 1_100, above=PASS))) == []
    assert told(world.tell(gate(f"canary:{world.rollout_id}", 1_100, above=PASS))) == []
    look(world, 1_200, above=5.0)
    assert look(world, 1_150, above=PASS) == []


def test_retrain_automation_waits_for_a_person_at_every_stage() -> None:
    world = started("retrain")
    asked = "firing approval-needed"
    gone = "resolved approval-needed"
    assert told(world.all) == [asked]
    alert = world.all[0]
    assert isinstance(alert, Alert)
    assert world.rollout_id in alert.summary
    assert told(world.tell(tick(1_100))) == [], "asked once"
    assert told(world.tell(approval(world.rollout_id))) == [gone, SHADOW]
    assert look(world, 1_200, above=PASS) == [asked]
    assert look(world, 1_250, above=PASS) == []
    assert told(world.tell(approval(world.rollout_id, at_ms=1))) == [gone, "allocate canary 0.5", CANARY]
    assert look(world, 1_300, above=PASS) == [asked]
    assert told(world.tell(approval(world.rollout_id, stage="full", at_ms=2))) == [gone, FULL]


def test_an_approval_heard_twice_counts_once() -> None:
    world = started("retrain")
    said = approval(world.rollout_id)
    assert told(world.tell(said, said, said)) == ["resolved approval-needed", SHADOW]


def test_an_approval_of_another_stage_or_rollout_has_no_effect_and_says_so() -> None:
    world = started("retrain")
    assert told(world.tell(approval(world.rollout_id, stage="full"))) == ["firing approval-void"]
    assert told(world.tell(approval("rollout-x"))) == []
    assert world.state.rollout is not None
    assert world.state.rollout.stage == "waiting"


@pytest.mark.parametrize("decision", ["reject", "abort"])
@pytest.mark.parametrize("stage", ["waiting", "shadow", "canary"])
def test_a_person_ends_a_rollout_at_any_time(decision: str, stage: str) -> None:
    world = started("retrain" if stage == "waiting" else "full")
    if stage == "canary":
        look(world, 1_100, above=PASS)
    world.tell(Frozen(source="market", at_ms=1_150))
    left = told(world.tell(approval(world.rollout_id, decision)))
    assert left == (["resolved approval-needed"] if stage == "waiting" else [BACK]) + ["firing rollout-ended"]
    assert world.state.rollout is None


def test_an_abort_after_full_goes_back_at_once() -> None:
    world = started()
    rollout_id = world.rollout_id
    look(world, 1_100, above=PASS)
    look(world, 1_200, above=PASS)
    assert told(world.tell(Frozen(source="market", at_ms=1_250), approval(rollout_id, "abort"))) == [BACK]
    assert world.state.champion is not None
    assert world.state.champion.version == "v1"
    assert told(world.tell(approval(rollout_id, "abort", at_ms=9))) == ["firing approval-void"]


def test_a_freeze_holds_promotion_but_never_a_rollback() -> None:
    world = started()
    world.tell(Frozen(source="market", at_ms=1_050))
    assert look(world, 1_100, above=PASS) == []
    assert told(world.tell(Thawed(source="market", at_ms=1_200))) == ["allocate canary 0.5", CANARY]
    world.tell(Frozen(source="market", at_ms=1_250))
    assert told(world.tell(approval(world.rollout_id))) == [], "a person's approval waits for the thaw, too"
    world = started()
    look(world, 1_100, above=PASS)
    world.tell(Frozen(source="market", at_ms=1_150))
    assert look(world, 1_200, below=FAIL) == [BACK, "firing rollout-ended"]


def test_a_freeze_stops_the_clock_of_no_conclusion() -> None:
    world = started(max_shadow_ms=100)
    world.tell(Frozen(source="market", at_ms=1_050))
    assert told(world.tell(tick(5_000))) == []


def test_inconclusive_may_hold_for_a_person() -> None:
    world = started(max_shadow_ms=100, on_inconclusive="hold")
    look(world, 1_050, above=3.0)
    assert told(world.tell(tick(1_100), tick(1_200))) == ["firing approval-needed"]
    assert look(world, 1_300, above=PASS) == ["resolved approval-needed", "allocate canary 0.5", CANARY]


def test_an_inconclusive_canary_goes_back() -> None:
    world = started(max_canary_ms=100)
    look(world, 1_100, above=PASS)
    assert told(world.tell(tick(1_200))) == [BACK, "firing rollout-ended"]


def test_the_lifetime_alpha_ends_automation() -> None:
    world = World(policy(max_lifetime_alpha=0.1, max_shadow_ms=10), first(), tick(1_000))
    for number in range(2):
        left = told(world.tell(candidate(version=f"c{number}")))
        assert left[-1] == f"promote shadow: v1 1, c{number} shadow"
        world.tell(tick(world.state.clock_ms + 10))
    assert world.state.ledger.alpha_sum == pytest.approx(0.1)
    assert told(world.tell(candidate(version="c2"))) == ["firing approval-needed"]
    asked = world.all[-1]
    assert isinstance(asked, Alert)
    assert "lifetime alpha" in asked.summary
    assert told(world.tell(approval(world.rollout_id)))[-1] == "promote shadow: v1 1, c2 shadow"
    assert world.state.ledger.alpha_sum == pytest.approx(0.15)
    assert look(world, 2_000, above=PASS) == ["firing approval-needed"], "a person at every stage"


def test_margins_add_up_until_superiority_is_proven() -> None:
    world = World(policy(margin=0.02, max_margin_sum=0.05), first(), tick(1_000))
    for number in range(3):
        world.tell(candidate(version=f"c{number}"))
        world.tell(approval(world.rollout_id, stage="canary"))
        left = look(world, world.state.clock_ms + 10, above=PASS)
        if number < 2:
            assert left == [f"promote full: c{number} 1"]
    assert left == ["firing approval-needed"]
    assert world.state.ledger.margin_sum == pytest.approx(0.04)
    world.tell(approval(world.rollout_id, stage="full", at_ms=9))
    assert world.state.ledger.margin_sum == pytest.approx(0.06)
    world.tell(candidate(version="c9"))
    look(world, world.state.clock_ms + 10, above=PASS)
    look(world, world.state.clock_ms + 10, above=PASS)
    assert world.state.champion is not None
    assert world.state.champion.version == "c9"
    assert world.state.ledger.margin_sum == 0.0


@pytest.mark.parametrize(
    ("events", "why"),
    [
        pytest.param([policy("observe"), first(), candidate()], "only observes", id="observing"),
        pytest.param([policy(), candidate()], "no champion", id="no champion"),
        pytest.param([policy(), first(), candidate(version="v1")], "the version that serves", id="the champion itself"),
    ],
)
def test_a_candidate_that_cannot_be_tried_is_told(events: list[object], why: str) -> None:
    world = World(*events)  # type: ignore[arg-type]
    assert told(world.all) == ["firing candidate-refused"]
    alert = world.all[0]
    assert isinstance(alert, Alert)
    assert why in alert.summary
    assert world.state.rollout is None


def test_one_rollout_at_a_time() -> None:
    world = started()
    assert told(world.tell(candidate(version="v3"))) == ["firing candidate-refused"]
    assert told(world.tell(candidate())) == [], "the same candidate, sent twice"
    assert world.state.rollout is not None
    assert world.state.rollout.challenger.version == "v2"


def test_a_promotion_by_somebody_else_ends_the_rollout() -> None:
    world = started()
    assert told(world.tell(first("hotfix", revision=7))) == ["firing rollout-ended"]
    assert world.state.champion is not None
    assert world.state.champion.version == "hotfix"
    assert told(world.tell(first("old", revision=6))) == [], "a lower revision"
    left = world.tell(candidate(version="v3"))
    assert told(left)[-1] == "promote shadow: hotfix 1, v3 shadow"
    assert left[-1].revision == 8  # type: ignore[union-attr]


def test_causes_wait_for_the_rollout_and_die_with_a_new_champion() -> None:
    world = started()
    assert told(world.tell(drift(1_100))) == ["firing drift:quality:error"]
    look(world, 1_200, above=PASS)
    assert look(world, 1_300, above=PASS) == [FULL]
    assert world.state.causes == []
    assert told(world.tell(tick(9_000))) == []
    world = started()
    world.tell(drift(1_100))
    assert look(world, 1_200, below=FAIL) == [BACK, "firing rollout-ended", "retrain v1"]


def test_the_next_rollout_resolves_what_was_told_of_the_last() -> None:
    world = started()
    look(world, 1_200, below=FAIL)
    assert told(world.tell(candidate(version="v3"))) == ["resolved rollout-ended", "promote shadow: v1 1, v3 shadow"]


def test_the_challengers_deployment_is_never_the_champions() -> None:
    # A deployment is part of a prediction's identity: two of one name would be one prediction.
    serving = Deployment(deployment="v2", version="v1", weight=1.0)
    world = World(
        policy(), Promote(endpoint="e", model="m", revision=1, deployments=[serving], at_ms=0), candidate(version="v2")
    )
    (promote,) = world.all
    assert isinstance(promote, Promote)
    names = [one.deployment for one in promote.deployments]
    assert names[0] == "v2"
    assert names[1].startswith("v2-")
