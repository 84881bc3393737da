import math

import pytest
from scipy.stats import binomtest

from svdistill.report.outcome import wilson_interval


@pytest.mark.parametrize(
    ("right", "images"), [(0, 5), (1, 1), (37, 50), (1999, 2000), (9000, 10000)]
)
def test_the_interval_is_scipys(right: int, images: int) -> None:
    reference = binomtest(right, images).proportion_ci(0.95, method="wilson")
    found = wilson_interval(100 * right / images, images)
    assert found == pytest.approx((100 * reference.low, 100 * reference.high), abs=1e-9)


def test_it_narrows_with_the_root_of_the_images() -> None:
    few, many = (wilson_interval(70.0, images) for images in (1_000, 100_000))
    ratio = (few[1] - few[0]) / (many[1] - many[0])
    assert math.isclose(ratio, 10, rel_tol=0.01)
