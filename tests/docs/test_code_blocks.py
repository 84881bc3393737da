"""Every code block of the documentation does what it shows.

The blocks of a page run in order, in one folder of their own, with a small image folder in it:
`python` in one namespace, `sh` by bash with this environment's `svdistill`, `yaml` as a
configuration. A `text` block straight behind Python is what it printed; straight behind commands,
lines of what they printed, numbers aside.
"""

from __future__ import annotations

import contextlib
import io
import os
import re
import subprocess
import sys
import types
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from fences import DOCS, ROOT, Block, blocks_of
from image_folder import write_image_folder

from svdistill.cli.parsers import build_parser, spell

PAGES = sorted(path.relative_to(DOCS).as_posix() for path in DOCS.rglob("*.md"))
LANGUAGES = {"python", "sh", "yaml", "text"}

# Commands of these pages made what is measured there: hours each. They are parsed, not run.
ONLY_PARSED = {
    "adding_a_loss.md": "changes svdistill itself: test_adding_a_loss.py does so with a copy",
    "all_runs.md": "makes the tables of results/",
    "reproducing.md": "trains for hours",
    "speed.md": "measures for minutes",
    "large.md": "needs data sets that must be asked for",
}
AT_ONCE = (*ONLY_PARSED, "index.md")  # the blocks of other pages train
OWN_IMAGES = ("tutorial.md",)  # their first block writes some
# All that is run otherwise than it is written, and why.
INSTEAD = {
    r"^(python -m )?pip install.*$": ("true", "the tests install nothing"),
    r"^svdistill demo$": ("svdistill demo --help", "tests/paper run it, smaller"),
    r"^PER_CLASS = \d+$": ("PER_CLASS = 6", "seconds in place of minutes"),
}
DURATION = re.compile(r"\b(\d+ h )?[\d.]+ (s|min|h)\b")
NUMBER = re.compile(r"[-+−]?\d[\d.,]*(?:e[-+]\d+)?")
LAYOUT = re.compile(r"[\s\u2500-\u257f]+")  # spaces, and the lines of tables


@pytest.mark.parametrize("page", PAGES)
def test_every_fence_says_what_it_holds(page: str) -> None:
    for block in blocks_of(DOCS / page):
        assert block.language in LANGUAGES, f"{block.place}: {block.language or 'no language'}"


@pytest.mark.parametrize("page", PAGES)
def test_examples_that_are_included_are_run_by_their_own_tests(page: str) -> None:
    for path in (Path(path) for block in blocks_of(DOCS / page) for path in block.included):
        if path.parent.name == "examples" and path.suffix == ".py":
            assert (ROOT / "tests" / "examples" / f"test_{path.name}").exists(), path


@pytest.mark.parametrize(
    "page",
    [
        pytest.param(page, marks=[] if page in AT_ONCE else [pytest.mark.slow])
        for page in PAGES
        if blocks_of(DOCS / page)
    ],
)
def test_code_blocks_run(page: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    if page not in OWN_IMAGES:
        write_image_folder(tmp_path / "data")
    namespace = new_namespace(monkeypatch)
    last, printed = "", ""
    with caught_warnings():
        for block in blocks_of(DOCS / page):
            if block.language != "text":
                last = block.language
                if page in ONLY_PARSED:
                    require_commands(block)
                else:
                    printed = run_block(block, namespace)
            elif block.follows and last == "python":
                assert block.text == printed, block.place
            elif block.follows and last == "sh":
                require_lines(block, printed)


def test_readme_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its Python with networks and images to run on; of its commands the options."""
    monkeypatch.chdir(tmp_path)
    namespace = new_namespace(monkeypatch)
    prelude = (Path(__file__).parent / "readme_prelude.py").read_text()
    exec(compile(prelude, "readme_prelude.py", "exec"), namespace)
    blocks = blocks_of(ROOT / "README.md")
    for block in blocks:
        if block.language == "python":
            run_block(block, namespace)
        else:
            require_commands(block)
    assert any(block.language == "python" for block in blocks)


def new_namespace(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """Of a module that can be found, as dataclasses and pickle expect."""
    module = types.ModuleType("documentation_page")
    monkeypatch.setitem(sys.modules, module.__name__, module)
    return vars(module)


@contextlib.contextmanager
def caught_warnings() -> Iterator[None]:
    """Warnings as a reader gets them, none an error."""
    with warnings.catch_warnings():
        warnings.simplefilter("default")
        yield


def run_block(block: Block, namespace: dict[str, Any]) -> str:
    """Run a block, and return what it printed."""
    text = block.text
    for pattern, (instead, _reason) in INSTEAD.items():
        text = re.sub(pattern, instead, text, flags=re.MULTILINE)
    if any(path.startswith("examples/") for path in block.included):
        return ""  # tests/examples run them
    if block.language == "yaml":
        require_configuration(block)
        return ""
    if block.language == "sh":
        return run_shell(text, block)
    printed = io.StringIO()
    code = compile("\n" * (block.line - 1) + text, block.page, "exec", dont_inherit=True)
    with contextlib.redirect_stdout(printed):
        exec(code, namespace)
    return printed.getvalue()


def run_shell(text: str, block: Block) -> str:
    """Run commands, the first that fails ending them."""
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", text],
        capture_output=True,
        text=True,
        env={**os.environ, "PATH": path, "COLUMNS": "100"},
    )
    assert done.returncode == 0, f"{block.place}:\n{done.stdout}{done.stderr}"
    return done.stdout + done.stderr


def require_lines(block: Block, printed: str) -> None:
    """Every line of the block is one of those printed, whatever its numbers; `...` is any."""
    lines = {shape(line) for line in printed.splitlines()}
    for line in block.text.splitlines():
        if line.strip() != "...":
            assert shape(line) in lines, f"{block.place}: not printed: {line}\n{printed}"


def shape(line: str) -> str:
    """A line without its numbers, the units of its times, and what aligns them."""
    return LAYOUT.sub(" ", NUMBER.sub("#", DURATION.sub("# time", line))).strip()


def require_commands(block: Block) -> None:
    """Every `svdistill` command of a block has options that its parser takes."""
    for line in block.text.replace("\\\n", " ").splitlines():
        words = line.split("#")[0].split("|")[0].split()
        if words[:1] == ["svdistill"] and "COMMAND" not in words:
            build_parser(words[1]).parse_args(spell(words[1:]))


def require_configuration(block: Block) -> None:
    """The block is YAML; with options of a command in it, ones that the command takes."""
    values = yaml.safe_load(block.text)
    assert isinstance(values, dict), block.place
    kind = "distill" if {"teacher", "loss", "num_vectors"} & set(values) else "train"
    Path("block.yaml").write_text(block.text)
    build_parser(kind).parse_args([kind, "--config", "block.yaml", "--output", "runs/block"])
