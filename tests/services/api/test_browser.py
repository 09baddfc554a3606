"""The page in a real browser against a real server: what people see, live, by keyboard, under the policy."""

from __future__ import annotations

import re
from collections.abc import Iterator

import pytest
from playwright.sync_api import Browser, BrowserContext, Page, expect

from schemas.event import decode, encode
from schemas.lifecycle import Alert, Approval, Promote
from services.kafka import Sender, read_to_end
from tests.services.api.serving import TOKEN, Asker
from tests.services.api.story import MINUTE_MS, MODEL, PANES, ROLLOUT, WINDOW, metric

pytestmark = [pytest.mark.browser, pytest.mark.kafka, pytest.mark.clickhouse]


@pytest.fixture
def context(browser: Browser) -> Iterator[BrowserContext]:
    context = browser.new_context(viewport={"width": 1280, "height": 900})
    context.set_default_timeout(20_000)
    yield context
    context.close()


@pytest.fixture
def page(context: BrowserContext) -> Iterator[Page]:
    """Give a page that must stay without errors and without violations of its policy (Chromium logs these)."""
    page = context.new_page()
    said: list[str] = []
    page.on("console", lambda message: said.append(f"{message.type}: {message.text}"))
    page.on("pageerror", lambda error: said.append(f"error: {error}"))
    yield page
    assert said == []


def opened(page: Page, house: Asker) -> Page:
    page.goto(f"{house.url}/#token={TOKEN}")
    expect(page.locator("#connection")).to_contain_text("live")
    expect(page.locator("#quality-chart canvas")).to_be_visible()
    return page


def test_shows_what_the_story_tells(page: Page, house: Asker) -> None:
    opened(page, house)
    assert TOKEN not in page.url
    tiles = page.locator("#tiles")
    last = [p for p in house.get(f"models/{MODEL}/quality")["points"] if p["version"] == "v1" and p["closed"]][-1]
    expect(tiles).to_contain_text(f"{last['value']:.3f} ± {(last['high'] - last['low']) / 2:.3f}")
    expect(tiles).to_contain_text("canary")
    expect(tiles).to_contain_text("residual 0, 3 dead letters")
    expect(page.locator("#quality-caption")).to_contain_text(f"Accuracy of v1 is {last['value']:.3f}")
    expect(page.locator("#quality-caption")).to_contain_text("labels are still coming: 30 % so far")
    expect(page.locator("#quality-caption")).to_contain_text("From the labels so far it will be 0.")
    expect(page.locator("#quality-caption")).to_contain_text(
        "Of 412 such intervals (worth 27 independent ones) 91 % held"
    )
    chart = page.get_by_role("img", name=re.compile("Accuracy of v1 is"))
    expect(chart).to_be_visible()

    drift = page.get_by_role("region", name="Each stream against the reference of its version")
    row = drift.locator("tr", has_text="feature:age")
    expect(row).to_contain_text("alarm")
    expect(row).to_contain_text("(0.031)")
    expect(row.get_by_role("img")).to_have_attribute("aria-label", re.compile("alarms"))
    expect(row).to_contain_text("2 so far: 1 benign, 0 harmful")
    page.locator("#drift summary", has_text="Can the alarms be believed?").click()
    expect(page.locator("#drift")).to_contain_text("as promised placebo:rows v1: the machinery raised 2 alarms")

    feedback = page.locator("#feedback")
    expect(feedback).to_contain_text("900")
    expect(feedback.get_by_role("img", name=re.compile("Share of predictions with a label by age"))).to_be_visible()
    rollout = page.locator("#rollout")
    expect(rollout.locator("[aria-current=step]")).to_have_text("canary")
    expect(rollout).to_contain_text("challenger minus champion 0.07")
    expect(rollout).to_contain_text("shadow: v2 is better by 0.08")
    expect(page.locator("#alerts")).to_contain_text("errors rose from 9 % to 21 %")
    expect(page.locator("#alerts")).to_contain_text("2 alarms")  # one incident, the errors first
    expect(page.locator("#alerts details ol li").first).to_contain_text("quality")
    expect(page.locator("#rollout")).to_contain_text("Decided on figures that were corrected (1)")
    expect(page.locator("#rollout")).to_contain_text("would not stand")
    expect(page.locator("#pipeline")).to_contain_text("orphan")
    sources = page.get_by_role("region", name="Labels that came and that were due")
    expect(sources.locator("tr", has_text="market")).to_contain_text("flows")
    expect(sources.locator("tr", has_text="market")).to_contain_text("30.5")
    expect(sources.locator("tr", has_text="desk")).to_contain_text("learning")


def test_thresholds_follow_what_mistakes_cost(page: Page, house: Asker) -> None:
    opened(page, house)
    thresholds = page.locator("#thresholds")
    expect(thresholds.get_by_role("img", name=re.compile("A false positive costs 1"))).to_be_visible()
    told = house.get(f"models/{MODEL}/thresholds", cost_fp=1, cost_fn=1)["versions"][0]["best"]
    assert 0.3 < told["threshold"] < 0.7
    expect(page.locator("#thresholds-caption")).to_contain_text(f"{told['cost']:.3f} an outcome")
    page.get_by_role("spinbutton", name="a false negative").fill("20")
    dear = house.get(f"models/{MODEL}/thresholds", cost_fp=1, cost_fn=20)["versions"][0]["best"]
    assert dear["threshold"] < 0.2
    expect(page.locator("#thresholds-caption")).to_contain_text("a false negative 20")
    expect(page.locator("#thresholds-caption")).to_contain_text(f"{dear['cost']:.3f} an outcome")
    assert "cost_fn=20" in page.url  # it can be sent to somebody
    page.get_by_role("spinbutton", name="a false negative").fill("-1")
    expect(page.get_by_text("A cost is a number from 0 on.")).to_be_visible()
    page.locator("#thresholds summary").click()
    expect(thresholds.locator("tbody tr", has_text="least cost")).to_have_count(1)


def test_slices_stand_worst_first(page: Page, house: Asker) -> None:
    opened(page, house)
    lanes = page.get_by_role("list", name="Slices of accuracy, the worst first").get_by_role("listitem")
    expect(lanes).to_have_count(3)
    expect(lanes.first).to_contain_text("country=FR")
    expect(lanes.first).to_contain_text("worse by")
    expect(lanes.last).not_to_contain_text("worse by")
    page.get_by_role("button", name="country=FR").click()
    expect(page.locator("#slice")).to_have_value("country=FR")
    expect(page.locator("#thresholds")).to_contain_text("No scored outcome of country=FR in this span of time.")


def test_tables_stand_behind_the_charts(page: Page, house: Asker) -> None:
    opened(page, house)
    page.locator("#quality-table summary", has_text="Show as table").click()
    table = page.get_by_role("region", name=re.compile("The newest 30 figures of accuracy"))
    expect(table.locator("tbody tr").first).to_contain_text("still maturing")
    expect(table.locator("tbody tr", has_text="closed").first).to_be_visible()
    page.locator("#quality-table summary", has_text="What happened").click()
    expect(page.locator("#quality-table")).to_contain_text("retrain asked: errors rose")
    page.locator("#feedback summary", has_text="Show as table").click()
    expect(page.get_by_role("region", name="Labels by time of prediction").locator("tbody tr")).to_have_count(12)


def test_changes_live_and_keeps_what_is_open(page: Page, house: Asker, origin_ms: int) -> None:
    opened(page, house)
    summary = page.locator("#quality-table summary", has_text="Show as table")
    summary.click()
    end = origin_ms + (PANES + 30) * MINUTE_MS
    with Sender(house.settings, "test") as sender:
        figure = metric("v1", end - WINDOW * MINUTE_MS, end, 0.5678, 4_000, end)
        sender.send("metrics", encode(figure), key=MODEL.encode())
    expect(page.locator("#tiles")).to_contain_text("0.568 ±")
    expect(page.locator("#quality-table tbody tr").first).to_contain_text("0.568")
    expect(page.locator("#quality-table details").first).to_have_attribute("open", "")
    alert = Alert(id="a-live", fingerprint="f-live", rule="quality:accuracy", severity="critical", model=MODEL,
                  summary="accuracy of v1 is 0.568, below the limit", at_ms=end)  # fmt: skip
    with Sender(house.settings, "test") as sender:
        sender.send("alerts", encode(alert), key=b"a")
    expect(page.locator("#alerts")).to_contain_text("below the limit")
    expect(page.locator("#announcer")).to_contain_text("Alert: accuracy of v1", timeout=20_000)


def test_pause_stands_still_and_resume_catches_up(page: Page, house: Asker, origin_ms: int) -> None:
    opened(page, house)
    page.get_by_role("button", name="Pause").click()
    expect(page.locator("#connection")).to_contain_text("paused")
    caption = page.locator("#quality-caption").inner_text()
    end = origin_ms + (PANES + 60) * MINUTE_MS
    with Sender(house.settings, "test") as sender:
        figure = metric("v1", end - WINDOW * MINUTE_MS, end, 0.4321, 4_000, end)
        sender.send("metrics", encode(figure), key=MODEL.encode())
    page.wait_for_timeout(1_500)
    assert page.locator("#quality-caption").inner_text() == caption
    page.get_by_role("button", name="Resume").click()
    expect(page.locator("#tiles")).to_contain_text("0.432 ±")


def test_a_person_approves_with_the_keyboard_alone(page: Page, house: Asker) -> None:
    opened(page, house)
    page.keyboard.press("Tab")
    expect(page.get_by_role("link", name="Skip to content")).to_be_focused()
    page.keyboard.press("Enter")
    expect(page.locator("main")).to_be_focused()
    approve = page.get_by_role("button", name="Approve the next stage")
    for _ in range(80):
        page.keyboard.press("Tab")
        if approve.evaluate("element => element === document.activeElement"):
            break
    expect(approve).to_be_focused()
    assert approve.evaluate("element => getComputedStyle(element).outlineStyle") == "solid"
    page.keyboard.press("Enter")
    dialog = page.get_by_role("dialog", name=f"Approve the rollout of {MODEL}?")
    expect(dialog).to_be_visible()
    page.keyboard.press("Escape")
    expect(dialog).to_be_hidden()
    expect(approve).to_be_focused()
    page.keyboard.press("Enter")
    page.get_by_label("Your name").fill("Ada")
    page.get_by_label("Note, kept in the audit").fill("looked at it")
    page.get_by_label("Your name").press("Enter")
    expect(dialog).to_be_hidden()
    expect(page.locator("#rollout")).to_contain_text("Ada: looked at it")
    (event,) = [
        decode(message.value() or b"", Approval)
        for message in read_to_end(house.settings, "approvals")
        if message.key() == MODEL.encode()
    ]
    assert (event.rollout_id, event.decision, event.by) == (ROLLOUT, "approve", "Ada")


def test_a_promotion_moves_the_stage(page: Page, house: Asker, origin_ms: int) -> None:
    opened(page, house)
    message = list(read_to_end(house.settings, "promote"))[-1]
    known = decode(message.value() or b"", Promote)
    later = Promote(
        endpoint="default", model=MODEL, revision=known.revision + 1, rollout_id=ROLLOUT, stage="rollback",
        deployments=known.deployments[:1], reason="v2 ends in canary: the evidence is against it",
        at_ms=origin_ms + PANES * MINUTE_MS,
    )  # fmt: skip
    with Sender(house.settings, "test") as sender:
        sender.send("promote", encode(later), key=b"default")
    expect(page.locator("#rollout")).to_contain_text("rolled back: the champion alone")
    expect(page.locator("#rollout")).to_contain_text("the evidence is against it")


def test_times_and_colours_are_the_reader_s_choice(browser: Browser, house: Asker) -> None:
    context = browser.new_context(timezone_id="Australia/Sydney", color_scheme="dark")
    page = opened(context.new_page(), house)
    dark = page.evaluate("getComputedStyle(document.body).backgroundColor")
    utc = page.locator("#alerts tbody tr").first.inner_text()
    page.get_by_role("button", name=re.compile("Times are in UTC")).click()
    expect(page.locator("#zone")).to_have_text("Local")
    expect(page.locator("#alerts tbody tr").first).not_to_have_text(utc)
    page.get_by_label("Colours").select_option("light")
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") != dark
    page.reload()
    expect(page.locator("#zone")).to_have_text("Local")
    expect(page.get_by_label("Colours")).to_have_value("light")
    context.close()


@pytest.mark.parametrize("width", [320, 390, 768, 1280])
def test_nothing_is_wider_than_the_window(browser: Browser, house: Asker, width: int) -> None:
    context = browser.new_context(viewport={"width": width, "height": 800})
    page = opened(context.new_page(), house)
    expect(page.locator("#pipeline")).to_contain_text("orphan")
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    context.close()


def test_a_wrong_token_is_asked_for_and_not_kept(context: BrowserContext, house: Asker) -> None:
    page = context.new_page()
    page.goto(f"{house.url}/#token=wrong")
    expect(page.get_by_role("alert").first).to_contain_text("the token is not the one of this server")
    expect(page.get_by_label("Paste the token")).to_be_focused()
    assert page.evaluate("sessionStorage.length") == 0
    page.get_by_label("Paste the token").fill(TOKEN)
    page.keyboard.press("Enter")
    expect(page.locator("#connection")).to_contain_text("live")
    expect(page.get_by_label("Paste the token")).to_be_hidden()
    page.reload()
    expect(page.locator("#connection")).to_contain_text("live")


def test_without_a_token_it_says_where_to_find_one(page: Page, house: Asker) -> None:
    page.goto(house.url)
    expect(page.locator("#entry")).to_contain_text("weir up")
    expect(page.locator("#house")).to_be_hidden()
