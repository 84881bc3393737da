"""Hinton's soft targets, logit standardization, and what the losses on logits share."""

from __future__ import annotations

import abc
from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from svdistill.common import ArgumentError, require_positive
from svdistill.linalg import to_working, working_dtype
from svdistill.losses.transfer import Knowledge, TransferLoss, require_match, unit_vectors


@dataclass(frozen=True)
class SoftTargetKnowledge(Knowledge):
    """The teacher's logits [B, C] or [B, C, ...]."""

    logits: Tensor


class LogitLoss(TransferLoss, abc.ABC):
    """A loss that compares a student's logits with its teacher's; a child defines `distance`.

    The classes are dimension 1 of the logits, as in torch's `cross_entropy`: [B, C], or
    [B, C, H, W] and [B, C, T, H, W] with a prediction per pixel. `class_dim` selects another
    dimension, such as -1 for [B, T, C] with a prediction per token. Logits of a single class are
    those of a binary classifier, which predicts ``sigmoid(z / T)``. Classes exclude each other: for
    a multi-label network, whose C logits are C binary predictions, write a loss of your own.

    Args:
        temperature: T, positive.
        class_dim: the dimension of the classes; None for 1. It is required for 3-dimensional
            logits: 1 for [B, C, L], -1 for [B, T, C].

    Raises:
        ArgumentError: temperature is not positive, or class_dim is 0; in use, logits have another
            shape than the teacher's, have no class dimension, or have 3 without `class_dim`.
    """

    needs_taps = False
    compares_channels = False
    knowledge_type = SoftTargetKnowledge

    def __init__(self, temperature: float, class_dim: int | None) -> None:
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

    @abc.abstractmethod
    def distance(self, student: Tensor, teacher: Tensor, labels: Tensor | None) -> Tensor:
        """The loss of logits [B * positions, C], with C at least 2."""

    @torch.no_grad()
    def extract(self, features: Sequence[Tensor], logits: Tensor | None) -> SoftTargetKnowledge:
        """The logits."""
        assert logits is not None  # needs_logits
        # no_grad is not enough: if the dtype is unchanged, `to` keeps the tensor's graph.
        return SoftTargetKnowledge(logits.detach().to(working_dtype(logits.dtype)))

    def forward(
        self,
        features: Sequence[Tensor],
        logits: Tensor,
        knowledge: SoftTargetKnowledge,
        labels: Tensor | None = None,
    ) -> Tensor:
        """The loss of a student's logits with respect to its teacher's."""
        taught = knowledge.logits
        remedy = "give both the same classes"
        require_match("logits", tuple(logits.shape), tuple(taught.shape), remedy)
        student = self._predictions(to_working(logits))
        return self.distance(student, self._predictions(taught).to(student.dtype), labels)

    def _predictions(self, logits: Tensor) -> Tensor:
        """The logits as one row of classes per prediction, [B * positions, C]."""
        dim = self.class_dim
        known = logits.ndim >= 2 if dim is None else -logits.ndim < dim < logits.ndim
        if not known or (dim is None and logits.ndim == 3):
            name = type(self).__name__
            raise ArgumentError(
                "logits",
                expected="[B, C], [B, C, H, W], or any shape with class_dim, which says where the "
                "classes are",
                got=f"shape {list(logits.shape)} and class_dim={dim}",
                remedy=f"give {name}(class_dim=1) for [B, C, L], class_dim=-1 for [B, T, C]",
            )
        if logits.ndim > 2:
            logits = logits.movedim(1 if dim is None else dim, -1).flatten(0, -2)
        # The softmax of a single logit is always 1. With a second logit of 0 it is the sigmoid.
        return F.pad(logits, (1, 0)) if logits.shape[1] == 1 else logits

    def extra_repr(self) -> str:
        """The options, for ``print(loss)``."""
        declared = "" if self.class_dim is None else f", class_dim={self.class_dim}"
        return f"temperature={self.temperature}{declared}"


def require_weights(**weights: float) -> None:
    """Raise `ArgumentError` for a weight that is negative or not finite."""
    for name, weight in weights.items():
        if not 0 <= weight < float("inf"):
            remedy = "give 0 to leave the part out"
            raise ArgumentError(name, expected="0 or more", got=weight, remedy=remedy)


class SoftTargetLoss(LogitLoss):
    """KL divergence between softened predictions of teacher and student, averaged.

    ``loss = T^2 mean KL(softmax(z_T / T) || softmax(z_S / T))``

    The softmax is over the classes, the mean over the images and their positions; for the shapes of
    logits, and for binary classifiers, see `LogitLoss`.

    The usual training objective is ``0.1 cross-entropy + 0.9 loss``, without clipping.

    Args:
        temperature: T, positive; with a higher T, less probable classes count more.
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
    """Soft targets of standardised logits, so that their scale and mean are left to the student.

    ``loss = weight T^2 mean KL(softmax(Z(z_T) / T) || softmax(Z(z_S) / T))``, where ``Z`` subtracts
    the mean of an image's logits and divides by their standard deviation.

    The paper adds the cross-entropy with a weight of 0.1.

    Args:
        temperature: T, positive.
        weight: factor on the loss.
        class_dim: the dimension of the classes; None for dimension 1.

    Raises:
        ArgumentError: weight is not positive; see also `LogitLoss`.

    Example:
        >>> import torch
        >>> loss = LogitStandardizationLoss()
        >>> logits = torch.rand(4, 10)
        >>> abs(float(loss([], 3 * logits + 1, loss.extract([], logits)))) < 1e-4
        True

    Source: Sun et al., "Logit Standardization in Knowledge Distillation", CVPR 2024, algorithm 1;
    as in the authors' code, it is the sample standard deviation, with C - 1.
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
    """Standardise rows to mean 0 and standard deviation 1; constant rows become 0."""
    centred = logits - logits.mean(dim=1, keepdim=True)
    return unit_vectors(centred, 1) * (logits.shape[1] - 1) ** 0.5
