import base64
import hashlib
import re
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path

import pytest

from made_runs import made_run, written
from svdistill.common import RunError
from svdistill.report import write_report
from svdistill.report.page import SECTIONS
from svdistill.report.runs import Run

MOBILENET = {"data": "digits", "width": 0.1, "parameters": 10_234, "flops": 407_808}


class Page(HTMLParser):
    """The page's tags with their attributes, its ids, and its text by tag."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.source = path.read_text(encoding="utf-8")
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.texts: dict[str, list[str]] = {}
        self.feed(self.source)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        self.open.append(tag)

    def handle_data(self, data: str) -> None:
        if self.open:
            self.texts.setdefault(self.open[-1], []).append(data.strip())

    def handle_endtag(self, tag: str) -> None:
        while self.open and self.open.pop() != tag:
            pass

    def attributes(self, name: str) -> list[str | None]:
        return [values[name] for _, values in self.tags if name in values]


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A student alone and a taught one, without weights, in a folder with an awkward name."""
    folder = tmp_path_factory.mktemp("page") / "<script>alert(1)</script> & co"
    student = {"network": "mobilenet_student", **MOBILENET}
    norms = {"task_norm": 2.0, "transfer_norm": 3.0, "clipped_norm": 1.0}
    for seed in (0, 1):
        written(made_run(str(folder / f"alone-{seed}"), seed=seed, **student))
        path = str(folder / f"svd-{seed}")
        options = {"loss": "svd", "teacher": "gone", "numbers": norms, "seed": seed}
        written(made_run(path, accuracies=(30.0, 40.0 + seed), **options, **student))
    return folder


@pytest.fixture(scope="module")
def page(runs: Path) -> Page:
    return Page(write_report([runs], runs.parent / "report.html"))


def test_every_section_is_there_and_in_the_contents(page: Page) -> None:
    targets = [link for link in page.attributes("href") if link and link.startswith("#")]
    # These runs recorded no predictions and have one number of vectors.
    sections = {
        name: text for name, text in SECTIONS.items() if name not in ("predictions", "vectors")
    }
    assert set(targets) >= {f"#{name}" for name in sections}
    ids = page.attributes("id")
    assert len(ids) == len(set(ids))
    assert {link[1:] for link in targets} <= set(ids)
    assert page.texts["h2"] == list(sections.values())


def test_one_run_has_a_page_of_its_own(of_timm: Run, tmp_path: Path) -> None:
    page = Page(write_report([of_timm.path], tmp_path / "report.html"))
    assert page.texts["h2"] == [text for name, text in SECTIONS.items() if name != "vectors"]
    assert page.texts["title"] == ["Distillation report: timm:test_vit"]
    said = " ".join(text for texts in page.texts.values() for text in texts)
    assert "Distilled from timm:test_resnet by SVD in 1 epoch on scikit-learn's digits" in said
    assert "teacher timm:test_resnet" in page.texts["th"]
    assert "ECCV" not in said
    assert "the paper" not in said.lower()
    assert "The gain of SVD is not shown" in said
    assert "Calibration." in page.texts["strong"]
    levels = [int(tag[1]) for tag, _ in page.tags if re.fullmatch("h[1-6]", tag)]
    assert all(after - before <= 1 for before, after in pairwise(levels))


def test_headings_step_down_one_at_a_time(page: Page) -> None:
    levels = [int(tag[1]) for tag, _ in page.tags if re.fullmatch("h[1-6]", tag)]
    assert levels[0] == 1
    assert levels.count(1) == 1
    assert all(after - before <= 1 for before, after in pairwise(levels))


def test_nothing_is_loaded_from_anywhere(page: Page) -> None:
    for name in ("src", "href", "xlink:href", "action"):
        for place in page.attributes(name):
            assert place is not None
            assert place.startswith(("#", "data:"))
    assert not re.search(r"@import|url\((?!#)", page.source)


def test_only_the_pages_own_script_may_run(page: Page) -> None:
    (script,) = re.findall(r"<script>(.*?)</script>", page.source, re.DOTALL)
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    policy = next(
        values["content"]
        for _, values in page.tags
        if values.get("http-equiv") == "Content-Security-Policy"
    )
    assert policy is not None
    assert "default-src 'none'" in policy
    assert f"script-src 'sha256-{digest}'" in policy


def test_names_are_text_and_never_markup(page: Page) -> None:
    assert "<script>alert" not in page.source
    assert any("<script>alert(1)" in text for text in page.texts["th"])


def test_pictures_have_alternative_text(page: Page) -> None:
    pictures = [values for tag, values in page.tags if tag in ("svg", "img")]
    assert pictures
    assert all(values.get("aria-label") or values.get("alt") for values in pictures)


def test_the_language_the_title_and_the_viewport_are_said(page: Page) -> None:
    attributes = dict(page.tags[:1])["html"] if page.tags[0][0] == "html" else {}
    assert attributes == {"lang": "en"}
    assert page.texts["title"] == ["Distillation report: MobileNet"]
    assert {"name": "viewport", "content": "width=device-width, initial-scale=1"} in [
        values for tag, values in page.tags if tag == "meta"
    ]


def test_numbers_are_those_of_the_runs(page: Page) -> None:
    assert "40.50 %" in page.texts["dd"]
    assert "+20.5 points" in page.texts["dd"]
    assert "+20.50 ± 0.71" in page.texts["td"]
    (verdict,) = (text for text in page.texts["p"] if "worth it" in text)
    assert "by SVD, 95 % interval 14.1 to 26.9 over 2 seeds" in verdict
    values = [float(value) for value in page.attributes("data-value") if value]
    assert 40.5 in values


def test_the_same_runs_give_the_same_page(runs: Path, page: Page, tmp_path: Path) -> None:
    again = write_report([runs], tmp_path / "report.html")
    assert again.read_text(encoding="utf-8") == page.source


def test_a_page_is_replaced_whole(runs: Path, tmp_path: Path) -> None:
    output = tmp_path / "report.html"
    output.write_text("before")
    with pytest.raises(RunError, match="nowhere"):
        write_report([runs, "nowhere"], output)
    assert output.read_text() == "before"
    write_report([runs], output)
    assert output.read_text().startswith("<!doctype html>")
    assert list(tmp_path.iterdir()) == [output]


@pytest.mark.parametrize(
    ("output", "got"), [("nowhere/report.html", "no directory"), (".", "a directory")]
)
def test_a_page_that_cannot_be_written_is_refused_first(
    output: str, got: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(RunError, match=got):
        write_report(["no such run"], output)


def test_hostile_networks_packages_and_paths_are_text(tmp_path: Path) -> None:
    evil = "<script>alert(1)</script><img src=x onerror=alert(2)>\"'"
    folder = tmp_path / evil.replace("/", "_")
    run = made_run(str(folder / "run"), network=evil, weights=evil, teacher=evil, loss="svd")
    run.environment["packages"][evil] = evil
    run.environment["gpu"] = evil
    written(run)
    page = Page(write_report([str(folder)], tmp_path / "page.html"))
    assert "alert(1)" in page.source  # it is shown
    tags = [tag for tag, _ in page.tags]
    plain = Page(
        write_report(
            [str(written(made_run(str(tmp_path / "plain" / "run"), loss="svd")))],
            tmp_path / "plain.html",
        )
    )
    assert tags.count("script") == [tag for tag, _ in plain.tags].count("script")
    assert "onerror" not in {name for _, values in page.tags for name in values}


def test_the_lead_counts_the_seeds(runs, tmp_path):
    both = write_report([runs], tmp_path / "both.html").read_text()
    assert "students alone and distilled students, with up to 2 seeds." in both
    one = [path for path in sorted(runs.iterdir()) if path.name.endswith("-0")]
    assert "with one seed each." in write_report(one, tmp_path / "one.html").read_text()
