"""The HTML report: one file, without anything to load, that can be mailed, archived and read in twenty years."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from pathlib import Path

from services.drift.peers_report import peers_section
from services.drift.report import figures, heads, summary, told_apart
from services.drift.run import Drift
from streams.judge.compare import Cell, Compared

DRAWN = 200
"""So many columns, the worst, have a picture; a table names all."""
WIDTH, HEIGHT, GAP = 640, 120, 1

STYLE = Path(__file__).with_name("page.css")


def page(found: Drift, held: list[str]) -> str:
    """Give the report as one HTML document."""
    names = "".join(f"<th>{name}</th>" for name in ("column", "verdict", *heads(found)))
    rows = "".join(_row(number, one, found) for number, one in enumerate(found.columns))
    pictures = "".join(_section(number, one) for number, one in enumerate(found.columns[:DRAWN]))
    left = [f"<b>{escape(name)}</b>: another type: {escape(what)}" for name, what in found.changed]
    left += [f"<b>{escape(name)}</b>: gone from the current table" for name in found.gone]
    left += [f"<b>{escape(name)}</b>: new, nothing to compare with" for name in found.new]
    left += [f"<b>{escape(name)}</b>: left out: {escape(why)}" for name, why in found.left_out]
    failed = f'<p class="drift">Failed: {escape("; ".join(held))}</p>' if held else ""
    others = f"<section><h2>Not compared</h2>{''.join(f'<p>{line}</p>' for line in left)}</section>" if left else ""
    return f"""<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<title>Drift: {escape(found.current)}</title><style>{STYLE.read_text(encoding="utf-8")}</style></head><body><main>
<h1>Drift</h1>
<section><p><span class="key b">reference</span> {escape(found.reference)}, {found.rows[0]:,} rows</p>
<p><span class="key a">current</span> {escape(found.current)}, {found.rows[1]:,} rows</p>
<p><b>{escape(summary(found))}</b></p>{failed}
<p class="quiet">Drift: chance is ruled out at {found.alpha:g}, adjusted for the number of columns, and at least
{found.least:.0%} of the rows differ (total variation). Slight: ruled out, but fewer differ. Unclear: too few rows to
see such a difference. Rows are taken as independent.</p></section>
<section class="wide"><table><thead><tr>{names}</tr></thead><tbody>{rows}</tbody></table></section>
{_classifier(found)}{others}{peers_section(found.peers)}{pictures}
</main></body></html>
"""


def _classifier(found: Drift) -> str:
    if found.classifier is None:
        return ""
    verdict = found.classifier.verdict
    return f"""<section><h2>Classifier <span class="{verdict}">{verdict}</span></h2>
<p>{escape(told_apart(found.classifier))}</p>
<p class="quiet">Gradient-boosted trees learn on four fifths of the rows which table each comes from, and are
asked about the last fifth; AUC ½ is guessing. In brackets: the AUC that is lost when a column is
shuffled.</p></section>"""


def _row(number: int, one: Compared, found: Drift) -> str:
    name = f'<a href="#c{number}">{escape(one.name)}</a>' if number < DRAWN else escape(one.name)
    cells = "".join(f"<td>{escape(text)}</td>" for text in figures(one, found))
    return f'<tr><td>{name}</td><td class="{one.verdict}">{one.verdict}</td>{cells}</tr>'


def _section(number: int, one: Compared) -> str:
    return (
        f'<section id="c{number}"><h2>{escape(one.name)} <span class="{one.verdict}">{one.verdict}</span></h2>'
        f'<p class="quiet">{escape(one.sentence)}</p>{picture(one.name, one.cells)}</section>'
    )


def picture(title: str, cells: Sequence[Cell]) -> str:
    """Draw the shares of reference and current, a pair of bars for each cell; nothing where one side has no rows."""
    n, m = sum(a for _, a, _ in cells), sum(c for _, _, c in cells)
    if not n or not m:
        return ""
    tallest = max(max(a / n, c / m) for _, a, c in cells)
    step = WIDTH / len(cells)
    wide = max((step - 2 * GAP) / 2, 0.5)
    bars = []
    for place, (name, a, c) in enumerate(cells):
        shares = a / n, c / m
        tall = [share / tallest * HEIGHT for share in shares]
        x = place * step + GAP
        told = f"<title>{escape(name)}: {shares[0]:.1%} → {shares[1]:.1%}</title>"
        bars.append(f"<g>{told}{_bar('b', x, wide, tall[0])}{_bar('a', x + wide, wide, tall[1])}</g>")
    first, last = escape(cells[0][0]), escape(cells[-1][0])
    label = f"{escape(title)}: shares of {len(cells)} cells, reference and current"
    return (
        f'<svg viewBox="0 0 {WIDTH} {HEIGHT + 2}" role="img" aria-label="{label}">{"".join(bars)}</svg>'
        f'<p class="quiet">{first} … {last}</p>'
    )


def _bar(side: str, x: float, wide: float, tall: float) -> str:
    return f'<rect class="{side}" x="{x:.1f}" y="{HEIGHT - tall:.1f}" width="{wide:.1f}" height="{tall:.1f}"/>'
