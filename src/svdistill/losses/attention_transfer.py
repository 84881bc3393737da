"""Attention transfer: mean squared activations per position, for any number of channels."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from svdistill.common import require_positive
from svdistill.losses.position_loss import PositionLoss
from svdistill.losses.transfer import Knowledge, scaled, unit_vectors


@dataclass(frozen=True)
class AttentionKnowledge(Knowledge):
    """Per tap: the teacher's attention map on its own grid, of the map over its largest entry.

    [B, H, W, 1] of a map, [B, T, 1] of tokens.
    """

    attention: tuple[Tensor, ...]


class AttentionTransferLoss(PositionLoss):
    """Mean squared difference of a student's attention maps from its teacher's.

    The attention of a position is the mean square of its channels, ``Q`` the vector of all N
    positions' attention::

        loss = weight sum_taps mean_images 1/N ||Q_S / ||Q_S|| - Q_T / ||Q_T|| ||^2

    ``Q`` is the diagonal of the Gram matrix that `PositionGramLoss` compares. Where the grids
    differ, the student's map or the teacher's attention map, whichever is finer, is average-pooled.

    Args:
        weight: factor on the loss, the paper's 1000.

    Raises:
        ArgumentError: weight not positive; in use, see `PositionSVDLoss`.

    Example:
        >>> loss, maps = AttentionTransferLoss(), [torch.rand(2, 8, 6, 6)]
        >>> float(loss(maps, torch.rand(2, 10), loss.extract(maps, None)))
        0.0

    Source: Zagoruyko and Komodakis, "Paying More Attention to Attention", ICLR 2017, equation 2, as
    the authors' code computes it: the square of the norm, mean over positions, no factor 1/2.
    """

    knowledge_type = AttentionKnowledge

    def __init__(self, weight: float = 1000.0) -> None:
        require_positive("weight", weight)
        super().__init__(None, "mean")
        self.weight = weight

    @torch.no_grad()
    def extract(self, features: Sequence[Tensor], logits: Tensor | None) -> AttentionKnowledge:
        """The attention map of every tap."""
        return AttentionKnowledge(
            tuple(
                _attention(positions.flatten(1, -2)).unflatten(1, positions.shape[1:-1])
                for positions in self.positions(features)
            )
        )

    def distance(self, student: Tensor, *teacher: Tensor) -> Tensor:
        """The distances [B] of one tap, from the teacher's attention map [B, N, 1]."""
        (attention,) = teacher
        difference = unit_vectors(_attention(student), 1) - unit_vectors(attention, 1)
        return self.weight * difference.square().mean(dim=(1, 2))

    def extra_repr(self) -> str:
        """The options, for ``print(loss)``."""
        return f"weight={self.weight}"


def _attention(positions: Tensor) -> Tensor:
    """Mean squares [B, N, 1] over the channels of positions [B, N, C], up to a factor."""
    return scaled(positions, (1, 2)).square().mean(dim=2, keepdim=True)
