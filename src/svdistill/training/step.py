"""Forward and backward pass of one batch: of the task, of the transfer, or of both.

A step leaves the gradients in `.grad`; the trainer owns the optimizer.
"""

from __future__ import annotations

import abc
from collections.abc import Mapping
from contextlib import AbstractContextManager
from functools import partial
from typing import Any, Final, NamedTuple, Protocol

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

HALF: Final = {"bf16": torch.bfloat16, "fp16": torch.float16}


def autocast(precision: str, device: torch.device) -> torch.autocast:
    """Let networks compute in a precision within a block; decompositions stay in float32.

    Example:
        >>> with autocast("bf16", torch.device("cpu")):
        ...     nn.Linear(2, 3)(torch.rand(4, 2)).dtype
        torch.bfloat16
    """
    dtype = HALF.get(precision)
    return torch.autocast(device.type, dtype, enabled=dtype is not None)


class MixedPrecision(Protocol):
    """What steps use of Accelerate's `Accelerator`."""

    @property
    def scaler(self) -> Any:
        """fp16's; None in other precisions."""

    def autocast(self) -> AbstractContextManager[Any]:
        """Context of a forward pass."""

    def backward(self, loss: Tensor) -> None:
        """Backward pass of a loss, scaled if there is a scaler."""


class MixedLabels(NamedTuple):
    """The second labels of mixed images [B], int64, and their shares [B], at most 1/2."""

    labels: Tensor
    share: Tensor


class TrainingBatch(NamedTuple):
    """The images of a step, with labels and the teacher's knowledge.

    Attributes:
        images: [B, 3, H, W], normalised.
        labels: [B], int64, `UNLABELLED` for images without one.
        knowledge: the teacher's of these images, if it is read from a store.
        part: how the images count, if they are a part of a larger batch.
        mixed_in: the second labels, if the images are mixed.
    """

    images: Tensor
    labels: Tensor
    knowledge: Knowledge | None = None
    part: BatchPart | None = None
    mixed_in: MixedLabels | None = None


class Step(abc.ABC):
    """Forward and backward pass of one batch.

    Attributes:
        uses_unlabelled: whether it learns from images without labels.
    """

    uses_unlabelled = True

    @abc.abstractmethod
    def parameters(self) -> list[nn.Parameter]:
        """The parameters that the step trains."""

    @abc.abstractmethod
    def train_mode(self) -> None:
        """Put the trained network in training mode."""

    @abc.abstractmethod
    def __call__(
        self, batch: TrainingBatch, progress: float | Tensor, measure: bool | None = None
    ) -> StepResult:
        """Fill the gradients.

        Of a part of a batch, the gradients are those of the whole batch, equal in all processes.

        Args:
            batch: images, labels and knowledge.
            progress: the epoch, from 0; a scalar tensor while a CUDA graph is recorded.
            measure: what `plan` returned; None unless a CUDA graph is recorded.
        """

    def plan(self, progress: float) -> bool:
        """The kind of the next step, of at most two: see `Distiller.plan`."""
        return True

    def measure_again(self) -> None:  # noqa: B027  most steps measure nothing
        """Discard the last measurement: fp16's scaler has skipped its gradients."""

    def state_dict(self) -> dict[str, Any]:
        """The step's state, without parameters."""
        return {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:  # noqa: B027  most have no state
        """Restore what `state_dict` returned."""

    def end_epoch(self) -> None:  # noqa: B027  most steps do nothing then
        """Called after the last step of an epoch."""


class TaskStep(Step):
    """Cross-entropy with the labels."""

    uses_unlabelled = False

    def __init__(
        self, network: nn.Module, accelerator: MixedPrecision, label_smoothing: float = 0.0
    ) -> None:
        self.network = network
        self.accelerator = accelerator
        self.label_smoothing = label_smoothing

    def parameters(self) -> list[nn.Parameter]:
        """The network's parameters."""
        return [parameter for parameter in self.network.parameters() if parameter.requires_grad]

    def train_mode(self) -> None:
        """Put the network in training mode."""
        self.network.train()

    def __call__(
        self, batch: TrainingBatch, progress: float | Tensor, measure: bool | None = None
    ) -> StepResult:
        """Backward of the cross-entropy."""
        with self.accelerator.autocast(), batch_norm_over(batch.part):
            logits = as_logits(self.network(batch.images))
        task_loss = batch_cross_entropy(logits.float(), batch, self.label_smoothing)
        result = StepResult(task_loss.detach(), None, logits.detach(), None)
        if batch.part is not None:
            result = of_whole_batch(result, batch.labels, batch.part)
        self.accelerator.backward(task_loss)
        if batch.part is not None:
            parameters = self.parameters()
            gradients = [parameter.grad for parameter in parameters]
            average_gradients(gradients)
            for parameter, gradient in zip(parameters, gradients, strict=True):
                parameter.grad = gradient
        return result


class _DistillerStep(Step):
    def __init__(
        self,
        distiller: Distiller,
        accelerator: MixedPrecision,
        task_weight: float,
        transfer_weight: float,
        label_smoothing: float = 0.0,
        teacher_precision: str | None = None,
    ) -> None:
        self.distiller = distiller
        self.accelerator = accelerator
        self.task_weight = task_weight
        self.transfer_weight = transfer_weight
        self.label_smoothing = label_smoothing
        self.teacher_precision = teacher_precision  # None: the accelerator's

    def parameters(self) -> list[nn.Parameter]:
        """Parameters of the student, its adapters and the loss."""
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
        """The scale of an amortised clip, and the counts on which warnings depend."""
        return self.distiller.carried_state()

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore what `state_dict` returned."""
        self.distiller.load_carried_state(state)

    def end_epoch(self) -> None:
        """Warn if the transfer's gradient was always zero."""
        self.distiller.end_epoch()

    def _forward(self, batch: TrainingBatch) -> DistillerOutput:
        knowledge = batch.knowledge
        if knowledge is None and self.teacher_precision is not None:
            with autocast(self.teacher_precision, batch.images.device):
                knowledge = self.distiller.teach(batch.images)
        with self.accelerator.autocast(), batch_norm_over(batch.part):
            output: DistillerOutput = self.distiller(
                batch.images, knowledge=knowledge, part=batch.part, labels=batch.labels
            )
        return output

    def _backward(
        self,
        task_loss: Tensor,
        output: DistillerOutput,
        part: BatchPart | None,
        progress: float | Tensor,
        measure: bool | None,
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
    """1-stage training: task and transfer at once, the transfer's gradient clipped."""

    def __call__(
        self, batch: TrainingBatch, progress: float | Tensor, measure: bool | None = None
    ) -> StepResult:
        """Backward of both losses."""
        output = self._forward(batch)
        task_loss = batch_cross_entropy(output.logits.float(), batch, self.label_smoothing)
        result = _forward_result(output, task_loss, batch)
        weighted = task_loss * self.task_weight
        norms = self._backward(weighted, output, batch.part, progress, measure)
        return result._replace(norms=norms)


class TransferStep(_DistillerStep):
    """First stage of 2-stage training: the transfer alone. The task loss is only measured."""

    def __call__(
        self, batch: TrainingBatch, progress: float | Tensor, measure: bool | None = None
    ) -> StepResult:
        """Backward of the transfer loss."""
        output = self._forward(batch)
        # Detached: it adds no gradient, and clips none.
        logits = output.logits.detach().float()
        task_loss = batch_cross_entropy(logits, batch, self.label_smoothing)
        result = _forward_result(output, task_loss, batch)
        alone = output._replace(unclipped_loss=None)
        self._backward(task_loss, alone, batch.part, progress, measure)
        return result


def batch_cross_entropy(
    logits: Tensor, batch: TrainingBatch, label_smoothing: float = 0.0
) -> Tensor:
    """Mean cross-entropy over the labelled images of a batch; 0 if there are none.

    Of a part of a batch it is scaled such that its mean over the processes is the whole batch's. Of
    a mixed image both labels count, each with its share.

    Args:
        logits: [B, C].
        batch: labels, and how they count.
        label_smoothing: probability that is spread over all classes, 0 to below 1.

    Example:
        >>> logits, labels = torch.randn(3, 5), torch.tensor([4, UNLABELLED, 0])
        >>> expected = F.cross_entropy(logits[[0, 2]], labels[[0, 2]])
        >>> torch.equal(batch_cross_entropy(logits, TrainingBatch(None, labels)), expected)
        True
        >>> batch_cross_entropy(logits, TrainingBatch(None, labels.fill_(UNLABELLED)))
        tensor(0.)
    """
    cross_entropy = partial(
        F.cross_entropy, logits, ignore_index=UNLABELLED, label_smoothing=label_smoothing
    )
    labels, mixed_in = batch.labels, batch.mixed_in
    # Not reduction="mean", which is NaN without labels.
    if mixed_in is None:
        total = cross_entropy(labels, reduction="sum")
    else:
        first = cross_entropy(labels, reduction="none") * (1 - mixed_in.share)
        second = cross_entropy(mixed_in.labels, reduction="none") * mixed_in.share
        total = (first + second).sum()
    if batch.part is not None:
        return total * batch.part.of_labelled()
    return total / (labels != UNLABELLED).sum().clamp(min=1)


def _forward_result(output: DistillerOutput, task_loss: Tensor, batch: TrainingBatch) -> StepResult:
    """The losses and logits of a forward pass, detached."""
    detached = task_loss.detach(), output.transfer_loss.detach(), output.logits.detach()
    result = StepResult(*detached, norms=None)
    if batch.part is None:
        return result
    result = of_whole_batch(result, batch.labels, batch.part)
    assert result.transfer_loss is not None
    # All processes see the same loss here; if one raised alone, the others would wait for it.
    if batch.part.processes > 1:
        require_finite_transfer(result.transfer_loss)
    return result


def _loss_scale(accelerator: MixedPrecision, device: torch.device) -> float | Tensor:
    """fp16's loss scale; the optimizer's step needs a scaler that has scaled something."""
    if accelerator.scaler is None:
        return 1.0
    scale: Tensor = accelerator.scaler.scale(torch.ones((), device=device))
    return scale if is_accelerator(device) else float(scale)
