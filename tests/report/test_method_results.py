from dataclasses import replace

import pytest

from made_runs import compared, made_run
from svdistill.report.comparison import MethodResult
from svdistill.report.runs import Run

CIFAR = {"data": "parquet:cifar100", "network": "vgg_stride_student"}
SVD = {**CIFAR, "loss": "svd", "teacher": "t"}


def results(*runs: Run) -> dict[str, MethodResult]:
    return {method.name: method for method in compared(*runs).methods}


def test_gains_are_paired_by_seed() -> None:
    found = results(
        made_run("a", accuracies=(50.0,), seed=0, **CIFAR),
        made_run("b", accuracies=(60.0,), seed=1, **CIFAR),
        made_run("c", accuracies=(61.0,), seed=1, **SVD),
        made_run("d", accuracies=(53.0,), seed=0, **SVD),
        made_run("e", accuracies=(99.0,), seed=2, **SVD),
    )
    assert found["SVD"].gains == (3.0, 1.0)
    assert found["SVD"].accuracy == pytest.approx(71.0)
    assert found["student alone"].gains == ()


def test_the_papers_numbers_stand_beside_its_own_data_only() -> None:
    svd = results(
        made_run("a", accuracies=(60.0,), **CIFAR), made_run("b", accuracies=(62.0,), **SVD)
    )["SVD"]
    assert svd.published == 61.15
    assert svd.difference == pytest.approx(0.85)
    assert svd.published_gain == pytest.approx(61.15 - 54.17)
    digits = {**SVD, "data": "digits"}
    assert results(made_run("a", **digits))["SVD"].published is None
    large = {**SVD, "data": "folder:imagenet"}
    assert results(made_run("a", **large))["SVD"].published is None
    assert results(made_run("a", classes="50@0", **large))["SVD"].published == 71.04


def test_step_time_is_over_the_student_alone_on_the_same_machine() -> None:
    alone = made_run("a", numbers={"images_per_second": 300.0}, **CIFAR)
    taught = made_run("b", numbers={"images_per_second": 100.0}, **SVD)
    found = results(alone, taught)
    assert found["SVD"].step_time == pytest.approx(3.0)
    assert found["student alone"].step_time == 1.0
    elsewhere = replace(taught, environment={**taught.environment, "gpu": "another"})
    assert results(alone, elsewhere)["SVD"].step_time is None
    assert results(taught)["SVD"].step_time is None


def test_step_time_of_two_stages_is_that_of_the_transfer() -> None:
    alone = made_run("a", numbers={"images_per_second": 300.0, "stage": "task"}, **CIFAR)
    taught = made_run("b", accuracies=(1.0, 2.0, 3.0), transfer_epochs=1, **SVD)
    first, *rest = taught.records
    records = (
        replace(first, stage="transfer", images_per_second=150.0),
        *(replace(record, stage="task", images_per_second=300.0) for record in rest),
    )
    found = results(alone, replace(taught, records=records))
    assert found["SVD, 2-stage"].step_time == pytest.approx(2.0)


def test_the_best_is_the_student_with_the_highest_last_epoch() -> None:
    comparison = compared(
        made_run("t", "vgg_teacher", accuracies=(90.0,), data=CIFAR["data"]),
        made_run("a", accuracies=(70.0, 50.0), **CIFAR),
        made_run("b", accuracies=(60.0, 55.0), **SVD),
        made_run("c", accuracies=(55.0,), **{**SVD, "loss": "fsp"}),
    )
    assert {method.name for method in comparison.best} == {"SVD", "FSP, 1-stage"}


def test_the_papers_numbers_are_of_its_networks_only() -> None:
    tiny = {"data": "tiny_imagenet:t", "loss": "svd", "teacher": "t"}
    assert results(made_run("a", **tiny))["SVD"].published is not None
    assert results(made_run("a", "timm:resnet18", **tiny))["SVD"].published is None
