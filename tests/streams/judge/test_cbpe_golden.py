"""Our estimates beside NannyML's own, on the same rows (tests/golden/nannyml_cbpe.py made the file)."""

import json
from pathlib import Path

import pytest

from schemas.control import Reference
from streams.judge.cbpe import calibration, expected
from streams.measure.ledger import Ledger
from streams.measure.metrics import Metric

GOLDEN = json.loads((Path(__file__).parents[2] / "golden" / "nannyml_cbpe.json").read_text(encoding="utf-8"))
KINDS = {"roc_auc": "auc", "f1": "f1", "precision": "precision", "recall": "recall", "accuracy": "accuracy"}


def sparse(negatives: list[list[int]], positives: list[list[int]]) -> list[int]:
    neg, pos = (dict(zip(*cells, strict=True)) for cells in (negatives, positives))
    return [count for cell in sorted({*neg, *pos}) for count in (cell, neg.get(cell, 0), pos.get(cell, 0))]


@pytest.mark.parametrize("number", range(len(GOLDEN["chunks"])))
def test_estimates_equal_nannyml_s(number: int) -> None:
    """NannyML calibrates raw scores, we logit bins; its scores have two digits, so the bins lose nothing.

    0.970744 is the AUC that its tutorial prints for the first chunk.
    """
    known = GOLDEN["reference"]
    calibrated = sparse(known["neg"], known["pos"])
    chances = calibration(Reference(id="r", model="m", version="1", n=50_000, calibration=calibrated))
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
