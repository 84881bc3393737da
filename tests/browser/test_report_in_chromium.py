"""The report as people see it: on a desk, on a phone, in the dark, on paper, by keyboard."""

import json
from collections.abc import Iterator
from typing import Any

import pytest
from selenium.webdriver import Chrome
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.remote.webelement import WebElement

# The lowest contrast of any text with what is behind it, and that text.
LOWEST_CONTRAST = """
const paint = document.createElement("canvas").getContext("2d", {willReadFrequently: true});
const rgba = (colour) => {
  paint.clearRect(0, 0, 1, 1);
  paint.fillStyle = colour;
  paint.fillRect(0, 0, 1, 1);
  return [...paint.getImageData(0, 0, 1, 1).data];
};
const luminance = (colour) => {
  const [r, g, b] = rgba(colour).slice(0, 3).map((value) => {
    value /= 255;
    return value <= 0.04045 ? value / 12.92 : ((value + 0.055) / 1.055) ** 2.4;
  });
  return 0.2126 * r + 0.7152 * g + 0.0722 * b;
};
const behind = (element) => {
  for (let at = element; at; at = at.parentElement) {
    const colour = getComputedStyle(at).backgroundColor;
    if (rgba(colour)[3] === 255) return colour;
  }
  throw new Error("nothing opaque behind " + element.outerHTML);
};
let lowest = [Infinity, ""];
for (const element of document.body.querySelectorAll("*")) {
  const own = [...element.childNodes].filter((node) => node.nodeType === 3 && node.data.trim());
  if (!own.length || !element.checkVisibility() || element.closest("svg, script")) continue;
  const lights = [getComputedStyle(element).color, behind(element)].map(luminance);
  const contrast = (Math.max(...lights) + 0.05) / (Math.min(...lights) + 0.05);
  if (contrast < lowest[0]) lowest = [contrast, own[0].data.trim()];
}
return lowest;
"""


@pytest.fixture
def report(browser: Chrome, page: str) -> Iterator[Chrome]:
    """The page, freshly opened on a desk in daylight."""
    browser.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})
    emulate(browser)
    browser.set_window_size(1280, 900)
    for kind in ("browser", "performance"):
        browser.get_log(kind)  # what came before is none of this page's
    browser.get(page)
    yield browser
    assert [entry["message"] for entry in browser.get_log("browser")] == []


def emulate(browser: Chrome, media: str = "", scheme: str = "light") -> None:
    # Without motion, or a click would come while the page still scrolls.
    preferences = {"prefers-color-scheme": scheme, "prefers-reduced-motion": "reduce"}
    features = [{"name": name, "value": value} for name, value in preferences.items()]
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": media, "features": features})


def boxes(browser: Chrome, selector: str) -> list[dict[str, Any]]:
    """Where elements lie on the page."""
    script = """return [...document.querySelectorAll(arguments[0])].map((element) => {
      const {left, right, width, height} = element.getBoundingClientRect();
      return {left, right, width, height};
    })"""
    return browser.execute_script(script, selector)


def accuracy_table(browser: Chrome) -> WebElement:
    """The first table that has the paper's numbers."""
    tables = browser.find_elements(By.CSS_SELECTOR, "#accuracy table")
    return next(table for table in tables if "difference" in table.text)


def header(table: WebElement, text: str) -> WebElement:
    headers = table.find_elements(By.CSS_SELECTOR, "thead th")
    return next(one for one in headers if one.text.replace("\n", " ") == text)


def column(table: WebElement, text: str) -> list[str]:
    """A column's cells from top to bottom."""
    headers = [one.text.replace("\n", " ") for one in table.find_elements(By.TAG_NAME, "th")]
    place = headers.index(text) + 1
    return [
        cell.text
        for cell in table.find_elements(By.CSS_SELECTOR, f"tbody tr > :nth-child({place})")
    ]


def means(table: WebElement, text: str) -> list[float]:
    """A column's numbers, without what has none."""
    cells = [cell for cell in column(table, text) if cell != "–"]
    return [float(cell.replace("−", "-").split(" ±")[0]) for cell in cells]


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
        assert len(found) >= 8
        for box in found:
            assert box["width"] > 300
            assert box["height"] > 100
            assert 0 <= box["left"] < box["right"] <= width


def test_pictures_inside_figures_are_painted(report: Chrome) -> None:
    """Heat maps are images within the SVG, which a policy could keep out."""
    painted = report.execute_async_script("""
      const [done] = [...arguments].slice(-1);
      const images = [...document.querySelectorAll("svg image")];
      Promise.all(images.map(async (image) => {
        const copy = new Image();
        copy.src = image.getAttribute("href");
        await copy.decode();
        return copy.naturalWidth;
      })).then(done);
    """)
    assert len(painted) >= 5
    assert min(painted) > 1


def test_every_picture_has_a_name_for_those_who_do_not_see_it(report: Chrome) -> None:
    pictures = report.find_elements(By.CSS_SELECTOR, "svg, img")
    assert len(pictures) >= 8
    for picture in pictures:
        assert picture.aria_role in ("img", "image")
        assert len(picture.accessible_name) > 40


def test_a_click_sorts_by_the_mean_and_a_second_the_other_way(report: Chrome) -> None:
    table = accuracy_table(report)
    before = column(table, "method")
    for direction, reverse in (("descending", True), ("ascending", False)):
        header(table, "last epoch %").find_element(By.TAG_NAME, "button").click()
        numbers = means(table, "last epoch %")
        assert numbers == sorted(numbers, reverse=reverse)
        assert len(set(numbers)) == len(before)
        sorted_headers = table.find_elements(By.CSS_SELECTOR, "[aria-sort]")
        assert [one.get_attribute("aria-sort") for one in sorted_headers] == [direction]
    after = column(table, "method")
    assert after != before
    assert sorted(after) == sorted(before)


@pytest.mark.parametrize("key", [Keys.ENTER, Keys.SPACE])
def test_the_keyboard_sorts_negative_numbers_too_and_dashes_go_last(
    report: Chrome, key: str
) -> None:
    table = accuracy_table(report)
    button = header(table, "gain").find_element(By.TAG_NAME, "button")
    for reverse in (True, False):
        button.send_keys(key)
        numbers = means(table, "gain")
        assert min(numbers) < 0 < max(numbers)
        assert numbers == sorted(numbers, reverse=reverse)
        cells = column(table, "gain")
        assert cells[len(numbers) :] == ["–"] * (len(cells) - len(numbers))
    assert report.switch_to.active_element == button


def test_names_sort_by_the_alphabet(report: Chrome) -> None:
    table = accuracy_table(report)
    header(table, "method").find_element(By.TAG_NAME, "button").click()
    names = column(table, "method")
    assert names == sorted(names, key=str.lower)
    assert header(table, "method").get_attribute("aria-sort") == "ascending"


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
    metrics = {"width": 360, "height": 740, "deviceScaleFactor": 2, "mobile": True}
    report.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
    report.execute_script("document.querySelectorAll('details').forEach((e) => (e.open = true))")
    width, inner = report.execute_script(
        "return [document.documentElement.scrollWidth, innerWidth]"
    )
    assert inner == 360
    assert width <= inner
    container = accuracy_table(report).find_element(By.XPATH, "..")
    inside, outside = report.execute_script(
        "return [arguments[0].scrollWidth, arguments[0].clientWidth]", container
    )
    assert inside > outside
    assert outside <= 360
    assert all(box["width"] > 100 for box in boxes(report, "figure"))


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
