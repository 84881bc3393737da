from dataclasses import replace

import numpy as np
import pytest

from made_runs import compared, lines, made_run, shows, texts
from svdistill.report.comparison import compare
from svdistill.report.figure import BLUE
from svdistill.report.predictions import (
    class_table,
    confusion_table,
    predictions_section,
    quality_table,
    reliability_diagram,
)
from svdistill.report.runs import Run
from svdistill.training import CalibrationBin, PredictionSummary

NOTHING = CalibrationBin(0, 0, 0.0)


def predicted(matrix: list[list[int]], agreement: float | None = None) -> PredictionSummary:
    """A summary with a confusion matrix, all images with a confidence of 0.9."""
    names = tuple(f"class {place}" for place in range(len(matrix)))
    confusions = tuple(
        (label, guess, count)
        for label, row in enumerate(matrix)
        for guess, count in enumerate(row)
        if count
    )
    images, right = int(np.sum(matrix)), int(np.trace(matrix))
    bins = [NOTHING] * 15
    bins[13] = CalibrationBin(images, right, 0.9 * images)
    return PredictionSummary(names, confusions, tuple(bins), agreement)


def run(path: str, summary: PredictionSummary | None, **options: object) -> Run:
    return replace(made_run(path, **options), predictions=summary)


TEACHER = run("t", predicted([[10, 0], [1, 9]]), network="vgg_teacher")
ALONE = run("a", predicted([[6, 4], [5, 5]]))
TAUGHT = [
    run("b0", predicted([[9, 1], [3, 7]], 0.8), loss="svd"),
    run("b1", predicted([[8, 2], [3, 7]], 0.7), loss="svd", seed=1),
]


def test_agreement_calibration_and_the_ends_are_means_over_the_seeds() -> None:
    table = quality_table(compared(TEACHER, ALONE, *TAUGHT).methods)
    assert [row[0].text for row in table.rows] == ["teacher", "student alone", "SVD"]
    agreement, error, worst, best = table.rows[2][1:]
    assert agreement.number == pytest.approx(75.0)
    assert error.number == pytest.approx(100 * (0.9 - 0.8 + 0.9 - 0.75) / 2)
    assert (worst.text, best.text) == ("class 1: 70.0", "class 0: 85.0")
    assert table.rows[1][1].text == "–"


def test_classes_begin_with_the_lowest_and_have_their_gain() -> None:
    table = class_table(compared(TEACHER, ALONE, *TAUGHT).methods)
    headings = [column.heading for column in table.columns]
    assert headings == ["class", "teacher", "student alone", "SVD", "gain"]
    assert [[cell.text for cell in row] for row in table.rows] == [
        ["class 1", "90.0", "50.0", "70.0", "+20.0"],
        ["class 0", "100.0", "60.0", "85.0", "+25.0"],
    ]


def test_of_many_classes_the_lowest_and_the_highest_are_listed() -> None:
    right = list(range(30))
    matrix = np.diag(right) + np.diag([29 - count for count in right[:-1]], 1)
    table = class_table(compared(run("a", predicted(matrix.tolist()))).methods)
    shown = [row[0].text for row in table.rows]
    assert shown == [f"class {place}" for place in (*range(8), *range(22, 30))]
    assert "of 30 classes" in table.caption


def test_few_classes_have_a_matrix_over_the_seeds() -> None:
    table = confusion_table(compared(*TAUGHT).methods[0])
    assert [[cell.text for cell in row] for row in table.rows] == [
        ["class 0", "17", "3"],
        ["class 1", "6", "14"],
    ]
    assert "over 2 seeds" in table.caption


def test_many_classes_have_their_most_frequent_confusions() -> None:
    matrix = 10 * np.eye(12, dtype=int)
    matrix[3, 5], matrix[7, 2] = 30, 10
    table = confusion_table(compared(run("a", predicted(matrix.tolist()))).methods[0])
    assert [[cell.text for cell in row] for row in table.rows] == [
        ["class 3", "class 5", "30", "75.0"],
        ["class 7", "class 2", "10", "50.0"],
    ]


def test_the_diagram_draws_accuracy_by_confidence_without_nearly_empty_bins() -> None:
    bins = [NOTHING] * 15
    bins[7], bins[10], bins[12] = (
        CalibrationBin(20, 8, 10.0),
        CalibrationBin(40, 30, 28.0),
        CalibrationBin(3, 3, 2.5),
    )
    summary = replace(predicted([[32, 9], [10, 12]]), bins=tuple(bins))
    figure = reliability_diagram(compared(run("a", summary, loss="svd")).methods)
    assert shows(lines(figure.svg, BLUE)[0], [40.0, 75.0])
    error = 100 * (abs(8 - 10) + abs(30 - 28) + abs(3 - 2.5)) / 63
    assert f"SVD: error {error:.1f} %" in texts(figure.svg)


def test_the_teacher_beside_the_leading_row_is_its_own() -> None:
    summary = predicted([[10, 0], [1, 9]])
    other, own = (run(name, summary, network=f"timm:{name}") for name in ("large", "small"))
    students = [
        run(f"of-{teacher}", summary, accuracies=(last,), loss="svd", teacher=teacher)
        for teacher, last in (("large", 50.0), ("small", 60.0))
    ]
    (section,) = predictions_section(compare([other, own, *students]).pairs[-1:])
    headings = [column.heading for column in section.tables[1].columns]
    assert headings == ["class", "teacher, timm:small", "SVD, timm:small"]


def test_runs_without_predictions_have_no_section_and_no_row() -> None:
    old = run("c", None, loss="fsp")
    assert predictions_section(compare([made_run("d"), old]).pairs) == []
    (section,) = predictions_section(compare([ALONE, *TAUGHT, old]).pairs)
    assert [row[0].text for row in section.tables[0].rows] == ["student alone", "SVD"]
    leader_is_old = run("e", None, loss="fsp", accuracies=(99.0,))
    (section,) = predictions_section(compare([ALONE, leader_is_old]).pairs)
    assert [column.heading for column in section.tables[1].columns] == ["class", "student alone"]
