"""Write `drift_peers.json`: what Evidently and NannyML answer about the tables below, as `services.drift.peers` asks.

Run by hand, from the root of the repository, with the Python of an environment that has both:

    python3.11 -m venv peers && peers/bin/pip install evidently==0.7.23 'pandas<3' nannyml==0.13.1 statsmodels
    python -m tests.golden.drift_peers peers/bin/python

The tables are formulas without chance, so that only the answers are kept: `few` lies below NannyML's 10,000 rows and
has missing and infinite values, `many` above. Kept are the order of the columns, and what the
script prints of each peer.
"""

import json
import sys
import tempfile
from pathlib import Path
from unittest import mock

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from scipy.special import ndtri

from services.drift import peers
from services.drift.run import Drift, compare_files

SIZES = {"few": (3_000, 1_000), "many": (12_000, 4_000)}
GOLDEN_RATIO = (5**0.5 - 1) / 2
ASK = peers.ask


def table(n: int, *, moved: bool) -> pa.Table:
    """Give one side: columns of many kinds, a little different where `moved`."""
    u = (np.arange(n) * GOLDEN_RATIO + 0.25) % 1  # as even as n numbers get
    v = (np.arange(n) * 2**0.5) % 1
    normal = ndtri(np.clip(u, 1e-9, 1 - 1e-9))
    shift = 0.05 if moved else 0.0
    letters = np.array([*"abcde", "f" if moved else "e"])
    return pa.table(
        {
            "normal": normal + shift,
            "spread": normal * (1.4 if moved else 1.0),
            "heavy": np.tan(np.pi * (np.clip(u, 1e-4, 1 - 1e-4) - 0.5)) + 4 * shift,
            "tiny": 1e-9 * (normal + shift),
            "count": np.floor(-np.log(1 - u) * (1.2 if moved else 1.0)).astype(np.int64),
            "whole": np.floor(60 * u**1.1 if moved else 60 * u).astype(np.int64),
            "missing": pa.array(np.where(v < (0.3 if moved else 0.1), np.nan, normal + shift), from_pandas=True),
            "infinite": np.where(v < 0.01, np.inf, normal) if moved else normal,
            "one": np.ones(n),
            "two": np.where(u < 0.41 + shift / 5, "yes", "no"),
            "letter": letters[np.floor(u * (5.2 if moved else 5)).astype(np.int64)],
            "rare": [f"v{k}" for k in np.floor(-np.log(1 - u) * (30 if moved else 28)).astype(np.int64)],
            "gaps": pa.array([None if k < 0.2 else "x" if k < 0.6 + shift else "y" for k in v]),
            "flag": u < 0.1 + shift / 10,
        }
    )


def compared(place: Path, size: str, asked: peers.Wanted) -> Drift:
    """Write both sides of a size into a folder and compare them."""
    paths = [place / f"{size}-{side}.parquet" for side in ("reference", "current")]
    for path, n, moved in zip(paths, SIZES[size], (False, True), strict=True):
        pq.write_table(table(n, moved=moved), path)
    return compare_files(*paths, peers=asked)


def main() -> None:
    lines = []
    with tempfile.TemporaryDirectory() as place:
        for size in SIZES:
            folder = Path(place, size)
            folder.mkdir()
            kept: dict[str, str] = {}

            def ask(name: str, python: str, place: Path, kept: dict[str, str] = kept) -> peers.Answer:
                answer = ASK(name, python, place)
                kept[name] = msgspec.json.encode(answer).decode()
                return answer

            with mock.patch.object(peers, "ask", ask):
                found = compared(folder, size, peers.Wanted(peers.PEERS, sys.argv[1], 100))
            of_size = [f'"columns":{json.dumps([one.name for one in found.columns])}']
            of_size += [f'"{name}":{answer}' for name, answer in kept.items()]
            lines.append(f'"{size}":{{' + ",\n".join(of_size) + "}")
    Path(__file__).with_suffix(".json").write_text("{" + ",\n".join(lines) + "}\n", encoding="utf-8")


if __name__ == "__main__":
    main()
