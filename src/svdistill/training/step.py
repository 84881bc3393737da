"""One step's forward and backward pass: of the task, of the transfer, or of both.

A step leaves the gradients in `.grad`; the loop around it owns the optimizer.
"""

from __future__ import annotations

import abc
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from svdistill.data import UNLABELLED
from svdistill.distiller import Distiller
from svdistill.logits import as_logits
from svdistill.losses import Knowledge
from svdistill.multitask import GradientNorms

if TYPE_CHECKING:
    from accelerate import Accelerator


class StepResult(NamedTuple):
    """What a step computed, detached: scalars and logits [B, C]."""

    task_loss: Tensor
    transfer_loss: Tensor | None
    logits: Tensor
    norms: GradientNorms | None


class Step(abc.ABC):
    """Forward and backward on one batch.

    Attributes:
        uses_unlabelled: whether it learns from images without labels.
    """

    uses_unlabelled = True

    @abc.abstractmethod
    def parameters(self) -> list[nn.Parameter]:
        """What the step trains."""

    @abc.abstractmethod
    def train_mode(self) -> None:
        """Put the trained network in training mode."""

    @abc.abstractmethod
    def __call__(
        self,
        images: Tensor,
        labels: Tensor,
        progress: float | Tensor,
        knowledge: Knowledge | None = None,
        measure: bool | None = None,
    ) -> StepResult:
        """Fill the gradients for a batch of images [B, 3, H, W] and labels [B].

        The teacher's knowledge of these images is given where it comes from a store. A recorded
        step gets its progress as a tensor, and as `measure` what `plan` answered.
        """

    def plan(self, progress: float) -> bool:
        """Which of at most two kinds the next step is of: `Distiller.plan`."""
        return True

    def state_dict(self) -> dict[str, Any]:
        """What the step carries to the next one, beside parameters."""
        return {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:  # noqa: B027  likewise
        """Go on from what `state_dict` returned."""

    def end_epoch(self) -> None:  # noqa: B027  most steps have nothing to do then
        """Called after the last step of an epoch."""


class TaskStep(Step):
    """Cross-entropy with the labels."""

    uses_unlabelled = False

    def __init__(self, network: nn.Module, accelerator: Accelerator) -> None:
        self.network = network
        self.accelerator = accelerator

    def parameters(self) -> list[nn.Parameter]:
        """The network's parameters."""
        return [parameter for parameter in self.network.parameters() if parameter.requires_grad]

    def train_mode(self) -> None:
        """Put the network in training mode."""
        self.network.train()

    def __call__(
        self,
        images: Tensor,
        labels: Tensor,
        progress: float | Tensor,
        knowledge: Knowledge | None = None,
        measure: bool | None = None,
    ) -> StepResult:
        """Backward of the cross-entropy."""
        with self.accelerator.autocast():
            logits = as_logits(self.network(images))
        task_loss = labelled_cross_entropy(logits.float(), labels)
        self.accelerator.backward(task_loss)
        return StepResult(task_loss.detach(), None, logits.detach(), None)


class _DistillerStep(Step):
    def __init__(
        self,
        distiller: Distiller,
        accelerator: Accelerator,
        task_weight: float,
        transfer_weight: float,
    ) -> None:
        self.distiller = distiller
        self.accelerator = accelerator
        self.task_weight = task_weight
        self.transfer_weight = transfer_weight

    def parameters(self) -> list[nn.Parameter]:
        """The student's parameters, and the loss's where it has any."""
        return self.distiller.trainable_parameters()

    def train_mode(self) -> None:
        """Put the student in training mode; the teacher stays in eval mode."""
        self.distiller.train()

    def plan(self, progress: float) -> bool:
        """Whether the next step takes both gradients."""
        return self.distiller.plan(progress)

    def state_dict(self) -> dict[str, Any]:
        """The scale of an amortised clip, and what is watched."""
        return self.distiller.carried_state()

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from what `state_dict` returned."""
        self.distiller.load_carried_state(state)

    def end_epoch(self) -> None:
        """Warn if the transfer taught nothing."""
        self.distiller.end_epoch()


class DistillStep(_DistillerStep):
    """1-stage: the task and the transfer at once, the transfer's gradient clipped."""

    def __call__(
        self,
        images: Tensor,
        labels: Tensor,
        progress: float | Tensor,
        knowledge: Knowledge | None = None,
        measure: bool | None = None,
    ) -> StepResult:
        """Backward of both losses."""
        with self.accelerator.autocast():
            output = self.distiller(images, knowledge)
        task_loss = labelled_cross_entropy(output.logits.float(), labels)
        norms = self.distiller.backward(
            task_loss * self.task_weight,
            output._replace(transfer_loss=output.transfer_loss * self.transfer_weight),
            progress=progress,
            loss_scale=_loss_scale(self.accelerator, output.transfer_loss.device),
            measure=measure,
        )
        return StepResult(
            task_loss.detach(), output.transfer_loss.detach(), output.logits.detach(), norms
        )


class TransferStep(_DistillerStep):
    """First stage of two: the transfer alone. The task loss is measured, not learnt."""

    def __call__(
        self,
        images: Tensor,
        labels: Tensor,
        progress: float | Tensor,
        knowledge: Knowledge | None = None,
        measure: bool | None = None,
    ) -> StepResult:
        """Backward of the transfer loss."""
        with self.accelerator.autocast():
            output = self.distiller(images, knowledge)
        # Detached, so that it adds no gradient and clips none.
        task_loss = labelled_cross_entropy(output.logits.detach().float(), labels)
        transfer_loss = output.transfer_loss * self.transfer_weight
        self.distiller.backward(
            task_loss,
            output._replace(transfer_loss=transfer_loss, unclipped_loss=None),
            progress=progress,
            loss_scale=_loss_scale(self.accelerator, output.transfer_loss.device),
            measure=measure,
        )
        return StepResult(task_loss, output.transfer_loss.detach(), output.logits.detach(), None)


def labelled_cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    """Mean cross-entropy over the images that have a label; 0 where none has.

    Args:
        logits: [B, C].
        labels: [B], int64, `UNLABELLED` for images without one.

    Example:
        >>> logits, labels = torch.randn(3, 5), torch.tensor([4, UNLABELLED, 0])
        >>> expected = F.cross_entropy(logits[[0, 2]], labels[[0, 2]])
        >>> torch.equal(labelled_cross_entropy(logits, labels), expected)
        True
        >>> labelled_cross_entropy(logits, labels.fill_(UNLABELLED))
        tensor(0.)
    """
    # Divided here: the mean of none would be NaN.
    total = F.cross_entropy(logits, labels, ignore_index=UNLABELLED, reduction="sum")
    return total / (labels != UNLABELLED).sum().clamp(min=1)


def _loss_scale(accelerator: Accelerator, device: torch.device) -> float:
    """fp16's loss scale. Only a scaler that was asked to scale something serves an optimizer."""
    if accelerator.scaler is None:
        return 1.0
    return float(accelerator.scaler.scale(torch.ones((), device=device)))
