import re

import pytest

from made_runs import compared, lines, made_run, shows, texts
from svdistill.report import tradeoffs
from svdistill.report.comparison import compare
from svdistill.report.figure import BLUE, VERMILION
from svdistill.report.networks import Latencies, Latency
from svdistill.report.runs import Run
from svdistill.report.tradeoffs import (
    accuracy_against_cost,
    cost_points,
    cost_section,
    number_of_vectors,
    vector_curves,
    vectors_section,
)

BIG = {"parameters": 9_000_000, "flops": 80_000_000}
SMALL = {"parameters": 3_000_000, "flops": 20_000_000}
TEACHER = made_run("teacher", "vgg_teacher", (70.0,), **BIG)
RUNS = [
    TEACHER,
    made_run("alone-0", accuracies=(60.0,), **SMALL),
    made_run("alone-1", accuracies=(62.0,), seed=1, **SMALL),
    made_run("svd", accuracies=(64.0,), loss="svd", **SMALL),
    made_run("fsp", accuracies=(63.0,), loss="fsp", **SMALL),
    made_run("stride", "vgg_stride_student", (50.0,), **SMALL),
]
LATENCIES = [
    Latency("vgg_teacher", BIG["parameters"], BIG["flops"], 8.0, 1, "a processor"),
    Latency("vgg_student", SMALL["parameters"], SMALL["flops"], 2.0, 1, "a processor"),
]


def test_points_are_teachers_students_alone_and_the_best_row() -> None:
    points = [(p.pair, p.role, p.row, p.accuracy) for p in cost_points(compare(RUNS).pairs)]
    assert points == [
        ("VGG", "teacher", "teacher", 70.0),
        ("VGG", "student alone", "student alone", 61.0),
        ("VGG", "student, best row", "SVD", 64.0),
        ("VGG_stride", "student alone", "student alone", 50.0),
    ]


def test_three_panels_with_latencies_and_two_without() -> None:
    figure = accuracy_against_cost(compare(RUNS).pairs, LATENCIES)
    shown = texts(figure.svg)
    assert {"FLOPs, millions", "parameters, millions", "latency of one image, ms"} <= set(shown)
    assert "a processor, 1 thread" in figure.caption
    assert "SVD for VGG" in figure.caption
    without = accuracy_against_cost(compare(RUNS).pairs, [])
    assert "latency of one image, ms" not in texts(without.svg)
    assert "processor" not in without.caption


def test_what_it_says_in_words_are_the_runs_numbers() -> None:
    figure = accuracy_against_cost(compare(RUNS).pairs, LATENCIES)
    assert "VGG teacher 70.0 % with 80.0M FLOPs and 9.00M parameters" in figure.alt


def test_long_names_are_not_all_abreast_and_many_rows_not_all_named() -> None:
    runs = [
        made_run(f"{number}", f"timm:a_network_with_a_long_name_{number}", loss="svd")
        for number in range(6)
    ]
    figure = accuracy_against_cost(compare(runs).pairs, [])
    assert "SVD" not in figure.caption
    assert len([text for text in texts(figure.svg) if text.startswith("timm:")]) == 6


def test_a_panel_may_be_empty() -> None:
    other = Latency("another", 1, 1, 8.0, 1, "a processor")
    assert accuracy_against_cost(compare(RUNS).pairs, [other]) is not None


STRIDE = "vgg_stride_student"


def taught(count: int, accuracy: float, seed: int = 0, **options: object) -> Run:
    path = f"svd-{count}-{seed}-{options}"
    accuracies = (1.0, accuracy)
    return made_run(path, STRIDE, accuracies, seed=seed, loss="svd", num_vectors=count, **options)


ALONE = made_run("alone", STRIDE, (1.0, 50.0))
STRIDE_RUNS = [ALONE, taught(4, 54.0), taught(1, 52.0), taught(1, 56.0, seed=1), taught(2, 53.0)]


def test_curves_begin_with_the_student_alone_and_ascend() -> None:
    (curve,) = vector_curves(compared(*STRIDE_RUNS))
    assert (curve.pair, curve.row) == ("VGG_stride", "SVD")
    assert curve.counts == (0, 1, 2, 4)
    assert curve.accuracy.mean == pytest.approx((50.0, 54.0, 53.0, 54.0))
    assert curve.accuracy.lowest == (50.0, 52.0, 53.0, 54.0)
    assert curve.accuracy.highest == (50.0, 56.0, 53.0, 54.0)
    assert curve.gain.mean == pytest.approx((0.0, 4.0, 3.0, 4.0))


def test_clips_and_schedules_have_curves_of_their_own() -> None:
    runs = [
        *STRIDE_RUNS,
        *(taught(count, 60.0, clip="amortised") for count in (1, 2)),
        *(taught(count, 60.0, epochs=3) for count in (1, 2)),
    ]
    assert [curve.row for curve in vector_curves(compared(*runs))] == ["SVD", "SVD, amortised"]


@pytest.mark.parametrize("runs", [[], [ALONE], [ALONE, STRIDE_RUNS[2]], STRIDE_RUNS[1:]])
def test_nothing_is_drawn_without_two_counts_and_a_student_alone(runs: list[Run]) -> None:
    assert number_of_vectors(compare(runs).pairs) is None


def test_both_panels_show_the_curve_and_the_right_one_the_seeds() -> None:
    figure = number_of_vectors(compare(STRIDE_RUNS).pairs)
    assert figure is not None
    drawn = lines(figure.svg, BLUE)
    assert [shows(line, [50.0, 54.0, 53.0, 54.0]) for line in drawn] == [True, True]
    seeds = [0.0, 7.0, 7.3, 7.4, 7.6, 7.8]
    assert any(shows(line, seeds) for line in lines(figure.svg, "currentColor"))
    assert "VGG_stride, the paper's" in texts(figure.svg)
    assert "16" in texts(figure.svg)
    assert "k = 2 53.0" in figure.alt


def test_positions_have_a_curve_too() -> None:
    runs = [
        made_run(f"{count}", STRIDE, loss="position_svd", num_vectors=count) for count in (1, 4)
    ]
    assert [curve.row for curve in vector_curves(compared(ALONE, *runs))] == ["position SVD"]


TAUGHT = {"loss": "svd", "teacher": "t"}


def test_vectors_are_drawn_where_there_are_several_and_said_once_where_not() -> None:
    runs = [made_run("a"), made_run("b", **TAUGHT), made_run("c", "mobilenet_student")]
    (section,) = vectors_section(compare([*runs, made_run("d", data="folder:flowers")]))
    assert section.figures == ()
    assert "two numbers of vectors" in section.missing[0]
    (section,) = vectors_section(compare([*runs, made_run("e", num_vectors=4, **TAUGHT)]))
    assert len(section.figures) == 1


def test_cost_is_drawn_for_each_data_set_also_without_latency(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    nothing = Latencies(left_out=("Not one was timed.",))
    monkeypatch.setattr(tradeoffs, "measure_latencies", lambda runs: nothing)
    runs = [made_run("a"), made_run("b", "mobilenet_student"), made_run("c", data="folder:birds")]
    sections = cost_section(compare(runs))
    assert [section.title for section in sections] == ["scikit-learn's digits", "birds"]
    assert all(len(section.figures) == 1 for section in sections)
    assert sections[0].missing == ("Not one was timed.",)


def test_pairs_of_networks_differ_in_their_markers_too() -> None:
    svg = accuracy_against_cost(compare(RUNS).pairs, []).svg
    shapes = {
        colour: re.search(rf'd="([^"]+)"[^>]*style="[^"]*stroke: {colour.lower()}', svg)
        for colour in (BLUE, VERMILION)
    }
    assert all(shapes.values())
    assert len({shape[1] for shape in shapes.values() if shape}) == 2
