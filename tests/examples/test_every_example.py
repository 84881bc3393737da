"""Nothing that users copy goes untested or unexplained."""

import ast
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parents[2] / "examples"
SCRIPTS = sorted(EXAMPLES.glob("*.py"))


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda path: path.stem)
def test_has_a_test_of_its_name(path):
    assert (Path(__file__).parent / f"test_{path.name}").exists()


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda path: path.stem)
def test_says_what_it_shows_and_how_to_run_it(path):
    header = ast.get_docstring(ast.parse(path.read_text()))
    assert f"python examples/{path.name}" in header


def test_every_configuration_is_named_by_an_example():
    scripts = "".join(path.read_text() for path in SCRIPTS)
    assert all(path.name in scripts for path in EXAMPLES.glob("*.yaml"))
