from pathlib import Path

import pytest

from made_runs import made_run, written
from svdistill.cli import main


@pytest.fixture
def runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two runs in the folder `runs` of the current directory."""
    monkeypatch.chdir(tmp_path)
    written(made_run("runs/alone", data="digits"))
    written(made_run("runs/svd", data="digits", loss="svd", teacher="gone"))


@pytest.mark.parametrize("words", [["runs"], ["runs/alone", "runs/svd", "-o", "pages.html"]])
def test_the_page_is_written_and_named(
    runs: None, words: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["report", *words]) == 0
    output = "pages.html" if "-o" in words else "report.html"
    assert capsys.readouterr().out == f"{output}\n"
    assert "Made by svdistill" in Path(output).read_text()


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["nothing"], "nothing: expected a run directory"),
        (["run"], "did you mean 'runs'?"),
        ([], "RUNS"),
        (["runs", "--ouput", "x.html"], "did you mean '--output'?"),
        (["runs", "-o", "nowhere/x.html"], "no directory nowhere"),
        (["runs", "-o", "runs"], "got a directory"),
    ],
)
def test_a_mistake_is_one_line_and_leaves_nothing(
    runs: None, words: list[str], expected: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["report", *words]) == 2
    printed = capsys.readouterr()
    assert printed.err.startswith("svdistill: ")
    assert expected in printed.err
    assert printed.err.count("\n") == 1
    assert [path.name for path in Path().iterdir()] == ["runs"]
