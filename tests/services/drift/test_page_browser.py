"""The HTML report in a real browser: nothing is loaded, nothing sticks out, everything is drawn, in light and dark."""

from __future__ import annotations

from pathlib import Path

import pytest
from playwright.sync_api import Browser

from services.drift.run import Drift
from tests.services.drift.picture import PICTURE, report, shoot

pytestmark = pytest.mark.browser


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> tuple[Drift, Path]:
    return report(tmp_path_factory.mktemp("report"))


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [360, 1280])
def test_it_is_drawn_and_loads_nothing(browser: Browser, written: tuple[Drift, Path], scheme: str, width: int) -> None:
    found, html = written
    page = browser.new_page(
        viewport={"width": width, "height": 800}, color_scheme="dark" if scheme == "dark" else "light"
    )
    asked: list[str] = []
    said: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    page.on("console", lambda message: said.append(message.text))
    page.on("pageerror", lambda error: said.append(str(error)))
    page.goto(html.as_uri())
    assert asked == [html.as_uri()]
    assert said == []
    assert page.locator("svg").count() == len(found.columns) == 4
    boxes = [page.locator("svg").nth(k).bounding_box() for k in range(4)]
    assert all(box is not None and box["height"] > 20 and box["x"] + box["width"] <= width for box in boxes)
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    paper = page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert (sum(int(part) for part in paper.removeprefix("rgb(").rstrip(")").split(",")) < 200) == (scheme == "dark")
    for text in ("MMD²", "Classifier", "32 of 32 coordinates move"):
        assert page.get_by_text(text).first.is_visible()
    page.close()


def test_the_picture_in_the_docs_is_one_of_this_report(
    browser: Browser, written: tuple[Drift, Path], tmp_path: Path
) -> None:
    """Not pixel by pixel, fonts differ: of the same size, and no blank page."""
    shoot(browser, written[1], tmp_path / "now.png")
    now, kept = (tmp_path / "now.png").read_bytes(), PICTURE.read_bytes()
    assert now[:24] == kept[:24]  # the header says width and height
    assert len(kept) == pytest.approx(len(now), rel=0.5)
    assert len(kept) < 200_000
