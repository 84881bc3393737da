from pathlib import Path

import pytest

from made_runs import compared, made_run
from svdistill.report.details import network_deviations
from svdistill.report.protocol import Deviation
from svdistill.report.runs import Run, find_runs

RESULTS = Path(__file__).parents[2] / "results"
CIFAR = {"data": "parquet:cifar100"}
SVD = {**CIFAR, "loss": "svd", "teacher": "t", "gradient": "poster"}


def found(*runs: Run) -> dict[str, Deviation]:
    return {one.setting: one for one in compared(*runs).deviations}


def test_the_defaults_are_the_papers_protocol() -> None:
    assert found(made_run("a", **CIFAR), made_run("b", **SVD)) == {}


@pytest.mark.parametrize(
    ("options", "setting", "paper", "here"),
    [
        ({"epochs": 24}, "epochs", "200", "24"),
        ({"learning_rate": 0.03}, "learning rate", "0.01", "0.03"),
        ({"weight_decay": 5e-4}, "weight decay", "0.0001", "0.0005"),
        ({"width": 0.5}, "width of the networks", "1", "0.5"),
        ({"classes_every": 5}, "classes", "all classes", "one class in 5"),
        ({"train_size": 500}, "training images", "all", "500"),
        ({"augmentation": "crop_flip"}, "augmentation", "flip, rotation, crop", "crop and flip"),
        ({"views": 10}, "new views of an image", "one every epoch", "10, then the first again"),
        ({"data": "digits"}, "data", "CIFAR-100", "scikit-learn's digits"),
        ({"dev_fraction": 0.1}, "held-out share of them", "none", "0.1"),
        ({"optimizer": "adamw"}, "optimizer", "sgd", "adamw"),
        ({"precision": "bf16"}, "precision", "float32", "bf16"),
    ],
)
def test_every_setting_of_training_is_compared(
    options: dict[str, object], setting: str, paper: str, here: str
) -> None:
    expected = Deviation(setting, paper, here, of_training=True)
    assert found(made_run("a", **{**CIFAR, **options})) == {setting: expected}


def test_as_many_views_as_epochs_are_new_ones() -> None:
    assert found(made_run("a", views=200, **CIFAR)) == {}


def test_the_way_to_teach_is_told_from_training() -> None:
    gradient = found(made_run("a", **{**SVD, "gradient": "exact", "clip": "amortised"}))
    assert set(gradient) == {"gradient of the SVD", "clipping of the SVD's gradient"}
    assert not any(one.of_training for one in gradient.values())
    stored = {**SVD, "teacher": "", "knowledge": "store"}
    assert found(made_run("a", **stored))["teacher"].here == "read from a knowledge store"
    # Nothing is clipped in two stages, and other losses have no gradient of an SVD.
    assert found(made_run("a", **{**SVD, "clip": "none", "transfer_epochs": 3})) == {}
    assert found(made_run("a", **{**SVD, "loss": "fsp", "gradient": "exact"})) == {}


def test_a_value_names_its_rows_where_they_differ() -> None:
    runs = [
        made_run("t", "vgg_teacher", epochs=80, **CIFAR),
        made_run("a", epochs=24, **CIFAR),
        made_run("b", epochs=24, **{**SVD, "clip": "poster"}),
        made_run("c", epochs=24, **SVD),
    ]
    different = found(*runs)
    assert different["epochs"].here == "80 (teacher); 24 (students)"
    clip = different["clipping of the SVD's gradient"].here
    assert clip == "each tensor, by the paper's rule (\"SVD, poster's gradient, poster's clip\")"


def test_the_papers_other_data_sets_are_no_deviation() -> None:
    assert "data" not in found(made_run("a", data="tiny_imagenet:somewhere"))


def test_networks_say_where_their_counts_differ() -> None:
    runs = [made_run("a", "vgg_teacher"), made_run("b", "mobilenet_student")]
    notes = network_deviations(runs)
    assert list(notes) == ["mobilenet_student"]
    assert "73.1M FLOPs" in notes["mobilenet_student"]


def test_committed_runs_of_earlier_versions_can_be_read() -> None:
    found = compared(*find_runs([RESULTS / "mini-clip"])).deviations
    different = {one.setting: one.here for one in found}
    assert different["epochs"] == "80 (teacher); 24 (students)"
    assert different["classes"] == "one class in 5"
    assert different["gradient of the SVD"] == "exact"
