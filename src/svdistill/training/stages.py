"""The stages of a run: epochs of one kind of step each."""

from __future__ import annotations

from dataclasses import dataclass

from torch import nn

from svdistill.config import DistillConfig, TrainConfig
from svdistill.distillation import Distiller
from svdistill.store import KnowledgeStore
from svdistill.training.step import DistillStep, MixedPrecision, Step, TaskStep, TransferStep


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
    """The stages that a configuration asks for.

    Args:
        config: of the run.
        trained: the network, or the distiller that holds it.
        accelerator: in whose precision the steps compute.
        store: of the teacher's knowledge, if there is one.
    """
    if not isinstance(config, DistillConfig):
        step = TaskStep(trained, accelerator, config.label_smoothing)
        return [TrainingStage("task", step, config.epochs)]
    assert isinstance(trained, Distiller)
    assert config.task_weight is not None  # filled, as the next one
    assert config.transfer_weight is not None
    last = (config.label_smoothing, config.teacher_precision)
    parts = (trained, accelerator, config.task_weight, config.transfer_weight, *last)
    if not config.transfer_epochs:
        return [TrainingStage("both", DistillStep(*parts), config.epochs, store)]
    transfer = TrainingStage("transfer", TransferStep(*parts), config.transfer_epochs, store)
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
