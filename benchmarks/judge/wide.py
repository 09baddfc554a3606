"""`weir drift` on a wide table: time, CPU and memory of the whole command.

The tables are made first, in row groups of 50,000 (normal, log-normal, Student's t and counts in turn, one column in
ten moved by a fifth of its spread), and read back from the page cache as far as they fit. JSON and HTML are written.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

GROUP = 50_000
MOVED_EVERY, MOVED = 10, 0.2


@dataclass(frozen=True)
class Shape:
    """Rows of the reference and of the current table, and columns of both."""

    reference: int
    current: int
    columns: int

    @property
    def values(self) -> int:
        """Give how many numbers both tables hold."""
        return (self.reference + self.current) * self.columns

    def __str__(self) -> str:
        return f"{self.reference:,} and {self.current:,} rows of {self.columns:,} columns"


FULL = Shape(3_000_000, 300_000, 1_000)
QUICK = Shape(300_000, 30_000, 200)


@dataclass(frozen=True)
class Wide:
    """What one run took: wall and CPU seconds, greatest resident memory; which columns were said to drift."""

    shape: Shape
    gigabytes: float
    seconds: float
    cpu_s: float
    peak_mb: float
    drifted: int
    moved: int


def write(path: Path, rows: int, columns: int, seed: int, *, moved: bool) -> None:
    """Write a table, a row group at a time."""
    schema = pa.schema([(f"x{k}", pa.float64()) for k in range(columns)])
    with pq.ParquetWriter(path, schema, compression="lz4", use_dictionary=False) as out:
        for start in range(0, rows, GROUP):
            draw = np.random.default_rng([seed, start])
            n = min(GROUP, rows - start)
            out.write_table(pa.table([_values(draw, k, n, moved=moved) for k in range(columns)], schema=schema))


def _values(draw: np.random.Generator, k: int, n: int, *, moved: bool) -> pa.Array:
    match k % 4:
        case 0:
            values = draw.standard_normal(n)
        case 1:
            values = np.exp(draw.standard_normal(n))
        case 2:
            values = draw.standard_t(3, n)
        case _:
            values = draw.integers(0, 20, n).astype(np.float64)
    return pa.array(values + (MOVED if moved and k % MOVED_EVERY == 0 else 0.0))


def tables(place: Path, shape: Shape) -> tuple[Path, Path]:
    """Write both tables of a shape."""
    paths = place / "reference.parquet", place / "current.parquet"
    write(paths[0], shape.reference, shape.columns, 1, moved=False)
    write(paths[1], shape.current, shape.columns, 2, moved=True)
    return paths


def measure(shape: Shape, directory: Path | None = None) -> Wide:
    """Write both tables, run `weir drift` on them as a process, and delete them."""
    with tempfile.TemporaryDirectory(dir=directory) as place:
        paths = tables(Path(place), shape)
        size = sum(path.stat().st_size for path in paths)
        command = [sys.executable, "-m", "services.cli", "drift", *map(str, paths), "--json"]
        seconds, cpu_s, peak_mb, said = timed([*command, "--html", str(Path(place) / "report.html")])
    moved = len(range(0, shape.columns, MOVED_EVERY))
    return Wide(shape, size / 1e9, seconds, cpu_s, peak_mb, len(json.loads(said)["drifted"]), moved)


def timed(command: list[str]) -> tuple[float, float, float, bytes]:
    """Run a process; give wall and CPU seconds, its greatest resident memory in MB, and its standard output.

    Raises `subprocess.CalledProcessError` when it fails.
    """
    began = time.monotonic()
    with tempfile.TemporaryFile() as out:
        running = subprocess.Popen(command, stdout=out)
        _, status, used = os.wait4(running.pid, 0)
        running.returncode = os.waitstatus_to_exitcode(status)
        if running.returncode:
            raise subprocess.CalledProcessError(running.returncode, command[:4])
        out.seek(0)
        return time.monotonic() - began, used.ru_utime + used.ru_stime, used.ru_maxrss / 1000, out.read()
