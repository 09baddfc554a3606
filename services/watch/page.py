"""The HTML report of `weir watch`: one file, without anything to load, with a table behind every picture."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from pathlib import Path

from schemas.measures import Drift, Metric
from services.drift.page import STYLE, picture
from services.watch.report import Figure, figures, grouped, labelled, moment, notes, parts, span, streams, summary
from services.watch.run import WINDOW_PANES, Watched
from streams.judge.compare import Cell, cell_names
from streams.measure.ledger import FEATURE, Ledger
from streams.measure.reference import Cut, Numeric, cuts

WIDTH, HEIGHT, EDGE = 640, 150, 8
DRAWN = 6
"""So many figures have a curve; a table has all."""
PICTURED = 100
_OWN = Path(__file__).with_name("page.css")


def page(found: Watched, held: Sequence[str]) -> str:
    """Give the report as one HTML document."""
    style = STYLE.read_text(encoding="utf-8") + _OWN.read_text(encoding="utf-8")
    failed = f'<p class="drift">Failed: {escape("; ".join(held))}</p>' if held else ""
    read = "".join(f"<p>{escape(line)}</p>" for line in found.roles)
    noted = "".join(f'<p class="slight">{escape(note)}</p>' for note in notes(found))
    versions = "".join(_version(found, version) for version in found.references)
    return f"""<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<title>Watch: {escape(found.model)}</title><style>{style}</style></head><body><main>
<h1>{escape(found.model)}</h1>
<section><p><b>{escape(summary(found))}</b></p>{failed}
<p>{len(found.events.made):,} predictions, {len(found.events.labels):,} labels, panes of
{_length(found.pane_ms)}. Times are UTC.</p>{read}{noted}
<p class="quiet">Intervals are of 95 %, made between subjects where there are any. Alarms: at most
{found.bounds.budget:g} false ones in 30 days are expected over all streams, whatever depends on what, if the reference
is like the usual.</p></section>
{_alarms(found)}{versions}{_refused(found)}
</main></body></html>
"""


def _length(ms: int) -> str:
    minutes = ms // 60_000
    if minutes % 1_440 == 0:
        return f"{minutes // 1_440} d"
    return f"{minutes // 60} h" if minutes % 60 == 0 else f"{ms / 60_000:g} min"


def _alarms(found: Watched) -> str:
    if not found.alarms:
        return ""
    rows = "".join(
        f"<tr><td>{moment(one.at_ms)}</td><td>{escape(one.stream)}</td><td>{escape(one.version)}</td>"
        f"<td>{moment(one.to_ms - found.pane_ms)}</td><td>{times}</td>"
        f'<td class="text">{escape(one.evidence.sentence)}</td></tr>'
        for one, times in grouped(found)
    )
    head = "<tr><th>first</th><th>stream</th><th>version</th><th>pane from</th><th>times</th>"
    head += '<th class="text">evidence of the first</th></tr>'
    return f'<section class="wide"><h2>Alarms</h2><table><thead>{head}</thead><tbody>{rows}</tbody></table></section>'


def _version(found: Watched, version: str) -> str:
    reference = found.references[version]
    with_label, rows = labelled(found, version)
    share = f"{with_label / rows:.1%} of {rows:,} predictions are labelled" if rows else "no predictions"
    title = f"<h2>Version {escape(version)}</h2>" if version else "<h2>Figures</h2>"
    told = figures(found, version)
    table = "".join(f"<tr>{_told(one)}</tr>" for one in told)
    head = "<tr><th>metric</th><th>reference</th><th>since</th><th>n since</th><th></th></tr>"
    curves = "".join(_curve(found, version, one.name) for one in told[:DRAWN])
    return f"""<section class="wide">{title}<p>{reference.n:,} rows are the reference; judged from
{moment(found.cuts[version])}; {share}.</p><p class="quiet">Worse, better, moved: the two intervals do not overlap.</p>
<table class="figures"><thead>{head}</thead><tbody>{table}</tbody></table></section>
{curves}{_slices(found, version)}{_streams(found, version)}{_columns(found, version)}"""


_CLASS = {"worse": "drift", "better": "steady", "moved": "slight"}


def _told(one: Figure) -> str:
    n = "–" if one.since is None else f"{one.since.n:,}"
    verdict = f'<td class="{_CLASS.get(one.verdict, "")}">{one.verdict}</td>'
    return f"<td>{escape(one.name)}</td><td>{span(one.before)}</td><td>{span(one.since)}</td><td>{n}</td>{verdict}"


def _slices(found: Watched, version: str) -> str:
    rows = [
        f"<tr><td>{escape(part)}</td>{_told(one)}</tr>"
        for part in parts(found, version)
        for one in figures(found, version, part)[:2]
    ]
    if not rows:
        return ""
    head = "<tr><th>slice</th><th>metric</th><th>reference</th><th>since</th><th>n since</th><th></th></tr>"
    note = '<p class="quiet">Each interval by itself: of many slices some are apart by chance.</p>'
    return (
        f'<section class="wide"><h2>Slices</h2>{note}<table><thead>{head}</thead>'
        f"<tbody>{''.join(rows)}</tbody></table></section>"
    )


def _streams(found: Watched, version: str) -> str:
    raised = {(one.slice, one.stream) for one in found.alarms if one.version == version}
    rows = "".join(
        f'<tr><td>{escape(one.stream)}</td><td class="{_state(one, raised)}">{_state_name(one, raised)}</td>'
        f"<td>{_number(one.evidence.statistic)} of {_number(one.evidence.threshold)}</td>"
        f"<td>{_number(one.distances.get('psi'))}</td><td>{_number(one.distances.get('ks'))}</td></tr>"
        for one in streams(found)
        if one.version == version
    )
    if not rows:
        return ""
    head = "<tr><th>stream</th><th></th><th>evidence now</th><th>PSI</th><th>KS</th></tr>"
    return (
        f'<section class="wide"><h2>Streams</h2><p class="quiet">Evidence that a stream is worse or other than the '
        f"reference; at the limit it is an alarm, and begins anew. Distances are of the last {WINDOW_PANES} panes.</p>"
        f"<table><thead>{head}</thead><tbody>{rows}</tbody></table></section>"
    )


def _state(one: Drift, raised: set[tuple[str, str]]) -> str:
    return "drift" if (one.slice, one.stream) in raised else "steady"


def _state_name(one: Drift, raised: set[tuple[str, str]]) -> str:
    return "alarm" if (one.slice, one.stream) in raised else "quiet"


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:.3g}"


def _columns(found: Watched, version: str) -> str:
    """Draw the features since the cut beside the reference, those with most evidence first."""
    reference = found.references[version]
    since = found.replayed.ledgers.get((version, "", True), Ledger())
    bins = cuts(reference)
    order = [one.stream for one in streams(found) if one.version == version]
    rank = {stream.removeprefix("feature:"): place for place, stream in enumerate(order)}
    drawn = []
    for name in sorted(bins, key=lambda name: (rank.get(name, len(rank)), name))[:PICTURED]:
        cells = _cells(bins[name], reference.counts.get(FEATURE + name, []), since, FEATURE + name)
        if drawing := picture(name, cells):
            drawn.append(f"<h3>{escape(name)}</h3>{drawing}")
    if not drawn:
        return ""
    key = '<p><span class="key b">reference</span> <span class="key a">since</span></p>'
    return f"<section><h2>Columns</h2>{key}{''.join(drawn)}</section>"


def _cells(cut: Cut, before: Sequence[int], since: Ledger, vector: str) -> list[Cell]:
    if isinstance(cut, Numeric):
        names = [*cell_names(cut.edges, cut.least, cut.greatest), "missing"]
        size = len(cut.edges) + 1
        order = [size + 1, *range(size), size + 2, size]
    else:
        names = [*cut.index, "missing", "unseen"]
        order = list(range(len(names)))
    counts = since.cells.get(vector, {})
    known = dict(enumerate(before))
    found = [(name, known.get(place, 0), counts.get(place, 0)) for name, place in zip(names, order, strict=True)]
    return [cell for cell in found if cell[1] or cell[2]]


def _curve(found: Watched, version: str, name: str) -> str:
    """Draw a figure pane by pane: a line, its interval, the cut and the alarms about quality."""
    series = [one for one in found.series(version, name) if one.value is not None]
    if len(series) < 2:
        return ""
    first, last = series[0].from_ms, series[-1].to_ms
    values = [end for one in series for end in (one.value, one.low, one.high) if end is not None]
    low, high = min(values), max(values)
    room = (high - low) or 1.0

    def x(ms: float) -> float:
        return EDGE + (ms - first) / max(last - first, 1) * (WIDTH - 2 * EDGE)

    def y(value: float) -> float:
        return HEIGHT - EDGE - (value - low) / room * (HEIGHT - 2 * EDGE)

    def middle(one: Metric) -> float:
        return x((one.from_ms + one.to_ms) / 2)

    line = " ".join(f"{middle(one):.1f},{y(one.value):.1f}" for one in series if one.value is not None)
    sure = [one for one in series if one.low is not None and one.high is not None]
    upper = [f"{middle(one):.1f},{y(one.high):.1f}" for one in sure if one.high is not None]
    lower = [f"{middle(one):.1f},{y(one.low):.1f}" for one in reversed(sure) if one.low is not None]
    band = f'<polygon class="band" points="{" ".join([*upper, *lower])}"/>' if len(sure) > 1 else ""
    cut = x(found.cuts[version])
    marks = f'<line class="cut" x1="{cut:.1f}" x2="{cut:.1f}" y1="0" y2="{HEIGHT}"/>'
    raised = [one for one in found.alarms if one.version == version and one.stream.startswith("quality")]
    for one in raised:
        at = min(max(x(one.to_ms), EDGE), WIDTH - EDGE)
        marks += f'<line class="alarm" x1="{at:.1f}" x2="{at:.1f}" y1="0" y2="{HEIGHT}"><title>{escape(one.stream)}'
        marks += "</title></line>"
    rows = "".join(
        f"<tr><td>{moment(one.from_ms)}</td><td>{one.value:.4g}</td>"
        f"<td>{_number(one.low)}</td><td>{_number(one.high)}</td><td>{one.n:,}</td></tr>"
        for one in series
        if one.value is not None
    )
    head = "<tr><th>from</th><th>value</th><th>low</th><th>high</th><th>n</th></tr>"
    label = f"{escape(name)} in {len(series)} panes, from {series[0].value:.4g} to {series[-1].value:.4g}"
    return f"""<section><h3>{escape(name)}</h3>
<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{label}">{band}{marks}
<polyline class="curve" points="{line}"/></svg>
<p class="quiet">{moment(first)} … {moment(last)}; {low:.4g} … {high:.4g}; the dashed line ends the reference</p>
<details><summary>the figures</summary><div class="wide"><table><thead>{head}</thead><tbody>{rows}</tbody></table></div>
</details></section>"""


def _refused(found: Watched) -> str:
    refused = found.refused
    if not refused.counts and not found.left_out:
        return ""
    lines = [f"{count:,} rows: {reason}" for reason, count in refused.counts.most_common()]
    lines += refused.examples
    lines += [f"column {name}: left out, {why}" for name, why in found.left_out]
    return f"<section><h2>Refused and left out</h2>{''.join(f'<p>{escape(line)}</p>' for line in lines)}</section>"
