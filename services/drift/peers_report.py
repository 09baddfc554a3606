"""Peers' values beside ours: a table for the terminal with its legend, plain data, and a section of the page."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from html import escape
from typing import Any

from rich.console import Console
from rich.markup import escape as plain
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from services.drift.peers import Beside, Peer
from services.drift.reasons import MEASURES

WIDE = 80
"""Narrower terminals get a list instead of a table."""


def peers_as_object(peers: Sequence[Peer]) -> list[dict[str, Any]]:
    """Give everything as plain data; what is not a number is null."""
    return [
        {
            "peer": peer.name,
            "version": peer.version,
            "surroundings": peer.surroundings,
            "error": peer.error,
            "values": [
                {
                    "column": one.column,
                    "measure": one.measure,
                    "theirs": one.theirs,
                    "ours": one.ours,
                    "equal": one.equal,
                    "explained": one.explained,
                    "rest": _finite(one.rest),
                    "reasons": [{"label": a, "why": b, "leads_to": _finite(c)} for a, b, c in one.reasons],
                    "error": one.error,
                }
                for one in peer.values
            ],
        }
        for peer in peers
    ]


def print_peers(peers: Sequence[Peer], console: Console) -> None:
    """Print a row for each column, measure and peer, and below it what the reasons' short names mean."""
    rows = _by_column(peers)
    if rows:
        console.print()
        if console.width >= WIDE:
            _print_table(rows, console)
        else:
            _print_list(rows, console)
        for label, sentence in legend(peers):
            console.print(f"[bold]{plain(label)}[/]: {plain(sentence)}", highlight=False)
    for peer in peers:
        if peer.error:
            console.print(Text(peer.error, "yellow"), soft_wrap=True)
        else:
            console.print(f"{peer.name} {peer.version} ({peer.surroundings}): {tally(peer)}", highlight=False)


def _print_table(rows: Sequence[tuple[Peer, Beside]], console: Console) -> None:
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("column", overflow="fold")
    for head in ("measure", "peer"):
        table.add_column(head, no_wrap=True)
    for head in ("theirs", "ours"):
        table.add_column(head, justify="right", no_wrap=True)
    table.add_column("from ours to theirs", overflow="fold")
    last = ""
    for peer, one in rows:
        name = one.column if one.column != last else ""
        last = one.column
        table.add_row(Text(name), *_cells(peer, one), Text(why(one), "yellow" if _open(one) else ""))
    console.print(table)


def _print_list(rows: Sequence[tuple[Peer, Beside]], console: Console) -> None:
    """Print what a narrow terminal holds: the way from ours to theirs has a line of its own."""
    last = ""
    for peer, one in rows:
        if one.column != last:
            console.print(Text(one.column, "bold"))
        last = one.column
        measure, name, theirs, ours = _cells(peer, one)
        console.print(Text(f"  {measure} {name} {theirs}, ours {ours}"))
        console.print(Padding(Text(why(one), "yellow" if _open(one) else ""), (0, 0, 0, 4)))


def peers_section(peers: Sequence[Peer]) -> str:
    """Give the section of the HTML report; nothing without peers."""
    if not peers:
        return ""
    rows = "".join(
        "<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in (one.column, *_cells(peer, one), why(one))) + "</tr>"
        for peer, one in _by_column(peers)
    )
    heads = "".join(
        f"<th>{name}</th>" for name in ("column", "measure", "peer", "theirs", "ours", "from ours to theirs")
    )
    table = f"<table><thead><tr>{heads}</tr></thead><tbody>{rows}</tbody></table>" if rows else ""
    said = [peer.error or f"{peer.name} {peer.version} ({peer.surroundings}): {tally(peer)}" for peer in peers]
    told = "".join(f"<p>{escape(line)}</p>" for line in said)
    meant = "".join(f'<p class="quiet"><b>{escape(label)}</b>: {escape(text)}</p>' for label, text in legend(peers))
    return f'<section class="wide peers"><h2>Beside its peers</h2>{told}{table}{meant}</section>'


def why(one: Beside) -> str:
    """Say in a few words what leads from our value to the peer's, and whether that is all of it.

    >>> found = Beside("x", "js", 0.08, 0.1, [("cells", "…", 0.096), ("nats", "…", 0.08)], equal=False, explained=True)
    >>> why(found)
    'explained: cells → 0.096, nats'
    """
    if one.error:
        return one.error
    if one.equal:
        return "equal"
    if not one.reasons:
        return "not explained"
    steps = [f"{label} → {number(value, one.measure)}" for label, _, value in one.reasons]
    if one.explained:
        return f"explained: {', '.join([*steps[:-1], one.reasons[-1][0]])}"
    return f"{', '.join(steps)}; a rest of {number(one.rest)} is not explained"


def legend(peers: Sequence[Peer]) -> list[tuple[str, str]]:
    """Give the reasons that were told, each once: (short name, sentence)."""
    found = {label: sentence for peer in peers for one in peer.values for label, sentence, _ in one.reasons}
    return sorted(found.items(), key=lambda pair: pair[0].casefold())


def tally(peer: Peer) -> str:
    """Say how many of a peer's values are ours, explained, neither, or not there."""
    counts = {
        "equal": sum(one.equal for one in peer.values),
        "explained": sum(one.explained for one in peer.values),
        "not explained": sum(_open(one) for one in peer.values),
        "without a value": sum(bool(one.error) for one in peer.values),
    }
    said = ", ".join(f"{n} {what}" for what, n in counts.items() if n)
    return f"{len(peer.values)} values{': ' if said else ''}{said}"


def number(value: float | None, measure: str = "wasserstein") -> str:
    """Give four digits; a dash for what is not there. Below 1e-7 only W1, which has units, is told apart.

    >>> number(0.123456), number(1.2e-9), number(1.2e-9, "ks_p"), number(0.0), number(None)
    ('0.1235', '1.2e-09', '<1e-7', '0', '–')
    """
    if value is None or math.isnan(value):
        return "–"
    return "<1e-7" if 0 < value < 1e-7 and measure != "wasserstein" else f"{value:.4g}"


def _cells(peer: Peer, one: Beside) -> tuple[str, str, str, str]:
    values = [number(value, one.measure) for value in (one.theirs, one.ours)]
    return MEASURES.get(one.measure, one.measure), peer.name, values[0], values[1]


def _open(one: Beside) -> bool:
    return not (one.equal or one.explained or one.error)


def _by_column(peers: Sequence[Peer]) -> list[tuple[Peer, Beside]]:
    """Put what is said of a column together, measures in order; an error that all have is told once."""
    rows: dict[str, list[tuple[Peer, Beside]]] = {}
    for peer in peers:
        by_name: dict[str, list[Beside]] = {}
        for one in peer.values:
            by_name.setdefault(one.column, []).append(one)
        for name, found in by_name.items():
            if len({one.error for one in found}) == 1 and found[0].error:
                found = [replace(found[0], measure="all", theirs=None, ours=None)]
            rows.setdefault(name, []).extend((peer, one) for one in found)
    order = ["all", *MEASURES]
    return [row for found in rows.values() for row in sorted(found, key=lambda row: order.index(row[1].measure))]


def _finite(value: float | None) -> float | None:
    return value if value is not None and math.isfinite(value) else None
