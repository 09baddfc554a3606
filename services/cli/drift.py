"""`weir drift`: its surface; `services.drift` does the work."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from schemas.errors import FAILURE, OK, USAGE, WeirError
from services.cli.bar import bar
from services.cli.ending import end
from services.drift.page import page
from services.drift.parity import match_files, parity_fails
from services.drift.parity_report import parity_as_object, print_parity
from services.drift.peers import wanted
from services.drift.report import as_object, print_table
from services.drift.run import compare_files, fails
from streams.judge.parity import ABSOLUTE, RELATIVE


def drift(
    reference: Path,
    current: Path,
    *,
    only: Sequence[str],
    without: Sequence[str],
    alpha: float,
    least: float,
    fail_on: Sequence[str],
    html: Path | None,
    top: int,
    as_json: bool,
    compare: str | None = None,
    peer_python: str | None = None,
    embeddings: Sequence[str] = (),
    classify: bool = False,
    keys: Sequence[str] = (),
    tolerance: float = RELATIVE,
    absolute: float = ABSOLUTE,
) -> int:
    """Compare, print, write the page; give the exit code: `FAILURE` when a condition of `fail_on` holds."""
    for name, value in (("alpha", alpha), ("least", least)):
        if not 0 < value < 1:
            what = "a share of rows" if name == "least" else "a share of false ones"
            raise WeirError(f"--{name} {value:g}: expected a number between 0 and 1", fix=f"{what}: 0.05", code=USAGE)
    if keys:
        if html is not None or compare or classify or embeddings:
            raise WeirError(
                "--parity compares rows by key: no --html, --compare, --classifier, --embedding",
                fix="run the two commands one after the other",
                code=USAGE,
            )
        return _parity(reference, current, keys, only, without, tolerance, absolute, fail_on, top, as_json=as_json)
    if peer_python and not compare:
        raise WeirError("--peer-python says where peers are", fix="say which: --compare evidently,nannyml", code=USAGE)
    peers = wanted(compare, peer_python, top) if compare is not None else None
    with bar() as shown:
        found = compare_files(
            reference, current, only=only, without=without, embeddings=embeddings, classify=classify,
            alpha=alpha, least=least, peers=peers, say=shown.say, tell=shown.teller("comparing"),
        )  # fmt: skip
    held = fails(found, fail_on)
    return end(
        held,
        html=html,
        page=lambda: page(found, held),
        as_json=as_json,
        answer=lambda: as_object(found, held),
        show=lambda: print_table(found, Console(markup=False), top),
    )


def _parity(
    reference: Path,
    current: Path,
    keys: Sequence[str],
    only: Sequence[str],
    without: Sequence[str],
    tolerance: float,
    absolute: float,
    fail_on: Sequence[str],
    top: int,
    *,
    as_json: bool,
) -> int:
    for name, value in (("tolerance", tolerance), ("absolute", absolute)):
        if not (value >= 0 and math.isfinite(value)):
            raise WeirError(f"--{name} {value:g}: expected a number of at least 0", fix="leave it out", code=USAGE)
    with bar() as shown:
        found = match_files(
            reference, current, keys, only=only, without=without, relative=tolerance, absolute=absolute, say=shown.say
        )
    held = parity_fails(found, fail_on)
    if as_json:
        print(json.dumps(parity_as_object(found, held), allow_nan=False))
    else:
        print_parity(found, Console(), top)
    for one in held:
        print(f"weir: failed: {one}", file=sys.stderr)
    return FAILURE if held else OK
