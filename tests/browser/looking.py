"""Ways to look at the report: other media, where things lie, what a table shows."""

from pathlib import Path
from typing import Any

from selenium.webdriver import Chrome
from selenium.webdriver.common.by import By
from selenium.webdriver.remote.webelement import WebElement

# The lowest contrast of any visible text with what is behind it, and that text.
LOWEST_CONTRAST = (Path(__file__).parent / "lowest_contrast.js").read_text()


def emulate(browser: Chrome, media: str = "", scheme: str = "light") -> None:
    # Without motion, or a click would come while the page still scrolls.
    preferences = {"prefers-color-scheme": scheme, "prefers-reduced-motion": "reduce"}
    features = [{"name": name, "value": value} for name, value in preferences.items()]
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": media, "features": features})


def hold_a_phone(browser: Chrome) -> None:
    metrics = {"width": 390, "height": 740, "deviceScaleFactor": 2, "mobile": True}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)


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
    return next(table for table in tables if "paper's gain" in table.text)


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
