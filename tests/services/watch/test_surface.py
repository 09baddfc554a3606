"""`weir watch` and `services.client.watch` as people call them."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from services.client import watch
from tests.services.watch.tables import made


def weir(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Run the command."""
    command = [sys.executable, "-m", "services.cli", "watch", *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=110)


@pytest.fixture
def broken(tmp_path: Path) -> Path:
    path = tmp_path / "broken.parquet"
    pq.write_table(made(2, 9_000, broken=True, older=8.0), path)
    return path


def test_the_command_tells_prints_and_fails(broken: Path, tmp_path: Path) -> None:
    html = tmp_path / "report.html"
    done = weir(str(broken), "--slice", "channel", "--html", str(html), "--fail-on", "alarm")
    assert done.returncode == 1
    assert "streams alarmed: quality:error, feature:age" in done.stdout.replace("\n", " ")
    assert "weir: failed:" in done.stderr
    text = html.read_text(encoding="utf-8")
    assert "channel=web" in text
    assert text.count("<svg") >= 8
    assert not [word for word in ("http:", "https:", "<script", "<link") if word in text]


def test_json_is_all_of_it(broken: Path) -> None:
    done = weir(str(broken), "--json")
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert {"model", "rows", "versions", "alarms", "notes", "refused", "failed"} <= told.keys()
    [version] = told["versions"]
    assert {one["metric"] for one in version["metrics"]} >= {"auc", "accuracy", "brier"}
    assert {one["stream"] for one in told["alarms"]} == {"quality:error", "feature:age"}


def test_a_mapping_file_says_what_columns_are(tmp_path: Path) -> None:
    table = made(3, 2_000).rename_columns(["secs", "p.hat", "truth", "age", "channel"])
    rows = tmp_path / "rows.parquet"
    pq.write_table(table, rows)
    mapping = tmp_path / "m.toml"
    mapping.write_text(
        """
name = "rows"
source = { kind = "file" }
[[events]]
kind = "prediction"
request_id = "@offset"
at_ms = { path = "secs", unit = "s" }
model = { value = "credit" }
score = "p\\\\.hat"
features = { age = "age" }
[[events]]
kind = "label"
request_id = "@offset"
at_ms = { path = "secs", unit = "s" }
label = "truth"
""",
        encoding="utf-8",
    )
    done = weir(str(rows), "--map", str(mapping), "--json")
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert (told["model"], told["predictions"], told["labels"]) == ("credit", 2_000, 2_000)
    assert {one["stream"] for one in told["versions"][0]["streams"]} >= {"feature:age", "score", "quality:error"}


def test_errors_say_what_to_do(tmp_path: Path) -> None:
    done = weir(str(tmp_path / "nothing.csv"))
    assert done.returncode == 2
    assert "there is no file" in done.stderr
    assert "fix:" in done.stderr
    done = weir(str(tmp_path), "--horizon", "soon")
    assert done.returncode == 2
    assert "expected a duration such as" in done.stderr


def test_a_notebook_shows_frames(tmp_path: Path) -> None:
    table = made(2, 9_000, broken=True)
    report = watch(table.to_pandas(), at="timestamp")
    assert {one.stream for one in report.alarms} == {"quality:error"}
    assert report.fails("auc<0.9")
    assert "quality:error" in repr(report)
    assert report._repr_html_().startswith("<iframe srcdoc=")
    assert report.to_html(tmp_path / "r.html") == str(tmp_path / "r.html")
    assert report.to_html() == (tmp_path / "r.html").read_text(encoding="utf-8")
    assert report.to_dict() | {"seconds": 0} == watch(table).to_dict() | {"seconds": 0}
