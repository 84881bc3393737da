"""DIST: correlations of predictions, within an image and within a class."""

from __future__ import annotations

from typing import Final

import torch
from torch import Tensor

from svdistill.losses.soft_target import LogitLoss, require_weights
from svdistill.losses.transfer import scaled

SMALLEST_SPREAD: Final = 0.05


class DISTLoss(LogitLoss):
    """One minus the correlation of a student's softened predictions with its teacher's.

    With ``p`` the softmax of the logits over T, a matrix of images by classes, and ``r`` Pearson's
    correlation::

        loss = T^2 (inter_weight mean_images (1 - r(p_S[i, :], p_T[i, :]))
                    + intra_weight mean_classes (1 - r(p_S[:, c], p_T[:, c])))

    The second term relates the images of a batch, so the loss needs the whole batch in one part: it
    refuses `accumulate` and several processes. Rows or columns that are constant in both networks,
    as the columns of a single image, add nothing. With two classes the correlation within an image
    is 1 or -1: the first term learns no more than the spread.

    Args:
        temperature: T, positive; the authors' is 4 on CIFAR and 1 on ImageNet.
        inter_weight: the paper's beta, 0 or more; the authors' is 2 on CIFAR and 1 on ImageNet.
        intra_weight: the paper's gamma, 0 or more; the authors' are the same.
        class_dim: the dimension of the classes; None for dimension 1.

    Raises:
        ArgumentError: a negative weight; in use, a part of a batch, or see `LogitLoss`.

    Example:
        >>> import torch
        >>> loss = DISTLoss()
        >>> logits = torch.rand(4, 10)
        >>> float(loss([], logits, loss.extract([], logits)))
        0.0

    Source: Huang et al., "Knowledge Distillation from A Stronger Teacher", NeurIPS 2022,
    equations 8 to 10.

    Differs from the source where the student's predictions vary less than the teacher's: if the
    spread of a row or column of p_S (its standard deviation over its root mean square) is a < 1
    times that of p_T, it counts ``(1 + a^2) / 2 - a r`` in place of ``1 - r``. A correlation does
    not see the scale of the logits: where they are small its gradient has no limit, and they may
    stay small. Spreads below 5 % count as 5 %. The source's own is `torchdistill:DISTLoss`.
    """

    relates_images = True

    def __init__(
        self,
        temperature: float = 4.0,
        inter_weight: float = 2.0,
        intra_weight: float = 2.0,
        class_dim: int | None = None,
    ) -> None:
        super().__init__(temperature, class_dim)
        require_weights(inter_weight=inter_weight, intra_weight=intra_weight)
        self.inter_weight = inter_weight
        self.intra_weight = intra_weight

    def distance(self, student: Tensor, teacher: Tensor, labels: Tensor | None) -> Tensor:
        """The loss of logits [B, C]."""
        p_S, p_T = ((rows / self.temperature).softmax(dim=1) for rows in (student, teacher))
        inter, intra = (_decorrelation(p_S, p_T, dim) for dim in (1, 0))
        return self.temperature**2 * (self.inter_weight * inter + self.intra_weight * intra)

    def extra_repr(self) -> str:
        """The options, for ``print(loss)``."""
        weights = f"inter_weight={self.inter_weight}, intra_weight={self.intra_weight}"
        return f"{super().extra_repr()}, {weights}"


def _decorrelation(student: Tensor, teacher: Tensor, dim: int) -> Tensor:
    """The mean of 1 - Pearson's correlation along a dimension.

    Computed as half the squared distance of unit vectors, which unlike 1 - r is exactly 0 for
    equal rows. Rows of the student that vary less than the teacher's are shorter than 1.
    """
    taught, spread = _centred(teacher, dim)
    learnt, own = _centred(student, dim)
    least = spread.clamp_min(SMALLEST_SPREAD)
    distance = learnt / torch.maximum(own, least) - taught / least
    return 0.5 * distance.square().sum(dim=dim).mean()


def _centred(p: Tensor, dim: int) -> tuple[Tensor, Tensor]:
    """Rows less their means, over the rows' norms; and the norms of the result, 0 to 1."""
    p = scaled(p, (dim,))  # a column of improbable classes: its squares would underflow
    # Scaled, the norm of p is at least 1, or p is all zeros.
    whole = torch.linalg.vector_norm(p, dim=dim, keepdim=True).clamp_min(1.0)
    centred = (p - p.mean(dim=dim, keepdim=True)) / whole
    return centred, torch.linalg.vector_norm(centred, dim=dim, keepdim=True)
