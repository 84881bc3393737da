import math

import pytest
import torch

from svdistill.common.errors import RunError
from svdistill.export.checks import Parity, accuracy, compare, logits_of


def test_all_images_are_classified_in_batches_of_several_sizes() -> None:
    sizes: list[int] = []

    def network(images: torch.Tensor) -> torch.Tensor:
        sizes.append(len(images))
        return images * 1.5

    images = torch.arange(1.0, 151.0)[:, None] * torch.tensor([1.0, -2.0])
    logits = logits_of(network, images)
    assert sizes == [1, 7, 32, 32, 32, 32, 14]
    assert logits.equal(images * 1.5)
    # The largest logit is -300, the largest difference half of it.
    assert compare(images, logits) == Parity(images=150, difference=0.5, changed=0)


def test_changed_classes_are_counted() -> None:
    logits = torch.tensor([[1.0, 2.0], [3.0, 0.0], [1.0, 5.0]])
    assert compare(logits[:2], logits[:2].flip(1)).changed == 2
    assert compare(logits, logits.clamp(max=2.0)).changed == 0


def test_accuracy() -> None:
    logits = torch.tensor([[1.0, 2.0], [3.0, 0.0], [1.0, 5.0]])
    assert accuracy(logits, torch.tensor([1, 1, 1])) == pytest.approx(200 / 3)


@pytest.mark.parametrize(
    ("parity", "precision"),
    [
        (Parity(9, 2e-4, 0), "float32"),
        (Parity(9, 0.0, 1), "float32"),
        (Parity(9, math.nan, 0), "float32"),
        (Parity(9, math.inf, 0), "fp16"),
        (Parity(200, 2e-2, 0), "fp16"),
        (Parity(200, 1e-3, 3), "fp16"),
    ],
)
def test_what_is_refused(parity: Parity, precision: str) -> None:
    with pytest.raises(RunError, match="student: expected"):
        parity.require("student", precision)


def test_what_is_accepted() -> None:
    Parity(9, 1e-4, 0).require("student")
    Parity(200, 1e-2, 2).require("student", "fp16")
