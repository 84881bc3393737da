"""A headless Chromium, and the report of the committed runs and of two that keep their weights."""

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from looking import emulate
from selenium import webdriver
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.support.ui import WebDriverWait

from svdistill.config import DistillConfig, TrainConfig
from svdistill.networks.torchvision_models import prepare_torchvision
from svdistill.report import write_report
from svdistill.training import distill, train

RESULTS = Path(__file__).parents[2] / "results"
FLAGS = (
    "--headless=new",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)

# A tab may still show what it leaves when the driver says that it has come.
IS_OPEN = "return location.href === arguments[0] && document.readyState === 'complete'"


def _find(*names: str) -> str:
    """The path of a program; without it the test is skipped, or fails where one must be there."""
    for name in names:
        if path := shutil.which(name):
            return path
    reason = f"no {names[0]} on the path: install the packages chromium and chromium-driver"
    if os.environ.get("SVDISTILL_REQUIRE_BROWSER") == "1":
        pytest.fail(reason)
    pytest.skip(reason)


@pytest.fixture(scope="session")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[webdriver.Chrome]:
    """One browser for all tests, with a new profile."""
    options = webdriver.ChromeOptions()
    options.binary_location = _find("chromium", "chromium-browser", "google-chrome")
    for flag in (*FLAGS, f"--user-data-dir={tmp_path_factory.mktemp('profile')}"):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    driver = webdriver.Chrome(options=options, service=Service(_find("chromedriver")))
    yield driver
    driver.quit()


@pytest.fixture(scope="session")
def page(browser: webdriver.Chrome, tmp_path_factory: pytest.TempPathFactory) -> str:
    """The address of a report that has every section."""
    folder = tmp_path_factory.mktemp("report")
    shared = {"data": "digits", "width": 0.1, "train_size": 100, "epochs": 1, "device": "cpu"}
    teacher = str(folder / "tiny" / "teacher")
    train(TrainConfig(output=teacher, network="resnext_teacher", **shared))
    student = {
        "output": str(folder / "tiny" / "student"),
        "network": "resnext_student",
        "loss": "svd",
    }
    distill(DistillConfig(teacher=teacher, **student, **shared))
    runs = [RESULTS / "mini-clip", RESULTS / "demo", folder / "tiny"]
    return write_report(runs, folder / "report.html").as_uri()


@pytest.fixture(scope="session")
def run_page(browser: webdriver.Chrome, tmp_path_factory: pytest.TempPathFactory) -> str:
    """The address of the page of one run: a residual network of timm that another one taught."""
    prepare_torchvision()
    pytest.importorskip("timm")
    folder = tmp_path_factory.mktemp("run")
    shared = {"data": "digits", "train_size": 100, "image_size": 32, "device": "cpu"}
    teacher, student = str(folder / "teacher"), str(folder / "student")
    train(TrainConfig(output=teacher, network="timm:resnet18", epochs=1, **shared))
    options = {"network": "timm:resnet10t", "loss": "svd", "epochs": 2}
    distill(DistillConfig(output=student, teacher=teacher, **options, **shared))
    return write_report([student], folder / "report.html").as_uri()


@pytest.fixture
def report(browser: webdriver.Chrome, page: str) -> Iterator[webdriver.Chrome]:
    """The page of many runs, freshly opened on a desk in daylight."""
    yield from _opened(browser, page)


@pytest.fixture
def run_report(browser: webdriver.Chrome, run_page: str) -> Iterator[webdriver.Chrome]:
    """The page of one run, likewise."""
    yield from _opened(browser, run_page)


def _opened(browser: webdriver.Chrome, page: str) -> Iterator[webdriver.Chrome]:
    browser.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})
    emulate(browser)
    browser.set_window_size(1280, 900)
    browser.get("about:blank")  # else a page that is left could pass for itself, opened anew
    for kind in ("browser", "performance"):
        browser.get_log(kind)  # what came before is none of this page's
    browser.get(page)
    WebDriverWait(browser, 60).until(lambda _: browser.execute_script(IS_OPEN, page))
    yield browser
    assert [entry["message"] for entry in browser.get_log("browser")] == []
