"""Write `nannyml_cbpe.json`: what NannyML's CBPE says of its bundled car-loan set, beside the counts that we need.

Run by hand, in an environment of its own (it pins other numpy and pandas than ours), from the root of the repository:

    python3.11 -m venv peer && peer/bin/pip install nannyml==0.13.1 statsmodels
    NML_DISABLE_USAGE_LOGGING=1 PYTHONPATH=. peer/bin/python -m tests.golden.nannyml_cbpe

The rows themselves stay in NannyML's wheel: kept are, by logit bin of the score, the reference's rows by label, and of
each chunk of 5,000 the rows and those predicted positive. The estimated AUC of the first chunk, 0.970744, is the one
that NannyML's tutorial "Estimating Standard Performance Metrics, Binary" prints.
"""

import json
from pathlib import Path

import numpy as np

from streams.measure.scale import bins, score_edges

METRICS = ["roc_auc", "f1", "precision", "recall", "specificity", "accuracy"]
CHUNK = 5_000


def sparse(cells: np.ndarray) -> list[list[int]]:
    index, counts = np.unique(cells, return_counts=True)
    return [index.tolist(), counts.tolist()]


def main() -> None:
    import nannyml  # type: ignore[import-not-found, unused-ignore]  # where this runs by hand

    reference, analysis, _ = nannyml.load_synthetic_car_loan_dataset()
    estimator = nannyml.CBPE(
        y_pred_proba="y_pred_proba", y_pred="y_pred", y_true="repaid", problem_type="classification_binary",
        metrics=METRICS, chunk_size=CHUNK,
    ).fit(reference)  # fmt: skip
    figures = estimator.estimate(analysis).filter(period="analysis").to_df()
    edges = score_edges()
    known = bins(edges, reference["y_pred_proba"].to_numpy(dtype=np.float64))
    labels = reference["repaid"].to_numpy()
    cells = bins(edges, analysis["y_pred_proba"].to_numpy(dtype=np.float64))
    chosen = analysis["y_pred"].to_numpy() == 1
    golden = {
        "of": f"nannyml {nannyml.__version__}, CBPE on load_synthetic_car_loan_dataset, chunks of {CHUNK}",
        "reference": {"pos": sparse(known[labels == 1]), "neg": sparse(known[labels == 0])},
        "chunks": [
            {
                "score": sparse(cells[at : at + CHUNK]),
                "chosen": sparse(cells[at : at + CHUNK][chosen[at : at + CHUNK]]),
                "estimated": {name: float(figures[(name, "value")].iloc[at // CHUNK]) for name in METRICS},
            }
            for at in range(0, len(cells), CHUNK)
        ],
    }
    Path(__file__).with_suffix(".json").write_text(json.dumps(golden, separators=(",", ":")) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
