from pathlib import Path

import pytest

from svdistill.cli import main
from svdistill_benchmarks import StepResult
from svdistill_benchmarks.run import read_result


@pytest.mark.slow
def test_a_table_is_printed_and_the_result_written(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "step.json"
    words = ["bench", "step", "--network", "mobilenet", "--width", "0.05", "--batch-size", "2"]
    assert main([*words, "--rounds", "1", "--device", "cpu", "-o", str(output)]) == 0
    printed = capsys.readouterr().out
    for table in read_result(output, StepResult).tables:
        assert table.student == "mobilenet_student"
        kept = "kept" if table.keeps_memory else "not kept"
        assert f"mobilenet_teacher to mobilenet_student, batch 2, noise, memory {kept}" in printed
    assert "SVD, straightforward" in printed
    assert str(output) in printed


@pytest.mark.parametrize(
    ("words", "remedy"),
    [
        (["stpe"], "did you mean 'step'?"),
        (["step", "--netwrk", "vgg"], "did you mean '--network'"),
        (["step", "--network", "vggg"], "choose one of these"),
        (["dfv", "--network", "vgg"], "leave it out"),
        (["step", "--rounds", "many"], "rounds"),
        ([], "WHAT"),
    ],
)
def test_a_mistake_is_one_line(
    words: list[str], remedy: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["bench", *words]) == 2
    message = capsys.readouterr().err
    assert message.count("\n") == 1
    assert remedy in message
