"""`weir drift` on a wide table: time, CPU and memory of the whole command.

    python -m benchmarks.bench_drift                                  # 300,000 and 100,000 rows of 100 columns
    python -m benchmarks.bench_drift --reference 3000000 --current 300000 --columns 1000

The tables are made first, in row groups of 50,000 (normal, log-normal, Student's t and counts in turn, one column in
ten moved by a fifth of its spread), and read back from the page cache as far as they fit. The last line is JSON:
`wide_seconds` is wall time, `wide_peak_mb` the greatest resident memory of the process.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import resource
import subprocess
import sys
import tempfile
import time
from importlib.metadata import version
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

GROUP = 50_000
MOVED_EVERY, MOVED = 10, 0.2


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


def main() -> None:
    """Write, run, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--reference", type=int, default=300_000, help="rows of the reference")
    parser.add_argument("--current", type=int, default=100_000, help="rows of the current table")
    parser.add_argument("--columns", type=int, default=100)
    parser.add_argument("--directory", type=Path, help="where the tables are made (default: temporary)")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=given.directory) as place:
        paths = Path(place) / "reference.parquet", Path(place) / "current.parquet"
        began = time.monotonic()
        write(paths[0], given.reference, given.columns, 1, moved=False)
        write(paths[1], given.current, given.columns, 2, moved=True)
        sizes = [path.stat().st_size for path in paths]
        print(f"made {sum(sizes) / 1e9:.2f} GB in {time.monotonic() - began:.0f} s", file=sys.stderr, flush=True)
        command = [sys.executable, "-m", "services.cli", "drift", *map(str, paths), "--json"]
        began = time.monotonic()
        ended = subprocess.run(
            [*command, "--html", str(Path(place) / "report.html")], stdout=subprocess.PIPE, check=True
        )
        seconds = time.monotonic() - began
        used = resource.getrusage(resource.RUSAGE_CHILDREN)
    said = json.loads(ended.stdout)
    cpu_s = used.ru_utime + used.ru_stime
    values = (given.reference + given.current) * given.columns
    print(
        json.dumps(
            {
                "machine": f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores",
                "versions": {
                    "python": platform.python_version(),
                    "pyarrow": version("pyarrow"),
                    "numpy": np.__version__,
                },
                "rows": [given.reference, given.current],
                "columns": given.columns,
                "gigabytes": round(sum(sizes) / 1e9, 2),
                "wide_seconds": round(seconds, 1),
                "wide_cpu_seconds": round(cpu_s, 1),
                "values_per_cpu_s": round(values / cpu_s),
                "wide_peak_mb": round(used.ru_maxrss / 1000),
                "drifted": len(said["drifted"]),
            }
        )
    )


if __name__ == "__main__":
    main()
