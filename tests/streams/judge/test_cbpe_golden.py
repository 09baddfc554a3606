"""Our estimates beside NannyML's own, on the same rows (tests/golden/nannyml_cbpe.py made the file)."""

import json
from pathlib import Path

import numpy as np
import pytest

from schemas.control import Reference
from streams.judge.cbpe import calibration, expected
from streams.measure.ledger import SCORE_BINS, Ledger
from streams.measure.metrics import Metric

GOLDEN = json.loads((Path(__file__).parents[2] / "golden" / "nannyml_cbpe.json").read_text(encoding="utf-8"))
KINDS = {"roc_auc": "auc", "f1": "f1", "precision": "precision", "recall": "recall", "accuracy": "accuracy"}


def dense(cells: list[list[int]]) -> list[int]:
    full = np.zeros(SCORE_BINS, dtype=np.int64)
    full[cells[0]] = cells[1]
    return full.tolist()


@pytest.mark.parametrize("number", range(len(GOLDEN["chunks"])))
def test_estimates_equal_nannyml_s(number: int) -> None:
    """NannyML calibrates raw scores, we logit bins; its scores have two digits, so the bins lose nothing.

    0.970744 is the AUC that its tutorial prints for the first chunk.
    """
    known = GOLDEN["reference"]
    counts = {"score.pos": dense(known["pos"]), "score.neg": dense(known["neg"])}
    chances = calibration(Reference(id="r", model="m", version="1", n=50_000, counts=counts))
    assert chances is not None
    chunk = GOLDEN["chunks"][number]
    traffic = Ledger(
        {name: dict(zip(*chunk[name.removeprefix("score.")], strict=True)) for name in ("score", "score.chosen")}
    )
    ours = expected(chances, traffic)
    assert ours is not None
    if number == 0:
        assert chunk["estimated"]["roc_auc"] == pytest.approx(0.970744, abs=5e-7)
    for theirs, kind in KINDS.items():
        assert Metric.parse({"kind": kind}).value(ours) == pytest.approx(chunk["estimated"][theirs], abs=1e-6), kind
