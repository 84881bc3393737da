"""Runs of different experiments are no seeds of one row."""

from dataclasses import replace
from pathlib import Path

import pytest

from made_runs import compared, made_run
from stores import knowledge, write_store
from svdistill.report.runs import Run
from svdistill.store import IN_BF16

STUDENT = {"network": "timm:resnet10t", "data": "parquet:cifar100"}
AMORTISED = {"clip": "amortised"}


def taught(path: str, **options: object) -> Run:
    return made_run(path, **{**STUDENT, "loss": "svd", "teacher": "t", "epochs": 20, **options})


def recorded(run: Run, **facts: str) -> Run:
    return replace(run, environment={**run.environment, **facts})


def rows(*runs: Run) -> list[str]:
    return [row.name for row in compared(*runs).methods]


@pytest.mark.parametrize(
    ("one", "other", "names"),
    [
        (
            {**AMORTISED, "clip_interval": 10},
            {**AMORTISED, "clip_interval": 1000},
            ["SVD, clip measured every 10 steps", "SVD, clip measured every 1000 steps"],
        ),
        ({"clip_interval": 10}, {"clip_interval": 1000}, ["SVD"]),  # which `norm` does not read
        (
            {"transfer_epochs": 4},
            {"transfer_epochs": 40},
            ["SVD, 2-stage, 4 epochs of transfer", "SVD, 2-stage, 40 epochs of transfer"],
        ),
        ({}, {"teacher_precision": "bf16"}, ["SVD, teacher in float32", "SVD, teacher in bf16"]),
        ({}, {"teacher_precision": "float32"}, ["SVD"]),
        ({}, {"teacher_taps": ["a", "b"]}, ["SVD", "SVD, teacher's taps a b"]),
        (
            {"unlabelled": "folder:a"},
            {"unlabelled": "folder:b"},
            ["SVD, unlabelled: a", "SVD, unlabelled: b"],
        ),
        ({"unlabelled": "folder:a"}, {"unlabelled": "folder:moved/a"}, ["SVD"]),
        ({"views": 1}, {"views": 0}, ["SVD, 1 view", "SVD, new views in every epoch"]),
        ({"views": 2}, {"views": 24}, ["SVD"]),  # of two epochs
        ({"views": 1, "augmentation": "none"}, {"augmentation": "none"}, ["SVD"]),
        ({"views_seed": 1}, {"views_seed": 2}, ["SVD"]),
    ],
)
def test_what_students_learned_from_makes_rows(
    one: dict[str, object], other: dict[str, object], names: list[str]
) -> None:
    assert rows(taught("a", **one), taught("b", **other)) == names


def test_rows_that_differ_anyway_do_not_say_how_else() -> None:
    runs = taught("a"), taught("b", transfer_epochs=4), taught("c", clip="amortised")
    assert rows(*runs) == ["SVD", "SVD, 2-stage", "SVD, amortised"]


def test_teachers_are_told_apart_by_their_weights_wherever_they_are() -> None:
    runs = [
        recorded(taught(f"{seed}", teacher=teacher, seed=seed), teacher_fingerprint=weights)
        for seed, (teacher, weights) in enumerate([("a", "x"), ("moved/b", "x"), ("c", "y")])
    ]
    comparison = compared(*runs)
    assert [(row.name, row.seeds) for row in comparison.methods] == [
        ("SVD, teacher a", (0, 1)),
        ("SVD, teacher c", (2,)),
    ]
    measured = [
        replace(run, summary=replace(run.summary, teacher_accuracy=accuracy))
        for run, accuracy in zip(runs, (75.0, 75.0, 40.0), strict=True)
    ]
    assert rows(*measured) == ["SVD, teacher of 75.00 %", "SVD, teacher of 40.00 %"]


def test_teachers_of_old_runs_are_told_apart_by_their_accuracy() -> None:
    runs = [taught(f"{one}", teacher_accuracy=one) for one in (75.0, 75.1, 40.0)]
    assert [len(row.runs) for row in compared(*runs).methods] == [2, 1]


def test_teachers_that_differ_in_their_seeds_alone_make_one_row() -> None:
    teachers = [
        made_run(f"runs/t{seed}", "timm:resnet18", data=STUDENT["data"], seed=seed)
        for seed in (0, 1)
    ]
    other = made_run("runs/t2", "timm:resnet18", data=STUDENT["data"], epochs=3)
    runs = [
        recorded(
            taught(f"{seed}", teacher=f"runs/t{seed}", seed=seed), teacher_fingerprint=f"{seed}"
        )
        for seed in (0, 1, 2)
    ]
    found = compared(*teachers, other, *runs).distilled
    assert [row.seeds for row in found] == [(0, 1), (2,)]
    assert len({row.name for row in found}) == 2


def test_a_kept_run_is_in_the_row_of_those_with_the_teacher_itself(tmp_path: Path) -> None:
    store = str(tmp_path / "store")
    write_store(Path(store), [knowledge()] * 2, teacher_sha256="x")
    live = [
        recorded(taught(weights, teacher=weights), teacher_fingerprint=weights) for weights in "xy"
    ]
    kept = recorded(taught("kept", teacher="", knowledge=store), teacher_fingerprint="of a store")
    gone = recorded(taught("gone", teacher="", knowledge="gone"), teacher_fingerprint="of another")
    assert rows(live[0], kept, gone) == ["SVD"]
    assert [len(row.runs) for row in compared(live[1], live[0], kept).methods] == [1, 2]
    write_store(tmp_path / "bf16", [knowledge()], teacher="t" + IN_BF16, teacher_sha256="x")
    other = taught("other", teacher="", knowledge=str(tmp_path / "bf16"))
    assert rows(kept, other) == [
        "SVD, teacher in float32, new views in every epoch",
        "SVD, teacher in bf16, 1 view",
    ]


def test_runs_on_other_images_under_one_name_are_no_seeds_of_one_row() -> None:
    runs = [recorded(taught(one), data_fingerprint=one * 16) for one in "xy"]
    assert rows(*runs) == ["SVD, images xxxxxx", "SVD, images yyyyyy"]


def test_a_student_alone_that_saw_as_many_views_is_preferred() -> None:
    few, new = (
        made_run(
            f"{views}", **STUDENT, epochs=20, views=views, accuracies=(1.0 + views, 10.0 + views)
        )
        for views in (1, 0)
    )
    pair = compared(few, new, taught("a", views=0), taught("b", views=1))
    assert [row.gains for row in pair.distilled] == [(10.0,), (9.0,)]
