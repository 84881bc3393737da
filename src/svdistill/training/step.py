"""One step's forward and backward pass: of the task, of the transfer, or of both.

A step leaves the gradients in `.grad`; the loop around it owns the optimizer.
"""

from __future__ import annotations

import abc
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from svdistill.common import as_logits
from svdistill.data import UNLABELLED
from svdistill.distillation import (
    Distiller,
    DistillerOutput,
    GradientNorms,
    average_gradients,
    require_finite_transfer,
)
from svdistill.linalg import is_accelerator
from svdistill.losses import Knowledge
from svdistill.parallel import BatchPart, batch_norm_over
from svdistill.training.metrics import StepResult, of_whole_batch

if TYPE_CHECKING:
    from accelerate import Accelerator


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
        part: BatchPart | None = None,
    ) -> StepResult:
        """Fill the gradients for a batch of images [B, 3, H, W] and labels [B].

        Where they are a part of a batch, the gradients are those of the whole batch, in all
        processes alike.

        The teacher's knowledge of these images is given where it comes from a store. A recorded
        step gets its progress as a tensor, and as `measure` what `plan` answered.
        """

    def plan(self, progress: float) -> bool:
        """Which of at most two kinds the next step is of: `Distiller.plan`."""
        return True

    def measure_again(self) -> None:  # noqa: B027  most steps measure nothing
        """Let nothing follow from the last gradients: fp16's scaler has skipped them."""

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
        part: BatchPart | None = None,
    ) -> StepResult:
        """Backward of the cross-entropy."""
        with self.accelerator.autocast(), batch_norm_over(part):
            logits = as_logits(self.network(images))
        task_loss = labelled_cross_entropy(logits.float(), labels, part)
        result = StepResult(task_loss.detach(), None, logits.detach(), None)
        if part is not None:
            result = of_whole_batch(result, labels, part)
        self.accelerator.backward(task_loss)
        if part is not None:
            _average(self.parameters())
        return result


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

    def measure_again(self) -> None:
        """Take both gradients in the next step."""
        self.distiller.measure_again()

    def state_dict(self) -> dict[str, Any]:
        """The scale of an amortised clip, and what is watched."""
        return self.distiller.carried_state()

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from what `state_dict` returned."""
        self.distiller.load_carried_state(state)

    def end_epoch(self) -> None:
        """Warn if the transfer taught nothing."""
        self.distiller.end_epoch()

    def _forward(
        self,
        images: Tensor,
        labels: Tensor,
        knowledge: Knowledge | None,
        part: BatchPart | None,
    ) -> DistillerOutput:
        with self.accelerator.autocast(), batch_norm_over(part):
            output: DistillerOutput = self.distiller(
                images, knowledge=knowledge, part=part, labels=labels
            )
        return output

    def _backward(
        self,
        task_loss: Tensor,
        output: DistillerOutput,
        progress: float | Tensor,
        measure: bool | None,
        part: BatchPart | None,
    ) -> GradientNorms:
        return self.distiller.backward(
            task_loss,
            output._replace(transfer_loss=output.transfer_loss * self.transfer_weight),
            progress=progress,
            loss_scale=_loss_scale(self.accelerator, output.transfer_loss.device),
            measure=measure,
            part=part,
        )


class DistillStep(_DistillerStep):
    """1-stage: the task and the transfer at once, the transfer's gradient clipped."""

    def __call__(
        self,
        images: Tensor,
        labels: Tensor,
        progress: float | Tensor,
        knowledge: Knowledge | None = None,
        measure: bool | None = None,
        part: BatchPart | None = None,
    ) -> StepResult:
        """Backward of both losses."""
        output = self._forward(images, labels, knowledge, part)
        task_loss = labelled_cross_entropy(output.logits.float(), labels, part)
        result = _measured(output, task_loss, labels, part)
        norms = self._backward(task_loss * self.task_weight, output, progress, measure, part)
        return result._replace(norms=norms)


class TransferStep(_DistillerStep):
    """First stage of two: the transfer alone. The task loss is measured, not learnt."""

    def __call__(
        self,
        images: Tensor,
        labels: Tensor,
        progress: float | Tensor,
        knowledge: Knowledge | None = None,
        measure: bool | None = None,
        part: BatchPart | None = None,
    ) -> StepResult:
        """Backward of the transfer loss."""
        output = self._forward(images, labels, knowledge, part)
        # Detached, so that it adds no gradient and clips none.
        task_loss = labelled_cross_entropy(output.logits.detach().float(), labels, part)
        result = _measured(output, task_loss, labels, part)
        alone = output._replace(unclipped_loss=None)
        self._backward(task_loss, alone, progress, measure, part)
        return result


def labelled_cross_entropy(logits: Tensor, labels: Tensor, part: BatchPart | None = None) -> Tensor:
    """Mean cross-entropy over the images that have a label; 0 where none has.

    Of a part of a batch it is such that its mean over the processes is the whole batch's.

    Args:
        logits: [B, C].
        labels: [B], int64, `UNLABELLED` for images without one.
        part: which part of a batch they are, where several processes have one.

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
    if part is not None:
        return total * part.of_labelled()
    return total / (labels != UNLABELLED).sum().clamp(min=1)


def _measured(
    output: DistillerOutput, task_loss: Tensor, labels: Tensor, part: BatchPart | None
) -> StepResult:
    """What a forward pass has shown, before its gradients are taken."""
    detached = task_loss.detach(), output.transfer_loss.detach(), output.logits.detach()
    result = StepResult(*detached, norms=None)
    if part is None:
        return result
    result = of_whole_batch(result, labels, part)
    assert result.transfer_loss is not None
    # Here, where all processes see the same: one that raised alone would leave the others waiting.
    if part.processes > 1:
        require_finite_transfer(result.transfer_loss)
    return result


def _average(parameters: list[nn.Parameter]) -> None:
    """Replace the gradients of all parameters by their mean over the processes."""
    gradients = [parameter.grad for parameter in parameters]
    average_gradients(gradients)
    for parameter, gradient in zip(parameters, gradients, strict=True):
        parameter.grad = gradient


def _loss_scale(accelerator: Accelerator, device: torch.device) -> float | Tensor:
    """fp16's loss scale. Only a scaler that was asked to scale something serves an optimizer."""
    if accelerator.scaler is None:
        return 1.0
    scale: Tensor = accelerator.scaler.scale(torch.ones((), device=device))
    return scale if is_accelerator(device) else float(scale)
