"""The page `adding_a_loss.md` is followed, in a copy of svdistill: three places, no other."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from fences import DOCS, ROOT, Block, blocks_of

FILE = "src/svdistill/losses/hint.py"
REGISTRY = "src/svdistill/losses/registry.py"
CONTRACT = "tests/losses/test_loss_contract.py"
FORMULAS = "tests/helpers/references.py"
IMPORT = "from svdistill.losses.hint import HintLoss\n"
COPIED = ("src", "tests/losses", "tests/helpers", "tests/data", "examples", "pyproject.toml")


@pytest.fixture(scope="module")
def blocks() -> list[Block]:
    return blocks_of(DOCS / "adding_a_loss.md")


@pytest.fixture(scope="module")
def copy(tmp_path_factory: pytest.TempPathFactory, blocks: list[Block]) -> Path:
    """The repository with the page's loss in it."""
    copy = tmp_path_factory.mktemp("copy")
    without = shutil.ignore_patterns("__pycache__", "*.egg-info")
    for name in COPIED:
        (copy / name).parent.mkdir(parents=True, exist_ok=True)
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, copy / name, ignore=without)
        else:
            shutil.copy(ROOT / name, copy / name)
    (copy / "tests" / "conftest.py").touch()
    file, entry, row, formula = [block.text for block in blocks if block.language == "python"]
    (copy / FILE).write_text(file)
    after(copy / REGISTRY, r"^from svdistill.losses.fsp .*\n", IMPORT)
    before(copy / REGISTRY, r"^    \)\n\}\n", entry.rstrip() + ",\n")
    after(copy / CONTRACT, r"^from svdistill.common.errors .*\n", IMPORT)
    after(copy / CONTRACT, r"^LOSSES = \{\n", row)
    before(copy / FORMULAS, r"\Z", formula)
    return copy


def after(path: Path, pattern: str, text: str) -> None:
    """Add a text behind the first place that matches."""
    (place, *_) = re.finditer(pattern, path.read_text(), re.MULTILINE)
    insert(path, place.end(), text)


def before(path: Path, pattern: str, text: str) -> None:
    """Add a text before the first place that matches."""
    (place, *_) = re.finditer(pattern, path.read_text(), re.MULTILINE)
    insert(path, place.start(), text)


def insert(path: Path, place: int, text: str) -> None:
    written = path.read_text()
    path.write_text(written[:place] + text + written[place:])


def run(words: list[str], copy: Path, folder: Path) -> str:
    environment = {**os.environ, "PYTHONPATH": str(copy / "src"), "COLUMNS": "100"}
    done = subprocess.run(words, cwd=folder, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.slow
def test_the_commands_run_up_to_the_report(copy: Path, blocks: list[Block], tmp_path: Path) -> None:
    """Run in one process, so that torch is imported once; the data are digits, and few."""
    (shell,) = [block.text for block in blocks if block.language == "sh"]
    commands = [line.split()[1:] for line in shell.replace("\\\n", " ").splitlines()]
    commands = [[*words, "--train_size", "100"] for words in commands]
    code = "import json, sys; from svdistill.cli.main import main\n"
    code += "sys.exit(max(main(words) for words in json.loads(sys.argv[1])))"
    run([sys.executable, "-c", code, json.dumps(commands)], copy, tmp_path)
    for name, title in (("hint", "hint"), ("hint-soft-target", "hint + soft target")):
        report = (tmp_path / "runs" / name / "report.html").read_text()
        assert f">{title}<" in report


@pytest.mark.slow
def test_the_contract_holds(copy: Path) -> None:
    words = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", CONTRACT]
    assert " passed" in run([*words, "-k", "hint and not compiled"], copy, copy)
