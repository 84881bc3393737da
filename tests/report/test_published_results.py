import pytest

from svdistill.report.protocol import published_accuracy, published_vectors

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
        curve = published_vectors(pair)
        assert curve is not None
        alone, one = curve.accuracies[:2]
        # Read from the plot to 0.1.
        assert alone == pytest.approx(published_accuracy(pair, CIFAR), abs=0.06)
        assert one == pytest.approx(published_accuracy(pair, config), abs=0.06)
        assert len(curve.counts) == len(curve.accuracies)
    assert published_vectors("MobileNet") is None
