"""Write `lifelines_km.json`: what lifelines' Kaplan and Meier says of data with and without a known published table.

Run by hand, in an environment of its own, from the root of the repository:

    python3.11 -m venv peer && peer/bin/pip install lifelines==0.30.3
    PYTHONPATH=. peer/bin/python -m tests.golden.lifelines_km

`6-MP` and `placebo` are the remission times in weeks of Freireich et al. (1963, Blood 21), which lifelines carries,
`lung` those of Loprinzi et al. (1994). `delays` are a formula without chance: panes of labels that come by a heavy law,
looked at when they have closed, every one weighted by the age of its pane, as the judge's law of development does.
Kept are durations, whether each ended (1) or was cut off (0), weights, and lifelines' survival at each time.
"""

import json
from pathlib import Path

import numpy as np

from streams.judge.development import KEEP
from tests.golden.delays import delays


def main() -> None:
    from lifelines import KaplanMeierFitter  # type: ignore[import-not-found, unused-ignore]  # where this runs by hand
    from lifelines.datasets import load_leukemia, load_lung  # type: ignore[import-not-found, unused-ignore]

    known = load_leukemia()
    lung = load_lung()
    panes = delays()
    weights = np.concatenate([np.full(len(pane), KEEP**back) for back, pane in enumerate(reversed(panes))])
    late = np.concatenate(panes[::-1])
    cases = {
        "6-MP": (known.t[known.Rx == 0], known.status[known.Rx == 0], None),
        "placebo": (known.t[known.Rx == 1], known.status[known.Rx == 1], None),
        "lung": (lung.time, lung.status, None),
        "delays": (late, np.ones(len(late)), weights),
    }
    lines = []
    for name, (times, ended, weight) in cases.items():
        fitted = KaplanMeierFitter().fit(times, ended, weights=weight).survival_function_["KM_estimate"]
        kept: dict[str, list[object]] = {"survival": [[int(t), float(s)] for t, s in fitted.items()]}
        if name != "delays":
            kept |= {"times": [int(t) for t in times], "ended": [int(e) for e in ended]}
        lines.append(f"{json.dumps(name)}:{json.dumps(kept, separators=(',', ':'))}")
    Path(__file__).with_suffix(".json").write_text("{" + ",\n".join(lines) + "}\n", encoding="utf-8")


if __name__ == "__main__":
    main()
