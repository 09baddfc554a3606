"""`weir drift --classifier`: what no column shows alone is found, quiet tables stay together."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import binom, mannwhitneyu
from sklearn.metrics import roc_auc_score

from schemas.errors import WeirError
from services.cli.drift import drift
from services.drift.page import page
from services.drift.run import Drift, compare_files, fails
from streams.judge.separation import fold_of, rows_that_differ, separated

SCORES = st.lists(st.integers(-4, 4).map(float), min_size=2, max_size=12)


@settings(max_examples=60, deadline=None)
@given(a=SCORES, c=SCORES)
def test_a_fold_equals_sklearn_and_its_law_that_of_mann_and_whitney(a: list[float], c: list[float]) -> None:
    found = fold_of(np.array(a), np.array(c))
    assert found.auc == pytest.approx(roc_auc_score([0] * len(a) + [1] * len(c), a + c))
    below = [np.mean([(x < y) + 0.5 * (x == y) for y in c]) for x in a]
    above = [np.mean([(x < y) + 0.5 * (x == y) for x in a]) for y in c]
    assert found.variance == pytest.approx(np.var(below, ddof=1) / len(a) + np.var(above, ddof=1) / len(c))
    if found.null_variance > 0:
        z = (found.auc - 0.5) / math.sqrt(found.null_variance)
        law = mannwhitneyu(c, a, alternative="two-sided", use_continuity=False, method="asymptotic")
        assert math.erfc(abs(z) / math.sqrt(2)) == pytest.approx(law.pvalue)
    else:
        assert len({*a, *c}) == 1


def test_the_share_that_differs_is_never_overstated() -> None:
    """No score does better than the likelihood ratio; that of a normal shift, and that of a share from elsewhere."""
    for shift in (0.1, 0.5, 1.0, 3.0):
        auc, differ = 0.5 * math.erfc(-shift / 2), math.erf(shift / 2 / math.sqrt(2))
        assert 0 < rows_that_differ(auc) <= differ
    for share in (0.01, 0.3, 1.0):
        assert rows_that_differ(0.5 + share / 2) <= share
    assert separated([fold_of(np.zeros(9), np.zeros(9))] * 2, 9, 9, alpha=0.05, least=0.05).p == 1.0


def written(place: Path, reference: dict[str, Any], current: dict[str, Any]) -> tuple[Path, Path]:
    paths = place / "a.parquet", place / "b.parquet"
    for path, columns in zip(paths, (reference, current), strict=True):
        pq.write_table(pa.table(columns), path, row_group_size=999)
    return paths


def tied(n: int, seed: int, *, by: float) -> dict[str, Any]:
    """Give columns of which two go together by `by`; each alone is the same."""
    draw = np.random.default_rng(seed)
    x, other = draw.normal(size=(2, n))
    return {
        "x": x,
        "y": by * x + math.sqrt(1 - by**2) * other,
        "noise": draw.normal(size=n),
        "letter": draw.choice(list("abc"), n),
        "e": draw.normal(size=(n, 3)).tolist(),
        "id": [f"{seed}-{k}" for k in range(n)],
    }


def test_columns_that_go_together_otherwise_are_found(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    paths = written(tmp_path, tied(2_500, 1, by=0.0), tied(2_000, 2, by=0.8))
    found = compare_files(*paths, classify=True)
    assert {one.verdict for one in found.columns} <= {"steady", "unclear"}
    told = found.classifier
    assert told is not None
    assert told.verdict == "drift"
    assert told.low > 0.6
    assert {name for name, _ in told.telling[:2]} == {"x", "y"}
    assert (told.n, told.m, told.folds) == (2_500, 2_000, 5)
    assert fails(found, ["classifier"]) == [f"rows are told apart: {told.sentence}"]
    assert "<h2>Classifier" in page(found, [])
    given: dict[str, Any] = {"only": [], "without": [], "alpha": 0.05, "least": 0.05, "html": None, "top": 9}
    assert drift(*paths, fail_on=["classifier"], as_json=True, classify=True, **given) == 1
    said = json.loads(capsys.readouterr().out)["classifier"]
    assert said["auc"] == told.auc  # seeded
    assert said["telling"][0]["column"] in ("x", "y")
    assert drift(*paths, fail_on=[], as_json=False, classify=True, **given) == 0
    assert "classifier: drift: AUC 0." in capsys.readouterr().out
    with pytest.raises(WeirError, match="neither `any`"):
        fails(compare_files(*paths, only=["x"]), ["classifier"])


@pytest.mark.slow
def test_quiet_tables_are_told_apart_as_seldom_as_alpha_says(tmp_path: Path) -> None:
    """40 pairs at 5 %: more rejections than binomial chance gives in 1e-4 fail."""
    rejected = 0
    for seed in range(40):
        paths = written(tmp_path, tied(150, 2 * seed + 10, by=0.5), tied(120, 2 * seed + 11, by=0.5))
        found = compare_files(*paths, without=["id"], classify=True).classifier
        assert found is not None
        rejected += found.p <= 0.05
    assert rejected <= binom.isf(1e-4, 40, 0.05)


def test_types_that_differ_and_little_of_all(tmp_path: Path) -> None:
    n = 400
    texts = pa.array(["true", None, "false", "x"] * (n // 4))
    one = {
        "i": np.arange(n) % 5,
        "flag": texts.dictionary_encode(),
        "none": pa.nulls(n),
        "far": [math.inf, -math.inf, 1e200, None] * (n // 4),
    }
    other = {
        "i": (np.arange(n) % 5).astype(float),
        "flag": pa.array([True, None, False, True] * (n // 4)),
        "none": [1.0] * n,
        "far": [0.0] * n,
    }
    found = compare_files(*written(tmp_path, one, other), classify=True).classifier
    assert found is not None
    assert found.auc > 0.95
    same = compare_files(*written(tmp_path, one, one), classify=True).classifier
    assert same is not None
    assert same.verdict in ("steady", "unclear")
    few = compare_files(*written(tmp_path, {"x": np.arange(49.0)}, {"x": np.arange(500.0)}), classify=True)
    assert few.classifier is not None
    assert (few.classifier.verdict, math.isnan(few.classifier.p)) == ("unclear", True)
    assert few.classifier.sentence.startswith("too few rows: 49")
    assert fails(few, ["classifier"]) == []
    json.dumps(as_object_of(few), allow_nan=False)


def as_object_of(found: Drift) -> dict[str, Any]:
    from services.drift.report import as_object

    return as_object(found, [])


def test_rows_are_chosen_from_the_whole_of_a_long_table(tmp_path: Path) -> None:
    """Whatever stands at the end of a table is among the sample."""
    n = 12_000
    paths = written(tmp_path, {"x": np.zeros(n)}, {"x": np.repeat([0.0, 1.0], [n - 3_000, 3_000])})
    found = compare_files(*paths, classify=True).classifier
    assert found is not None
    assert (found.n, found.m) == (10_000, 10_000)
    assert found.auc == pytest.approx(0.625, abs=0.02)
    assert found.differ <= 0.25 + 0.02
