"""The pictures stand in the page, say what they show, and are what the script draws."""

from __future__ import annotations

import sys
from pathlib import Path
from xml.etree import ElementTree

import pytest
from fences import DOCS

FOLDER = DOCS / "pictures"
PICTURES = sorted(FOLDER.glob("*.svg"))
PAGE = (DOCS / "how_it_works.md").read_text()


@pytest.mark.parametrize("path", PICTURES, ids=lambda path: path.stem)
def test_a_picture_can_be_read_on_any_page(path: Path) -> None:
    svg = ElementTree.fromstring(path.read_text())
    assert svg.get("role") == "img"
    assert len(svg.get("aria-label", "")) > 60
    assert svg.get("fill") == "currentColor"
    assert "#000000" not in path.read_text()
    assert f'--8<-- "pictures/{path.name}"' in PAGE


def test_the_script_draws_these_pictures(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(FOLDER))
    import make

    try:
        assert {f"{draw.__name__}.svg" for draw in make.PICTURES} == {p.name for p in PICTURES}
        drawn = ElementTree.fromstring(make.overview(None))  # it shows no network
        kept = ElementTree.fromstring((FOLDER / "overview.svg").read_text())
        assert drawn.get("aria-label") == kept.get("aria-label")
    finally:
        for name in ("make", "drawn_network", "shapes"):
            sys.modules.pop(name, None)
