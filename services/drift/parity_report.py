"""What `weir drift --parity` found: a table for the terminal, and JSON."""

from __future__ import annotations

from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from services.drift.parity import Matched
from streams.judge.parity import Parity, as_plain

WIDE = 110


def parity_as_object(found: Matched, held: list[str]) -> dict[str, Any]:
    """Give everything as plain data."""
    return {
        "reference": found.reference,
        "current": found.current,
        "keys": found.keys,
        "rows": {"reference": found.rows[0], "current": found.rows[1]},
        "matched": found.matched,
        "only": {"reference": found.only_reference, "current": found.only_current, "examples": found.examples},
        "repeated": found.repeated,
        "unkeyed": found.unkeyed,
        "differing": [one.name for one in found.columns if one.share > 0],
        "failed": held,
        "features": [as_plain(one) for one in found.columns],
        "gone": found.gone,
        "new": found.new,
        "left_out": [{"name": name, "why": why} for name, why in found.left_out],
        "seconds": round(found.seconds, 2),
    }


def print_parity(found: Matched, console: Console, top: int) -> None:
    """Print the worst features and what became of rows that were not matched."""
    rows = [f"{path} ({n:,} rows)" for path, n in zip((found.reference, found.current), found.rows, strict=True)]
    console.print(f"{' = '.join(rows)} by {', '.join(found.keys)}: {found.matched:,} rows", highlight=False)
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("feature", overflow="fold")
    for name in ("rows that differ", "share", "one side only", "largest"):
        table.add_column(name, justify="right")
    table.add_column("first: reference → current", overflow="fold")
    for one in found.columns[:top]:
        only = f"{one.missing_reference:,} / {one.missing_current:,}"
        largest = "–" if one.largest is None else f"{one.largest:.4g}"
        style = "bold red" if one.share else "green"
        share = Text(f"{one.share:.2%}" if one.share >= 0.0001 or not one.share else "<0.01%", style)
        table.add_row(one.name, f"{one.differ:,}", share, only, largest, _first(one))
    console.print(table)
    if len(found.columns) > top:
        console.print(f"… and {len(found.columns) - top} more (--top, --json)", highlight=False)
    for name in found.gone:
        console.print(Text(f"{name}: gone from the current table", "bold red"))
    if found.new:
        console.print(f"new: {', '.join(found.new)}", highlight=False)
    for name, why in found.left_out:
        console.print(f"{name}: left out: {why}", highlight=False)
    for side, count in (("reference", found.only_reference), ("current", found.only_current)):
        if count:
            some = "; ".join(found.examples.get(side, []))
            console.print(f"{count:,} keys in the {side} table only: {some}", highlight=False)
    if found.repeated or found.unkeyed:
        console.print(f"left out: {found.repeated:,} keys that repeat, {found.unkeyed:,} rows without a key")
    console.print(parity_summary(found), style="bold", highlight=False)


def parity_summary(found: Matched) -> str:
    """Say in a line what was found."""
    bad = sum(one.share > 0 for one in found.columns)
    return f"{len(found.columns)} features of {found.matched:,} rows: {bad or 'none'} differ{'s' if bad == 1 else ''}"


def _first(one: Parity) -> str:
    if one.changed:
        return f"another type: {one.changed}"
    return "; ".join(f"{key}: {a} → {c}" for key, a, c in one.examples[:1])
