"""Write `docs/img/drift.png`: the HTML report of two tables with a moved number, a moved category and moved embeddings.

Run by hand where Debian's chromium is, from the root of the repository: `python -m tests.services.drift.picture`.
"""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from playwright.sync_api import Browser, sync_playwright

from services.drift.page import page
from services.drift.run import Drift, compare_files
from tests.fixtures_chromium import FLAGS

PICTURE = Path(__file__).parents[3] / "docs" / "img" / "drift.png"
WIDTH, HEIGHT = 900, 1_050


def sides() -> tuple[pa.Table, pa.Table]:
    """Give a reference and a current table."""
    found = []
    for seed, n, moved in ((1, 6_000, False), (2, 4_000, True)):
        draw = np.random.default_rng(seed)
        shares = [0.4, 0.3, 0.2, 0.1] if moved else [0.5, 0.3, 0.15, 0.05]
        found.append(
            pa.table(
                {
                    "age": draw.normal(44 if moved else 40, 10, n),
                    "amount": draw.lognormal(3, 1, n),
                    "country": draw.choice(["de", "fr", "it", "es"], n, p=shares).tolist(),
                    "embedding": (draw.normal(size=(n, 32)) + (0.15 if moved else 0.0)).tolist(),
                }
            )
        )
    return found[0], found[1]


def report(place: Path) -> tuple[Drift, Path]:
    """Compare the two in a folder and write the page there."""
    names = ("train.parquet", "week.parquet")
    for name, table in zip(names, sides(), strict=True):
        pq.write_table(table, place / name)
    found = compare_files(place / names[0], place / names[1], classify=True)
    found.reference, found.current = names
    html = place / "drift.html"
    html.write_text(page(found, []), encoding="utf-8")
    return found, html


def shoot(browser: Browser, html: Path, to: Path) -> None:
    """Take a picture of the top of a page."""
    shown = browser.new_page(viewport={"width": WIDTH, "height": HEIGHT}, color_scheme="light")
    shown.goto(html.as_uri())
    shown.screenshot(path=to)
    shown.close()


def main() -> None:
    with tempfile.TemporaryDirectory() as place, sync_playwright() as playwright:
        _, html = report(Path(place))
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=FLAGS)
        shoot(browser, html, PICTURE)
        browser.close()


if __name__ == "__main__":
    main()
