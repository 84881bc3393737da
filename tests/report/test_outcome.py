import io
import math
import re
from dataclasses import replace
from pathlib import Path

import pytest
from rich.console import Console
from scipy.stats import binomtest

from made_runs import made_run, written
from svdistill.common import Cell, RunError
from svdistill.report.outcome import Outcome, before_after_table, outcome, wilson_interval
from svdistill.report.runs import Run
from svdistill.training.before_after import BeforeAfter, NetworkFigures, write_before_after

STUDENT = NetworkFigures(
    accuracy=10.0, parameters=900_000, flops=9_000_000, bytes=3_600_000, milliseconds=2.0
)
MEASURED = BeforeAfter(
    test_images=400,
    threads=1,
    teacher=NetworkFigures(90.0, 9_000_000, 135_000_000, 36_000_000, 5.0),
    before=STUDENT,
    after=replace(STUDENT, accuracy=80.0),
)


def run_of(path: Path, measured: BeforeAfter | None = MEASURED, **options: object) -> Run:
    options = {"accuracies": (60.0, 80.0), "teacher_accuracy": 90.0, **options}
    run = made_run(str(path / "run"), "timm:small", loss="svd", teacher="timm:large", **options)
    written(run)
    if measured is not None:
        write_before_after(run.path / "before_after.json", measured)
    return run


def tiles(found: Outcome) -> dict[str, tuple[str, str]]:
    return {tile.label: (tile.number, tile.beside) for tile in found.tiles}


def test_gain_and_price_are_told_in_one_glance(tmp_path: Path) -> None:
    found = outcome(run_of(tmp_path))
    assert found.title == "timm:small, SVD"
    assert tiles(found) == {
        "accuracy": ("80.00 %", "10.00 % before"),
        "teacher": ("90.00 %", "10.00 points above the student"),
        "parameters": ("0.900M", "10 × fewer than the teacher"),
        "FLOPs": ("9.0M", "15 × fewer than the teacher"),
        "latency": ("2.0 ms", "2.5 × less than the teacher"),
        "weights": ("3.60 MB", "10 × less than the teacher"),
    }
    assert found.sentences == ""


def test_the_table_has_a_row_for_each_network(tmp_path: Path) -> None:
    table = outcome(run_of(tmp_path)).table
    assert table is not None
    assert [row[0].text for row in table.rows] == [
        "teacher timm:large",
        "student before",
        "student after",
    ]
    low, high = wilson_interval(80.0, 400)
    assert table.rows[2][1] == Cell(f"80.00 ({low:.1f}-{high:.1f})", 80.0)
    assert [cell.number for cell in table.rows[0][2:]] == [9_000_000, 135_000_000, 5.0, 36.0]
    assert table.best == (2,)
    assert "400 test images" in table.caption


def test_a_student_of_a_store_is_compared_with_its_teachers_accuracy_alone(tmp_path: Path) -> None:
    found = outcome(run_of(tmp_path, replace(MEASURED, teacher=None)))
    assert found.table is not None
    assert len(found.table.rows) == 2
    assert tiles(found)["teacher"][0] == "90.00 %"
    assert tiles(found)["latency"] == ("2.0 ms", "")


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"accuracies": (60.0, 85.0, 80.0)}, "The best epoch was 3 of 3, with 85.00 %"),
        ({"teacher_accuracy": 9.0}, "The student was no worse than its teacher"),
        ({"teacher_accuracy": 70.0}, "more accurate than its teacher"),
    ],
)
def test_what_is_remarkable_is_said(tmp_path: Path, options: dict[str, object], said: str) -> None:
    assert said in outcome(run_of(tmp_path, **options)).sentences


def test_costs_that_agree_or_are_higher_are_called_so(tmp_path: Path) -> None:
    teacher = replace(STUDENT, parameters=300_000, milliseconds=1.98)
    found = tiles(outcome(run_of(tmp_path, replace(MEASURED, teacher=teacher))))
    assert found["parameters"][1] == "3.0 × more than the teacher"
    assert found["latency"][1] == "as the teacher"
    assert tiles(outcome(run_of(tmp_path / "b", teacher_accuracy=80.0)))["teacher"][1] == (
        "as the student"
    )


def test_runs_that_did_not_measure_it_say_what_they_know(tmp_path: Path) -> None:
    found = outcome(run_of(tmp_path, measured=None))
    assert found.table is None
    assert tiles(found)["accuracy"] == ("80.00 %", "on the test images")
    assert tiles(found)["parameters"] == ("1.000M", "")
    alone = written(made_run(str(tmp_path / "alone")))
    assert list(tiles(outcome(made_run(str(alone))))) == ["accuracy", "parameters", "FLOPs"]


def test_damaged_figures_are_refused(tmp_path: Path) -> None:
    run = run_of(tmp_path)
    (run.path / "before_after.json").write_text("{}")
    with pytest.raises(RunError, match="before_after"):
        outcome(run)


SMALL = NetworkFigures(5.0, 923_000, 8_600_000, 3_692_000, 1.25)
FIGURES = BeforeAfter(
    test_images=2000,
    threads=2,
    teacher=NetworkFigures(75.05, 2_708_000, 144_900_000, 10_832_000, 11.5),
    before=SMALL,
    after=replace(SMALL, accuracy=64.7),
)


def shown(measured: BeforeAfter) -> str:
    console = Console(file=io.StringIO(), width=80)
    console.print(before_after_table(measured))
    return console.file.getvalue()  # type: ignore[attr-defined]


def test_a_row_says_how_good_a_network_is_and_what_it_costs() -> None:
    names = ("teacher", "student before", "student after")
    rows = [line.strip() for line in shown(FIGURES).splitlines() if line.strip().startswith(names)]
    assert [re.split(" {2,}", row) for row in rows] == [
        ["teacher", "75.05 (73.1-76.9)", "2.708M", "144.9M", "11.5 ms", "10.8 MB"],
        ["student before", "5.00 (4.1-6.0)", "0.923M", "8.6M", "1.2 ms", "3.7 MB"],
        ["student after", "64.70 (62.6-66.8)", "0.923M", "8.6M", "1.2 ms", "3.7 MB"],
    ]


def test_a_student_of_a_store_has_no_teachers_row() -> None:
    text = shown(replace(FIGURES, teacher=None))
    assert "teacher" not in text
    assert "2,000 test images" in text
    assert "2 threads" in text


def test_large_networks_fit_a_terminal_of_80_columns() -> None:
    large = NetworkFigures(81.25, 304_300_000, 123_200_000_000, 1_217_300_000, 1234.5)
    text = shown(replace(FIGURES, teacher=large))
    assert "123200.0M" in text
    assert "1217.3 MB" in text


@pytest.mark.parametrize(
    ("right", "images"), [(0, 5), (1, 1), (37, 50), (1999, 2000), (9000, 10000)]
)
def test_the_interval_is_scipys(right: int, images: int) -> None:
    reference = binomtest(right, images).proportion_ci(0.95, method="wilson")
    found = wilson_interval(100 * right / images, images)
    assert found == pytest.approx((100 * reference.low, 100 * reference.high), abs=1e-9)


def test_it_narrows_with_the_root_of_the_images() -> None:
    few, many = (wilson_interval(70.0, images) for images in (1_000, 100_000))
    ratio = (few[1] - few[0]) / (many[1] - many[0])
    assert math.isclose(ratio, 10, rel_tol=0.01)
