"""`weir watch`: its surface; `services.watch` does the work."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from services.cli.bar import bar
from services.cli.ending import end
from services.watch.page import page
from services.watch.reading import Options
from services.watch.report import as_object, fails, print_report
from services.watch.run import watch
from services.watch.tables import Tables


def watch_files(
    predictions: Path,
    labels: Path | None,
    reference: Path | None,
    options: Options,
    *,
    html: Path | None,
    fail_on: Sequence[str],
    as_json: bool,
) -> int:
    """Watch, print, write the page; give the exit code: `FAILURE` when a condition of `fail_on` holds."""
    with bar() as shown, Tables(shown.say) as tables:
        opened = tables.open(predictions)
        beside = None if labels is None else tables.open(labels)
        usual = None if reference is None else tables.open(reference)
        found = watch(opened, beside, usual, options, say=shown.say, advance=shown.advance)
    held = fails(found, fail_on)
    return end(
        held,
        html=html,
        page=lambda: page(found, held),
        as_json=as_json,
        answer=lambda: as_object(found, held),
        show=lambda: print_report(found, Console(markup=False)),
    )
