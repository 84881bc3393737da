from dataclasses import replace

import pytest

from made_runs import made_run
from svdistill.report.comparison import compare
from svdistill.report.runs import Run
from svdistill.training import PredictionSummary


def on(path: str, data: str, fingerprint: str | None = None, **options: object) -> Run:
    run = made_run(path, data=data, **options)
    return replace(run, environment={**run.environment, "data_fingerprint": fingerprint})


def with_classes(run: Run, *names: str) -> Run:
    return replace(run, predictions=PredictionSummary(names, ((0, 0, 1),), ()))


def titles(*runs: Run) -> list[str]:
    return [pair.data for pair in compare(runs).pairs]


BIRDS, FLOWERS = "folder:/sets/birds/images", "folder:/sets/flowers/images"


@pytest.mark.parametrize(
    "runs",
    [
        (on("a", BIRDS), on("b", FLOWERS, num_classes=7)),
        (on("a", BIRDS, "x"), on("b", FLOWERS, "y")),
        (with_classes(on("a", BIRDS), "owl"), with_classes(on("b", FLOWERS), "rose")),
    ],
)
def test_data_sets_of_one_folder_name_are_two_comparisons(runs: tuple[Run, Run]) -> None:
    assert titles(*runs) == ["images (birds/images)", "images (flowers/images)"]


@pytest.mark.parametrize(
    "runs",
    [
        (on("a", BIRDS), on("b", FLOWERS)),  # of which nothing is known
        (on("a", BIRDS, "x"), on("b", "folder:/moved/images", "x")),
        (on("a", BIRDS, "x"), on("b", "folder:/moved/images", "y", train_size=100)),
        (on("a", BIRDS, "x"), on("b", BIRDS, "y")),
    ],
)
def test_a_data_set_that_was_moved_is_the_same(runs: tuple[Run, Run]) -> None:
    assert titles(*runs) == ["images"]


def test_other_classes_under_one_path_are_another_data_set() -> None:
    labels = [on(f"{count}", "parquet:cifar100", num_classes=count) for count in (100, 20)]
    assert titles(*labels) == ["CIFAR-100 (100 classes)", "CIFAR-100 (20 classes)"]
    halves = [on(run.path.name, "folder:images", classes_every=2) for run in labels]
    named = [with_classes(run, name) for run, name in zip(halves, ("owl", "rose"), strict=True)]
    assert titles(*named) == ["images (one class in 2, no. 1)", "images (one class in 2, no. 2)"]


def test_runs_of_unknown_classes_are_on_the_data_set_of_their_place() -> None:
    unknown = on("c", FLOWERS)
    birds, flowers = with_classes(on("a", BIRDS), "owl"), with_classes(on("b", FLOWERS), "rose")
    pairs = compare([unknown, birds, flowers]).pairs
    assert [len(pair.runs) for pair in pairs] == [2, 1]
