"""Soft targets: the teacher's softened predictions, of plain or of standardised logits."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from svdistill.common import require_positive
from svdistill.losses.logit_loss import LogitLoss
from svdistill.losses.transfer import unit_vectors


class SoftTargetLoss(LogitLoss):
    """Divergence of a student's softened prediction from its teacher's, mean over predictions.

    ``loss = T^2 mean KL(softmax(z_T / T) || softmax(z_S / T))``

    The softmax is over the classes, the mean over the images and their positions; for the shapes of
    logits, and for binary classifiers, see `LogitLoss`.

    Usually ``0.1 cross-entropy + 0.9 loss``, the two added without clipping.

    Args:
        temperature: T, positive; higher looks further down the list of classes.
        class_dim: the dimension of the classes; None for dimension 1.

    Raises:
        ArgumentError: see `LogitLoss`.

    Example:
        >>> import torch
        >>> loss = SoftTargetLoss(temperature=4.0)
        >>> logits = torch.rand(4, 10)
        >>> float(loss([], logits, loss.extract([], logits)))
        0.0

    Source: Hinton, Vinyals, Dean, "Distilling the Knowledge in a Neural Network", 2015, section 2.
    """

    def __init__(self, temperature: float = 4.0, class_dim: int | None = None) -> None:
        super().__init__(temperature, class_dim)

    def distance(self, student: Tensor, teacher: Tensor, labels: Tensor | None) -> Tensor:
        """The loss of logits [B, C]."""
        divergence = F.kl_div(
            F.log_softmax(student / self.temperature, dim=-1),
            F.log_softmax(teacher / self.temperature, dim=-1),
            reduction="batchmean",
            log_target=True,
        )
        return divergence * self.temperature**2


class LogitStandardizationLoss(SoftTargetLoss):
    """Soft targets of standardised logits, whose scale and mean the student may choose.

    ``loss = weight T^2 mean KL(softmax(Z(z_T) / T) || softmax(Z(z_S) / T))``, where ``Z`` subtracts
    the mean of an image's logits and divides by their standard deviation.

    The paper's weights beside it: 0.1 for the cross-entropy.

    Args:
        temperature: T, positive.
        weight: factor on the loss.
        class_dim: the dimension of the classes; None for dimension 1.

    Raises:
        ArgumentError: weight not positive; else see `LogitLoss`.

    Example:
        >>> import torch
        >>> loss = LogitStandardizationLoss()
        >>> logits = torch.rand(4, 10)
        >>> float(loss([], 3 * logits + 1, loss.extract([], logits))) < 1e-6
        True

    Source: Sun et al., "Logit Standardization in Knowledge Distillation", CVPR 2024, algorithm 1;
    as in the authors' code, the standard deviation is that of a sample, with C - 1.
    """

    def __init__(
        self, temperature: float = 2.0, weight: float = 9.0, class_dim: int | None = None
    ) -> None:
        require_positive("weight", weight)
        super().__init__(temperature, class_dim)
        self.weight = weight

    def distance(self, student: Tensor, teacher: Tensor, labels: Tensor | None) -> Tensor:
        """The loss of logits [B, C]."""
        rows = _standardised(student), _standardised(teacher)
        return self.weight * super().distance(*rows, labels)

    def extra_repr(self) -> str:
        """The options, for ``print(loss)``."""
        return f"{super().extra_repr()}, weight={self.weight}"


def _standardised(logits: Tensor) -> Tensor:
    """Rows of mean 0 and standard deviation 1; constant ones are 0."""
    centred = logits - logits.mean(dim=1, keepdim=True)
    return unit_vectors(centred, 1) * (logits.shape[1] - 1) ** 0.5
