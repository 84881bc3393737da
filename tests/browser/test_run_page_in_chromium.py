"""The page that one `svdistill distill` leaves, as a practitioner sees it first."""

import pytest
from looking import LOWEST_CONTRAST, boxes, emulate, hold_a_phone
from selenium.webdriver import Chrome
from selenium.webdriver.common.by import By

pytestmark = pytest.mark.slow


def test_the_first_screen_says_what_was_gained_for_what_price(run_report: Chrome) -> None:
    tiles = run_report.find_elements(By.CSS_SELECTOR, "#outcome .headline div")
    labels = [tile.find_element(By.TAG_NAME, "dt").text for tile in tiles]
    assert labels == ["accuracy", "teacher", "parameters", "FLOPs", "latency", "weights"]
    height = run_report.execute_script("return innerHeight")
    assert all(0 < tile.rect["y"] < tile.rect["y"] + tile.rect["height"] < height for tile in tiles)
    table = run_report.find_element(By.CSS_SELECTOR, "#outcome table")
    rows = [row.text for row in table.find_elements(By.CSS_SELECTOR, "tbody th")]
    assert rows == ["teacher timm:resnet18", "student before", "student after"]
    assert table.rect["y"] + table.rect["height"] < height


def test_every_section_has_something_to_see(run_report: Chrome) -> None:
    headings = [one.text for one in run_report.find_elements(By.CSS_SELECTOR, "main h2")]
    assert headings == [
        *("Outcome", "Training curves", "Clipping"),
        *("Taps, spectra and DFVs", "Images", "Details"),
    ]
    assert run_report.find_elements(By.CSS_SELECTOR, ".missing") == []
    width = run_report.execute_script("return document.documentElement.clientWidth")
    figures = boxes(run_report, "figure svg")
    assert len(figures) == 4  # curves, clipping, spectra, heat maps
    for box in figures:
        assert box["height"] > 100
        assert 0 <= box["left"] < box["right"] <= width


def test_the_pairs_of_taps_are_a_table(run_report: Chrome) -> None:
    table = run_report.find_element(By.CSS_SELECTOR, "#spectra table")
    taps = [row.text for row in table.find_elements(By.CSS_SELECTOR, "tbody th")]
    assert taps == ["layer1", "layer2", "layer3"]
    assert "64x8x8" in table.text


def test_a_phone_shows_two_tiles_abreast_and_scrolls_no_page(run_report: Chrome) -> None:
    hold_a_phone(run_report)
    run_report.execute_script(
        "document.querySelectorAll('details').forEach((e) => (e.open = true))"
    )
    width = run_report.execute_script("return document.documentElement.scrollWidth")
    assert width <= 360
    tiles = boxes(run_report, "#outcome .headline div")
    assert len({round(tile["left"]) for tile in tiles}) == 2
    assert all(tile["right"] <= 360 for tile in tiles)
    captions = boxes(run_report, "caption")
    assert all(0 <= caption["left"] < caption["right"] <= 360 for caption in captions)


def test_dark_and_light_pages_can_be_read(run_report: Chrome) -> None:
    for scheme in ("light", "dark"):
        emulate(run_report, scheme=scheme)
        contrast, text = run_report.execute_script(LOWEST_CONTRAST)
        assert contrast >= 4.5, f"{scheme}: {text}"
