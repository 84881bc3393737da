"""The page that one `svdistill distill` leaves, as a practitioner sees it first."""

import pytest
from looking import LOWEST_CONTRAST, boxes, emulate, hold_a_phone
from selenium.webdriver import Chrome
from selenium.webdriver.common.by import By

pytestmark = pytest.mark.slow


def test_the_first_screen_says_what_was_gained_for_what_price(run_report: Chrome) -> None:
    tiles = run_report.find_elements(By.CSS_SELECTOR, "#summary .headline div")
    labels = [tile.find_element(By.TAG_NAME, "dt").text for tile in tiles]
    assert labels == ["student", "teacher", "weights", "latency", "training"]
    verdict = run_report.find_element(By.CSS_SELECTOR, "#summary .verdict")
    assert "The gain of SVD is not shown" in verdict.text
    height = run_report.execute_script("return innerHeight")
    assert all(0 < tile.rect["y"] < tile.rect["y"] + tile.rect["height"] < height for tile in tiles)
    table = run_report.find_element(By.CSS_SELECTOR, "#accuracy table")
    rows = [row.text for row in table.find_elements(By.CSS_SELECTOR, "tbody th")]
    assert rows == ["teacher timm:resnet18", "student timm:resnet10t"]


def test_every_section_has_something_to_see(run_report: Chrome) -> None:
    headings = [one.text for one in run_report.find_elements(By.CSS_SELECTOR, "main h2")]
    assert headings == [
        *("Summary", "Accuracy and costs", "Training curves", "Predictions", "Gradients"),
        "Details",
    ]
    width = run_report.execute_script("return document.documentElement.clientWidth")
    figures = boxes(run_report, "figure svg")
    assert len(figures) == 2  # curves, calibration
    for box in figures:
        assert box["height"] > 100
        assert 0 <= box["left"] < box["right"] <= width


def test_a_phone_shows_two_tiles_abreast_and_scrolls_no_page(run_report: Chrome) -> None:
    hold_a_phone(run_report)
    run_report.execute_script(
        "document.querySelectorAll('details').forEach((e) => (e.open = true))"
    )
    width = run_report.execute_script("return document.documentElement.scrollWidth")
    assert width <= 390
    tiles = boxes(run_report, "#summary .headline div")
    assert len({round(tile["left"]) for tile in tiles}) == 2
    assert all(tile["right"] <= 390 for tile in tiles)
    captions = boxes(run_report, "caption")
    assert all(0 <= caption["left"] < caption["right"] <= 390 for caption in captions)


def test_dark_and_light_pages_can_be_read(run_report: Chrome) -> None:
    for scheme in ("light", "dark"):
        emulate(run_report, scheme=scheme)
        contrast, text = run_report.execute_script(LOWEST_CONTRAST)
        assert contrast >= 4.5, f"{scheme}: {text}"
