"""The same rows give the same bits; what can be learnt is learnt, and what cannot is shown not to be."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import log_loss

from services.train import evaluate, training
from services.train.artifact import Artifact, Lineage, Network, load, save
from services.train.make import make
from services.train.model import Model
from services.train.rows import DatasetRefused, Rows, split
from streams.measure.reference import cuts
from tests.services.train.rowing import ORIGIN_MS, rows


def made(given: Rows, version: str = "2", **more: object) -> Artifact:
    lineage = Lineage(
        retrain_id="run", base_version="1", from_ms=0, to_ms=1, dataset=given.digest(), rows=len(given), seed=3
    )
    asked = {"epochs": 20, "maturity": 0.5, "created_at_ms": 7, "lineage": lineage} | more
    return make(given, model="m", version=version, **asked)  # type: ignore[arg-type]


def value(artifact: Artifact, kind: str) -> float:
    (found,) = [metric.value for metric in artifact.card.metrics if metric.metric == kind]
    assert found is not None
    return found


def test_same_rows_same_bits(tmp_path: Path) -> None:
    first = save(tmp_path / "a", made(rows(600, missing=0.1)))
    again = save(tmp_path / "b", made(rows(600, missing=0.1)))
    assert first.sha256 == again.sha256


@pytest.mark.slow
def test_same_rows_same_bits_in_another_process(tmp_path: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from tests.services.train.test_training import made, save, rows;"
        "print(save(Path(sys.argv[1]), made(rows(600, missing=0.1))).sha256)"
    )
    root = Path(__file__).parents[3]
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "a")], cwd=root, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == save(tmp_path / "b", made(rows(600, missing=0.1))).sha256


def test_other_rows_or_another_seed_give_other_weights() -> None:
    def bits(artifact: Artifact) -> bytes:
        return b"".join(artifact.weights[name].tobytes() for name in sorted(artifact.weights))

    given = rows(600)
    other = Lineage(retrain_id="run", from_ms=0, to_ms=1, dataset="d", rows=600, seed=4)
    assert len({bits(made(given)), bits(made(rows(600, seed=1))), bits(made(given, lineage=other))}) == 3


def test_global_state_of_torch_is_left_alone() -> None:
    torch.manual_seed(11)
    expected = torch.rand(1)
    torch.manual_seed(11)
    threads, mode = torch.get_num_threads(), torch.get_deterministic_debug_mode()
    made(rows(300))
    assert torch.equal(torch.rand(1), expected)
    assert (torch.get_num_threads(), torch.get_deterministic_debug_mode()) == (threads, mode)


def test_logistic_regression_is_as_good_as_scikit_learns() -> None:
    given = rows(3_000)
    parts = split(given)
    with training.deterministic():
        fitted = training.fit(parts.before, None, Network(kind="logistic", inputs=0), seed=0, epochs=60, device="cpu")
    peer = LogisticRegression(C=1e6).fit(fitted.inputs.matrix(parts.before), parts.before.y)
    held = fitted.inputs.matrix(parts.held_out)
    mine = held @ fitted.weights["out.weight"][0].astype(float) + fitted.weights["out.bias"][0]
    expected = log_loss(parts.held_out.y, peer.predict_proba(held))
    assert log_loss(parts.held_out.y, 1 / (1 + np.exp(-mine))) == pytest.approx(expected, abs=2e-3)
    assert fitted.weights["out.weight"][0] == pytest.approx(peer.coef_[0], abs=0.15)


def test_a_line_is_enough_for_a_line_and_not_for_a_bend() -> None:
    bent = made(rows(3_000, bent=True))
    assert bent.card.network.kind == "mlp"
    assert value(bent, "accuracy") > 0.75
    assert bent.card.baselines["logistic.accuracy"] < 0.65
    straight = made(rows(3_000))
    assert straight.card.baselines.get("logistic.log_loss", value(straight, "log_loss")) == pytest.approx(
        value(straight, "log_loss"), abs=0.02
    )


def test_shuffled_labels_teach_nothing_and_the_figures_say_so() -> None:
    card = made(rows(3_000, shuffled=True)).card
    told = {metric.metric: metric for metric in card.metrics}
    auc = told["auc"]
    assert auc.low is not None
    assert auc.high is not None
    assert auc.low < 0.5 < auc.high
    assert value(made(rows(3_000)), "auc") > 0.9
    assert (told["accuracy"].value or 1.0) < 0.6


def test_what_changed_inside_the_window_is_forgotten() -> None:
    before, after = rows(1_500, seed=1), rows(1_500, seed=2)
    after_y = 1 - after.y
    mixed = Rows.of(
        {name: np.concatenate([before.x[:, i], after.x[:, i]]) for i, name in enumerate("abc")},
        np.concatenate([before.y, after_y]),
        ORIGIN_MS + 1_000 * np.arange(3_000),
    )
    assert value(made(mixed), "auc") > 0.85


def test_model_and_trainer_see_the_same_inputs() -> None:
    given = rows(400, missing=0.2)
    artifact = made(given)
    model = Model(artifact)
    inputs = training.Inputs(artifact.card.features, artifact.card.flags, artifact.card.mean, artifact.card.scale)
    matrix = inputs.matrix(given)
    asked = [i for i in range(len(given)) if given.features(i)]
    assert artifact.card.flags == ["a", "b", "c"]
    assert np.array([model.vector(given.features(i)) for i in asked]) == pytest.approx(matrix[asked], abs=1e-12)
    wild = {"a": 1e9, "b": -1e9}
    assert model.vector(wild)[:2] == [10.0, -10.0]
    model.warm_up()


def test_champion_is_measured_on_the_same_rows() -> None:
    given = rows(2_000)
    champion = made(given, version="1")
    again = made(given, champion=Model(champion)).card
    assert [(m.metric, m.value, m.n) for m in again.champion] == [(m.metric, m.value, m.n) for m in again.metrics]
    assert {m.version for m in again.champion} == {"1"}
    assert {m.version for m in again.metrics} == {"2"}
    assert {m.maturity for m in again.metrics} == {0.5}


def test_a_champion_without_artifact_is_measured_by_what_it_answered() -> None:
    from dataclasses import replace

    given = rows(1_000)
    live = replace(given, logged=np.where(given.y == 1, 0.9, 0.2), versions=["1"] * len(given))
    card = made(live).card
    (accuracy,) = [m.value for m in card.champion if m.metric == "accuracy"]
    assert accuracy == 1.0
    assert made(replace(live, versions=["1"] * 999 + ["0"])).card.champion == []


def test_baselines_know_only_what_was_known() -> None:
    given = rows(400)
    parts = split(given)
    found = evaluate.known_labels(parts.before, parts.held_out)
    start = len(parts.before)
    assert found.tolist() == given.y[start - 6 : len(given) - 6].tolist()  # a label is known 5.5 s after its row
    told = evaluate.baselines(parts.before, parts.held_out)
    previous = (given.y[start:] == given.y[start - 1 : -1]).mean()
    assert told["previous_label.accuracy"] == pytest.approx(previous)
    assert told["no_change.accuracy"] == pytest.approx((given.y[start:] == found).mean())
    assert set(told) == {
        "majority.accuracy", "majority.log_loss", "no_change.accuracy", "previous_label.accuracy",
    }  # fmt: skip


def test_reference_counts_features_of_all_rows_and_errors_of_the_hold_out() -> None:
    given = rows(2_000, missing=0.05)
    artifact = made(given)
    reference = artifact.card.reference
    held = split(given).held_out
    assert reference.error_n == len(held)
    assert reference.error_rate == pytest.approx(1 - value(artifact, "accuracy"))
    assert sum(reference.counts["score"]) == len(held)
    assert reference.n == sum(reference.counts["feature:a"]) > len(held)
    assert set(cuts(reference)) == {"a", "b", "c"}
    assert reference.id == made(given).card.reference.id


@pytest.mark.parametrize(
    ("given", "says"),
    [
        (rows(150), "150 labelled rows, and a model needs at least 200"),
        (rows(400).take(np.flatnonzero(rows(400).y == 1)[:0]), "0 labelled rows"),
        (rows(2_000).take(np.flatnonzero(rows(2_000).y == 1)), "both classes are needed in each part"),
    ],
)
def test_rows_that_cannot_teach_are_refused(given: Rows, says: str) -> None:
    with pytest.raises(DatasetRefused, match=says):
        made(given)


def test_a_saved_model_scores_as_the_trained_one(tmp_path: Path) -> None:
    given = rows(400)
    saved = save(tmp_path, made(given))
    assert saved.path
    with Model(load(saved.path)) as model:
        model.warm_up()
        assert evaluate.scores_of(model, given) == evaluate.scores_of(Model(made(given)), given)
