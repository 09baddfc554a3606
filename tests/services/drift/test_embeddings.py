"""Embeddings in `weir drift`: what moved is found, what is quiet is not, odd lists are counted."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from schemas.errors import WeirError
from services.cli.drift import drift
from services.drift.page import page
from services.drift.report import as_object
from services.drift.run import compare_files, fails
from streams.judge.compare import Compared

D = 16


def cloud(
    n: int, seed: int, *, shift: float = 0.0, tied: float = 0.0
) -> np.ndarray[tuple[int, int], np.dtype[np.float64]]:
    """Give normal rows; `tied`: the share of their variance that all coordinates have in common."""
    draw = np.random.default_rng(seed)
    return math.sqrt(1 - tied) * draw.normal(size=(n, D)) + math.sqrt(tied) * draw.normal(size=(n, 1)) + shift


def lists(rows: object, kind: pa.DataType | None = None) -> pa.Array:
    return pa.array(rows if isinstance(rows, list) else rows.tolist(), kind or pa.list_(pa.float64()))  # type: ignore[attr-defined]


def compared(place: Path, reference: pa.Array, current: pa.Array, **more: object) -> Compared:
    paths = place / "a.parquet", place / "b.parquet"
    for path, column in zip(paths, (reference, current), strict=True):
        pq.write_table(pa.table({"e": column}), path, row_group_size=700)
    (one,) = compare_files(*paths, **more).columns  # type: ignore[arg-type]
    return one


def test_what_is_planted_is_found_and_what_is_quiet_is_not(tmp_path: Path) -> None:
    """Fixed seeds; a quiet pair alone is said to drift with probability 5 % over seeds."""
    reference = cloud(3_000, 1)
    quiet = compared(tmp_path, lists(reference), lists(cloud(2_000, 2)))
    assert (quiet.kind, quiet.verdict, quiet.dimension) == ("embedding", "steady", D)
    assert quiet.p > 0.05
    assert quiet.chance_tv < 0.05
    moved = compared(tmp_path, lists(reference), lists(cloud(2_000, 3, shift=0.3)))
    assert moved.verdict == "drift"
    assert "16 of 16 coordinates move" in moved.sentence
    assert 0.05 < moved.tv <= 0.45 + 0.02  # 2 Φ(0.3 √16 / 2) − 1
    tied = compared(tmp_path, lists(reference), lists(cloud(2_000, 4, tied=0.3)))
    assert tied.verdict == "drift"
    assert "no coordinate's mean" in tied.sentence


@pytest.mark.parametrize(
    "kind",
    [
        pa.list_(pa.float32()),
        pa.large_list(pa.float64()),
        pa.list_(pa.float32(), D),
        pa.list_(pa.float16()),
        pa.list_(pa.int8()),
    ],
)
def test_any_list_type_is_the_same_column(tmp_path: Path, kind: pa.DataType) -> None:
    def whole(n: int, seed: int) -> pa.Array:
        rows = np.rint(cloud(n, seed) * 8)
        found: list[object] = (
            rows.astype(np.float16).tolist() if pa.types.is_float16(kind.value_type) else rows.tolist()
        )
        if pa.types.is_integer(kind.value_type):
            found = rows.astype(int).tolist()
        found[5] = None
        return pa.array(found, kind)

    wanted = compared(tmp_path, whole(900, 1).cast(pa.list_(pa.float64())), whole(800, 2).cast(pa.list_(pa.float64())))
    found = compared(tmp_path, whole(900, 1), whole(800, 2))
    assert (found.missing_n, found.missing_m) == (1, 1)
    assert [found.p, found.mmd2] == pytest.approx([wanted.p, wanted.mmd2])
    assert found.cells == wanted.cells


def test_any_batches_give_the_same_answer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    a, c = lists(cloud(1_500, 1)), lists(cloud(900, 2, shift=0.1))
    whole = compared(tmp_path, a, c)
    monkeypatch.setattr("services.drift.run.LIST_ROWS", 64)
    monkeypatch.setattr("services.drift.run.BATCH_NUMBERS", 10 * D)
    split = compared(tmp_path, a, c)
    assert split.cells == whole.cells
    assert (split.p, split.mmd2, split.tv) == pytest.approx((whole.p, whole.mmd2, whole.tv), rel=1e-9)


def test_columns_with_a_prefix_are_one_vector(tmp_path: Path) -> None:
    paths = tmp_path / "a.parquet", tmp_path / "b.parquet"
    sides = cloud(800, 1), cloud(700, 2, shift=0.4)
    for path, rows in zip(paths, sides, strict=True):
        named = {f"e_{k}": rows[:, k] for k in reversed(range(D))}  # the order is that of the numbers
        pq.write_table(pa.table(named | {"x": np.arange(len(rows)) % 7, "e_mean": rows.mean(axis=1)}), path)
    found = compare_files(*paths, embeddings=["e_"])
    as_list = compared(tmp_path / "..", lists(sides[0]), lists(sides[1]))
    one = next(one for one in found.columns if one.name == "e_")
    assert {one.name for one in found.columns} == {"e_", "x", "e_mean"}
    assert (one.verdict, one.cells) == ("drift", as_list.cells)
    assert one.p == pytest.approx(as_list.p)
    assert fails(found, ["e_"]) == ["e_ drifts"]
    with pytest.raises(WeirError, match="no column is named f0, f1"):
        compare_files(*paths, embeddings=["f"])


def test_odd_lists_are_counted_for_what_they_are(tmp_path: Path) -> None:
    rows: list[Any] = cloud(1_000, 1).tolist()
    other: list[Any] = cloud(1_000, 2).tolist()
    bad: list[Any] = [None, [], [math.nan] * D, [None] * D, [math.inf] + [0.0] * (D - 1), [1.0, 2.0]]
    other[:600] = bad * 100
    one = compared(tmp_path, lists(rows), lists(other))
    assert one.missing_m == 500
    assert {name: m for name, _, m in one.cells}["another length"] == 100
    assert one.verdict == "drift"
    assert "missing: 0.0% → 50.0%" in one.sentence
    assert one.tv <= 0.6 + 0.02
    shorter = compared(tmp_path, lists(rows), lists([[0.5] * 4] * 300))
    assert "of another length: 0.0% → 100.0%" in shorter.sentence
    assert shorter.tv > 0.9


def test_edges(tmp_path: Path) -> None:
    few = compared(tmp_path, lists(cloud(1_000, 1)), lists(cloud(49, 2, shift=5)))
    assert (few.verdict, math.isnan(few.p)) == ("unclear", True)
    assert few.sentence == "too few rows: 49 rows on a side; the law of MMD needs 50"
    same = compared(tmp_path, lists([[1.0, 2.0]] * 200), lists([[1.0, 2.0]] * 100))
    assert (same.verdict, same.p, same.tv) == ("steady", 1.0, 0.0)
    apart = compared(tmp_path, lists([[1.0, 2.0]] * 200), lists([[1.0, 2.5]] * 100))
    assert (apart.verdict, apart.tv > 0.4) == ("drift", True)
    nothing = compared(tmp_path, lists([None] * 90), pa.nulls(80))
    assert (nothing.verdict, nothing.dimension) == ("steady", 0)
    began = compared(tmp_path, lists([None] * 90), lists(cloud(80, 1)))
    assert (began.verdict, began.tv > 0.9) == ("drift", True)
    huge = compared(tmp_path, lists(cloud(200, 1) * 1e300), lists(cloud(200, 2) * 1e300))
    assert huge.verdict in ("steady", "unclear")
    assert json.dumps(as_object_of(huge), allow_nan=False)
    doubled = compared(
        tmp_path, lists(np.repeat(cloud(100, 1), 10, axis=0)), lists(np.repeat(cloud(100, 1), 5, axis=0))
    )
    assert doubled.p > 0.99


def as_object_of(one: Compared) -> dict[str, object]:
    from services.drift.run import Drift

    return as_object(Drift("a", "b", (1, 1), 0.05, 0.05, [one]), [])


def test_lists_of_texts_are_left_out_and_a_number_that_became_a_list_is_changed(tmp_path: Path) -> None:
    paths = tmp_path / "a.parquet", tmp_path / "b.parquet"
    words = pa.array([["a"], ["b"]] * 10)
    pq.write_table(pa.table({"w": words, "x": [1.0] * 20, "y": [1.0] * 20}), paths[0])
    pq.write_table(pa.table({"w": words, "x": lists([[1.0]] * 20), "y": [1.0] * 20}), paths[1])
    found = compare_files(*paths)
    assert dict(found.left_out).keys() == {"w"}
    assert dict(found.changed).keys() == {"x"}


def test_terminal_json_page_and_exit_code(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    paths = tmp_path / "a.parquet", tmp_path / "b.parquet"
    for path, shift in zip(paths, (0.0, 0.5), strict=True):
        pq.write_table(pa.table({"e": lists(cloud(400, int(shift * 2), shift=shift)), "x": np.arange(400.0)}), path)
    found = compare_files(*paths)
    text = page(found, [])
    assert "<th>MMD²</th>" in text
    assert "coordinates move" in text
    html = tmp_path / "drift.html"
    given = {"only": [], "without": [], "alpha": 0.05, "least": 0.05, "html": html, "top": 9}
    assert drift(*paths, fail_on=["e"], as_json=True, **given) == 1  # type: ignore[arg-type]
    said = json.loads(capsys.readouterr().out)
    assert said["failed"] == ["e drifts"]
    assert said["columns"][0]["mmd2"] > 0
    assert said["columns"][0]["psi"] is None
    assert drift(*paths, fail_on=["x"], as_json=False, **given) == 0  # type: ignore[arg-type]
    assert "≥" in capsys.readouterr().out


def test_a_long_column_is_not_held_at_once(tmp_path: Path) -> None:
    """What Arrow holds at its peak, beside the column's 20 MB in 40 row groups."""
    path = tmp_path / "long.parquet"
    values = pa.array(np.random.default_rng(1).normal(size=40 * 1_000 * 64))
    pq.write_table(pa.table({"e": pa.FixedSizeListArray.from_arrays(values, 64)}), path, row_group_size=1_000)
    whole = values.nbytes
    before = pa.default_memory_pool()
    pool = pa.proxy_memory_pool(before)
    pa.set_memory_pool(pool)
    try:
        (one,) = compare_files(path, path).columns
        held = pool.max_memory()
    finally:
        pa.set_memory_pool(before)
    assert (one.n, one.p > 0.9) == (40_000, True)
    assert 0 < held < whole / 2
