from pathlib import Path

import pytest

from made_runs import compared, made_run
from svdistill.report.page import network_deviations
from svdistill.report.protocol import VECTORS, Deviation, published_accuracy
from svdistill.report.runs import Run, find_runs

CIFAR = {"data": "parquet:cifar100", "network": "vgg_student"}
SVD = {**CIFAR, "loss": "svd"}
FSP = {**CIFAR, "loss": "fsp"}
TEACHER = {**CIFAR, "network": "vgg_teacher"}
TWO_STAGES = {"transfer_epochs": 9}


@pytest.mark.parametrize(
    ("pair", "config", "accuracy"),
    [
        ("VGG", TEACHER, 64.44),
        ("VGG", CIFAR, 61.37),
        ("VGG", {**FSP, **TWO_STAGES}, 64.54),
        ("VGG", FSP, 64.89),
        ("VGG", {**SVD, **TWO_STAGES}, 65.05),
        ("VGG", SVD, 65.54),
        ("VGG", {**SVD, "gradient": "authors"}, 65.54),
        ("VGG", {**SVD, **TWO_STAGES, "gradient": "poster"}, 65.05),
        ("VGG_stride", TEACHER, 64.44),
        ("VGG_stride", CIFAR, 54.17),
        ("VGG_stride", FSP, None),
        ("VGG_stride", SVD, 61.15),
        ("MobileNet", {**SVD, **TWO_STAGES}, 58.15),
        ("MobileNet", {**FSP, **TWO_STAGES}, 56.53),
        ("ResNeXt", FSP, 63.60),
        ("ResNeXt", SVD, 65.43),
        ("VGG", {**CIFAR, "loss": "soft_target"}, None),
        ("VGG", {**CIFAR, "loss": "mine:SVD"}, None),
        ("VGG", {**SVD, "clip": "amortised"}, None),
        ("VGG", {**SVD, "num_vectors": 4}, None),
        ("WRN", SVD, None),
        ("VGG", {**SVD, "data": "tiny_imagenet:there"}, 51.82),
        ("VGG", {**FSP, **TWO_STAGES, "data": "folder:ImageNet", "classes": "50@0"}, 69.59),
    ],
)
def test_accuracies_are_those_of_the_same_method(
    pair: str, config: dict[str, object], accuracy: float | None
) -> None:
    assert published_accuracy(pair, config) == accuracy


def test_one_vector_is_what_the_table_of_networks_gives() -> None:
    for pair, config in (("VGG", {**SVD, **TWO_STAGES}), ("VGG_stride", SVD)):
        alone, one = VECTORS[pair][0], VECTORS[pair][1]
        # Read from the plot to 0.1.
        assert alone == pytest.approx(published_accuracy(pair, CIFAR), abs=0.06)
        assert one == pytest.approx(published_accuracy(pair, config), abs=0.06)


RESULTS = Path(__file__).parents[2] / "results"
DATA = {"data": "parquet:cifar100"}
PAPERS_SVD = {**DATA, "loss": "svd", "teacher": "t", "gradient": "poster"}


def found(*runs: Run) -> dict[str, Deviation]:
    return {one.setting: one for one in compared(*runs).deviations}


def test_the_defaults_are_the_papers_protocol() -> None:
    assert found(made_run("a", **DATA), made_run("b", **PAPERS_SVD)) == {}


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
    assert found(made_run("a", **{**DATA, **options})) == {setting: expected}


def test_as_many_views_as_epochs_are_new_ones() -> None:
    assert found(made_run("a", views=200, **DATA)) == {}


def test_the_way_to_teach_is_told_from_training() -> None:
    gradient = found(made_run("a", **{**PAPERS_SVD, "gradient": "exact", "clip": "amortised"}))
    assert set(gradient) == {"gradient of the SVD", "clipping of the SVD's gradient"}
    assert not any(one.of_training for one in gradient.values())
    stored = {**PAPERS_SVD, "teacher": "", "knowledge": "store"}
    assert found(made_run("a", **stored))["teacher"].here == "read from a knowledge store"
    # Nothing is clipped in two stages, and other losses have no gradient of an PAPERS_SVD.
    assert found(made_run("a", **{**PAPERS_SVD, "clip": "none", "transfer_epochs": 3})) == {}
    assert found(made_run("a", **{**PAPERS_SVD, "loss": "fsp", "gradient": "exact"})) == {}


def test_a_value_names_its_rows_where_they_differ() -> None:
    runs = [
        made_run("t", "vgg_teacher", epochs=80, **DATA),
        made_run("a", epochs=24, **DATA),
        made_run("b", epochs=24, **{**PAPERS_SVD, "clip": "poster"}),
        made_run("c", epochs=24, **PAPERS_SVD),
    ]
    different = found(*runs)
    assert different["epochs"].here == "80 (teacher); 24 (students)"
    clip = different["clipping of the SVD's gradient"].here
    assert clip == "each tensor, by the paper's rule (\"SVD, poster's clip\")"


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
