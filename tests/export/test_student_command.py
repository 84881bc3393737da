"""`svdistill export` as a person sees it."""

import shutil
from pathlib import Path

import pytest

from svdistill.cli import main


def test_prints_a_table_and_the_path_and_nothing_else(
    run: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "new" / "student.onnx"
    assert main(["export", str(run), "-o", str(output), "--images", "50"]) == 0
    printed = capfd.readouterr()
    assert printed.err == ""
    lines = printed.out.splitlines()
    assert lines[-1] == str(output)
    for wanted in ("mobilenet_student", "ONNX Runtime", "parameters", "batch of 32", "50 test"):
        assert wanted in printed.out
    assert len(lines) < 16
    names = sorted(path.name for path in output.parent.iterdir())
    assert names == ["student.onnx", "student.onnx.json"]


def test_the_page_of_the_run_is_written_anew_and_tells_the_files_latency(
    run: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    copy = Path(shutil.copytree(run, tmp_path / "run"))
    (copy / "report.html").write_text("before")
    assert main(["export", str(copy), "--images", "20"]) == 0
    assert capfd.readouterr().out.splitlines()[-1] == str(copy / "report.html")
    assert "student.onnx: ONNX Runtime, float32" in (copy / "report.html").read_text()


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["--format", "tflite"], "format: "),
        (["--data", "nothing"], "data: "),
        (["--data", "folder:nowhere"], "nowhere"),
        (["--output", "student.txt"], "output: "),
    ],
)
def test_mistakes_are_one_line(
    words: list[str],
    expected: str,
    run: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["export", str(run), *words]) == 2
    message = capsys.readouterr().err
    assert message.startswith("svdistill: ")
    assert expected in message
    assert message.count("\n") == 1
    assert list(tmp_path.iterdir()) == []
