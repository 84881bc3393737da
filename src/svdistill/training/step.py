"""Steps: forward and backward pass of one batch, for the task loss, the transfer loss, or both.

A step leaves the gradients in `.grad`; the trainer then runs the optimizer.
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
    """Return a context in which networks compute in a precision; decompositions stay in float32.

    Example:
        >>> with autocast("bf16", torch.device("cpu")):
        ...     nn.Linear(2, 3)(torch.rand(4, 2)).dtype
        torch.bfloat16
    """
    dtype = HALF.get(precision)
    return torch.autocast(device.type, dtype, enabled=dtype is not None)


class MixedPrecision(Protocol):
    """The part of Accelerate's `Accelerator` that steps use."""

    @property
    def scaler(self) -> Any:
        """The gradient scaler of fp16; None in other precisions."""

    def autocast(self) -> AbstractContextManager[Any]:
        """Return a context for the forward pass, in the accelerator's precision."""

    def backward(self, loss: Tensor) -> None:
        """Run the backward pass of a loss, multiplied by the scaler's factor if there is one."""


class Step(abc.ABC):
    """Base class of steps: the forward and backward pass of one batch.

    Attributes:
        uses_unlabelled: whether the step learns from images without labels.
    """

    uses_unlabelled = True

    @abc.abstractmethod
    def parameters(self) -> list[nn.Parameter]:
        """The parameters that the step trains."""

    def buffers(self) -> list[Tensor]:
        """Buffers of the network, and of adapters and losses that are trained with it."""
        return []

    @abc.abstractmethod
    def train_mode(self) -> None:
        """Put the trained network in training mode."""

    @abc.abstractmethod
    def __call__(
        self, batch: TrainingBatch, progress: float | Tensor, measure: bool | None = None
    ) -> StepResult:
        """Compute the losses and leave their gradients in `.grad`.

        If `batch` is one process's part of a batch, the gradients are averaged over the processes:
        each process gets those of the whole batch.

        Args:
            batch: images, labels and knowledge.
            progress: number of the epoch, from 0; a scalar tensor for a CUDA graph.
            measure: the result of `plan`; None lets the step ask `plan` itself.
        """

    def plan(self, progress: float) -> bool:
        """Which of two kinds the next step is: one that measures both gradients, or not."""
        return True

    def measure_again(self) -> None:  # noqa: B027  most steps measure nothing
        """Discard the last measured gradient norms, since fp16's scaler skipped that step."""

    def state_dict(self) -> dict[str, Any]:
        """The step's state to save within an epoch, without parameters and buffers."""
        return {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:  # noqa: B027  most have no state
        """Restore what `state_dict` returned."""

    def end_epoch(self) -> None:  # noqa: B027  most steps do nothing then
        """Hook that the trainer calls after the last step of an epoch."""


@dataclass(eq=False)
class TaskStep(Step):
    """A step of training on labels alone, with the cross-entropy loss."""

    network: nn.Module
    accelerator: MixedPrecision
    label_smoothing: float = 0.0

    uses_unlabelled = False

    def parameters(self) -> list[nn.Parameter]:
        """The network's parameters that require gradients."""
        return [parameter for parameter in self.network.parameters() if parameter.requires_grad]

    def train_mode(self) -> None:
        """Put the network in training mode."""
        self.network.train()

    def __call__(
        self, batch: TrainingBatch, progress: float | Tensor, measure: bool | None = None
    ) -> StepResult:
        """Compute the cross-entropy and its gradients; see `Step`."""
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
    """A step of 1-stage training: task loss plus transfer loss, whose gradient is clipped.

    Attributes:
        distiller: holds student and teacher. The teacher runs unless a batch has its knowledge.
        accelerator: sets the student's precision.
        task_weight: factor on the cross-entropy.
        transfer_weight: factor on the transfer loss.
        label_smoothing: see `batch_cross_entropy`.
        teacher_precision: precision of the teacher; None for the accelerator's.
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
        """Whether the next step computes the gradients of both losses; see `Distiller.plan`."""
        return self.distiller.plan(progress)

    def measure_again(self) -> None:
        """Compute the gradients of both losses in the next step, to measure them again."""
        self.distiller.measure_again()

    def state_dict(self) -> dict[str, Any]:
        """The scale of the amortised clip, and the counts that warnings depend on."""
        return self.distiller.carried_state()

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore what `state_dict` returned."""
        self.distiller.load_carried_state(state)

    def end_epoch(self) -> None:
        """Warn of an epoch without a transfer gradient; see `Distiller.end_epoch`."""
        self.distiller.end_epoch()

    def __call__(
        self, batch: TrainingBatch, progress: float | Tensor, measure: bool | None = None
    ) -> StepResult:
        """Compute both losses and their gradients; see `Step`."""
        output = self._forward(batch)
        logits = output.logits.float()
        if not self.trains_task:
            logits, output = logits.detach(), output._replace(unclipped_loss=None)
        task_loss = batch_cross_entropy(logits, batch, self.label_smoothing)
        result = _forward_result(output, task_loss, batch)
        norms = self.distiller.backward(
            # A task loss of 0 adds no gradient, and clips none.
            task_loss * self.task_weight if self.trains_task else torch.zeros_like(task_loss),
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
    """The first stage's step of 2-stage training: trains on the transfer loss alone.

    The task loss is computed for the metrics only.
    """

    trains_task = False


@dataclass(frozen=True)
class AccumulatedStep:
    """Accumulates gradients: executes a step on parts of the batch, one by one, to save memory.

    The gradients equal those of the whole batch (see `Distiller.accumulate`), except that batch
    norm and dropout see one part at a time.

    Attributes:
        step: the step to execute on each part.
        count: number of parts, see `parts`.
    """

    step: Step
    count: int

    def __call__(
        self, batch: TrainingBatch, progress: float | Tensor, measure: bool | None = None
    ) -> StepResult:
        """Execute the step on each part; the gradients add up in `.grad`."""
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
    # The loss is reduced over the processes here, so that if it is not finite, all of them raise.
    if batch.part.processes > 1:
        require_finite_transfer(result.transfer_loss)
    return result


def _loss_scale(accelerator: MixedPrecision, device: torch.device) -> float | Tensor:
    """Factor on the loss: fp16's, from a call that the scaler needs before it steps; else 1."""
    if accelerator.scaler is None:
        return 1.0
    scale: Tensor = accelerator.scaler.scale(torch.ones((), device=device))
    return scale if is_accelerator(device) else float(scale)


@dataclass(frozen=True)
class TrainingStage:
    """A number of epochs with one kind of step, and with its own optimizer and schedule.

    Attributes:
        name: the stage's name in `metrics.jsonl`.
        step: forward and backward pass of a batch.
        epochs: number of epochs.
        store: holds the teacher's knowledge; None if the teacher runs, or the step needs none.
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
    """Build the stages of a configuration. `trained` is the network, or the student's distiller."""
    if not isinstance(config, DistillConfig):
        step = TaskStep(trained, accelerator, config.label_smoothing)
        return [TrainingStage("task", step, config.epochs)]
    assert isinstance(trained, Distiller)
    assert config.task_weight is not None  # set by `config.filled`, like the next one
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
