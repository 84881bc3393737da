"""The report as people see it: on a desk, on a phone, in the dark, on paper, by keyboard."""

import json

import pytest
from looking import LOWEST_CONTRAST, accuracy_table, boxes, emulate, header, hold_a_phone
from selenium.webdriver import Chrome
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys

pytestmark = pytest.mark.slow


def test_the_page_asks_for_nothing(report: Chrome, page: str) -> None:
    events = [json.loads(entry["message"])["message"] for entry in report.get_log("performance")]
    asked = [
        event["params"]["request"]["url"]
        for event in events
        if event["method"] == "Network.requestWillBeSent"
    ]
    assert page in asked
    assert all(url == page or url.startswith("data:") for url in asked)


def test_figures_are_visible_and_within_the_page(report: Chrome) -> None:
    width = report.execute_script("return document.documentElement.clientWidth")
    for selector in ("figure", "figure svg"):
        found = boxes(report, selector)
        assert len(found) >= 4
        for box in found:
            assert box["width"] > 300
            assert box["height"] > 100
            assert 0 <= box["left"] < box["right"] <= width


def test_every_picture_has_a_name_for_those_who_do_not_see_it(report: Chrome) -> None:
    pictures = report.find_elements(By.CSS_SELECTOR, "svg, img")
    assert len(pictures) >= 4
    for picture in pictures:
        assert picture.aria_role in ("img", "image")
        assert len(picture.accessible_name) > 40


def test_without_scripts_there_are_no_dead_buttons(report: Chrome, page: str) -> None:
    report.execute_cdp_cmd("Emulation.setScriptExecutionDisabled", {"value": True})
    try:
        report.get(page)
        assert report.find_elements(By.TAG_NAME, "button") == []
        assert accuracy_table(report).text
    finally:
        report.execute_cdp_cmd("Emulation.setScriptExecutionDisabled", {"value": False})


def test_the_first_tab_skips_to_the_results(report: Chrome) -> None:
    report.find_element(By.TAG_NAME, "body").send_keys(Keys.TAB)
    link = report.switch_to.active_element
    assert link.text == "Skip to the results"
    assert link.rect["y"] >= 0
    link.send_keys(Keys.ENTER)
    assert report.execute_script("return location.hash") == "#summary"


def test_a_phone_scrolls_tables_and_not_the_page(report: Chrome) -> None:
    hold_a_phone(report)
    report.execute_script("document.querySelectorAll('details').forEach((e) => (e.open = true))")
    width, inner = report.execute_script(
        "return [document.documentElement.scrollWidth, innerWidth]"
    )
    assert inner == 390
    assert width <= inner
    container = accuracy_table(report).find_element(By.XPATH, "..")
    inside, outside = report.execute_script(
        "return [arguments[0].scrollWidth, arguments[0].clientWidth]", container
    )
    assert inside > outside
    assert outside <= 390
    assert all(box["width"] > 100 for box in boxes(report, "figure"))
    hint = "return getComputedStyle(arguments[0], '::before').content"
    assert "scroll it sideways" in report.execute_script(hint, container)


def test_dark_and_light_pages_can_be_read(report: Chrome) -> None:
    background = "return getComputedStyle(document.body).backgroundColor"
    colours = []
    for scheme in ("light", "dark"):
        emulate(report, scheme=scheme)
        colours.append(report.execute_script(background))
        contrast, text = report.execute_script(LOWEST_CONTRAST)
        assert contrast >= 4.5, f"{scheme}: {text}"
    assert colours[0] != colours[1]


def test_figures_take_the_pages_colour(report: Chrome) -> None:
    ink = "return getComputedStyle(document.querySelector('figure svg text')).fill"
    colours = []
    for scheme in ("light", "dark"):
        emulate(report, scheme=scheme)
        body = report.execute_script("return getComputedStyle(document.body).color")
        colours.append(report.execute_script(ink))
        assert colours[-1] == body
    assert colours[0] != colours[1]


def test_paper_shows_all_details_and_no_buttons(report: Chrome) -> None:
    visible = """return [...document.querySelectorAll("details pre")].map((element) =>
      element.checkVisibility({contentVisibilityAuto: true}))"""
    assert all(box["width"] > 0 for box in boxes(report, "th button"))
    assert not any(report.execute_script(visible))
    emulate(report, media="print", scheme="dark")
    assert all(box["width"] == 0 for box in boxes(report, "th button"))
    assert all(report.execute_script(visible))
    assert header(accuracy_table(report), "gain").text == "gain"
    background = report.execute_script("return getComputedStyle(document.body).backgroundColor")
    assert background == "rgb(255, 255, 255)"


def test_printing_opens_details_and_closes_them_again(report: Chrome) -> None:
    report.execute_script("dispatchEvent(new Event('beforeprint'))")
    assert report.find_elements(By.CSS_SELECTOR, "details:not([open])") == []
    report.execute_script("dispatchEvent(new Event('afterprint'))")
    assert report.find_elements(By.CSS_SELECTOR, "details[open]") == []
