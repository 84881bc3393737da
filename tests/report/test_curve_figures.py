from made_runs import compared, lines, made_run, shows, texts
from svdistill.report.curves import accuracy_curves
from svdistill.report.figure import BLUE, VERMILION

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
        "FSP, 1-stage: 8.0",
        "teacher, last epoch: 70.0",
    ]
    assert "SVD 60.0, student alone 30.0" in figure.alt
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
