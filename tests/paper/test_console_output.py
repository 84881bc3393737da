"""What the tables after `reproduce` put side by side, and into one row."""

from dataclasses import replace
from pathlib import Path

from rich.console import Console

from made_runs import made_run
from svdistill.paper.console_output import show_tables
from svdistill.report import Run
from svdistill.training import PredictionSummary


def shown(runs: list[Run], tmp_path: Path) -> str:
    console = Console(record=True, width=150, file=(tmp_path / "printed.txt").open("w"))
    show_tables(runs, console)
    return console.export_text()


def of_classes(run: Run, names: tuple[str, ...]) -> Run:
    return replace(run, predictions=PredictionSummary(names, ((0, 0, 1),), ()))


def test_a_teacher_of_other_classes_is_left_out_before_any_student_is_distilled(
    tmp_path: Path,
) -> None:
    teacher = of_classes(made_run("teacher", "vgg_teacher", (30.0,)), ("ant", "bee"))
    for names, beside in ((("bee", "ant"), True), (("cow", "dog"), False)):
        text = shown(
            [teacher, of_classes(made_run("student-0", accuracies=(20.0,)), names)], tmp_path
        )
        assert ("30.00" in text) == ("teacher +10.0 points" in text) == beside


def test_runs_that_chose_other_precisions_are_not_averaged(tmp_path: Path) -> None:
    runs = [made_run(f"student-{seed}", accuracies=(20.0 + seed,)) for seed in range(3)]
    text = shown(runs, tmp_path)
    assert "21.00 ± 1.00" in text
    runs[0].config["precision"] = "bf16"
    text = shown(runs, tmp_path)
    assert "student alone, bf16" in text
    assert "student alone, float32" in text
    assert "21.50 ± 0.71" in text
