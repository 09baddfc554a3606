"""How a command that judges files ends: its page written, its answer printed, what failed said, its exit code."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from schemas.errors import FAILURE, OK, WeirError


def end(
    held: Sequence[str],
    *,
    html: Path | None,
    page: Callable[[], str],
    as_json: bool,
    answer: Callable[[], dict[str, Any]],
    show: Callable[[], None],
) -> int:
    """Give the exit code: `FAILURE` where conditions `held`. Only what is asked for is made."""
    if html is not None:
        try:
            html.write_text(page(), encoding="utf-8")
        except OSError as error:
            raise WeirError(f"{html} cannot be written: {error.strerror}", fix="name another file") from None
    if as_json:
        print(json.dumps(answer(), allow_nan=False))
    else:
        show()
        if html is not None:
            print(f"report: {html}")
    for one in held:
        print(f"weir: failed: {one}", file=sys.stderr)
    return FAILURE if held else OK
