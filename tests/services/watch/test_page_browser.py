"""The report of `weir watch` in a real browser: nothing is loaded, nothing sticks out, in light and dark."""

from __future__ import annotations

from pathlib import Path

import pytest
from playwright.sync_api import Browser

from services.client import watch
from tests.services.watch.tables import made

pytestmark = pytest.mark.browser


@pytest.fixture(scope="module")
def html(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("report") / "watch.html"
    watch(made(2, 9_000, broken=True, older=8.0), model="<credit>", slice="channel").to_html(path)
    return path


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [360, 1280])
def test_it_is_drawn_and_loads_nothing(browser: Browser, html: Path, scheme: str, width: int) -> None:
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
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    assert page.get_by_role("heading", name="<credit>").is_visible()
    assert page.locator("polyline.curve").count() == 6
    assert page.locator("line.alarm").count() >= 6
    assert page.get_by_role("cell", name="channel=web").first.is_visible()
    page.get_by_text("the figures").first.click()
    assert page.locator("details[open] table tr").count() > 20
    paper = page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert (sum(int(part) for part in paper.removeprefix("rgb(").rstrip(")").split(",")) < 200) == (scheme == "dark")
    page.close()
