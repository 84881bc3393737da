"""Several losses at once."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from svdistill.common import ArgumentError
from svdistill.linalg import to_working
from svdistill.losses.transfer import Knowledge, TransferLoss
from svdistill.parallel import BatchPart


@dataclass(frozen=True)
class SumKnowledge(Knowledge):
    """The knowledge of each part."""

    parts: tuple[Knowledge, ...]


class SumLoss(TransferLoss):
    """Weighted sum of transfer losses, ``sum_i weight_i loss_i``.

    Args:
        losses: the parts; all see the same taps.
        weights: one finite number for each.

    Raises:
        ArgumentError: no losses, another number of weights than losses, or one not finite.

    Example:
        >>> from svdistill.losses.fsp import FSPLoss
        >>> from svdistill.losses.soft_target import SoftTargetLoss
        >>> both = SumLoss([FSPLoss(), SoftTargetLoss()], weights=[1.0, 0.9])
        >>> maps, logits = [torch.rand(2, 4, 3, 3), torch.rand(2, 4, 3, 3)], torch.rand(2, 10)
        >>> float(both(maps, logits, both.extract(maps, logits)))
        0.0
    """

    knowledge_type = SumKnowledge

    def __init__(self, losses: Sequence[TransferLoss], weights: Sequence[float]) -> None:
        super().__init__()
        if not losses or len(losses) != len(weights):
            raise ArgumentError(
                "weights",
                expected="at least one loss, and a weight for each",
                got=f"{len(losses)} losses and {len(weights)} weights",
                remedy="give as many weights as losses",
            )
        for weight in weights:
            if not math.isfinite(weight):
                raise ArgumentError(
                    "weights",
                    expected="finite numbers",
                    got=weight,
                    remedy="leave the loss out instead",
                )
        self.losses = nn.ModuleList(losses)
        self.weights = tuple(float(weight) for weight in weights)
        self.needs_taps = any(loss.needs_taps for loss in losses)
        self.needs_logits = any(loss.needs_logits for loss in losses)
        self.needs_labels = any(loss.needs_labels for loss in losses)
        self.compares_channels = any(loss.compares_channels for loss in losses)
        self.relates_images = any(loss.relates_images for loss in losses)
        self.trains_modules = any(loss.trains_modules for loss in losses)

    def prepare(self, student_channels: Sequence[int], teacher_channels: Sequence[int]) -> None:
        """Prepare every part."""
        for loss in self.parts():
            loss.prepare(student_channels, teacher_channels)

    def extract(self, features: Sequence[Tensor], logits: Tensor | None) -> SumKnowledge:
        """The knowledge of every part."""
        return SumKnowledge(tuple(loss.extract(features, logits) for loss in self.parts()))

    def select(self, knowledge: Knowledge) -> SumKnowledge:
        """The knowledge of each part: at the same place in that of a sum, or else anywhere."""
        losses = self.parts()
        known = knowledge.parts if isinstance(knowledge, SumKnowledge) else ()
        if len(known) != len(losses) or not all(
            loss.can_read(one) for loss, one in zip(losses, known, strict=True)
        ):
            known = (knowledge,) * len(losses)
        pairs = zip(losses, known, strict=True)
        return SumKnowledge(tuple(loss.select(one) for loss, one in pairs))

    def forward(
        self,
        features: Sequence[Tensor],
        logits: Tensor,
        knowledge: SumKnowledge,
        labels: Tensor | None = None,
    ) -> Tensor:
        """The weighted sum."""
        return self.of_part(features, logits, knowledge, None, labels)

    def of_part(
        self,
        features: Sequence[Tensor],
        logits: Tensor,
        knowledge: SumKnowledge,
        part: BatchPart | None,
        labels: Tensor | None = None,
    ) -> Tensor:
        """See `TransferLoss.of_part`; each loss has its own reduction."""
        # Once for all parts, so that their gradients are added up before they are narrowed.
        features = [to_working(feature) for feature in features]
        logits = to_working(logits) if self.needs_logits else logits
        terms = [
            weight * loss.of_part(features, logits, known, part, labels)
            for loss, weight, known in zip(self.parts(), self.weights, knowledge.parts, strict=True)
        ]
        return torch.stack(terms).sum()

    def parts(self) -> list[TransferLoss]:
        """The losses of the sum."""
        return [loss for loss in self.losses if isinstance(loss, TransferLoss)]

    def extra_repr(self) -> str:
        """The weights, for ``print(loss)``."""
        return f"weights={self.weights}"
