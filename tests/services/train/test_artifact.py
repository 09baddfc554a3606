"""What is written is what is read, or a clear error says why not."""

import math
import multiprocessing
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

from schemas.errors import WeirError
from services.train.artifact import CARD, SUMS, WEIGHTS, folder, load, next_version, save, versions
from services.train.model import BadFeatures, Model
from tests.services.train.making import artifact


def sigmoid(x: float) -> float:
    return 1 / (1 + math.exp(-x))


def test_round_trip(tmp_path: Path) -> None:
    saved = save(tmp_path, artifact())
    assert saved.path == folder(tmp_path, "spam", "1")
    found = load(saved.path, sha256=saved.sha256)
    assert found.card == artifact().card
    assert found.sha256 == saved.sha256
    assert {name: value.tobytes() for name, value in found.weights.items()} == {
        name: value.tobytes() for name, value in artifact().weights.items()
    }
    assert str(found) == str(tmp_path / "spam" / "1")
    assert sorted(entry.name for entry in saved.path.iterdir()) == sorted([WEIGHTS, CARD, SUMS])


def test_hashes_are_those_of_sha256sum_and_the_same_everywhere(tmp_path: Path) -> None:
    one, two = save(tmp_path / "a", artifact()), save(tmp_path / "b", artifact())
    assert one.path
    assert two.path
    assert one.sha256 == two.sha256
    assert all((one.path / name).read_bytes() == (two.path / name).read_bytes() for name in (WEIGHTS, CARD, SUMS))


@pytest.mark.parametrize("name", [WEIGHTS, CARD])
def test_one_changed_bit_is_found(tmp_path: Path, name: str) -> None:
    path = save(tmp_path, artifact()).path
    assert path
    body = bytearray((path / name).read_bytes())
    body[len(body) // 2] ^= 1
    (path / name).write_bytes(body)
    with pytest.raises(WeirError, match=f"{name} is damaged"):
        load(path)


@pytest.mark.parametrize("name", [WEIGHTS, CARD, SUMS])
def test_a_missing_file_is_named(tmp_path: Path, name: str) -> None:
    path = save(tmp_path, artifact()).path
    assert path
    (path / name).unlink()
    with pytest.raises(WeirError, match=f"is no model: No such file.*{name}"):
        load(path)


def test_another_model_than_the_announced_is_refused(tmp_path: Path) -> None:
    path = save(tmp_path, artifact()).path
    assert path
    with pytest.raises(WeirError, match="not the announced model"):
        load(path, sha256="0" * 64)


def test_another_format_is_refused(tmp_path: Path) -> None:
    path = save(tmp_path, artifact()).path
    assert path
    resign(path, lambda card: {**card, "v": 2})
    with pytest.raises(WeirError, match="has format 2; this Weir reads 1"):
        load(path)


def test_a_card_that_contradicts_itself_is_refused(tmp_path: Path) -> None:
    path = save(tmp_path, artifact()).path
    assert path
    resign(path, lambda card: {**card, "mean": [1.0]})
    with pytest.raises(WeirError, match="`mean` and `scale` need 2 numbers, got 1 and 2"):
        load(path)


def test_weights_of_another_network_are_refused(tmp_path: Path) -> None:
    made = artifact()
    made.weights["out.weight"] = np.zeros((1, 2), dtype=np.float32)
    with pytest.raises(WeirError, match="do not fit its network"):
        Model(made)


def test_a_version_belongs_to_its_run(tmp_path: Path) -> None:
    first = save(tmp_path, artifact())
    again = save(tmp_path, artifact(bias=9.0))  # the same run, whatever it computed the second time
    assert again.sha256 == first.sha256
    with pytest.raises(WeirError, match="belongs to run 'run-1', not to 'run-2'"):
        save(tmp_path, artifact(retrain_id="run-2"))
    assert load(folder(tmp_path, "spam", "1")).sha256 == first.sha256


def test_versions_count_up_and_half_written_ones_do_not_count(tmp_path: Path) -> None:
    assert versions(tmp_path, "spam") == []
    for version in ("1", "10", "9", "blue"):
        save(tmp_path, artifact(version))
    (folder(tmp_path, "spam") / ".writing-0").mkdir()
    folder(tmp_path, "spam", "77").mkdir()
    assert versions(tmp_path, "spam") == ["1", "9", "10", "blue"]
    assert next_version(versions(tmp_path, "spam")) == "11"
    save(tmp_path, artifact("11"))
    assert not (folder(tmp_path, "spam") / ".writing-0").exists()


@pytest.mark.parametrize("name", ["..", ".", "a/b", "a\\b\x00", "modèle", "m" * 128, "🦭" * 128])
def test_any_name_stays_inside_the_registry(tmp_path: Path, name: str) -> None:
    path = save(tmp_path, artifact(name, model=name)).path
    assert path
    assert path.parent.parent == tmp_path
    assert load(path).card.model == name


def test_scores_are_those_of_the_formula(tmp_path: Path) -> None:
    model = Model(artifact(bias=0.25))
    rows: list[dict[str, Any]] = [
        {"a": 3.0, "b": -1.0},
        {"a": True, "b": 2, "unknown": "x"},
        {"a": 5},
        {"b": 1.0, "a": float("nan")},
    ]
    expected = [sigmoid(1 - 2 + 0.25), sigmoid(0 + 4 + 0.25), sigmoid(2 + 0.5 + 0.25), sigmoid(2 + 0.25)]
    assert model.predict(rows) == pytest.approx(expected, abs=1e-6)
    assert model.imputed == {"b": 1, "a": 1}
    assert model.predict([]) == []
    model.warm_up()
    model.unload()
    with pytest.raises(RuntimeError, match="was unloaded"):
        model.predict(rows)


@pytest.mark.parametrize(
    ("row", "says"),
    [
        ({"a": "12", "b": 1}, "row 1: feature 'a' must be a number, true, false or null, got str '12'"),
        ({"a": [1], "b": 1}, "row 1: feature 'a' must be a number.* got list"),
        ({"c": 1}, "row 1: none of the features of 'spam' was given a value; it reads a, b"),
        ({"a": 10**400}, "row 1: none of the features"),
    ],
)
def test_bad_features_say_what_was_expected(row: dict[str, object], says: str) -> None:
    with pytest.raises(BadFeatures, match=says) as caught:
        Model(artifact()).predict([{"a": 1.0}, row])
    assert caught.value.row == 1


def test_a_model_that_scores_otherwise_does_not_warm_up() -> None:
    made = artifact()
    made.weights["out.bias"] = np.array([0.1], dtype=np.float32)
    with pytest.raises(WeirError, match="scores probe row 0"):
        Model(made).warm_up()


@pytest.mark.slow
def test_two_writers_of_one_version_leave_one(tmp_path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    with context.Pool(2) as pool:
        got = pool.starmap(try_save, [(tmp_path, f"run-{i}") for i in range(4)], chunksize=1)
    assert sum(got) == 1
    assert versions(tmp_path, "spam") == ["1"]


def try_save(root: Path, retrain_id: str) -> bool:
    try:
        save(root, artifact(retrain_id=retrain_id))
    except WeirError:
        return False
    return True


def resign(path: Path, change: object) -> None:
    """Change the card and write fitting hashes: what a bug, not a disk, would do."""
    import hashlib

    card = change(msgspec.json.decode((path / CARD).read_bytes()))  # type: ignore[operator]
    (path / CARD).write_bytes(msgspec.json.encode(card))
    (path / SUMS).write_text(
        "".join(f"{hashlib.sha256((path / name).read_bytes()).hexdigest()}  {name}\n" for name in (CARD, WEIGHTS))
    )
