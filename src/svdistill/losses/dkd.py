"""Decoupled knowledge distillation: separate terms for the labelled and the other classes."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from svdistill.losses.soft_target import LogitLoss, SoftTargetKnowledge, require_weights
from svdistill.losses.transfer import require_match
from svdistill.parallel import BatchPart


class DKDLoss(LogitLoss):
    """KL divergence of softened predictions, split into two parts with separate weights.

    With y the label, and ``p`` the softmax of the logits over T::

        loss = T^2 mean (target_weight KL([p_T,y, 1 - p_T,y] || [p_S,y, 1 - p_S,y])
                         + nontarget_weight KL(q_T || q_S))

    where ``q`` is the softmax over the classes other than y. With weights of 1 and ``1 - p_T,y``
    the sum is `SoftTargetLoss`. The mean is over the images that have a label.

    The authors add the cross-entropy with weight 1, and let the weight of this loss grow to 1
    over the first 20 epochs, which is left to the training loop.

    Args:
        temperature: T, positive.
        target_weight: the paper's alpha, 0 or more.
        nontarget_weight: the paper's beta, 0 or more; the authors use 2 to 8, larger for
            teachers with more confident predictions.

    Raises:
        ArgumentError: a negative weight, temperature not positive; in use, another number of
            labels than predictions, or see `LogitLoss`.

    Example:
        >>> loss = DKDLoss()
        >>> logits, labels = torch.rand(4, 10), torch.tensor([0, 3, -1, 9])
        >>> float(loss([], logits, loss.extract([], logits), labels=labels))
        0.0

    Source: Zhao et al., "Decoupled Knowledge Distillation", CVPR 2022, equation 7.
    """

    needs_labels = True

    def __init__(
        self, temperature: float = 4.0, target_weight: float = 1.0, nontarget_weight: float = 8.0
    ) -> None:
        super().__init__(temperature, None)
        require_weights(target_weight=target_weight, nontarget_weight=nontarget_weight)
        self.target_weight = target_weight
        self.nontarget_weight = nontarget_weight

    def distance(self, student: Tensor, teacher: Tensor, labels: Tensor | None) -> Tensor:
        """The loss of logits [B, C]."""
        assert labels is not None  # needs_labels
        require_match("labels", len(labels), len(teacher), "give one for each prediction")
        target = labels.clamp(min=0)[:, None]
        of_target = _divergence(*(self._binary(rows, target) for rows in (student, teacher)))
        of_others = _divergence(*(self._others(rows, target) for rows in (student, teacher)))
        whole = self.target_weight * of_target + self.nontarget_weight * of_others
        labelled = labels >= 0
        mean = (whole * labelled).sum() / labelled.sum().clamp(min=1)
        return self.temperature**2 * mean

    def of_part(
        self,
        features: Sequence[Tensor],
        logits: Tensor,
        knowledge: SoftTargetKnowledge,
        part: BatchPart | None,
        labels: Tensor | None = None,
    ) -> Tensor:
        """See `TransferLoss.of_part`; the mean is over the labelled images."""
        loss = super().of_part(features, logits, knowledge, None, labels)
        if part is None or labels is None:
            return loss
        return loss * (labels >= 0).sum() * part.of_labelled()

    def _binary(self, logits: Tensor, target: Tensor) -> Tensor:
        """Logarithms [B, 2] of the probabilities of the target and of all other classes."""
        logits = logits / self.temperature
        other = torch.logsumexp(_without(logits, target), dim=1, keepdim=True)
        both = torch.cat([logits.gather(1, target), other], dim=1)
        return F.log_softmax(both, dim=1)

    def _others(self, logits: Tensor, target: Tensor) -> Tensor:
        """Logarithms [B, C - 1] of the probabilities among the other classes."""
        return F.log_softmax(_without(logits, target) / self.temperature, dim=1)

    def extra_repr(self) -> str:
        """The options, for ``print(loss)``."""
        weights = f"target_weight={self.target_weight}, nontarget_weight={self.nontarget_weight}"
        return f"{super().extra_repr()}, {weights}"


def _without(logits: Tensor, target: Tensor) -> Tensor:
    """The logits [B, C - 1] of the other classes."""
    places = torch.arange(logits.shape[1] - 1, device=logits.device)
    return logits.gather(1, places + (places >= target))


def _divergence(student: Tensor, teacher: Tensor) -> Tensor:
    """KL divergences [B] of logarithms of probabilities."""
    return F.kl_div(student, teacher, reduction="none", log_target=True).sum(dim=1)
