"""Losses on the relations of positions, as whole Gram matrices or cosines, without an SVD."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from svdistill.common import require_positive
from svdistill.linalg import full_precision, uncompiled_if_lowered
from svdistill.losses.position_loss import PositionLoss, on_one_grid
from svdistill.losses.transfer import Knowledge, scaled, unit_vectors


@dataclass(frozen=True)
class PositionGramKnowledge(Knowledge):
    """Per tap: the teacher's Gram matrix of positions on its own grid, with a largest entry of 1.

    Its shape is [B, H, W, H W] for a map and [B, T, T] for tokens.
    """

    gram_matrices: tuple[Tensor, ...]


class GramOfPositions(PositionLoss):
    """A loss that reads the teacher's whole Gram matrix of positions."""

    knowledge_type = PositionGramKnowledge

    @torch.no_grad()
    def extract(self, features: Sequence[Tensor], logits: Tensor | None) -> PositionGramKnowledge:
        """The Gram matrices of positions of every tap."""
        taps = self.positions(features)
        grams = [_gram(scaled(positions.flatten(1, -2), (1, 2))) for positions in taps]
        return PositionGramKnowledge(
            tuple(
                scaled(gram, (1, 2)).unflatten(1, positions.shape[1:-1])
                for gram, positions in zip(grams, taps, strict=True)
            )
        )

    def can_read(self, knowledge: Knowledge) -> bool:
        """Whether a knowledge contains Gram matrices on grids that are not finer than `grid`."""
        return isinstance(knowledge, PositionGramKnowledge) and self.on_grid(
            knowledge.gram_matrices
        )

    def on_one_grid(self, tap: int, student: Tensor, teacher: Tensor) -> tuple[Tensor, Tensor]:
        """The student's positions, and the teacher's Gram matrix ``P G P^T`` after pooling by P."""
        positions, half = on_one_grid(tap, student, teacher)
        if half.shape[1] == half.shape[2]:
            return positions, half
        columns = half.mT.unflatten(1, teacher.shape[1:-1])
        return positions, on_one_grid(tap, student, columns)[1]


class PositionGramLoss(GramOfPositions):
    """Distance of a student's Gram matrices of positions from its teacher's.

    Each tapped map, averaged to at most grid x grid positions, is a matrix ``M`` of N positions by
    channels. Summed over taps and images::

        loss = sum ||A_T - A_S||_F^2,   A = M M^T / ||M M^T||_F

    This equals `PositionSVDLoss` with all singular vectors, but is computed without an SVD. Each
    term of the sum lies between 0 and 2, for any number, order and scale of channels. The ``A`` of
    a zero map is 0. A term equals ``2 - 2 CKA`` with the linear, uncentred CKA of the two maps over
    the positions (Kornblith et al., ICML 2019).

    Stored knowledge takes N^2 numbers per tap and image: 256 on a 4 x 4 grid, 4,096 on an 8 x 8
    grid. That of `PositionSVDLoss` takes N k, fewer on fine grids, but needs an SVD of every map.

    Args:
        grid: maximum number of positions per side, for tokens of their square grid; None or 0: no
            pooling.
        reduction: over images, `"sum"` as in `PositionSVDLoss` or `"mean"`.

    Raises:
        ArgumentError: see `PositionSVDLoss`.

    Example:
        >>> loss = PositionGramLoss(grid=4)
        >>> knowledge = loss.extract([torch.rand(2, 8, 6, 6), torch.rand(2, 17, 32)], None)
        >>> [tuple(gram.shape) for gram in knowledge.gram_matrices]
        [(2, 4, 4, 16), (2, 4, 4, 16)]
        >>> student = [torch.rand(2, 5, 6, 6), torch.rand(2, 7, 3, 3)]
        >>> 0 < float(loss(student, torch.rand(2, 10), knowledge)) < 2 * 2 * 2
        True
    """

    def __init__(self, grid: int | None = 4, reduction: str = "sum") -> None:
        super().__init__(grid, reduction)

    def distance(self, student: Tensor, *teacher: Tensor) -> Tensor:
        """The distances [B] of one tap, from the teacher's Gram matrix [B, N, N]."""
        # Scaled like the teacher's in `extract`, so that the distance of equal maps is exactly 0.
        gram_S = _gram(scaled(student, (1, 2)))
        A_S, A_T = (unit_vectors(gram, (1, 2)) for gram in (gram_S, *teacher))
        return (A_S - A_T).square().sum(dim=(1, 2))


class CosineAffinityLoss(GramOfPositions):
    """Squared differences between a student's cosines between positions and its teacher's.

    With ``a_ij`` the cosine of the angle between the features at positions i and j of N::

        loss = weight sum_taps mean_images 1/N^2 sum_ij (a_S,ij - a_T,ij)^2

    A position whose features are all zero has cosine 0 with every other. The knowledge is that of
    `PositionGramLoss`, so both losses can read the same store.

    Args:
        weight: factor on the loss, the paper's 10.
        grid: maximum number of positions per side, for tokens of their square grid; None or 0: no
            pooling. Maps are average-pooled; the paper uses max-pooling.

    Raises:
        ArgumentError: weight not positive; in use, see `PositionSVDLoss`.

    Example:
        >>> loss, maps = CosineAffinityLoss(), [torch.rand(2, 8, 6, 6)]
        >>> float(loss(maps, torch.rand(2, 10), loss.extract(maps, None))) < 1e-9
        True

    Source: Liu et al., "Structured Knowledge Distillation for Semantic Segmentation", CVPR 2019,
    equation 2 (pair-wise distillation).
    """

    def __init__(self, weight: float = 10.0, grid: int | None = 8) -> None:
        require_positive("weight", weight)
        super().__init__(grid, "mean")
        self.weight = weight

    def distance(self, student: Tensor, *teacher: Tensor) -> Tensor:
        """The distances [B] of one tap, from the teacher's Gram matrix [B, N, N]."""
        (gram_T,) = teacher
        norms = gram_T.diagonal(dim1=1, dim2=2).clamp(min=0).sqrt()
        inverse = torch.where(norms > 0, 1 / torch.where(norms > 0, norms, 1.0), 0.0)
        cosines_T = inverse[:, :, None] * gram_T * inverse[:, None, :]
        cosines_S = _gram(unit_vectors(student, -1))
        return self.weight * (cosines_S - cosines_T).square().mean(dim=(1, 2))

    def extra_repr(self) -> str:
        """The options, for ``print(loss)``."""
        return f"weight={self.weight}, {super().extra_repr()}"


@uncompiled_if_lowered
def _gram(matrices: Tensor) -> Tensor:
    with full_precision(matrices.device):
        return matrices @ matrices.mT
