"""The curve of cost against open state, as a small SVG that needs no library to draw or to look at."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

WIDTH, HEIGHT = 640, 320
LEFT, RIGHT, TOP, BOTTOM = 64, 40, 44, 52
INK, LINE, GRID = "#333", "#1f6f8b", "#ddd"


def draw(points: Sequence[tuple[float, float]], path: Path, *, note: str) -> None:
    """Draw (open predictions, µs of CPU per event), with a logarithmic axis of the first and one from 0 of the other.

    >>> target = getfixture("tmp_path") / "curve.svg"
    >>> draw([(1e5, 1.2), (1e6, 1.3)], target, note="a machine")
    >>> target.read_text().count("<circle")
    2
    """
    points = sorted(points)
    low, high = math.floor(math.log10(points[0][0]) + 1e-9), math.ceil(math.log10(points[-1][0]) - 1e-9)
    high = max(high, low + 1)
    most = _round_up(1.25 * max(cost for _, cost in points))

    def x(size: float) -> float:
        return LEFT + (math.log10(size) - low) / (high - low) * (WIDTH - LEFT - RIGHT)

    def y(cost: float) -> float:
        return HEIGHT - BOTTOM - cost / most * (HEIGHT - TOP - BOTTOM)

    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" font-family="sans-serif">',
        f'<rect width="{WIDTH}" height="{HEIGHT}" fill="#fff"/>',
        _text(LEFT, 20, "CPU per event of the join, by open predictions", size=14),
        _text(LEFT, 36, note, size=10),
    ]
    for tick in range(5):
        cost = most * tick / 4
        parts.append(f'<line x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y(cost):.1f}" y2="{y(cost):.1f}" stroke="{GRID}"/>')
        parts.append(_text(LEFT - 8, y(cost) + 4, f"{cost:g}", anchor="end"))
    for power in range(low, high + 1):
        place = x(10**power)
        parts.append(f'<line x1="{place:.1f}" x2="{place:.1f}" y1="{TOP}" y2="{HEIGHT - BOTTOM}" stroke="{GRID}"/>')
        parts.append(_text(place, HEIGHT - BOTTOM + 18, f"{10**power:,}", anchor="middle"))
    parts.append(_text((LEFT + WIDTH - RIGHT) / 2, HEIGHT - 12, "open predictions", anchor="middle"))
    parts.append(
        f'<text x="16" y="{HEIGHT / 2}" font-size="11" fill="{INK}" text-anchor="middle" '
        f'transform="rotate(-90 16 {HEIGHT / 2})">µs of CPU per event</text>'
    )
    line = " ".join(f"{x(size):.1f},{y(cost):.1f}" for size, cost in points)
    parts.append(f'<polyline points="{line}" fill="none" stroke="{LINE}" stroke-width="2"/>')
    for size, cost in points:
        parts.append(f'<circle cx="{x(size):.1f}" cy="{y(cost):.1f}" r="3.5" fill="{LINE}"/>')
        parts.append(_text(x(size), y(cost) - 9, f"{cost:.2f}", anchor="middle", size=10))
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join([*parts, "</svg>", ""]))


def _text(x: float, y: float, text: str, *, anchor: str = "start", size: int = 11) -> str:
    plain = text.replace("&", "&amp;").replace("<", "&lt;")
    return f'<text x="{x:.1f}" y="{y:.1f}" font-size="{size}" fill="{INK}" text-anchor="{anchor}">{plain}</text>'


def _round_up(number: float) -> float:
    """Give the next of 1, 2, 4, 8 times a power of ten.

    >>> _round_up(3.1), _round_up(0.9), _round_up(9.0)
    (4.0, 1.0, 10.0)
    """
    power = 10.0 ** math.floor(math.log10(number))
    return next((step * power for step in (1, 2, 4, 8) if step * power >= number), 10 * power)
