from dataclasses import replace

import pytest

from made_runs import compared, made_run
from svdistill.report.comparison import compare
from svdistill.report.methods import MethodResult
from svdistill.report.runs import Run
from svdistill.training import BeforeAfter, NetworkFigures

CIFAR = "parquet:data/cifar100"


def taught(path: str, **options: object) -> Run:
    return made_run(path, **{"loss": "svd", "teacher": "t", "data": CIFAR, **options})


def alone(path: str, **options: object) -> Run:
    return made_run(path, **{"data": CIFAR, **options})


def test_a_pair_on_a_data_set_is_a_comparison_and_other_paths_are_the_same_data() -> None:
    runs = [
        taught("a"),
        alone("b", data="parquet:/elsewhere/cifar100"),
        alone("c", data="digits"),
        taught("d", classes_every=5),
        alone("e", network="mobilenet_student"),
    ]
    found = [(entry.title, len(entry.runs)) for entry in compare(runs).pairs]
    assert found == [
        ("VGG on CIFAR-100", 2),
        ("VGG on scikit-learn's digits", 1),
        ("VGG on CIFAR-100 (one class in 5)", 1),
        ("MobileNet on CIFAR-100", 1),
    ]


def test_rows_hold_seeds_in_order_teachers_and_students_alone_first() -> None:
    runs = [
        taught("a", seed=1),
        taught("b", seed=0),
        alone("c"),
        alone("d", network="vgg_teacher"),
    ]
    comparison = compared(*runs)
    assert [row.name for row in comparison.methods] == ["teacher", "student alone", "SVD"]
    assert comparison.methods[2].seeds == (0, 1)
    assert [row.name for row in comparison.teachers] == ["teacher"]
    assert [row.name for row in comparison.students] == ["student alone", "SVD"]


def test_students_that_were_trained_otherwise_say_how_and_compare_with_their_like() -> None:
    runs = [
        taught("a", epochs=4),
        taught("b", epochs=10),
        alone("c", epochs=10),
        alone("d", network="vgg_teacher", epochs=80),
    ]
    comparison = compared(*runs)
    _, student, short, long = comparison.methods
    assert [row.name for row in comparison.methods] == [
        "teacher",
        "student alone, 10 epochs",
        "SVD, 4 epochs",
        "SVD, 10 epochs",
    ]
    assert long.alone == student
    assert short.alone is None
    assert student.alone is None


def test_the_only_teacher_is_not_that_of_a_student_of_a_teacher_of_other_classes() -> None:
    figures = NetworkFigures(None, 1, 1, 4, 1.0)
    trained = replace(figures, accuracy=50.0)
    teacher = alone("t", network="vgg_teacher")
    for accuracy, found in ((20.0, True), (None, False)):
        measured = BeforeAfter(100, 1, replace(figures, accuracy=accuracy), trained, trained)
        student = taught("a", teacher="elsewhere/t2", teacher_accuracy=accuracy)
        pair = compared(teacher, alone("b"), replace(student, before_after=measured))
        assert (pair.teacher_of(pair.distilled[0]) is not None) == found


def test_stride_students_borrow_the_teacher_of_those_that_pool() -> None:
    teacher = alone("a", network="vgg_teacher")
    stride = taught("b", network="vgg_stride_student")
    comparison = compared(teacher, stride)
    assert comparison.pair == "VGG_stride"
    assert comparison.runs == (teacher, stride)
    both = compare([teacher, stride, alone("c")]).pairs
    assert [(entry.pair, entry.runs[0]) for entry in both] == [
        ("VGG", teacher),
        ("VGG_stride", teacher),
    ]


def test_a_teacher_without_students_is_shown_alone() -> None:
    comparison = compared(alone("a", network="resnext_teacher"))
    assert comparison.students == ()
    assert comparison.title == "ResNeXt on CIFAR-100"


NETWORKS = {"teacher": "timm:resnet18", "student": "timm:resnet10t"}


def of_timm(part: str, path: str, **options: object) -> Run:
    return made_run(path, **{"network": NETWORKS[part], "data": CIFAR, **options})


def test_a_named_teacher_stands_beside_its_students() -> None:
    teacher, untaught = of_timm("teacher", "runs/big"), of_timm("student", "runs/small")
    student = of_timm("student", "runs/svd", loss="svd", teacher="runs/big")
    comparison = compared(teacher, untaught, student)
    assert comparison.title == "timm:resnet10t on CIFAR-100"
    assert [row.name for row in comparison.methods] == ["teacher", "student alone", "SVD"]
    assert comparison.methods[0].is_teacher
    assert comparison.methods[2].alone == comparison.methods[1]
    moved = of_timm("student", "runs/svd", loss="svd", teacher="elsewhere/big")
    assert [len(entry.teachers) for entry in compare([teacher, moved]).pairs] == [1]


def test_a_network_that_teaches_itself_is_its_teacher_and_the_student_alone() -> None:
    alone, taught_again = (
        of_timm("teacher", "runs/a"),
        of_timm("teacher", "runs/b", loss="svd", teacher="runs/a"),
    )
    comparison = compared(alone, taught_again)
    assert [row.name for row in comparison.methods] == ["teacher", "student alone", "SVD"]
    again = compared(*comparison.runs)
    assert [row.seeds for row in again.methods] == [(0,), (0,), (0,)]


def test_a_teacher_on_other_images_makes_no_row() -> None:
    teacher = of_timm("teacher", "runs/big", accuracies=(80.0,))
    student = of_timm("student", "runs/svd", loss="svd", teacher="runs/big", teacher_accuracy=10.0)
    mine, its = compare([student, teacher]).pairs
    assert mine.teachers == ()
    assert its.title == "timm:resnet18 on CIFAR-100"
    at_home = of_timm("student", "runs/b", loss="svd", teacher="runs/big", teacher_accuracy=79.9)
    assert [len(entry.teachers) for entry in compare([teacher, at_home]).pairs] == [1]


def test_students_of_different_teachers_are_no_seeds_of_one_row() -> None:
    runs = [
        of_timm("teacher", "runs/big"),
        made_run("runs/wide", "timm:wide_resnet50_2", data=CIFAR),
        of_timm("student", "runs/a", loss="svd", teacher="runs/big"),
        of_timm("student", "runs/b", loss="svd", teacher="runs/wide", seed=1),
        of_timm("student", "runs/c", loss="svd", teacher="timm:resnet34", seed=2),
    ]
    comparison = compared(*runs)
    assert [row.name for row in comparison.methods] == [
        "teacher, timm:resnet18",
        "teacher, timm:wide_resnet50_2",
        "SVD, timm:resnet18",
        "SVD, timm:wide_resnet50_2",
        "SVD, timm:resnet34",
    ]


def test_seeds_whose_teachers_are_gone_stay_one_row() -> None:
    runs = [of_timm("student", f"{s}", loss="svd", teacher=f"gone/{s}", seed=s) for s in (0, 1)]
    comparison = compared(*runs)
    assert [row.seeds for row in comparison.methods] == [(0, 1)]


def test_a_network_beside_which_nothing_was_taught_is_no_student() -> None:
    comparison = compared(of_timm("teacher", "runs/big"))
    assert [row.name for row in comparison.methods] == ["trained alone"]


def test_images_given_in_python_are_told_apart_by_their_fingerprint() -> None:
    def on(fingerprint: str) -> Run:
        run = made_run(fingerprint, data="object")
        return replace(run, environment={**run.environment, "data_fingerprint": fingerprint})

    found = compare([on("a"), on("b"), on("a")]).pairs
    assert [len(entry.runs) for entry in found] == [2, 1]


def test_a_student_alone_on_images_of_another_size_is_no_measure() -> None:
    small, large = (alone(f"alone-{side}", side=side) for side in (32, 64))
    student = taught("svd", side=64)
    comparison = compared(small, large, student)
    assert [row.name for row in comparison.methods] == [
        "student alone, 32 pixels",
        "student alone, 64 pixels",
        "SVD, 64 pixels",
    ]
    assert comparison.methods[2].alone == comparison.methods[1]


def test_weights_that_a_student_began_with_are_part_of_its_training() -> None:
    runs = [alone("a"), alone("b", weights="pretrained"), taught("c", weights="pretrained")]
    comparison = compared(*runs)
    assert comparison.methods[2].alone == comparison.methods[1]
    assert [row.name for row in comparison.students][1] == "student alone, from pretrained"


def test_losses_of_ones_own_that_share_a_title_are_no_seeds_of_one_row() -> None:
    def by(loss: str) -> Run:
        run = taught(loss)
        return replace(run, config={**run.config, "loss": loss})

    comparison = compared(*map(by, ("svd", "mine:SVD", "its:SVD")))
    assert [row.name for row in comparison.methods] == [
        "SVD (svd)",
        "SVD (mine:SVD)",
        "SVD (its:SVD)",
    ]
    assert [row.published for row in comparison.methods] == [65.54, None, None]


STRIDE = {"data": "parquet:cifar100", "network": "vgg_stride_student"}
SVD = {**STRIDE, "loss": "svd", "teacher": "t"}


def results(*runs: Run) -> dict[str, MethodResult]:
    return {method.name: method for method in compared(*runs).methods}


def test_gains_are_paired_by_seed() -> None:
    found = results(
        made_run("a", accuracies=(50.0,), seed=0, **STRIDE),
        made_run("b", accuracies=(60.0,), seed=1, **STRIDE),
        made_run("c", accuracies=(61.0,), seed=1, **SVD),
        made_run("d", accuracies=(53.0,), seed=0, **SVD),
        made_run("e", accuracies=(99.0,), seed=2, **SVD),
    )
    assert found["SVD"].gains == (3.0, 1.0)
    assert found["SVD"].accuracy == pytest.approx(71.0)
    assert found["student alone"].gains == ()


def test_repetitions_of_a_seed_count_as_one() -> None:
    found = results(
        made_run("a", accuracies=(50.0,), seed=0, **STRIDE),
        made_run("b", accuracies=(52.0,), seed=0, **STRIDE),
        made_run("c", accuracies=(60.0,), seed=1, **STRIDE),
        made_run("d", accuracies=(54.0,), seed=0, **SVD),
        made_run("e", accuracies=(61.0,), seed=1, **SVD),
        made_run("f", accuracies=(63.0,), seed=1, **SVD),
    )
    assert found["SVD"].gains == (3.0, 2.0)


def test_the_papers_numbers_stand_beside_its_own_data_only() -> None:
    svd = results(
        made_run("a", accuracies=(60.0,), **STRIDE), made_run("b", accuracies=(62.0,), **SVD)
    )["SVD"]
    assert svd.published == 61.15
    assert svd.published_gain == pytest.approx(61.15 - 54.17)
    digits = {**SVD, "data": "digits"}
    assert results(made_run("a", **digits))["SVD"].published is None
    large = {**SVD, "data": "folder:imagenet"}
    assert results(made_run("a", **large))["SVD"].published is None
    assert results(made_run("a", classes="50@0", **large))["SVD"].published == 71.04


def test_step_time_is_over_the_student_alone_on_the_same_machine() -> None:
    alone = made_run("a", numbers={"images_per_second": 300.0}, **STRIDE)
    taught = made_run("b", numbers={"images_per_second": 100.0}, **SVD)
    found = results(alone, taught)
    assert found["SVD"].step_time == pytest.approx(3.0)
    assert found["student alone"].step_time == 1.0
    elsewhere = replace(taught, environment={**taught.environment, "gpu": "another"})
    assert results(alone, elsewhere)["SVD"].step_time is None
    assert results(taught)["SVD"].step_time is None


def test_step_time_of_two_stages_is_that_of_the_transfer() -> None:
    alone = made_run("a", numbers={"images_per_second": 300.0, "stage": "task"}, **STRIDE)
    taught = made_run("b", accuracies=(1.0, 2.0, 3.0), transfer_epochs=1, **SVD)
    first, *rest = taught.records
    records = (
        replace(first, stage="transfer", images_per_second=150.0),
        *(replace(record, stage="task", images_per_second=300.0) for record in rest),
    )
    found = results(alone, replace(taught, records=records))
    assert found["SVD, 2-stage"].step_time == pytest.approx(2.0)


def test_the_papers_numbers_are_of_its_networks_only() -> None:
    tiny = {"data": "tiny_imagenet:t", "loss": "svd", "teacher": "t"}
    assert results(made_run("a", **tiny))["SVD"].published is not None
    assert results(made_run("a", "timm:resnet18", **tiny))["SVD"].published is None


def test_rows_are_named_by_what_differs_on_the_page_alone() -> None:
    usual = {"clip": "amortised", "num_vectors": 4}
    assert [row.name for row in compared(taught("a", **usual)).methods] == ["SVD"]
    runs = [
        taught("a", **usual),
        taught("b", clip="amortised", num_vectors=2),
        taught("c", loss="fsp", clip="amortised"),
        taught("d", network="mobilenet_student", transfer_epochs=3),
    ]
    vgg, mobilenet = compare(runs).pairs
    assert [row.name for row in vgg.methods] == [
        "SVD, k = 4, amortised",
        "SVD, k = 2, amortised",
        "FSP",
    ]
    assert [row.name for row in mobilenet.methods] == ["SVD, 2-stage"]
    two_stages = compared(taught("e"), taught("f", loss="fsp", transfer_epochs=3))
    assert [row.name for row in two_stages.methods] == ["SVD", "FSP, 2-stage"]


def test_other_images_under_the_same_name_are_no_measure() -> None:
    def on(fingerprint: str, run: Run) -> Run:
        return replace(run, environment={**run.environment, "data_fingerprint": fingerprint})

    for fingerprint, gains in (("x", (0.0,)), ("y", ())):
        pair = compared(on("x", alone("a")), on(fingerprint, taught("b")))
        assert pair.distilled[0].gains == gains
    more = taught("c", unlabelled="rest")  # which the fingerprint includes
    assert compared(on("x", alone("a")), on("z", more)).distilled[0].gains == (0.0,)


def test_every_option_of_training_counts_in_what_is_compared() -> None:
    pair = compared(alone("a", dev_fraction=0.1), taught("b"), alone("c", schedule="constant"))
    assert pair.distilled[0].alone is None
    assert [row.name for row in pair.methods] == [
        "student alone, 0.1 held out, schedule paper",
        "student alone, schedule constant",
        "SVD, schedule paper",
    ]


def test_one_of_the_papers_teachers_that_is_taught_has_a_student_alone() -> None:
    teacher = alone("a", network="vgg_teacher", seed=1)
    again = taught("b", network="vgg_teacher", seed=1)
    assert compared(teacher, again).distilled[0].gains == (0.0,)
