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
    is 1 or -1, so that the first term has no gradient.

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

    Differs from the source where a row or column of p is almost constant, as those of a student
    whose last layer starts at zero: where its standard deviation is below 5 % of its root mean
    square, it is divided by the latter 5 % instead. Otherwise its gradient would grow without
    limit.
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
    equal rows.
    """
    first, second = (_standardised(p, dim) for p in (student, teacher))
    return 0.5 * (first - second).square().sum(dim=dim).mean()


def _standardised(p: Tensor, dim: int) -> Tensor:
    """Subtract the mean and divide by the norm, which counts as 5 % of that of p or more."""
    p = scaled(p, (dim,))  # a column of improbable classes: its squares would underflow
    centred = p - p.mean(dim=dim, keepdim=True)
    norm, whole = (torch.linalg.vector_norm(x, dim=dim, keepdim=True) for x in (centred, p))
    # Scaled, the norm of p is at least 1, or p is all zeros.
    return centred / torch.maximum(norm, SMALLEST_SPREAD * whole.clamp_min(1.0))
