"""Evidently beside `weir drift`: the same tables, three growing shapes, and what they say of the full one.

Evidently needs another pandas than Weir's environment has, so it gets an environment of its own, made once in a cache
folder. It reads both tables whole, so the full shape does not fit; its time there is extrapolated by what a column and
a value cost in three shapes that fit.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from benchmarks.judge.wide import Shape, tables, timed

REQUIREMENTS = ("evidently==0.7.23", "pandas<3", "pyarrow")
SHAPES = (Shape(100_000, 10_000, 50), Shape(400_000, 40_000, 50), Shape(200_000, 20_000, 200))
QUICK = (Shape(20_000, 2_000, 10), Shape(80_000, 8_000, 10), Shape(20_000, 2_000, 40))

PROGRAM = """
import json, sys, time
began = time.process_time()
import pandas as pd
from evidently import Dataset, DataDefinition, Report
from evidently.presets import DataDriftPreset
reference, current = (pd.read_parquet(path) for path in sys.argv[1:3])
read = time.process_time()
names = list(reference.columns)
definition = DataDefinition(numerical_columns=names)
run = Report([DataDriftPreset()]).run(
    Dataset.from_pandas(current, data_definition=definition), Dataset.from_pandas(reference, data_definition=definition)
)
found = run.json()
print(json.dumps({"import_and_read_s": read - began, "compare_s": time.process_time() - read, "bytes": len(found)}))
"""


@dataclass(frozen=True)
class Ran:
    """One run of the peer: wall and CPU seconds, memory."""

    shape: Shape
    seconds: float
    cpu_s: float
    peak_mb: float


@dataclass(frozen=True)
class Growth:
    """Seconds = start + columns · (`per_column` + rows · `per_value`); what sorting adds to that is given away."""

    start: float
    per_column: float
    per_value: float

    def seconds(self, shape: Shape) -> float:
        """Give the time that a shape would take.

        >>> Growth(1.0, 0.5, 1e-6).seconds(Shape(900_000, 100_000, 10))
        16.0
        """
        return self.start + shape.columns * self.per_column + shape.values * self.per_value


def fitted(start: float, measured: Sequence[tuple[Shape, float]]) -> Growth:
    """Fit the growth to shapes and their seconds, less `start`, by least squares of the relative errors.

    >>> told = [(Shape(n, 0, k), 2 + 0.1 * k + 3e-6 * n * k) for n, k in ((100, 10), (1000, 10), (100, 40))]
    >>> growth = fitted(2.0, told)
    >>> round(growth.per_column, 6), round(growth.per_value, 9)
    (0.1, 3e-06)
    """
    grown = np.array([max(seconds - start, 1e-3) for _, seconds in measured])
    terms = np.array([[shape.columns, shape.values] for shape, _ in measured]) / grown[:, None]
    found, *_ = np.linalg.lstsq(terms, np.ones(len(measured)), rcond=None)
    return Growth(start, *found.tolist())


def interpreter() -> Path:
    """Give the Python of the peer's own environment; make it when it is not there.

    Raises `RuntimeError` with the installer's last line when it cannot be made.
    """
    cache = Path(os.environ.get("WEIR_CACHE_DIR") or Path.home() / ".cache" / "weir")
    place = cache / "benchmarks" / "-".join(REQUIREMENTS).replace("<", "below").replace("=", "")
    python = place / "bin" / "python"
    ready = place / "ready"
    if not ready.exists():
        for command in (
            [sys.executable, "-m", "venv", "--clear", str(place)],
            [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check", *REQUIREMENTS],
        ):
            ended = subprocess.run(command, capture_output=True, text=True, check=False)
            if ended.returncode:
                last = (ended.stderr.strip() or ended.stdout.strip() or "no message").splitlines()[-1]
                raise RuntimeError(f"{REQUIREMENTS[0]} could not be installed: {last}")
        ready.touch()
    return python


def measure(shapes: Sequence[Shape], directory: Path | None = None) -> tuple[list[Ran], Growth]:
    """Run the peer on growing shapes, fit its growth. Raises `RuntimeError` where it cannot be installed or fails."""
    python = str(interpreter())
    found = []
    with tempfile.TemporaryDirectory(dir=directory) as place:
        try:
            for shape in shapes:
                paths = tables(Path(place), shape)
                seconds, cpu_s, peak_mb, said = timed([python, "-c", PROGRAM, *map(str, paths)])
                json.loads(said.splitlines()[-1])
                found.append(Ran(shape, seconds, cpu_s, peak_mb))
            smallest = tables(Path(place), Shape(1_000, 1_000, 1))
            start = timed([python, "-c", PROGRAM, *map(str, smallest)])[1]
        except subprocess.CalledProcessError as error:
            raise RuntimeError(f"the peer ended with status {error.returncode}") from error
    return found, fitted(start, [(ran.shape, ran.cpu_s) for ran in found])
