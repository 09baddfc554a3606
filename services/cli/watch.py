"""`weir watch`: its surface; `services.watch` does the work."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from schemas.errors import FAILURE, OK, WeirError
from services.cli.bar import bar
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
    if html is not None:
        try:
            html.write_text(page(found, held), encoding="utf-8")
        except OSError as error:
            raise WeirError(f"{html} cannot be written: {error.strerror}", fix="name another file") from None
    if as_json:
        print(json.dumps(as_object(found, held), allow_nan=False))
    else:
        print_report(found, Console(markup=False))
        if html is not None:
            print(f"report: {html}")
    for one in held:
        print(f"weir: failed: {one}", file=sys.stderr)
    return FAILURE if held else OK
