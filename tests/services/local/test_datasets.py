import os
from pathlib import Path

import pytest

from services.local.datasets import DatasetMissing, elec2, fetch_elec2, main


@pytest.fixture
def empty_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("WEIR_CACHE_DIR", str(tmp_path))
    return tmp_path


@pytest.fixture
def unreachable_index(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", "")


def test_set_up_left_the_whole_stream() -> None:
    with elec2().open() as lines:
        header = next(lines).strip()
        rows = sum(1 for _ in lines)
    assert header == "feat_1,feat_2,feat_3,feat_4,feat_5,feat_6,target"
    assert rows == 45_312


def test_absent_data_names_the_remedy(empty_cache: Path) -> None:
    with pytest.raises(DatasetMissing, match="fix: run `make setup`"):
        elec2()


def test_damaged_data_is_refused(empty_cache: Path) -> None:
    (empty_cache / "datasets").mkdir()
    (empty_cache / "datasets" / "elec.csv").write_text("not the market\n")
    with pytest.raises(DatasetMissing, match="is not the pinned file: expected sha256 ebdfe548"):
        elec2()


@pytest.mark.usefixtures("unreachable_index")
def test_failed_download_says_why_and_leaves_nothing(empty_cache: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == 3
    assert "error: pip could not download scikit-multiflow==0.4.1" in capsys.readouterr().err
    assert list((empty_cache / "datasets").iterdir()) == []


@pytest.mark.usefixtures("unreachable_index")
def test_present_data_is_not_fetched_again(
    empty_cache: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("WEIR_CACHE_DIR")
    content = elec2().read_bytes()
    monkeypatch.setenv("WEIR_CACHE_DIR", str(empty_cache))
    (empty_cache / "datasets").mkdir()
    (empty_cache / "datasets" / "elec.csv").write_bytes(content)
    assert fetch_elec2() == empty_cache / "datasets" / "elec.csv"
    assert main([]) == 0
    assert "Elec2: ready" in capsys.readouterr().out
