"""Write `docs/img/watch.png`: the HTML report of a table whose score stops to mean anything.

Run by hand where Debian's chromium is, from the root of the repository: `python -m tests.services.watch.picture`.
"""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

from playwright.sync_api import sync_playwright

from services.client import watch
from tests.fixtures_chromium import FLAGS
from tests.services.drift.picture import shoot
from tests.services.watch.tables import made

PICTURE = Path(__file__).parents[3] / "docs" / "img" / "watch.png"


def main() -> None:
    """Write it."""
    with tempfile.TemporaryDirectory() as place, sync_playwright() as playwright:
        html = Path(place) / "watch.html"
        watch(made(2, 9_000, broken=True, older=8.0), model="credit").to_html(html)
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=FLAGS)
        shoot(browser, html, PICTURE)
        browser.close()


if __name__ == "__main__":
    main()
