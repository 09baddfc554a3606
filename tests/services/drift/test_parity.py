"""`weir drift --parity`: rows matched by key, equal to two dictionaries and a loop; odd keys get an answer."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.csv as csv
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from schemas.errors import WeirError
from services.cli.drift import drift
from services.drift.parity import Matched, match_files, parity_fails

Rows = list[tuple[Any, ...]]
PLACE = pytest.TempPathFactory
VALUES = st.sampled_from([None, math.nan, 0.0, 1.0, 1.0 + 1e-9, 1.5, -1.5, math.inf, -math.inf, 1e300, 5e-324])
ROWS = st.lists(
    st.tuples(st.sampled_from([None, *range(6)]), VALUES, st.sampled_from([None, "a", "b"])), min_size=1, max_size=9
)


def naive(a: Rows, c: Rows) -> tuple[dict[str, int], dict[str, list[Any]]]:
    """Match by dictionaries and compare in a loop: counts, and [differ, missing in a, missing in c] by feature."""
    keyed = [[row for row in side if row[0] is not None] for side in (a, c)]
    often = [{key: [row[0] for row in side].count(key) for key in {row[0] for row in side}} for side in keyed]
    told = {
        "unkeyed": sum(row[0] is None for row in (*a, *c)),
        "repeated": len({key for side in often for key, count in side.items() if count > 1}),
        "only_reference": len(often[0].keys() - often[1].keys()),
        "only_current": len(often[1].keys() - often[0].keys()),
    }
    keys = [key for key in often[0] if often[0][key] == 1 and often[1].get(key) == 1]
    told["matched"] = len(keys)
    rows = [{row[0]: row for row in side} for side in keyed]
    features: dict[str, list[Any]] = {}
    for place, name in ((1, "x"), (2, "t")):
        found = [0, 0, 0]
        for key in keys:
            p, q = rows[0][key][place], rows[1][key][place]
            gone = [value is None or value != value for value in (p, q)]
            if any(gone):
                found[0] += gone[0] != gone[1]
                found[1] += gone[0] and not gone[1]
                found[2] += gone[1] and not gone[0]
            else:
                same = p == q or (name == "x" and math.isclose(p, q, rel_tol=1e-6))
                found[0] += not same
        features[name] = found
    return told, features


def written(place: Path, a: pa.Table, c: pa.Table) -> tuple[Path, Path]:
    paths = place / "a.parquet", place / "b.parquet"
    for path, table in zip(paths, (a, c), strict=True):
        pq.write_table(table, path, row_group_size=4)
    return paths


@settings(max_examples=40, deadline=None)
@given(a=ROWS, c=ROWS)
def test_it_equals_two_dictionaries_and_a_loop(a: Rows, c: Rows, tmp_path_factory: PLACE) -> None:
    kinds = {"k": pa.int64(), "x": pa.float64(), "t": pa.string()}
    sides = [
        pa.table({name: pa.array([row[k] for row in rows], kinds[name]) for k, name in enumerate(kinds)})
        for rows in (a, c)
    ]
    told, features = naive(a, c)
    paths = written(tmp_path_factory.mktemp("parity"), *sides)
    if not told["matched"]:
        with pytest.raises(WeirError, match="no key of k is in both tables once"):
            match_files(*paths, ["k"])
        return
    found = match_files(*paths, ["k"])
    assert {name: getattr(found, name) for name in told} == told
    assert {one.name: [one.differ, one.missing_reference, one.missing_current] for one in found.columns} == features


@pytest.fixture(scope="module")
def tables(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """The same 3,000 rows in two orders; the second path reckons some features otherwise."""
    n = 3_000
    draw = np.random.default_rng(4)
    age, spend = draw.integers(18, 90, n), draw.lognormal(3, 1, n)
    one = pa.table(
        {
            "user": [f"u{k}" for k in range(n)], "day": np.arange(n) % 7, "age": age, "spend": spend,
            "city": pa.array(draw.choice(["ulm", "bonn"], n)).dictionary_encode(),
            "e": draw.normal(size=(n, 4)).tolist(),
            "at": pa.array(np.arange(n) * 1000, pa.timestamp("ms")), "dropped": np.ones(n), "typed": np.ones(n),
        }
    )  # fmt: skip
    skewed = spend.copy()
    skewed[::10] += 0.01  # every tenth
    vectors = np.array(one.column("e").to_pylist())
    vectors[7, 3] += 1
    cities = one.column("city").to_pylist()
    late = pa.table(
        {
            "user": one.column("user"), "day": one.column("day").cast(pa.int32()),
            "age": one.column("age").cast(pa.int16()), "spend": skewed.astype(np.float32),
            "city": [None if k < 30 else city for k, city in enumerate(cities)],
            "e": pa.array(vectors.astype(np.float32).tolist(), pa.list_(pa.float32(), 4)),
            "at": one.column("at").cast(pa.timestamp("us")), "fresh": np.ones(n), "typed": ["1"] * n,
        }
    )  # fmt: skip
    order = draw.permutation(n)[: n - 5]
    return written(tmp_path_factory.mktemp("parity"), one, late.take(pa.array(order)))


@pytest.fixture(scope="module")
def found(tables: tuple[Path, Path]) -> Matched:
    return match_files(*tables, ["user", "day"])


def test_what_is_planted_is_found(found: Matched, tables: tuple[Path, Path]) -> None:
    assert (found.matched, found.only_reference, found.only_current, found.repeated) == (2_995, 5, 0, 0)
    kept = set(pq.read_table(tables[1]).column("user").to_pylist())
    by_name = {one.name: one for one in found.columns}
    assert by_name["spend"].differ == sum(f"u{k}" in kept for k in range(0, 3_000, 10))
    assert by_name["spend"].largest == pytest.approx(0.01, rel=0.1)
    assert by_name["city"].differ == by_name["city"].missing_current == sum(f"u{k}" in kept for k in range(30))
    assert {by_name[name].differ for name in ("age", "at")} == {0}
    assert by_name["e"].differ == ("u7" in kept)
    assert by_name["typed"].changed == "double became string"
    assert (found.gone, found.new) == (["dropped"], ["fresh"])
    key, before, after = by_name["city"].examples[0]
    first = next(k for k in range(30) if f"u{k}" in kept)
    assert (key, after) == (f"u{first}, {first % 7}", "missing")
    assert before in ("ulm", "bonn")
    assert found.columns[0].name == "typed"
    assert len(found.examples["reference"]) == 3


def test_conditions_and_forms(tables: tuple[Path, Path], found: Matched, capsys: pytest.CaptureFixture[str]) -> None:
    assert parity_fails(found, ["age", "at"]) == []
    assert parity_fails(found, ["spend", "keys"]) == ["spend differs", "5 and 0 rows are in one table only"]
    spend = next(one for one in found.columns if one.name == "spend")
    worst = f"rows differ: typed in 100.00%, spend in {spend.share:.2%}, dropped is gone"
    assert parity_fails(found, ["0.05"]) == [worst]
    assert parity_fails(match_files(*tables, ["user", "day"], only=["spend"]), ["0.2"]) == []
    assert parity_fails(found, ["any"])[0].endswith("features differ")
    with pytest.raises(WeirError, match="neither `any`, `keys`"):
        parity_fails(found, ["spent"])
    given: dict[str, Any] = {
        "without": [],
        "alpha": 0.05,
        "least": 0.05,
        "html": None,
        "top": 9,
        "keys": ["user", "day"],
    }
    assert drift(*tables, only=["spend"], fail_on=["0.2"], as_json=True, **given) == 0
    said = json.loads(capsys.readouterr().out)
    assert said["features"][0]["share"] == pytest.approx(0.1, abs=0.005)
    assert drift(*tables, only=["spend"], fail_on=["any"], as_json=False, **given) == 1
    assert "rows that differ" in capsys.readouterr().out
    assert drift(*tables, only=["spend"], fail_on=["any"], as_json=False, absolute=0.1, **given) == 0
    with pytest.raises(WeirError, match="no --html"):
        drift(*tables, only=[], fail_on=[], as_json=True, classify=True, **given)
    with pytest.raises(WeirError, match="--tolerance -1: expected"):
        drift(*tables, only=[], fail_on=[], as_json=True, tolerance=-1.0, **given)


def test_integers_beyond_doubles_are_told_apart(tmp_path: Path) -> None:
    big = 2**60
    paths = written(tmp_path, pa.table({"k": [1, 2], "x": [big, big]}), pa.table({"k": [2, 1], "x": [big, big + 1]}))
    (one,) = match_files(*paths, ["k"]).columns
    assert (one.differ, one.examples) == (1, [("1", str(big), str(big + 1))])


def test_a_csv_has_the_same_keys(tables: tuple[Path, Path], tmp_path: Path, found: Matched) -> None:
    small = pq.read_table(tables[1]).drop_columns(["e", "at"])
    csv.write_csv(small, tmp_path / "b.csv")
    again = match_files(tables[0], tmp_path / "b.csv", ["user", "day"], without=["e", "at"])
    assert again.matched == found.matched
    assert {one.name: one.differ for one in again.columns if one.name in ("spend", "city", "age")} == {
        one.name: one.differ for one in found.columns if one.name in ("spend", "city", "age")
    }


@pytest.mark.parametrize(
    ("keys", "more", "said"),
    [
        (["id"], {}, "--parity id: .* has no such column"),
        (["k"], {"only": ["z"]}, "neither table has a column 'z'"),
        (["l"], {}, "--parity l: values of type list.* cannot be keys"),
        (["m"], {}, "--parity m: timestamp.* in one table, int64 in the other"),
    ],
)
def test_bad_input_is_named(tmp_path: Path, keys: list[str], more: dict[str, Any], said: str) -> None:
    a = pa.table({"k": [1], "l": [[{"a": 1}]], "m": pa.array([1], pa.timestamp("ms"))})
    c = pa.table({"k": [1], "l": [[{"a": 1}]], "m": [1]})
    with pytest.raises(WeirError, match=said) as refused:
        match_files(*written(tmp_path, a, c), keys, **more)
    assert "fix:" in str(refused.value)
