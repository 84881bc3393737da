"""Hinton's soft targets: the teacher's softened predictions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from svdistill.errors import require_positive
from svdistill.linalg import to_working, working_dtype
from svdistill.losses.transfer import Knowledge, TransferLoss, require_match


@dataclass(frozen=True)
class SoftTargetKnowledge(Knowledge):
    """The teacher's logits [B, C]."""

    logits: Tensor


class SoftTargetLoss(TransferLoss):
    """Divergence of a student's softened prediction from its teacher's, mean over images.

    ``loss = T^2 mean_images KL(softmax(z_T / T) || softmax(z_S / T))``

    Usually ``0.1 cross-entropy + 0.9 loss``, the two added without clipping.

    Args:
        temperature: T, positive; higher looks further down the list of classes.

    Raises:
        ArgumentError: temperature not positive; in use, logits of another shape than the teacher's.

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

    def __init__(self, temperature: float = 4.0) -> None:
        super().__init__()
        require_positive("temperature", temperature)
        self.temperature = temperature

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
        student = to_working(logits) / self.temperature
        teacher = knowledge.logits.to(student.dtype) / self.temperature
        divergence = F.kl_div(
            F.log_softmax(student, dim=-1),
            F.log_softmax(teacher, dim=-1),
            reduction="batchmean",
            log_target=True,
        )
        return divergence * self.temperature**2

    def extra_repr(self) -> str:
        """The options, for ``print(loss)``."""
        return f"temperature={self.temperature}"
