import math

import pytest
import torch

from svdistill.common.errors import RunError
from svdistill.export.checks import Parity, compare


def test_all_images_are_compared_in_batches_of_several_sizes() -> None:
    sizes: list[int] = []

    def exported(images: torch.Tensor) -> torch.Tensor:
        sizes.append(len(images))
        return images * 1.5

    images = torch.arange(1.0, 151.0)[:, None] * torch.tensor([1.0, -2.0])
    parity = compare(lambda images: images, exported, images)
    assert sizes == [1, 7, 32, 32, 32, 32, 14]
    # The largest logit is -300, the largest difference half of it.
    assert parity == Parity(images=150, difference=0.5, changed=0)


def test_changed_classes_are_counted() -> None:
    images = torch.tensor([[1.0, 2.0], [3.0, 0.0], [1.0, 5.0]])
    assert compare(lambda x: x, lambda x: x.flip(1), images[:2]).changed == 2
    assert compare(lambda x: x, lambda x: x.clamp(max=2.0), images).changed == 0


@pytest.mark.parametrize(
    "parity",
    [Parity(9, 2e-4, 0), Parity(9, 0.0, 1), Parity(9, math.nan, 0), Parity(9, math.inf, 0)],
)
def test_what_is_refused(parity: Parity) -> None:
    with pytest.raises(RunError, match="student: expected"):
        parity.require("student")


def test_what_is_accepted() -> None:
    Parity(9, 1e-4, 0).require("student")
