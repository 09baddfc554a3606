"""What a peer says of the same columns: run by `services.drift.peers` with the Python of an environment that has it.

    python peers_script.py PEER DIRECTORY SECONDS

It needs the standard library, NumPy, pandas and the peer, and nothing of Weir's. `columns.json` in the directory lists
columns with their kinds; numbers lie beside it as `.npy` files, categories as counts. Columns go by number: names with
dots or twice the same trouble a peer. One JSON object on standard output is the answer: the peer's version, an error
(it cannot be imported, say), and a value or an error for each column and measure. After so many seconds the rest is
said to be not reached; whatever a peer itself prints goes to standard error.

Peers are asked as their users ask them: `Report([ValueDrift(…)])` of Evidently, `UnivariateDriftCalculator` of NannyML
with one chunk.
"""

from __future__ import annotations

import importlib
import json
import math
import os
import sys
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

METHODS: dict[str, dict[str, dict[str, str]]] = {
    "evidently": {
        "numeric": {
            "psi": "psi",
            "js": "jensenshannon",
            "hellinger": "hellinger",
            "wasserstein": "wasserstein",
            "ks_p": "ks",
        },
        "categorical": {"psi": "psi", "js": "jensenshannon", "hellinger": "hellinger", "chi2_p": "chisquare"},
    },
    "nannyml": {
        "numeric": {
            "js": "jensen_shannon",
            "hellinger": "hellinger",
            "wasserstein": "wasserstein",
            "ks": "kolmogorov_smirnov",
        },
        "categorical": {"js": "jensen_shannon", "hellinger": "hellinger", "chi2": "chi2"},
    },
}
"""By peer and kind of column: our name of a measure, and the peer's name of the method that gives it."""

Ask = Callable[[Any, Any, str, str], float]
"""Gets two frames of one column `x`, its kind and a method; gives the peer's value."""


def evidently() -> Ask:
    """Import Evidently; give how to ask it."""
    top = importlib.import_module("evidently")
    metrics = importlib.import_module("evidently.metrics")

    def ask(reference: Any, current: Any, kind: str, method: str) -> float:
        numeric = kind == "numeric"
        what = top.DataDefinition(
            numerical_columns=["x"] if numeric else [], categorical_columns=[] if numeric else ["x"]
        )
        sides = [top.Dataset.from_pandas(frame.copy(), data_definition=what) for frame in (current, reference)]
        said = top.Report([metrics.ValueDrift(column="x", method=method)]).run(*sides)
        return float(said.dict()["metrics"][0]["value"])

    return ask


def nannyml() -> Ask:
    """Import NannyML; give how to ask it."""
    top = importlib.import_module("nannyml")

    def ask(reference: Any, current: Any, kind: str, method: str) -> float:
        numeric = kind == "numeric"
        calculator = top.UnivariateDriftCalculator(
            column_names=["x"],
            treat_as_numerical=["x"] if numeric else [],
            treat_as_categorical=[] if numeric else ["x"],
            continuous_methods=[method] if numeric else [],
            categorical_methods=[] if numeric else [method],
            chunk_number=1,
        ).fit(reference)
        found = calculator.calculate(current).filter(period="analysis").to_df()
        return float(found[("x", method, "value")].iloc[0])

    return ask


PEERS = {"evidently": evidently, "nannyml": nannyml}


def answer(peer: str, place: Path, seconds: float) -> dict[str, Any]:
    """Ask a peer about every column in the directory."""
    began = time.monotonic()
    said: dict[str, Any] = {"peer": peer, "python": sys.version.split()[0], "error": "", "values": []}
    try:
        pandas = importlib.import_module("pandas")
        said["pandas"] = pandas.__version__
        ask = PEERS[peer]()
        said["version"] = str(importlib.import_module(peer).__version__)
    except Exception as error:  # whatever an import of a half-fitting environment raises
        return {**said, "error": _short(error)}
    for number, column in enumerate(json.loads((place / "columns.json").read_text(encoding="utf-8"))):
        frames: list[Any] = []
        for measure, method in METHODS[peer][column["kind"]].items():
            value, wrong = None, ""
            if time.monotonic() - began > seconds:
                wrong = f"not reached within {seconds:g} s"
            else:
                try:
                    if not frames:
                        frames = [_frame(pandas, place, number, column, side) for side in ("reference", "current")]
                    value = ask(frames[0], frames[1], column["kind"], method)
                    if not math.isfinite(value):
                        value, wrong = None, f"it gives {value}"
                except Exception as error:  # one column must not cost the others theirs
                    wrong = _short(error)
            said["values"].append({"column": number, "measure": measure, "value": value, "error": wrong})
    return said


def _frame(pandas: Any, place: Path, number: int, column: dict[str, Any], side: str) -> Any:
    numpy = importlib.import_module("numpy")
    if column["kind"] == "numeric":
        return pandas.DataFrame({"x": numpy.load(place / f"{number}.{side}.npy", allow_pickle=False)})
    counted = column[side]
    texts = numpy.array([text for text, _ in counted], dtype=object)
    return pandas.DataFrame({"x": numpy.repeat(texts, [count for _, count in counted])})


def _short(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return f"{type(error).__name__}: {lines[0]}"[:300] if lines else type(error).__name__


def main() -> None:
    """Answer on standard output, and keep everybody else away from it."""
    sys.path.pop(0)  # the folder of this file, whose `table` and `page` are not what a peer may mean by them
    os.environ["NML_DISABLE_USAGE_LOGGING"] = os.environ["DO_NOT_TRACK"] = "1"
    with os.fdopen(os.dup(1), "w", encoding="utf-8") as out:
        os.dup2(2, 1)
        warnings.simplefilter("ignore")
        json.dump(answer(sys.argv[1], Path(sys.argv[2]), float(sys.argv[3])), out, allow_nan=False)


if __name__ == "__main__":
    main()
