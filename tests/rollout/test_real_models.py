"""A rollout of real models, from scores to the verdict: trained by `train`, routed as `serve` does, judged, decided.

No Kafka in between; every part's own code. Seeds are fixed; at 5 % errors per gate a right outcome could fail by luck
for another seed, not for these.
"""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from schemas.control import AllocationSet
from schemas.lifecycle import Alert, Promote
from schemas.measures import Trial
from services.serve.routing import Router
from services.train.artifact import Artifact, Lineage
from services.train.make import make
from services.train.model import Model
from services.train.rows import Rows
from streams.judge.gates import Layer
from tests.services.train.rowing import rows
from tests.streams.decide.builders import MODEL, World, approval, candidate, first, policy, tick, told

Values = NDArray[np.float64]

REQUESTS, PER_SUBJECT, LOOK = 8_000, 4, 200
WAIT_MS, WINDOW_MS = 1_000, PER_SUBJECT * 1_000
BACK = "promote rollback: v1 1"


def trained(given: Rows) -> Model:
    lineage = Lineage(retrain_id="run", from_ms=0, to_ms=1, dataset=given.digest(), rows=len(given), seed=3)
    made: Artifact = make(given, model=MODEL, version="v", lineage=lineage, epochs=20, maturity=1.0, created_at_ms=7)
    return Model(made)


def right(model: Model, traffic: Rows) -> Values:
    scores = np.array(model.predict([traffic.features(i) for i in range(len(traffic))]))
    correct: Values = ((scores >= model.threshold) == (traffic.y == 1)).astype(np.float64)
    return correct


@pytest.fixture(scope="module")
def values() -> dict[str, Values]:
    """Give, request by request, whether each model answered rightly."""
    traffic = rows(REQUESTS, seed=9)
    good, bad = trained(rows(3_000, seed=1)), trained(rows(3_000, seed=2, shuffled=True))
    return {"champion": right(good, traffic), "equal": right(good, traffic), "shuffled": right(bad, traffic)}


def play(world: World, challenger: Values, champion: Values) -> list[str]:
    """Serve the requests under whatever promotion is in force, judge the trials, tell decide; give what it did."""
    said: list[str] = []
    layers: dict[str, Layer] = {}
    for known in world.all:
        if isinstance(known, AllocationSet):
            layers.setdefault(known.layer, Layer(MODEL, known.layer, WINDOW_MS)).allocate(known)
    rules = world.state.policy
    for number in range(REQUESTS):
        rollout = world.state.rollout
        if rollout is None:
            return said
        promote = next(one for one in reversed(world.all) if isinstance(one, Promote))
        name = f"{promote.stage}:{promote.rollout_id}"
        layer = layers.setdefault(name, Layer(MODEL, name, WINDOW_MS))
        subject, at_ms = f"s{number // PER_SUBJECT}", 2_000 + number * 1_000
        by_arm = {"champion": float(champion[number]), "challenger": float(challenger[number])}
        if promote.stage == "shadow":
            arms = list(by_arm)
        else:
            arms = [promote.deployments[Router(promote.deployments, promote.salt).route(subject)].arm]
        for arm in arms:
            trial = Trial(
                request_id=f"r{number}",
                model=MODEL,
                layer=name,
                arm=arm,
                subject=subject,
                at_ms=at_ms,
                value=by_arm[arm],
                source=0,
                step=1,
            )
            layer.take(trial, lambda _: WAIT_MS)
        if number % LOOK == LOOK - 1:
            layer.close(at_ms, 0, lambda _: WAIT_MS)
            gate = layer.look(rules, at_ms)
            commands = world.tell(tick(at_ms), *([gate] if gate else []))
            for command in commands:
                if isinstance(command, AllocationSet):
                    layers.setdefault(command.layer, Layer(MODEL, command.layer, WINDOW_MS)).allocate(command)
            said += told(commands)
    return said


def started(**more: object) -> World:
    limits = {"max_shadow_ms": 6_000_000, "max_canary_ms": 9_000_000, "min_subjects": 20, **more}
    return World(policy("full", **limits), first(), tick(1_000), candidate())  # type: ignore[arg-type]


def test_a_challenger_trained_on_shuffled_labels_is_refused_in_shadow(
    values: dict[str, Values],
) -> None:
    assert values["champion"].mean() > values["shuffled"].mean() + 0.15
    world = started()
    assert play(world, values["shuffled"], values["champion"]) == [BACK, "firing rollout-ended"]
    promote = next(one for one in reversed(world.all) if isinstance(one, Promote))
    assert promote.evidence[-1].outcome == "fail"
    assert world.state.champion is not None
    assert world.state.champion.version == "v1"


def test_forced_into_canary_it_is_rolled_back(
    values: dict[str, Values],
) -> None:
    world = started()
    world.tell(approval(world.rollout_id, stage="canary", at_ms=1_500))
    allocation = next(one for one in world.all if isinstance(one, AllocationSet))
    assert allocation.share == 0.5
    said = play(world, values["shuffled"], values["champion"])
    assert said[:1] == [BACK]
    ended = next(one for one in reversed(world.all) if isinstance(one, Alert))
    assert ended.severity == "warning"


def test_a_challenger_equal_to_the_champion_is_not_promoted_as_better(
    values: dict[str, Values],
) -> None:
    world = started()
    assert play(world, values["equal"], values["champion"]) == [BACK, "firing rollout-ended"]
    ended = next(one for one in reversed(world.all) if isinstance(one, Alert))
    assert "no conclusion" in ended.summary
    assert world.state.champion is not None
    assert world.state.champion.version == "v1"
