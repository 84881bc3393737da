"""Forward and backward pass of one batch: of the task, of the transfer, or of both.

A step leaves the gradients in `.grad`; the trainer owns the optimizer.
"""

from __future__ import annotations

import abc
from collections.abc import Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, Final, Protocol

import torch
from torch import Tensor, nn

from svdistill.common import as_logits
from svdistill.config import DistillConfig, TrainConfig
from svdistill.distillation import (
    Distiller,
    DistillerOutput,
    average_gradients,
    require_finite_transfer,
)
from svdistill.linalg import is_accelerator
from svdistill.parallel import batch_norm_over
from svdistill.store import KnowledgeStore
from svdistill.training.batch import TrainingBatch, batch_cross_entropy, parts
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


class Step(abc.ABC):
    """Forward and backward pass of one batch.

    Attributes:
        uses_unlabelled: whether it learns from images without labels.
    """

    uses_unlabelled = True

    @abc.abstractmethod
    def parameters(self) -> list[nn.Parameter]:
        """The parameters that the step trains."""

    def buffers(self) -> list[Tensor]:
        """Buffers of the network and of what is trained beside it."""
        return []

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


@dataclass(eq=False)
class TaskStep(Step):
    """Cross-entropy with the labels."""

    network: nn.Module
    accelerator: MixedPrecision
    label_smoothing: float = 0.0

    uses_unlabelled = False

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


@dataclass(eq=False)
class DistillStep(Step):
    """1-stage training: task and transfer at once, the transfer's gradient clipped.

    Attributes:
        distiller: of the student; its teacher runs unless a batch has knowledge.
        accelerator: in whose precision the student computes.
        task_weight: factor on the cross-entropy.
        transfer_weight: factor on the transfer loss.
        label_smoothing: see `batch_cross_entropy`.
        teacher_precision: None for the accelerator's.
    """

    distiller: Distiller
    accelerator: MixedPrecision
    task_weight: float
    transfer_weight: float
    label_smoothing: float = 0.0
    teacher_precision: str | None = None

    trains_task = True

    def parameters(self) -> list[nn.Parameter]:
        """Parameters of the student, its adapters and the loss."""
        return self.distiller.trainable_parameters()

    def buffers(self) -> list[Tensor]:
        """Buffers of the student, its adapters and the loss."""
        return list(self.distiller.buffers())

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

    def __call__(
        self, batch: TrainingBatch, progress: float | Tensor, measure: bool | None = None
    ) -> StepResult:
        """Backward of the losses."""
        output = self._forward(batch)
        logits = output.logits.float()
        if not self.trains_task:  # detached, the task's loss adds no gradient and clips none
            logits, output = logits.detach(), output._replace(unclipped_loss=None)
        task_loss = batch_cross_entropy(logits, batch, self.label_smoothing)
        result = _forward_result(output, task_loss, batch)
        norms = self.distiller.backward(
            task_loss * self.task_weight,
            output._replace(transfer_loss=output.transfer_loss * self.transfer_weight),
            progress=progress,
            loss_scale=_loss_scale(self.accelerator, output.transfer_loss.device),
            measure=measure,
            part=batch.part,
        )
        return result._replace(norms=norms) if self.trains_task else result

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


class TransferStep(DistillStep):
    """First stage of 2-stage training: the transfer alone. The task loss is only measured."""

    trains_task = False


@dataclass(frozen=True)
class AccumulatedStep:
    """Executes a step on parts of the batch, one after the other, for less memory.

    The gradients are those of the whole batch, see `Distiller.accumulate`, but batch norm and
    dropout see one part at a time.

    Attributes:
        step: to execute on each part.
        count: number of parts, see `parts`.
    """

    step: Step
    count: int

    def __call__(
        self, batch: TrainingBatch, progress: float | Tensor, measure: bool | None = None
    ) -> StepResult:
        """Fill the gradients for all parts of the batch."""
        results = [self.step(part, progress, measure) for part in parts(batch, self.count)]
        wholes = [result.whole for result in results if result.whole is not None]
        whole = wholes[0]._replace(right=torch.stack([one.right for one in wholes]).sum())
        transfers = [r.transfer_loss for r in results if r.transfer_loss is not None]
        return StepResult(
            task_loss=torch.stack([result.task_loss for result in results]).sum(),
            transfer_loss=torch.stack(transfers).sum() if transfers else None,
            logits=torch.cat([result.logits for result in results]),
            norms=results[-1].norms,
            whole=whole if batch.part is not None else None,
        )


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


@dataclass(frozen=True)
class TrainingStage:
    """Epochs of one kind of step, with an optimizer and a schedule of their own.

    Attributes:
        name: as in `metrics.jsonl`.
        step: forward and backward pass.
        epochs: their number.
        store: where the step's knowledge is read; None if its teacher runs, or it has none.
    """

    name: str
    step: Step
    epochs: int
    store: KnowledgeStore | None = None


def build_stages(
    config: TrainConfig,
    trained: nn.Module,
    accelerator: MixedPrecision,
    store: KnowledgeStore | None = None,
) -> list[TrainingStage]:
    """The stages that a configuration asks for, of a network or of the distiller that holds it."""
    if not isinstance(config, DistillConfig):
        step = TaskStep(trained, accelerator, config.label_smoothing)
        return [TrainingStage("task", step, config.epochs)]
    assert isinstance(trained, Distiller)
    assert config.task_weight is not None  # filled, as the next one
    assert config.transfer_weight is not None
    last = (config.label_smoothing, config.teacher_precision)
    weighted = (trained, accelerator, config.task_weight, config.transfer_weight, *last)
    if not config.transfer_epochs:
        return [TrainingStage("both", DistillStep(*weighted), config.epochs, store)]
    transfer = TrainingStage("transfer", TransferStep(*weighted), config.transfer_epochs, store)
    if trained.unclipped is None:
        task: Step = TaskStep(trained.student, accelerator, config.label_smoothing)
        return [transfer, TrainingStage("task", task, config.epochs)]
    rest = Distiller(
        trained.teacher,
        trained.student,
        trained.unclipped,
        taps=[],
        clip="none",
        clip_interval=config.clip_interval,
        weight_decay=trained.weight_decay,
    )
    task = DistillStep(rest, accelerator, config.task_weight, 1.0, *last)
    return [transfer, TrainingStage("task", task, config.epochs, store)]
