"""Similarity preserving: which images of a batch resemble each other."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from svdistill.common import require_positive
from svdistill.linalg import full_precision, to_working, uncompiled_if_lowered, working_dtype
from svdistill.losses.transfer import (
    Knowledge,
    TransferLoss,
    require_match,
    require_taps,
    scaled,
    unit_vectors,
)


@dataclass(frozen=True)
class SimilarityKnowledge(Knowledge):
    """Per tap: the teacher's whole map as a vector [B, F].

    What an image resembles depends on its batch, so nothing smaller can be kept of one image.
    """

    maps: tuple[Tensor, ...]


class SimilarityPreservingLoss(TransferLoss):
    """Distance of a student's similarities between the images of a batch from its teacher's.

    With a tap's maps as rows of ``Q`` [B, F] and ``G`` the matrix ``Q Q^T`` with each row divided
    by its norm::

        loss = weight sum_taps 1/B^2 ||G_T - G_S||_F^2

    It relates images, so it depends on which of them share a batch, and needs the whole batch in
    one part: it refuses `accumulate` and several processes.

    Args:
        weight: factor on the loss, the paper's 3000.

    Raises:
        ArgumentError: weight not positive; in use, for no taps, images that differ from the
            teacher's, or a part of a batch.

    Example:
        >>> loss, maps = SimilarityPreservingLoss(), [torch.rand(4, 8, 6, 6)]
        >>> float(loss(maps, torch.rand(4, 10), loss.extract(maps, None)))
        0.0

    Source: Tung and Mori, "Similarity-Preserving Knowledge Distillation", ICCV 2019, equation 4.
    The paper compares the last stage alone: give its tap only, for the same.
    """

    needs_logits = False
    compares_channels = False
    relates_images = True
    knowledge_type = SimilarityKnowledge

    def __init__(self, weight: float = 3000.0) -> None:
        super().__init__()
        require_positive("weight", weight)
        self.weight = weight

    @torch.no_grad()
    def extract(self, features: Sequence[Tensor], logits: Tensor | None) -> SimilarityKnowledge:
        """Every tap, flattened."""
        require_taps(features, at_least=1)
        return SimilarityKnowledge(
            tuple(tap.detach().flatten(1).to(working_dtype(tap.dtype)) for tap in features)
        )

    def forward(
        self,
        features: Sequence[Tensor],
        logits: Tensor,
        knowledge: SimilarityKnowledge,
        labels: Tensor | None = None,
    ) -> Tensor:
        """The loss of a student's features against a teacher's knowledge."""
        require_taps(features, at_least=1)
        taught = knowledge.maps
        require_match("number of taps", len(features), len(taught), "tap the same stages")
        distances = []
        for tap, (feature, teacher) in enumerate(zip(features, taught, strict=True)):
            images = f"images at tap {tap}"
            require_match(images, len(feature), len(teacher), "use one batch for both")
            student = to_working(feature).flatten(1)
            difference = _similarities(student) - _similarities(teacher.to(student.dtype))
            distances.append(difference.square().mean())
        return self.weight * torch.stack(distances).sum()

    def extra_repr(self) -> str:
        """The options, for ``print(loss)``."""
        return f"weight={self.weight}"


@uncompiled_if_lowered
def _similarities(maps: Tensor) -> Tensor:
    """Inner products [B, B] of maps [B, F], each row divided by its norm."""
    maps = scaled(maps, (0, 1))  # by one factor: an image's own would change the others' rows
    with full_precision(maps.device):
        return unit_vectors(maps @ maps.mT, 1)
