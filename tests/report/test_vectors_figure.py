import pytest

from made_runs import compared, lines, made_run, shows, texts
from svdistill.report.comparison import compare
from svdistill.report.figure import BLUE
from svdistill.report.runs import Run
from svdistill.report.tradeoffs import number_of_vectors, vector_curves

STRIDE = "vgg_stride_student"


def taught(count: int, accuracy: float, seed: int = 0, **options: object) -> Run:
    path = f"svd-{count}-{seed}-{options}"
    accuracies = (1.0, accuracy)
    return made_run(path, STRIDE, accuracies, seed=seed, loss="svd", num_vectors=count, **options)


ALONE = made_run("alone", STRIDE, (1.0, 50.0))
RUNS = [ALONE, taught(4, 54.0), taught(1, 52.0), taught(1, 56.0, seed=1), taught(2, 53.0)]


def test_curves_begin_with_the_student_alone_and_ascend() -> None:
    (curve,) = vector_curves(compared(*RUNS))
    assert (curve.pair, curve.row) == ("VGG_stride", "SVD")
    assert curve.counts == (0, 1, 2, 4)
    assert curve.accuracy.mean == pytest.approx((50.0, 54.0, 53.0, 54.0))
    assert curve.accuracy.lowest == (50.0, 52.0, 53.0, 54.0)
    assert curve.accuracy.highest == (50.0, 56.0, 53.0, 54.0)
    assert curve.gain.mean == pytest.approx((0.0, 4.0, 3.0, 4.0))


def test_clips_and_schedules_have_curves_of_their_own() -> None:
    runs = [
        *RUNS,
        *(taught(count, 60.0, clip="amortised") for count in (1, 2)),
        *(taught(count, 60.0, epochs=3) for count in (1, 2)),
    ]
    assert [curve.row for curve in vector_curves(compared(*runs))] == ["SVD", "SVD, amortised"]


@pytest.mark.parametrize("runs", [[], [ALONE], [ALONE, RUNS[2]], RUNS[1:]])
def test_nothing_is_drawn_without_two_counts_and_a_student_alone(runs: list[Run]) -> None:
    assert number_of_vectors(compare(runs).pairs) is None


def test_both_panels_show_the_curve_and_the_right_one_the_seeds() -> None:
    figure = number_of_vectors(compare(RUNS).pairs)
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
