"""A story for people, on a terminal of any width; colours only where there is a terminal."""

from __future__ import annotations

from rich.console import Console, RenderableType
from rich.markup import escape
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from services.trace.shape import Answer, Figure, Happened, Pane, Revision, Story, Taught, Told
from services.trace.words import short, time

COLOURS = {
    "standing": "bold",
    "joined": "green",
    "duplicate": "dim",
    "conflict": "yellow",
    "forwarded": "dim",
    "parked": "yellow",
    "unread": "yellow",
    "dead": "red",
    "quarantined": "red",
}
PRINTED = 2_000
"""The width where no terminal says one."""


def show(story: Story, console: Console | None = None) -> None:
    """Print a story."""
    console = console or Console(width=None if Console().is_terminal else PRINTED, highlight=False, soft_wrap=False)
    for part in rendered(story):
        console.print(part)


def rendered(story: Story) -> list[RenderableType]:
    """Give the parts of a story in the order in which things happened."""
    clock = story.clock
    at = "no step of the join has landed" if clock.step is None else f"the join had come to {time(clock.clock_ms)}"
    held = " (held by a freeze)" if clock.held else ""
    parts: list[RenderableType] = [
        line(f"[bold]{escape(story.request_id)}[/]  {story.namespace}, partition {clock.partition}; {at}{held}")
    ]
    if story.events:
        parts += [head("Events"), events(story.events)]
    if story.dead_letters:
        parts.append(head("Dead letters"))
        parts += [line(f"{one.id}  [red]{one.reason}[/]  {escape(one.detail)}", 2) for one in story.dead_letters]
    for answer in story.answers:
        parts += answered(answer)
    if story.trials:
        parts.append(head("Trials"))
        parts += [
            line(f"{escape(one.layer)} / {one.arm}: {one.value:g}{' (taken back)' if one.void else ''}", 2)
            for one in story.trials
        ]
    parts += [line(f"[yellow]note[/] {escape(note)}") for note in story.notes]
    if not story.known:
        parts.append(line(f"[red]Nobody knows request {escape(repr(story.request_id))}.[/] Likely causes:"))
        parts += [line(f"- {escape(cause)}", 2) for cause in story.likely]
    return parts


def head(text: str) -> RenderableType:
    """Give a heading with room before it."""
    return Padding(Text(text, style="bold underline"), (1, 0, 0, 0), expand=False)


def line(markup: str, indent: int = 0) -> RenderableType:
    """Give a line whose continuation is indented as it is."""
    return Padding(Text.from_markup(markup), (0, 0, 0, indent), expand=False)


def events(happened: list[Happened]) -> RenderableType:
    """Give the events as a table, in the order of Kafka's time."""
    table = Table(box=None, padding=(0, 2, 0, 0), show_header=False)
    for _ in range(4):
        table.add_column(overflow="fold")
    for one in happened:
        more = [one.why] if one.why else []
        if one.forwarded_from:
            more.append(f"forwarded from {one.forwarded_from}, first appended {time(one.original_ms)}")
        more += [f"{name}: {value}" for name, value in one.headers.items() if not name.startswith("weir-")]
        said = Text(one.says or short(one.body))
        for words in more:
            said.append(f"\n{words}", style="dim")
        table.add_row(time(one.append_ms), one.position, Text(one.fate, style=COLOURS.get(one.fate, "")), said)
    return Padding(table, (0, 0, 0, 2), expand=False)


def answered(answer: Answer) -> list[RenderableType]:
    """Give one standing prediction with what came of it."""
    name = " ".join(part for part in (answer.model, answer.version, answer.deployment) if part)
    policy = answer.policy
    where = f"set at {policy.set_at}" if policy.set_at else "the default: none was set for its time"
    parts = [
        head(f"{name}{' (shadow)' if answer.role == 'shadow' else ''}"),
        line(f"policy {escape(policy.label)}, {where}; deadline {time(answer.deadline_ms)}", 2),
    ]
    for told in answer.outcomes:
        parts += outcome(told)
    for pane in answer.panes:
        parts += paned(pane)
    if answer.detectors:
        looked = ", ".join(f"{stream} ×{count}" if count > 1 else stream for stream, count in answer.detectors.items())
        parts.append(line(f"[bold]detectors[/] that looked: {escape(looked)}", 2))
    for one in answer.alarms:
        name = "[yellow]review[/]" if one.kind == "review" else "[red]alarm[/]"
        parts.append(line(f"{name} {time(one.at_ms)}  {escape(one.says)}", 2))
    parts += [line(learnt(one), 2) for one in answer.taught]
    return parts


def outcome(told: Told) -> list[RenderableType]:
    """Give the revisions of one outcome and what is pending."""
    item = f" of {escape(told.item)}" if told.item is not None else ""
    parts = [line(f"[bold]{escape(told.name)}[/]{item}: {told.state}", 2)]
    parts += [line(revised(one), 4) for one in told.revisions]
    parts += [line(f"[red]wrong[/] {escape(problem)}", 4) for problem in told.problems]
    if told.revisions and not told.problems:
        parts.append(line("[dim]the chain of revisions holds[/]", 4))
    parts += [line(f"[cyan]next[/] {time(one.at_ms)}  {escape(one.what)}", 4) for one in told.pending]
    return parts


def revised(one: Revision) -> str:
    """Give one revision as a line."""
    label = "nothing" if one.label is None else short(one.label)
    weight = "" if one.weight == 1.0 else f", weight {one.weight:g}"
    cause = f" ({one.cause})" if one.cause else ""
    about = f"{escape(label)} {one.status}{weight}"
    return f"{one.revision}. {time(one.joined_at_ms)}  [bold]{about}[/]  {escape(one.why)}{cause}  [dim]{one.policy}[/]"


def paned(pane: Pane) -> list[RenderableType]:
    """Give one pane with its figures."""
    of = f"{escape(pane.slice)} " if pane.slice else ""
    counts = f"{pane.predictions:,} predictions, {pane.labelled:,} labelled" if pane.predictions else "not landed"
    parts = [line(f"[bold]pane[/] {of}{time(pane.from_ms)} to {time(pane.to_ms)}: {counts}", 2)]
    if pane.figures:
        parts.append(line(numbers(pane.figures), 4))
    if pane.judged:
        first = pane.judged[0]
        parts.append(line(f"judged {time(first.from_ms)} to {time(first.to_ms)} ({pane.windows} windows hold it):", 4))
        parts.append(line(numbers(pane.judged), 6))
    return parts


def numbers(figures: list[Figure]) -> str:
    """Give figures side by side."""
    return "  ".join(f"{one.metric} {number(one.value)}" for one in figures) + f"  [dim]n {figures[0].n:,}[/]"


def learnt(one: Taught) -> str:
    """Say what a training run has of the request."""
    said = {True: "[green]taught[/]", False: "[dim]not in[/]", None: "[yellow]perhaps taught[/]"}[one.included]
    version = f" version {one.version}" if one.version else ""
    put = f"; that version: {', '.join(one.promoted)}" if one.promoted else ""
    return f"{said} run {escape(one.retrain_id)}{version}: {escape(one.why)}{escape(put)}"


def number(value: float | None) -> str:
    """Write a figure.

    >>> number(None), number(0.5), number(0.123456)
    ('?', '0.5', '0.1235')
    """
    return "?" if value is None else f"{value:.4g}"
