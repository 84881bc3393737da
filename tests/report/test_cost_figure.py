from made_runs import made_run, texts
from svdistill.report.comparison import compare
from svdistill.report.networks import Latency
from svdistill.report.tradeoffs import accuracy_against_cost, cost_points

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
    Latency("vgg_teacher", BIG["parameters"], BIG["flops"], 8.0, 7.0, 9.0, 1, "a processor"),
    Latency("vgg_student", SMALL["parameters"], SMALL["flops"], 2.0, 1.0, 3.0, 1, "a processor"),
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
    other = Latency("another", 1, 1, 8.0, 7.0, 9.0, 1, "a processor")
    assert accuracy_against_cost(compare(RUNS).pairs, [other]) is not None
