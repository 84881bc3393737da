"""Hinton's soft targets: the teacher's softened predictions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from svdistill.common import ArgumentError, require_positive
from svdistill.linalg import to_working, working_dtype
from svdistill.losses.transfer import Knowledge, TransferLoss, require_match


@dataclass(frozen=True)
class SoftTargetKnowledge(Knowledge):
    """The teacher's logits [B, C] or [B, C, ...]."""

    logits: Tensor


class SoftTargetLoss(TransferLoss):
    """Divergence of a student's softened prediction from its teacher's, mean over predictions.

    ``loss = T^2 mean KL(softmax(z_T / T) || softmax(z_S / T))``

    The softmax is over the classes, the mean over the images and their positions: logits are
    [B, C]; [B, C, H, W] or [B, C, T, H, W] with a prediction per pixel; or, with `class_dim`,
    [B, T, C] with one per token. A single class is the logit z of a binary classifier, whose
    prediction is ``sigmoid(z / T)``. Classes exclude each other: for a multi-label network, whose
    C logits are C binary predictions, write a loss of your own.

    Usually ``0.1 cross-entropy + 0.9 loss``, the two added without clipping.

    Args:
        temperature: T, positive; higher looks further down the list of classes.
        class_dim: the dimension of the classes. None for dimension 1, as in torch's
            `cross_entropy`; 3-dimensional logits may be [B, C, L] or [B, T, C], so give 1 or -1.

    Raises:
        ArgumentError: temperature not positive, class_dim 0; in use, logits of another shape than
            the teacher's, without a dimension of classes, or 3-dimensional without `class_dim`.

    Example:
        >>> loss = SoftTargetLoss(temperature=4.0)
        >>> logits = torch.rand(4, 10)
        >>> float(loss([], logits, loss.extract([], logits)))
        0.0

    Source: Hinton, Vinyals, Dean, "Distilling the Knowledge in a Neural Network", 2015, section 2.
    """

    needs_taps = False
    compares_channels = False
    knowledge_type = SoftTargetKnowledge

    def __init__(self, temperature: float = 4.0, class_dim: int | None = None) -> None:
        super().__init__()
        require_positive("temperature", temperature)
        if class_dim == 0:
            raise ArgumentError(
                "class_dim",
                expected="the dimension of the classes",
                got="0, that of the images",
                remedy="give 1 for logits [B, C, ...], -1 for [B, ..., C]",
            )
        self.temperature = temperature
        self.class_dim = class_dim

    @torch.no_grad()
    def extract(self, features: Sequence[Tensor], logits: Tensor | None) -> SoftTargetKnowledge:
        """The logits."""
        assert logits is not None  # needs_logits
        # Where the dtype stays, `to` returns the very tensor, graph and all: no_grad is not enough.
        return SoftTargetKnowledge(logits.detach().to(working_dtype(logits.dtype)))

    def forward(
        self,
        features: Sequence[Tensor],
        logits: Tensor,
        knowledge: SoftTargetKnowledge,
        labels: Tensor | None = None,
    ) -> Tensor:
        """The loss of a student's logits against a teacher's."""
        require_match(
            "logits",
            tuple(logits.shape),
            tuple(knowledge.logits.shape),
            "give both the same classes",
        )
        rows = self._predictions(to_working(logits))
        student = rows / self.temperature
        teacher = self._predictions(knowledge.logits).to(student.dtype) / self.temperature
        divergence = F.kl_div(
            F.log_softmax(student, dim=-1),
            F.log_softmax(teacher, dim=-1),
            reduction="batchmean",
            log_target=True,
        )
        return divergence * self.temperature**2

    def _predictions(self, logits: Tensor) -> Tensor:
        """The logits as one row of classes per prediction, [B * positions, C]."""
        dim = self.class_dim
        known = logits.ndim >= 2 if dim is None else -logits.ndim < dim < logits.ndim
        if not known or (dim is None and logits.ndim == 3):
            raise ArgumentError(
                "logits",
                expected="[B, C], [B, C, H, W], or any shape with class_dim, which says where the "
                "classes are",
                got=f"shape {list(logits.shape)} and class_dim={dim}",
                remedy="give SoftTargetLoss(class_dim=1) for [B, C, L], class_dim=-1 for [B, T, C]",
            )
        if logits.ndim > 2:
            logits = logits.movedim(1 if dim is None else dim, -1).flatten(0, -2)
        # The softmax of one class is 1 whatever its logit; beside a zero it is the sigmoid.
        return F.pad(logits, (1, 0)) if logits.shape[1] == 1 else logits

    def extra_repr(self) -> str:
        """The options, for ``print(loss)``."""
        declared = "" if self.class_dim is None else f", class_dim={self.class_dim}"
        return f"temperature={self.temperature}{declared}"
