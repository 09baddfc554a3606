"""What counting, judging and comparing cost.

    python -m benchmarks.judge                     # everything; the wide table alone needs 25 GB of disk and minutes
    python -m benchmarks.judge --json              # tables on standard error, one JSON object as the last line
    python -m benchmarks.judge --quick             # under three minutes, with a smaller wide table, and says so
    python -m benchmarks.judge --only pace --only values
    python -m benchmarks.judge --wide-rows 300000 --wide-columns 100

`feature_values_per_cpu_s` is through `measure`, 20 features a prediction; `ms_per_10k_streams` the CPU time to judge a
closed pane of 10,000 features; `wide_seconds` wall time and `wide_peak_mb` memory of `weir drift` on the wide table;
`wide_peer_seconds` the CPU time that Evidently would take for the same, by its growth over shapes that it survives.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
import time
from collections.abc import Callable
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

from benchmarks.judge import pace, peer, values, volume, wide
from benchmarks.judge.wide import FULL, QUICK, Shape

PARTS = ("values", "volume", "pace", "wide", "peer")
Say = Callable[[str], None]


def main() -> None:
    """Run, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true", help="end with one JSON object")
    parser.add_argument("--quick", action="store_true", help="under three minutes: a smaller wide table")
    parser.add_argument("--only", choices=PARTS, action="append", help="only this part (may be given again)")
    parser.add_argument(
        "--wide-rows", type=int, help=f"rows of the reference (default {FULL.reference:,}), a tenth now"
    )
    parser.add_argument("--wide-columns", type=int, help=f"columns (default {FULL.columns:,})")
    parser.add_argument("--directory", type=Path, help="where the tables are made (default: temporary)")
    given = parser.parse_args()
    say: Say = partial(print, file=sys.stderr, flush=True)
    say(f"python -m benchmarks.judge {' '.join(sys.argv[1:])}".rstrip())
    packages = ", ".join(f"{name} {version(name)}" for name in ("numpy", "msgspec", "pyarrow"))
    say(f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}, {packages}\n")
    default = QUICK if given.quick else FULL
    rows = given.wide_rows or default.reference
    shape = Shape(rows, max(rows // 10, 1), given.wide_columns or default.columns)
    answer: dict[str, Any] = dict.fromkeys(
        ("feature_values_per_cpu_s", "ms_per_10k_streams", "wide_seconds", "wide_peak_mb", "wide_peer_seconds")
    )
    parts = given.only or PARTS
    if "values" in parts:
        answer["feature_values_per_cpu_s"] = _values(say)
    if "volume" in parts:
        _volume(say)
    if "pace" in parts:
        answer["ms_per_10k_streams"] = _pace(say)
    if "wide" in parts:
        answer["wide_seconds"], answer["wide_peak_mb"] = _wide(shape, given.directory, say)
    if "peer" in parts:
        answer["wide_peer_seconds"] = _peer(shape, given.quick, given.directory, say)
    if given.json:
        print(json.dumps(answer))


def _values(say: Say) -> int:
    found = values.measure()
    say(f"feature values per CPU second, {found.features} features a prediction, steps of {values.STEP:,}")
    say(f"  through `measure`            {found.live:12,.0f}")
    say(f"  the rest of a prediction     {found.bare_us:12.2f} µs, no feature counted")
    say(f"  a column at a time (`learn`) {found.columns:12,.0f}\n")
    return round(found.live)


def _volume(say: Say) -> None:
    found = volume.measure()
    say(f"{found.rate:,} predictions and labels a second, {found.slices} slices, 20 features, steps of 100 ms")
    say(f"  deltas           {found.deltas_s / 1e3:10,.0f} kB/s, lz4 {found.packed_s / 1e3:,.0f} kB/s")
    say(f"  in 30 days       {found.deltas_month / 1e9:10,.1f} GB")
    say(f"  a minute's pane  {found.whole_bytes / 1e3:10,.1f} kB, a slice's {found.slice_bytes / 1e3:,.1f} kB")
    say(f"  minutes kept     {found.panes_month / 1e9:10,.2f} GB in 30 days\n")


def _pace(say: Say) -> float:
    found = pace.measure()
    per = 10_000 / found.streams
    say(f"CPU ms a closed pane of 1,000 rows, {found.streams:,} streams of 23 cells, median")
    for name in ("judge", "window", "distances", "sentences", "events"):
        say(f"  {name:12} {getattr(found, name) * per:8.1f}")
    say("")
    return round(found.judge * per, 1)


def _wide(shape: Shape, directory: Path | None, say: Say) -> tuple[float, int]:
    if shape != FULL:
        say(f"the wide table is a smaller one: {shape} (in full: {FULL})")
    found = wide.measure(shape, directory)
    say(f"`weir drift`, {shape} ({found.gigabytes:.2f} GB)")
    say(f"  {found.seconds:.1f} s, {found.cpu_s:.1f} s of CPU, {found.peak_mb:,.0f} MB")
    say(
        f"  {shape.values / found.cpu_s:,.0f} values per CPU s; {found.drifted} columns drift, of {found.moved} moved\n"
    )
    return round(found.seconds, 1), round(found.peak_mb)


def _peer(shape: Shape, quick: bool, directory: Path | None, say: Say) -> float | None:
    began = time.monotonic()
    try:
        ran, growth = peer.measure(peer.QUICK if quick else peer.SHAPES, directory)
    except RuntimeError as error:
        say(f"no figure of the peer: {error}")
        return None
    say(f"{peer.REQUIREMENTS[0]}, DataDriftPreset ({time.monotonic() - began:.0f} s with tables and start)")
    for one in ran:
        say(f"  {one.shape}: {one.seconds:.1f} s, {one.cpu_s:.1f} s of CPU, {one.peak_mb:,.0f} MB")
    found = growth.seconds(shape)
    law = f"{growth.start:.1f} + columns · ({growth.per_column:.3f} + {1e6 * growth.per_value:.3f}e-6 · rows)"
    say(f"  CPU s = {law}: extrapolated to {shape}: {found:,.0f} s\n")
    return round(found, 1)


if __name__ == "__main__":
    main()
