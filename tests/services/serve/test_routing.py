"""Who answers whom: shares as asked, nested, the same for ever, and another salt is another lottery."""

import itertools
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas.lifecycle import Deployment, Promote
from services.serve.routing import Router, layer_of, point, problems, salt_of

SUBJECTS = [f"user-{i}" for i in range(40_000)]


def deployments(*weights: float, arms: tuple[str, ...] = ()) -> list[Deployment]:
    """Give primaries v0, v1, … with these weights; the first is the champion unless `arms` says otherwise."""
    named = arms or ("champion", *(["challenger"] * (len(weights) - 1)))
    return [
        Deployment(deployment=f"v{i}", version=str(i), weight=weight, arm=arm)
        for i, (weight, arm) in enumerate(zip(weights, named, strict=True))
    ]


def challenged(share: float, salt: str = "r1") -> set[str]:
    """Give the subjects that a challenger with this share answers."""
    router = Router(deployments(1 - share, share), salt)
    return {subject for subject in SUBJECTS if router.route(subject) == 1}


@pytest.mark.parametrize("share", [0.01, 0.05, 0.25, 0.5])
def test_shares_are_as_asked(share: float) -> None:
    got = len(challenged(share)) / len(SUBJECTS)
    assert abs(got - share) < 4 * math.sqrt(share * (1 - share) / len(SUBJECTS))


def test_a_larger_share_contains_the_smaller() -> None:
    sets = [challenged(share) for share in (0.01, 0.05, 0.25, 1.0)]
    assert all(small < large for small, large in itertools.pairwise(sets))
    assert sets[-1] == set(SUBJECTS)


def test_the_place_in_the_list_does_not_matter_to_the_arms() -> None:
    swapped = Router(deployments(0.05, 0.95, arms=("challenger", "champion")), "r1")
    assert {subject for subject in SUBJECTS if swapped.route(subject) == 0} == challenged(0.05)


def test_another_salt_is_independent() -> None:
    both = len(challenged(0.5, "r1") & challenged(0.5, "r2")) / len(SUBJECTS)
    assert abs(both - 0.25) < 4 * math.sqrt(0.25 * 0.75 / len(SUBJECTS))


def test_points_are_the_same_in_every_release() -> None:
    # Written down: a change of the hash would move every subject of every running rollout.
    assert point("r1", "anna") == 0.9080532359045129
    assert point("", "") == 0.49551513288026827


@given(st.text("ab:1ä\U0001f600", max_size=20), st.text("ab:1ä", max_size=20))
def test_points_lie_in_the_unit_interval(salt: str, unit: str) -> None:
    assert 0 <= point(salt, unit) < 1


def test_a_pair_is_no_other_pair() -> None:
    assert point("ab", "c") != point("a", "bc")


def test_three_arms_get_their_shares_and_shadows_get_none() -> None:
    three = [*deployments(0.5, 0.3, 0.2), Deployment(deployment="s", version="9", weight=0.0, role="shadow")]
    router = Router(three, "r1")
    counts = [0, 0, 0, 0]
    for subject in SUBJECTS:
        counts[router.route(subject)] += 1
    assert counts[3] == 0
    for count, share in zip(counts, (0.5, 0.3, 0.2), strict=False):
        assert abs(count / len(SUBJECTS) - share) < 0.01


def test_a_champion_without_weight_answers_nobody() -> None:
    # Three times a third and a bit of rounding must not send the last point to a deployment with weight 0.
    router = Router(deployments(0.0, 1 / 3, 1 / 3, 1 / 3), "r1")
    router._bounds[-1] = (0.9, router._bounds[-1][1])
    assert {router.route(subject) for subject in SUBJECTS} == {1, 2, 3}


def promote(*made: Deployment, **said: str) -> Promote:
    """Give a desired state."""
    return Promote(endpoint="e", model="m", revision=1, deployments=list(made), at_ms=0, **said)  # type: ignore[arg-type]


def test_layers_belong_to_experiments_only() -> None:
    assert layer_of(promote(rollout_id="r", stage="shadow")) == "shadow:r"
    assert layer_of(promote(rollout_id="r", stage="full")) == ""
    assert layer_of(promote(stage="canary")) == ""


def test_the_salt_falls_back_to_what_is_stable_within_a_rollout() -> None:
    assert [salt_of(promote(**said)) for said in ({"salt": "s", "rollout_id": "r"}, {"rollout_id": "r"}, {})] == [
        "s",
        "r",
        "e",
    ]


def test_what_cannot_be_served_is_named() -> None:
    assert problems(promote(*deployments(0.5, 0.5))) == []
    assert problems(promote(*deployments(0.5, 0.4))) == ["the weights of primary deployments must sum to 1, not 0.9"]
    assert problems(promote(*deployments(0.5)[:1], *deployments(0.5)[:1])) == [
        "deployments must have names of their own, twice: v0"
    ]
