"""What `weir drift` found: a table for the terminal, and JSON."""

from __future__ import annotations

import math
from typing import Any

import msgspec
from rich.console import Console
from rich.table import Table
from rich.text import Text

from services.drift.peers_report import peers_as_object, print_peers
from services.drift.run import Drift
from streams.judge.compare import Compared
from streams.judge.separation import Separated

WIDE = 110
TELLING = 5
STYLES = {"drift": "bold red", "slight": "yellow", "unclear": "magenta", "steady": "green"}


def as_object(found: Drift, held: list[str]) -> dict[str, Any]:
    """Give everything as plain data; what is not a number is null."""
    classifier = None if found.classifier is None else _finite(msgspec.structs.asdict(found.classifier))
    if classifier is not None:
        classifier["telling"] = [{"column": name, "lost": lost} for name, lost in classifier["telling"]]
    columns = [
        {name: value for name, value in msgspec.structs.asdict(one).items() if name != "cells"}
        | {"cells": [{"cell": cell, "reference": a, "current": c} for cell, a, c in one.cells]}
        for one in found.columns
    ]
    columns = [_finite(column) for column in columns]
    return {
        "reference": found.reference,
        "current": found.current,
        "rows": {"reference": found.rows[0], "current": found.rows[1]},
        "alpha": found.alpha,
        "least": found.least,
        "compared": len(found.columns),
        "drifted": found.drifted,
        "failed": held,
        "columns": columns,
        "changed": [{"name": name, "what": what} for name, what in found.changed],
        "gone": found.gone,
        "new": found.new,
        "left_out": [{"name": name, "why": why} for name, why in found.left_out],
        "classifier": classifier,
        "peers": peers_as_object(found.peers),
        "seconds": round(found.seconds, 2),
    }


def _finite(plain: dict[str, Any]) -> dict[str, Any]:
    return {
        name: None if isinstance(value, float) and not math.isfinite(value) else value for name, value in plain.items()
    }


def told_apart(found: Separated) -> str:
    """Say what the classifier found, and by which columns."""
    by = ", ".join(f"{name} (−{lost:.3f})" for name, lost in found.telling[:TELLING] if lost >= 0.001)
    rows = f"{found.n:,} and {found.m:,} rows, {found.folds} folds"
    if not found.folds or found.verdict in ("steady", "unclear"):
        return f"{found.sentence}; {rows}"
    return f"{found.sentence}; p {_p(found.p)}; {rows}" + (f"; most by {by}" if by else "")


def summary(found: Drift) -> str:
    """Say in a line what was found."""
    count = {verdict: sum(one.verdict == verdict for one in found.columns) for verdict in STYLES}
    said = ", ".join(f"{number} {verdict}" for verdict, number in count.items() if number)
    more = [(len(found.changed), "of another type"), (len(found.gone), "gone"), (len(found.new), "new")]
    more.append((len(found.left_out), "left out"))
    columns = f"{len(found.columns)} column{'' if len(found.columns) == 1 else 's'}: {said or 'none'}"
    return "; ".join([columns, *(f"{n} {what}" for n, what in more if n)])


def print_table(found: Drift, console: Console, top: int) -> None:
    """Print the worst columns and what became of those that were not compared. Narrow terminals get fewer figures."""
    rows = [f"{path} ({n:,} rows)" for path, n in zip((found.reference, found.current), found.rows, strict=True)]
    console.print(" → ".join(rows), highlight=False)
    distances = heads(found)[3:] if console.width >= WIDE else []
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("column", overflow="fold")
    table.add_column("verdict")
    for name in ("differ", "chance", "p", *distances):
        table.add_column(name, justify="right")
    table.add_column("where", overflow="fold")
    for one in found.columns[:top]:
        shown = figures(one, found)[: 3 + len(distances)]
        where = one.sentence.partition("; most in ")[2] or ("" if one.verdict == "steady" else one.sentence)
        table.add_row(one.name, Text(one.verdict, STYLES[one.verdict]), *shown, where)
    console.print(table)
    if len(found.columns) > top:
        console.print(f"… and {len(found.columns) - top} more (--top, --html, --json)", highlight=False)
    for name, what in found.changed:
        console.print(Text(f"{name}: another type: {what}", STYLES["drift"]))
    for name in found.gone:
        console.print(Text(f"{name}: gone from the current table", STYLES["drift"]))
    if found.new:
        console.print(f"new: {', '.join(found.new)}", highlight=False)
    for name, why in found.left_out:
        console.print(f"{name}: left out: {why}", highlight=False)
    if found.classifier is not None:
        said = Text("classifier: ").append(found.classifier.verdict, STYLES[found.classifier.verdict])
        console.print(said.append(f": {told_apart(found.classifier)}"))
    console.print(summary(found), style="bold", highlight=False)
    print_peers(found.peers, console)


def heads(found: Drift) -> list[str]:
    """Name the figures of a line; MMD² where there is an embedding."""
    names = ["differ", "by chance", "p, adjusted", "PSI", "JS", "KS", "W1"]
    return [*names, "MMD²"] if any(one.kind == "embedding" for one in found.columns) else names


def figures(one: Compared, found: Drift) -> list[str]:
    """Give the figures of a line as people read them."""
    values = (one.psi, one.js, one.ks, one.wasserstein, one.mmd2)[: len(heads(found)) - 3]
    bound = "≥ " if one.kind == "embedding" and one.tv > 0 else ""
    return [bound + _share(one.tv), _share(one.chance_tv), _p(one.p_adjusted), *map(_number, values)]


def _share(value: float) -> str:
    return "–" if math.isnan(value) else f"{value:.1%}"


def _p(value: float) -> str:
    return "–" if math.isnan(value) else "<.0001" if value < 1e-4 else f"{value:.4f}"


def _number(value: float | None) -> str:
    return "–" if value is None or math.isnan(value) else f"{value:.3f}"
