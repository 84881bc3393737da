import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from made_runs import NUMBERS, compared, lines, made_run, shows, texts
from svdistill.common import RunError
from svdistill.report import plot_curves
from svdistill.report.comparison import compare
from svdistill.report.curves import (
    accuracy_curves,
    curves_section,
    gradient_table,
    gradients_section,
    run_curves,
    vectors_section,
)
from svdistill.report.figure import BLUE, GREEN, PURPLE, VERMILION
from svdistill.report.runs import Run, find_runs


def run_directory(path, accuracies):
    path.mkdir()
    lines = [
        json.dumps({**NUMBERS, "epoch": epoch, "test_accuracy": accuracy})
        for epoch, accuracy in enumerate(accuracies)
    ]
    (path / "metrics.jsonl").write_text("\n".join(lines) + "\n")
    return path


def test_lines_and_bands_are_drawn(tmp_path):
    steep = [run_directory(tmp_path / f"steep{seed}", [10, 50 + seed, 90]) for seed in range(3)]
    flat = run_directory(tmp_path / "flat", [10, 12, 14])
    picture = tmp_path / "curves.png"
    plot_curves([("flat", flat)], picture, "one")
    one = np.asarray(Image.open(picture).convert("RGB"))
    plot_curves([*(("steep", run) for run in steep), ("flat", flat)], picture, "two")
    two = np.asarray(Image.open(picture).convert("RGB"))
    assert one.shape == two.shape
    colours = [len(np.unique(image.reshape(-1, 3), axis=0)) for image in (one, two)]
    assert colours[1] > colours[0]
    assert sorted(path.name for path in tmp_path.iterdir() if path.is_file()) == ["curves.png"]


def test_svg_says_what_it_shows(tmp_path):
    picture = tmp_path / "curves.svg"
    plot_curves([("alone", run_directory(tmp_path / "run", [10, 20]))], picture, "Title")
    assert picture.read_text().lstrip().startswith("<?xml")


@pytest.mark.parametrize("content", [None, "not json\n", '{"epoch": 1}\n'])
def test_a_damaged_run_is_named(tmp_path, content):
    run = tmp_path / "run"
    run.mkdir()
    if content is not None:
        (run / "metrics.jsonl").write_text(content)
    with pytest.raises(RunError, match=r"metrics\.jsonl"):
        plot_curves([("alone", run)], tmp_path / "curves.png", "Title")
    assert not (tmp_path / "curves.png").exists()


ALONE = [made_run(f"alone-{seed}", accuracies=(10.0, 20.0, 30.0), seed=seed) for seed in range(2)]
SVD = [
    made_run("svd-0", accuracies=(20.0, 50.0, 40.0), loss="svd"),
    made_run("svd-1", accuracies=(40.0, 10.0, 80.0), seed=1, loss="svd"),
]
FSP = [made_run("fsp-0", accuracies=(5.0, 9.0, 8.0), loss="fsp")]
TEACHER = made_run("teacher", "vgg_teacher", accuracies=(1.0,) * 9 + (70.0,))


def test_lines_are_the_means_and_the_teacher_is_a_level() -> None:
    figure = accuracy_curves(compared(TEACHER, *ALONE, *SVD, *FSP).methods)
    assert [shows(line, [30.0, 30.0, 60.0]) for line in lines(figure.svg, BLUE)] == [True]
    assert [shows(line, [5.0, 9.0, 8.0]) for line in lines(figure.svg, VERMILION)] == [True]
    black = lines(figure.svg, "currentColor")
    assert any(shows(line, [10.0, 20.0, 30.0]) for line in black)
    assert not any(len(line) == 10 for line in black)


def test_the_legend_gives_the_last_accuracies_best_first() -> None:
    figure = accuracy_curves(compared(TEACHER, *ALONE, *SVD, *FSP).methods)
    shown = texts(figure.svg)[-4:]
    assert shown == [
        "SVD: 60.0",
        "student alone: 30.0",
        "FSP: 8.0",
        "teacher, last epoch: 70.0",
    ]
    assert "SVD 60.0, student alone 30.0" in figure.svg
    assert "VGG" in figure.title


def test_teachers_alone_are_drawn_as_lines() -> None:
    figure = accuracy_curves(compared(TEACHER).methods)
    assert any(len(line) == 10 for line in lines(figure.svg, BLUE))


def test_runs_of_different_length_are_drawn_as_far_as_all_go() -> None:
    figure = accuracy_curves(
        compared(FSP[0], made_run("fsp-1", accuracies=(7.0, 3.0), seed=1, loss="fsp")).methods
    )
    assert [len(line) for line in lines(figure.svg, BLUE)] == [2]


def test_a_teacher_that_is_not_among_the_runs_is_a_level_too() -> None:
    taught = [made_run(f"a{s}", loss="svd", seed=s, teacher_accuracy=90.0) for s in (0, 1)]
    figure = accuracy_curves(compared(*taught).methods)
    assert "teacher, last epoch: 90.0" in texts(figure.svg)
    several = accuracy_curves(
        compared(*taught, made_run("c", loss="fsp", teacher_accuracy=80.0)).methods
    )
    assert not any("teacher" in text for text in texts(several.svg))


def test_bands_are_explained_where_there_are_any() -> None:
    one, two = (accuracy_curves(compared(*runs).methods) for runs in (FSP, SVD))
    assert "seed" not in one.caption
    assert "its band reaches from the lowest seed" in two.caption


RESULTS = Path(__file__).parents[2] / "results"
NORMS = {"task_norm": 2.0, "transfer_norm": 30.0, "clipped_norm": 1.0}


def test_gradients_are_means_over_epochs_and_seeds() -> None:
    runs = find_runs([RESULTS / "mini-clip" / f"vgg-stride-svd-norm-{seed}" for seed in range(3)])
    table = gradient_table(compared(*runs))
    assert table is not None
    for place, name in enumerate(("task_norm", "clipped_norm", "transfer_norm"), start=1):
        expected = np.mean([[getattr(record, name) for record in run.records] for run in runs])
        assert table.rows[0][place].number == pytest.approx(expected), name


def test_rows_without_gradients_have_no_row_and_shares_a_column_where_there_are_any() -> None:
    runs = [
        made_run("alone"),
        made_run("svd", loss="svd", numbers={**NORMS, "svd_close": 0.25, "svd_missed": 0.0}),
        made_run("global", loss="svd", clip="global", numbers=NORMS),
    ]
    table = gradient_table(compared(*runs))
    assert table is not None
    assert [row[0].text for row in table.rows] == ["SVD", "SVD, global"]
    headings = [column.heading for column in table.columns]
    assert headings[1:] == [
        *("task", "transfer, clipped", "transfer, before clipping", "SVDs damped %"),
    ]
    assert [row[-1].number for row in table.rows] == [25.0, None]
    assert gradient_table(compared(*runs[:1])) is None
    assert gradients_section(compare(runs[:1]).pairs) == []


def with_values(run: Run, name: str, values: list[float]) -> Run:
    records = tuple(
        replace(record, **{name: value}) for record, value in zip(run.records, values, strict=True)
    )
    return replace(run, records=records)


TAUGHT = made_run("run", loss="svd", accuracies=(10.0, 30.0, 90.0), teacher_accuracy=95.0)


def test_accuracies_and_losses_are_those_of_the_run() -> None:
    run = with_values(TAUGHT, "train_accuracy", [20.0, 25.0, 60.0])
    run = with_values(run, "test_loss", [3.0, 2.5, 1.0])
    run = with_values(run, "transfer_loss", [9.0, 8.0, 6.0])
    figure = run_curves(run)
    drawn = lines(figure.svg, BLUE)
    assert [shows(line, [10.0, 30.0, 90.0]) for line in drawn] == [True, False]
    assert shows(drawn[1], [3.0, 2.5, 1.0])
    assert shows(lines(figure.svg, VERMILION)[0], [20.0, 25.0, 60.0])
    assert shows(lines(figure.svg, PURPLE)[0], [9.0, 8.0, 6.0])
    assert lines(figure.svg, GREEN) == []
    assert "teacher: 95.0 %" in texts(figure.svg)
    assert "accuracy, % test 90.00" in figure.svg


def test_a_loss_that_falls_far_is_on_a_logarithmic_scale() -> None:
    values = [500.0, 50.0, 5.0]
    figure = run_curves(with_values(TAUGHT, "transfer_loss", values))
    assert shows(lines(figure.svg, PURPLE)[0], np.log(values).tolist())


def test_in_two_stages_only_the_first_has_the_transfer() -> None:
    run = with_values(TAUGHT, "transfer_loss", [9.0, 8.0, 300.0])
    first, second, last = run.records
    stages = (first, second, replace(last, stage="task"))
    figure = run_curves(replace(run, records=stages))
    assert [len(line) for line in lines(figure.svg, PURPLE)] == [2]


def test_a_network_trained_alone_has_neither_teacher_nor_transfer() -> None:
    shown = texts(run_curves(made_run("run")).svg)
    assert {"accuracy, %", "cross-entropy", "epoch"} <= set(shown)
    assert not any("transfer" in text or "teacher" in text for text in shown)


def test_held_out_images_have_a_line() -> None:
    figure = run_curves(with_values(TAUGHT, "dev_accuracy", [11.0, 29.0, 88.0]))
    assert shows(lines(figure.svg, GREEN)[0], [11.0, 29.0, 88.0])
    assert "held out" in texts(figure.svg)


BY_SVD = {"loss": "svd", "teacher": "t"}


def test_each_comparison_has_its_own_curves() -> None:
    runs = [made_run("a"), made_run("b", "mobilenet_student"), made_run("c", classes_every=5)]
    runs.append(made_run("d", seed=1))
    sections = curves_section(compare(runs).pairs)
    assert [section.title for section in sections] == [
        "VGG on scikit-learn's digits",
        "MobileNet on scikit-learn's digits",
        "VGG on scikit-learn's digits (one class in 5)",
    ]
    assert all(len(section.figures) == 1 for section in sections)
    titles = [section.figures[0].title for section in sections]
    assert titles[0] == "VGG: test accuracy by epoch"
    assert titles[1] == "MobileNet: accuracies and losses by epoch"  # of one run


def test_many_rows_are_spread_over_several_figures_the_best_in_the_first() -> None:
    taught = [
        made_run(f"k{k}", accuracies=(10.0, 20.0 + k), num_vectors=k, **BY_SVD)
        for k in range(1, 11)
    ]
    (section,) = curves_section(compare([made_run("alone"), *taught]).pairs)
    first, second = (figure.svg for figure in section.figures)
    assert "k = 10 30.0" in first
    assert "k = 3 23.0" in first
    assert "k = 2 22.0" in second
    assert "student alone" in first
    assert "student alone" in second


STRIDE = "vgg_stride_student"


def taught(count: int, accuracy: float, seed: int = 0, **options: object) -> Run:
    path = f"svd-{count}-{seed}-{options}"
    accuracies = (1.0, accuracy)
    return made_run(path, STRIDE, accuracies, seed=seed, loss="svd", num_vectors=count, **options)


UNTAUGHT = [made_run(f"alone-{seed}", STRIDE, (1.0, 50.0), seed=seed) for seed in (0, 1)]
STRIDE_RUNS = [
    *UNTAUGHT,
    *(taught(4, 54.0), taught(1, 52.0), taught(1, 56.0, seed=1), taught(2, 53.0)),
]


def test_gains_are_drawn_by_the_number_of_vectors_beside_the_papers() -> None:
    (section,) = vectors_section(compare(STRIDE_RUNS).pairs)
    (figure,) = section.figures
    assert [shows(line, [4.0, 3.0, 4.0]) for line in lines(figure.svg, BLUE)] == [True]
    paper = [7.0, 7.3, 7.4, 7.6, 7.8]
    assert any(shows(line, paper) for line in lines(figure.svg, "currentColor"))
    assert "VGG_stride, the paper's" in texts(figure.svg)
    assert "16" in texts(figure.svg)
    assert "VGG_stride, SVD: k = 1 +4.0, k = 2 +3.0" in figure.svg


def test_clips_and_positions_have_curves_of_their_own() -> None:
    runs = [
        *STRIDE_RUNS,
        *(taught(count, 60.0, clip="amortised") for count in (1, 2)),
        *(made_run(f"{count}", STRIDE, loss="position_svd", num_vectors=count) for count in (1, 4)),
    ]
    (section,) = vectors_section(compare(runs).pairs)
    names = [text for text in texts(section.figures[0].svg) if text.startswith("VGG_stride, ")]
    assert names == [
        *("VGG_stride, SVD", "VGG_stride, SVD, amortised", "VGG_stride, position SVD"),
        "VGG_stride, the paper's",
    ]


@pytest.mark.parametrize("runs", [UNTAUGHT, [*UNTAUGHT, STRIDE_RUNS[3]], STRIDE_RUNS[2:]])
def test_nothing_is_drawn_without_two_counts_and_a_student_alone(runs: list[Run]) -> None:
    assert vectors_section(compare(runs).pairs) == []


def test_students_of_different_teachers_have_curves_of_their_own() -> None:
    runs = [
        taught(count, 50.0 + count, teacher_accuracy=accuracy)
        for accuracy in (60.0, 75.0)
        for count in (1, 4)
    ]
    (section,) = vectors_section(compare([*UNTAUGHT, *runs]).pairs)
    names = [text for text in texts(section.figures[0].svg) if "teacher" in text]
    assert names == [f"VGG_stride, SVD, teacher of {accuracy} %" for accuracy in ("60.00", "75.00")]
