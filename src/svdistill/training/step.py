"""One step's forward and backward pass: of the task, of the transfer, or of both.

A step leaves the gradients in `.grad`; the loop around it owns the optimizer.
"""

from __future__ import annotations

import abc
from typing import NamedTuple

import torch
import torch.nn.functional as F
from accelerate import Accelerator
from torch import Tensor, nn

from svdistill.distiller import Distiller
from svdistill.losses import Knowledge
from svdistill.multitask import GradientNorms


class StepResult(NamedTuple):
    """What a step computed, detached: scalars and logits [B, C]."""

    task_loss: Tensor
    transfer_loss: Tensor | None
    logits: Tensor
    norms: GradientNorms | None


class Step(abc.ABC):
    """Forward and backward on one batch."""

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

    def end_epoch(self) -> None:  # noqa: B027  most steps have nothing to do then
        """Called after the last step of an epoch."""


class TaskStep(Step):
    """Cross-entropy with the labels."""

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
            logits = self.network(images)
        task_loss = F.cross_entropy(logits.float(), labels)
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
        task_loss = F.cross_entropy(output.logits.float(), labels)
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
        task_loss = F.cross_entropy(output.logits.detach().float(), labels)
        transfer_loss = output.transfer_loss * self.transfer_weight
        self.distiller.backward(
            task_loss,
            output._replace(transfer_loss=transfer_loss, unclipped_loss=None),
            progress=progress,
            loss_scale=_loss_scale(self.accelerator, output.transfer_loss.device),
            measure=measure,
        )
        return StepResult(task_loss, output.transfer_loss.detach(), output.logits.detach(), None)


def _loss_scale(accelerator: Accelerator, device: torch.device) -> float:
    """fp16's loss scale. Only a scaler that was asked to scale something serves an optimizer."""
    if accelerator.scaler is None:
        return 1.0
    return float(accelerator.scaler.scale(torch.ones((), device=device)))
