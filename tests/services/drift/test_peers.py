"""Peers beside us: what leads from our values to theirs is all of the difference, and what is amiss with one is told.

`tests/golden/drift_peers.json` holds what Evidently and NannyML answered; a stand-in for their Python prints it.
"""

from __future__ import annotations

import io
import json
import sys
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rich.console import Console

from schemas.errors import OK, USAGE, WeirError
from services.cli.drift import drift
from services.drift import peers, theirs
from services.drift.page import page
from services.drift.peers import PEERS, Wanted, wanted
from services.drift.peers_report import legend, peers_as_object, print_peers, why
from services.drift.peers_script import METHODS
from services.drift.reasons import MEASURES, REASONS, steps
from services.drift.run import Drift
from tests.golden.drift_peers import SIZES, compared

GOLDEN: dict[str, Any] = json.loads(
    Path(__file__).parents[2].joinpath("golden", "drift_peers.json").read_text(encoding="utf-8")
)


def stand_in(place: Path, said: dict[str, str]) -> str:
    """Make a Python that prints what it is given, by peer: its arguments are the script, the peer, …"""
    for name, text in said.items():
        (place / f"{name}.json").write_text(text)
    python = place / "python"
    python.write_text(f'#!/bin/sh\ncat "{place}/$2.json"\n')
    python.chmod(0o755)
    return str(python)


@pytest.fixture(scope="module", params=SIZES)
def found(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Drift:
    size: str = request.param
    place = tmp_path_factory.mktemp(size)
    python = stand_in(place, {name: json.dumps(GOLDEN[size][name]) for name in PEERS})
    got = compared(place, size, Wanted(PEERS, python, 100))
    assert [one.name for one in got.columns] == GOLDEN[size]["columns"], "run tests/golden/drift_peers.py again"
    return got


def test_every_pair_of_peer_and_measure_has_its_reasons() -> None:
    asked = {(peer, kind, measure) for peer, kinds in METHODS.items() for kind, of in kinds.items() for measure in of}
    assert asked == REASONS.keys()
    assert {measure for _, _, measure in asked} == MEASURES.keys()
    assert all(REASONS.values())
    sentences: dict[str, set[str]] = {}
    for step in (step for entry in REASONS.values() for step in entry):
        sentences.setdefault(step.label, set()).add(step.why)
    assert all(len(told) == 1 for told in sentences.values()), "a short name has one meaning"


def test_the_whole_difference_is_explained(found: Drift) -> None:
    there = [one for peer in found.peers for one in peer.values if one.theirs is not None]
    assert len(there) > 100
    assert not [(one.column, one.measure, why(one)) for one in there if "not explained" in why(one)]
    said = {why(one) for one in there}
    assert "equal" in said
    assert any(text.startswith("explained: ") for text in said)


def test_each_reason_is_told_of_some_table(tmp_path: Path) -> None:
    told = set()
    for size in SIZES:
        (tmp_path / size).mkdir()
        python = stand_in(tmp_path / size, {name: json.dumps(GOLDEN[size][name]) for name in PEERS})
        told |= {label for label, _ in legend(compared(tmp_path / size, size, Wanted(PEERS, python, 100)).peers)}
    assert told == {step.label for entry in REASONS.values() for step in entry}


@pytest.mark.parametrize("width", [60, 100, 160])
def test_the_table_fits_the_terminal(found: Drift, width: int) -> None:
    out = io.StringIO()
    print_peers(found.peers, Console(file=out, width=width))
    lines = out.getvalue().splitlines()
    assert max(map(len, lines)) <= width
    text = " ".join(" ".join(lines).split())
    assert "explained: nats" in text
    assert "nats: natural logarithm" in text
    assert "evidently 0.7.23 (Python 3.11.7, pandas 2.3.3)" in text


class Cells(HTMLParser):
    """Collects the texts of cells."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def handle_data(self, data: str) -> None:
        self.found.append(data)


def test_json_and_page_have_the_same(found: Drift) -> None:
    said = json.loads(json.dumps(peers_as_object(found.peers), allow_nan=False))
    assert [one["peer"] for one in said] == [*PEERS]
    nats = [one for one in said[0]["values"] if (one["column"], one["measure"]) == ("letter", "js")]
    assert nats[0]["reasons"][-1]["leads_to"] == pytest.approx(nats[0]["theirs"], rel=1e-9)
    assert nats[0]["theirs"] == pytest.approx(nats[0]["ours"] * np.sqrt(np.log(2)), rel=1e-9)
    assert nats[0]["rest"] == pytest.approx(0, abs=1e-9)
    cells = Cells()
    cells.feed(page(found, []))
    assert "Beside its peers" in cells.found
    assert "explained: nats" in cells.found


def test_peers_that_are_not_there_are_said_to_be_missing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "400")
    for name in ("a.csv", "b.csv"):
        (tmp_path / name).write_text("x,y\n" + "".join(f"{k},{'u' if k % 2 else 'v'}\n" for k in range(50)))
    given: dict[str, Any] = {"only": [], "without": [], "alpha": 0.05, "least": 0.05, "fail_on": [], "top": 20}
    for python in (None, str(tmp_path / "nowhere")):
        code = drift(
            tmp_path / "a.csv", tmp_path / "b.csv", html=None, as_json=False, compare="evidently, nannyml",
            peer_python=python, **given,
        )  # fmt: skip
        assert code == OK
        lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith(PEERS)]
        assert len(lines) == 2
        for peer, line in zip(PEERS, lines, strict=True):
            why = "there is no Python" if python else f"ModuleNotFoundError: No module named '{peer}'"
            assert line.startswith(f"{peer} by {python or sys.executable}: {why}")
            assert "fix: python -m venv peers && peers/bin/pip install evidently==0.7.23 'pandas<3'" in line
            assert line.endswith("then --peer-python peers/bin/python")


@pytest.mark.parametrize(
    ("script", "said"),
    [
        ("echo no JSON; echo torn apart >&2; exit 3", "it ended with status 3: torn apart"),
        ("exec sleep 30", "no answer within 0.2 s"),
        ("""echo '{"peer": "evidently", "error": "ImportError: half"}'""", "ImportError: half"),
    ],
)
def test_what_goes_wrong_with_a_peer_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, script: str, said: str
) -> None:
    monkeypatch.setattr(peers, "SECONDS", 0.1)
    monkeypatch.setattr(peers, "GRACE", 0.1 if "sleep" in script else 60.0)
    python = tmp_path / "python"
    python.write_text(f"#!/bin/sh\n{script}\n")
    python.chmod(0o755)
    assert peers.ask("evidently", str(python), tmp_path).error == said


def test_errors_of_a_column_keep_to_it(tmp_path: Path) -> None:
    size = "few"
    answer = json.loads(json.dumps(GOLDEN[size]["evidently"]))
    broken = GOLDEN[size]["columns"].index("normal")
    for value in answer["values"]:
        if value["column"] == broken:
            value |= {"value": None, "error": "ValueError: An empty column 'x' was provided"}
    python = stand_in(tmp_path, {"evidently": json.dumps(answer)})
    found = compared(tmp_path, size, Wanted(("evidently",), python, 100))
    out = io.StringIO()
    print_peers(found.peers, Console(file=out, width=160))
    lines = [line for line in out.getvalue().splitlines() if line.startswith("normal")]
    assert len(lines) == 1
    assert lines[0].split()[1:4] == ["all", "evidently", "–"]
    assert "An empty column 'normal' was provided" in lines[0]


def test_a_full_disk_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("services.drift.peers.np.save", full)
    found = compared(tmp_path, "few", Wanted(PEERS, sys.executable, 20))
    assert {peer.error.partition(";")[0] for peer in found.peers} == {
        "columns cannot be handed over: No space left on device"
    }
    assert found.drifted


def test_a_rest_is_not_hidden() -> None:
    one = peers.Beside("x", "psi", 0.3, 0.1, [("floor", "…", 0.25)], equal=False, explained=False)
    assert why(one) == "floor → 0.25; a rest of 0.05 is not explained"
    assert why(peers.Beside("x", "psi", 0.3, 0.1, [], equal=False, explained=False)) == "not explained"


def test_values_that_no_bins_hold_end_the_steps() -> None:
    pair = theirs.Numbers(np.array([-1.7e308, 0.0, 1.7e308]), np.array([1.0, 2.0]))
    for peer, kinds in METHODS.items():
        for measure in kinds["numeric"]:
            with np.errstate(all="ignore"):
                steps(peer, measure, pair, 0.5)


@pytest.mark.parametrize(
    ("names", "chosen"), [("evidently", ("evidently",)), ("NannyML, evidently,nannyml", ("nannyml", "evidently"))]
)
def test_peers_are_named(names: str, chosen: tuple[str, ...]) -> None:
    assert wanted(names, None, 20) == Wanted(chosen, sys.executable, 20)


@pytest.mark.parametrize("names", ["", "frouros", "evidently;nannyml"])
def test_other_peers_are_refused(names: str) -> None:
    with pytest.raises(WeirError, match="expected some of evidently, nannyml") as refused:
        wanted(names, None, 20)
    assert refused.value.code == USAGE
