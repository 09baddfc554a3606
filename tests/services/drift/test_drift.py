"""`weir drift` on files: what is planted is found, what is quiet is not; odd tables get an answer or a clear error."""

from __future__ import annotations

import json
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.csv as csv
import pyarrow.parquet as pq
import pytest

from schemas.errors import WeirError
from services.cli.drift import drift
from services.drift.page import page
from services.drift.report import as_object
from services.drift.run import Drift, compare_files, fails
from services.drift.table import open_table
from streams.judge.compare import compare_numbers
from streams.measure.ledger import FEATURE
from streams.measure.reference import learn

N, M = 20_000, 5_000


def planted(n: int, seed: int, *, moved: bool) -> pa.Table:
    """Give a table with a column of each kind; `moved` is the current one."""
    draw = np.random.default_rng(seed)
    half = np.where(draw.random(n) < (0.3 if moved else 0.1), np.nan, draw.random(n))
    countries = draw.choice(["de", "fr", "it"], n, p=[0.4, 0.3, 0.3] if moved else [0.5, 0.3, 0.2]).tolist()
    columns = {
        "id": [f"r{seed}-{k}" for k in range(n)],
        "age": draw.normal(45 if moved else 40, 10, n),
        "amount": draw.lognormal(3, 1, n),
        "country": ["<b>x</b>" if k % 20 == 0 else country for k, country in enumerate(countries)],
        "clicks": draw.poisson(0.3, n),
        "flag": draw.random(n) < 0.1,
        "half": pa.array(half, from_pandas=True),
        "const": np.ones(n),
        "none": pa.nulls(n),
        "at": pa.array(np.arange(n), pa.timestamp("ms")),
        "beyond": np.where(draw.random(n) < 0.2, np.inf, 1.0) if moved else draw.random(n),
        "fresh" if moved else "gone": np.arange(n),
        "typed": [str(k % 9) for k in range(n)] if moved else np.arange(n) % 9,
    }
    return pa.table(columns)


@pytest.fixture(scope="module")
def tables(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    place = tmp_path_factory.mktemp("drift")
    paths = place / "ref.parquet", place / "cur.parquet"
    pq.write_table(planted(N, 1, moved=False), paths[0], row_group_size=3_000)
    pq.write_table(planted(M, 2, moved=True), paths[1])
    return paths


@pytest.fixture(scope="module")
def found(tables: tuple[Path, Path]) -> Drift:
    return compare_files(*tables)


def test_what_is_planted_is_found_and_what_is_quiet_is_not(found: Drift) -> None:
    verdicts = {one.name: one.verdict for one in found.columns}
    assert verdicts == {
        **dict.fromkeys(("age", "country", "half", "beyond"), "drift"),
        **dict.fromkeys(("amount", "clicks", "flag", "const", "none"), "steady"),
    }
    assert [name for name, _ in found.changed] == ["typed"]
    assert (found.gone, found.new) == (["gone"], ["fresh"])
    assert dict(found.left_out).keys() == {"id", "at"}
    by_name = {one.name: one for one in found.columns}
    assert "missing: " in by_name["half"].sentence
    assert by_name["age"].ks == pytest.approx(0.197, abs=0.02)  # 2 Φ(1/4) − 1
    assert by_name["age"].wasserstein == pytest.approx(0.5, abs=0.03)
    assert found.drifted == [one.name for one in found.columns if one.verdict == "drift"] + ["typed", "gone"]


def test_cells_are_those_of_a_live_reference(tables: tuple[Path, Path]) -> None:
    for name in ("age", "amount", "clicks", "half", "const"):
        columns = [pq.read_table(path).column(name).to_numpy().astype(float) for path in tables]
        live = learn("m", "v", {name: columns[0].tolist()}, [0.5] * N, [1] * N, at_ms=0).counts[FEATURE + name]
        inner, (missing, below, above) = live[:-3], live[-3:]
        wanted = [below, *inner, above, missing]
        assert [cell[1] for cell in compare_numbers(name, *columns).cells if cell[1]] == [c for c in wanted if c]


def test_a_csv_is_the_same_table(tables: tuple[Path, Path], tmp_path: Path, found: Drift) -> None:
    paths = []
    for path in tables:
        paths.append(tmp_path / f"{path.stem}.csv")
        csv.write_csv(pq.read_table(path), paths[-1])
    again = compare_files(*paths)
    ours = {one.name: one.cells for one in found.columns if one.name != "beyond"}
    assert {one.name: one.cells for one in again.columns if one.name in ours} == ours


def test_a_csv_whose_types_turn_out_otherwise_later(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("services.drift.table.BLOCK_BYTES", 1 << 16)
    path = tmp_path / "late.csv"
    lines = [f"{k},{k},{k}" for k in range(30_000)]
    lines[-1] = "7,1.5,soon"
    path.write_text("whole,broken,named\n" + "\n".join(lines) + "\n")
    table = open_table(path, tmp_path, lambda _: None)
    assert [str(table.schema.field(name).type) for name in ("whole", "broken", "named")] == [
        "int64",
        "double",
        "string",
    ]
    assert table.rows == len(lines)
    assert table.column("broken").to_pylist()[-1] == 1.5


@pytest.mark.slow
def test_quiet_columns_are_left_in_peace(tmp_path: Path) -> None:
    """150 quiet columns, 8 runs: that any drifts has probability 5 % a run; three of eight 0.6 %."""
    alarms = 0
    for run in range(8):
        draw = np.random.default_rng([9, run])
        paths = tmp_path / "a.parquet", tmp_path / "b.parquet"
        for path, n in zip(paths, (3_000, 2_000), strict=True):
            pq.write_table(pa.table({f"x{k}": draw.standard_t(3, n) for k in range(150)}), path)
        said = compare_files(*paths, least=0.001)
        alarms += any(one.verdict in ("drift", "slight") for one in said.columns)
    assert alarms < 3


def test_too_few_rows_are_said_to_be_too_few(tmp_path: Path) -> None:
    draw = np.random.default_rng(3)
    for name in ("a", "b"):
        pq.write_table(pa.table({"x": draw.normal(size=30), "one": [1.0] * 29 + [None]}), tmp_path / f"{name}.parquet")
    said = compare_files(tmp_path / "a.parquet", tmp_path / "b.parquet")
    assert {one.name: one.verdict for one in said.columns} == {"x": "unclear", "one": "steady"}
    assert "too few rows" in said.columns[0].sentence


def test_a_handful_of_other_values_is_not_steady(tmp_path: Path) -> None:
    """All cells are put together then, so χ² has no degree of freedom; that says nothing of the values."""
    for name, start in (("a", 0.0), ("b", 100.0)):
        (tmp_path / f"{name}.csv").write_text("x\n" + "".join(f"{start + k}\n" for k in range(8)))
    (one,) = compare_files(tmp_path / "a.csv", tmp_path / "b.csv").columns
    assert (one.verdict, one.tv) == ("unclear", 1.0)
    assert one.sentence.startswith("too few rows")


def test_a_date_that_became_a_text_has_another_type(tmp_path: Path) -> None:
    days = pa.array([19_000, 19_001], pa.date32())
    tables = {"a": {"d": days, "l": [[1], [2]], "t": days}, "b": {"d": ["19/1", "20/1"], "l": [1.0, 2.0], "t": days}}
    for name, columns in tables.items():
        pq.write_table(pa.table(columns), tmp_path / f"{name}.parquet")
    said = compare_files(tmp_path / "a.parquet", tmp_path / "b.parquet")
    assert said.drifted == ["d", "l"]
    assert said.left_out == [("t", "values of type date32[day] are not compared")]


def test_conditions(found: Drift) -> None:
    assert fails(found, []) == fails(found, ["amount", "0.9"]) == []
    assert fails(found, ["any"]) == ["6 of 11 columns drift"]
    assert fails(found, ["age", "gone", "0.5"]) == ["age drifts", "gone drifts", "55% of the columns drift"]
    with pytest.raises(WeirError, match="neither `any`"):
        fails(found, ["agee"])
    for never in ("1.5", "0", "nan"):
        with pytest.raises(WeirError, match="expected a share in"):
            fails(found, [never])


@pytest.mark.parametrize("name", ["at", "id"])
def test_a_condition_on_what_is_not_compared_is_refused(found: Drift, name: str) -> None:
    """It would never hold, so a pipeline would rest on nothing."""
    with pytest.raises(WeirError, match=f"--fail-on {name}: it is left out: "):
        fails(found, [name])


class Tags(HTMLParser):
    """Collects tags, and attributes that would load something."""

    def __init__(self) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.loads: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.loads += [
            str(value) for name, value in attrs if name in ("src", "href") and not str(value).startswith("#")
        ]


def test_the_page_stands_alone_and_escapes(found: Drift) -> None:
    text = page(found, ["<script>"])
    tags = Tags()
    tags.feed(text)
    assert not tags.loads
    assert "url(" not in text
    assert "script" not in tags.tags
    assert "&lt;b&gt;x&lt;/b&gt;" in text
    assert "<b>x</b>" not in text
    assert tags.tags.count("svg") == len(found.columns)
    said = json.loads(json.dumps(as_object(found, []), allow_nan=False))
    assert said["compared"] == 9
    assert said["columns"][0]["verdict"] == "drift"


@pytest.mark.slow
def test_the_command(tables: tuple[Path, Path], tmp_path: Path) -> None:
    command = [sys.executable, "-m", "services.cli", "drift", *map(str, tables)]
    html = tmp_path / "drift.html"
    ended = subprocess.run(
        [*command, "--fail-on", "any", "--html", str(html), "--top", "3"], capture_output=True, text=True, check=False
    )
    assert ended.returncode == 1, ended.stderr
    assert "weir: failed: 6 of 11 columns drift" in ended.stderr
    assert "and 6 more" in ended.stdout
    assert html.read_text().startswith("<!doctype html>")
    ended = subprocess.run([*command, "--json", "--column", "age"], capture_output=True, text=True, check=False)
    assert ended.returncode == 0
    assert [one["name"] for one in json.loads(ended.stdout)["columns"]] == ["age"]


@pytest.mark.parametrize(
    ("files", "more", "said"),
    [
        (("missing.parquet", "a.csv"), {}, r"there is no file .*missing.parquet"),
        (("a.csv", "empty.csv"), {}, r"empty.csv cannot be read: Empty CSV file"),
        (("a.csv", "header.csv"), {}, r"header.csv has no rows"),
        (("a.csv", "torn.parquet"), {}, r"torn.parquet cannot be read"),
        (("a.csv", "twice.csv"), {}, r"several columns named 'x'"),
        (("a.csv", "ragged.csv"), {}, r"ragged.csv cannot be read: CSV parse error: .*Expected 2 columns, got 3"),
        (("a.csv", "nothing"), {}, r"nothing holds no file named \*.parquet"),
        (("a.csv", "other.csv"), {"only": ["z"]}, r"neither table has a column 'z'"),
        (("a.csv", "a.csv"), {"alpha": 2.0}, r"--alpha 2: expected a number between 0 and 1"),
        (("a.csv", "a.csv"), {"html": Path("no/such/place.html")}, r"place.html cannot be written"),
    ],
)
def test_bad_input_is_named(tmp_path: Path, files: tuple[str, str], more: dict[str, Any], said: str) -> None:
    written = {
        "a.csv": b"x,y\n1,2\n3,4\n",
        "empty.csv": b"",
        "header.csv": b"x,y\n",
        "torn.parquet": b"PAR1 and nothing",
        "twice.csv": b"x,x\n1,2\n",
        "ragged.csv": b"x,y\n1,2,3\n",
        "other.csv": b"u,v\n1,2\n",
    }
    for name, body in written.items():
        (tmp_path / name).write_bytes(body)
    (tmp_path / "nothing").mkdir()
    given: dict[str, Any] = {"only": [], "alpha": 0.05, "html": None} | more
    with pytest.raises(WeirError, match=said) as refused:
        drift(*(tmp_path / name for name in files), without=[], least=0.05, fail_on=[], top=20, as_json=True, **given)
    assert "fix:" in str(refused.value)


def test_names_with_brackets_are_printed_as_they_are(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "a.csv").write_text("price[usd],[/x]\n1,2\n3,4\n")
    path = tmp_path / "a.csv"
    drift(path, path, only=[], without=[], alpha=0.05, least=0.05, fail_on=[], html=None, top=20, as_json=False)
    said = capsys.readouterr().out
    assert "price[usd] " in said
    assert "[/x] " in said


def test_nothing_in_common_is_all_gone(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("x\n1\n")
    (tmp_path / "b.csv").write_text("y\n1\n")
    said = compare_files(tmp_path / "a.csv", tmp_path / "b.csv")
    assert (said.gone, said.new, said.drifted) == (["x"], ["y"], ["x"])


def test_integers_that_number_the_rows_are_left_out_and_others_are_not(tmp_path: Path) -> None:
    paths = tmp_path / "a.parquet", tmp_path / "b.parquet"
    for path, start in zip(paths, (0, 50_000), strict=True):
        numbered = np.arange(start, start + 20_000)
        pq.write_table(pa.table({"row": numbered, "cents": numbered * 7, "few": numbered % 9}), path)
    found = compare_files(*paths)
    assert dict(found.left_out).keys() == {"row"}
    assert {one.name: one.verdict for one in found.columns} == {"cents": "drift", "few": "steady"}
