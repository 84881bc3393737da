"""The site builds without a warning, has every page and public name, and loads nothing."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path

import pytest
from fences import DOCS, ROOT

import svdistill

# What a browser fetches by itself: attributes of these elements, and `url(...)` in style sheets.
LOADED = {
    "audio": "src",
    "embed": "src",
    "iframe": "src",
    "img": "src",
    "image": "href",
    "link": "href",
    "script": "src",
    "source": "src",
    "use": "href",
    "video": "src",
}
RELATIONS = {"stylesheet", "icon", "preload", "preconnect", "modulepreload", "dns-prefetch"}
FETCHED_BY_STYLE = re.compile(r"""(?:@import\s+|url\()\s*["']?\s*(?:https?:)?//""")
REFERENCE = re.compile(r"^::: (svdistill\.[\w.]+)$", re.MULTILINE)


class Loads(HTMLParser):
    """Collects the addresses that a page loads."""

    def __init__(self) -> None:
        super().__init__()
        self.addresses: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = dict(attrs)
        relations = set((values.get("rel") or "").split())
        address = values.get(LOADED.get(tag, ""))
        if address and (tag != "link" or relations & RELATIONS):
            self.addresses.append(address)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    folder = tmp_path_factory.mktemp("site")
    done = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", folder],
        capture_output=True,
        text=True,
        cwd=ROOT,
        env={**os.environ, "NO_MKDOCS_2_WARNING": "1"},
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return folder


@pytest.mark.slow
def test_the_site_builds_without_a_warning_and_has_every_page(site: Path) -> None:
    pages = {path.relative_to(DOCS).with_suffix(".html") for path in DOCS.rglob("*.md")}
    assert {path.relative_to(site) for path in site.rglob("*.html")} == pages | {Path("404.html")}


@pytest.mark.slow
def test_pages_load_nothing_from_elsewhere(site: Path) -> None:
    for page in site.rglob("*.html"):
        loads = Loads()
        loads.feed(page.read_text())
        assert len(loads.addresses) > 3, page
        elsewhere = [a for a in loads.addresses if re.match(r"(https?:)?//", a)]
        assert elsewhere == [], page


@pytest.mark.slow
def test_style_sheets_load_nothing_from_elsewhere(site: Path) -> None:
    sheets = list(site.rglob("*.css"))
    assert len(sheets) > 2
    for sheet in sheets:
        assert not FETCHED_BY_STYLE.search(sheet.read_text()), sheet


@pytest.mark.slow
def test_every_local_file_that_a_page_loads_is_there(site: Path) -> None:
    for page in site.rglob("*.html"):
        loads = Loads()
        loads.feed(page.read_text())
        for address in loads.addresses:
            if not address.startswith(("data:", "/")):
                path = address.partition("?")[0].partition("#")[0]
                assert (page.parent / path).exists(), f"{page}: {address}"


@pytest.mark.slow
def test_nothing_of_how_the_site_is_made_is_in_it(site: Path) -> None:
    assert list(site.rglob("*.py")) == []
    assert not (site / "pictures").exists()


def test_the_reference_has_every_public_name_once() -> None:
    text = "\n".join(page.read_text() for page in (DOCS / "api").glob("*.md"))
    names = REFERENCE.findall(text)
    assert len(names) == len(set(names))
    assert {f"svdistill.{name}" for name in svdistill.__all__} <= set(names)


@pytest.mark.slow
def test_links_into_the_repository_become_text(site: Path) -> None:
    all_runs = (site / "all_runs.html").read_text()
    assert "results/mini" in all_runs
    assert 'href="../' not in all_runs
