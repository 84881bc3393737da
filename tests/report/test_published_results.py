import pytest

from svdistill.report.published import published_accuracy, published_large_data, published_vectors


@pytest.mark.parametrize(
    ("pair", "row", "accuracy"),
    [
        ("VGG", "teacher", 64.44),
        ("VGG", "student alone", 61.37),
        ("VGG", "FSP, 2-stage", 64.54),
        ("VGG", "FSP, 1-stage", 64.89),
        ("VGG", "SVD, 2-stage", 65.05),
        ("VGG", "SVD", 65.54),
        ("VGG", "SVD, authors' gradient", 65.54),
        ("VGG", "SVD, 2-stage, poster's gradient", 65.05),
        ("VGG_stride", "teacher", 64.44),
        ("VGG_stride", "student alone", 54.17),
        ("VGG_stride", "FSP, 1-stage", None),
        ("VGG_stride", "SVD", 61.15),
        ("MobileNet", "SVD, 2-stage", 58.15),
        ("MobileNet", "FSP, 2-stage", 56.53),
        ("ResNeXt", "FSP, 1-stage", 63.60),
        ("ResNeXt", "SVD", 65.43),
        ("VGG", "soft target", None),
        ("VGG", "SVD, amortised", None),
        ("VGG", "SVD, k = 4", None),
        ("WRN", "SVD", None),
    ],
)
def test_accuracies_stand_beside_the_rows_that_they_are_of(
    pair: str, row: str, accuracy: float | None
) -> None:
    assert published_accuracy(pair, row) == accuracy


def test_large_data() -> None:
    assert published_large_data("Tiny-ImageNet", "SVD") == 51.82
    assert published_large_data("ImageNet-50", "FSP, 2-stage") == 69.59
    assert published_large_data("CIFAR-100", "SVD") is None


def test_one_vector_is_what_the_table_of_networks_gives() -> None:
    for pair, row in (("VGG", "SVD, 2-stage"), ("VGG_stride", "SVD")):
        curve = published_vectors(pair)
        assert curve is not None
        alone, one = curve.accuracies[:2]
        # Read from the plot to 0.1.
        assert alone == pytest.approx(published_accuracy(pair, "student alone"), abs=0.06)
        assert one == pytest.approx(published_accuracy(pair, row), abs=0.06)
        assert len(curve.counts) == len(curve.accuracies)
    assert published_vectors("MobileNet") is None
