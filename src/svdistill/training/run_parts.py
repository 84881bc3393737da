"""What a run is made of: checked, and tried on two images, before anything is written."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, NamedTuple

from torch import nn

from svdistill.data import ImageData
from svdistill.distiller import Distiller
from svdistill.knowledge_store import KnowledgeStore, Manifest, require_fit
from svdistill.losses import TransferLoss
from svdistill.taps import PairedTaps, TapPairs
from svdistill.training.assembly import (
    Losses,
    build_losses,
    new_student,
    place_network,
    require_classes,
    try_once,
    two_images,
    whole_loss,
)
from svdistill.training.config import DistillConfig, TrainConfig
from svdistill.training.images import run_images
from svdistill.training.loop import Stage
from svdistill.training.progress import Reporter
from svdistill.training.step import DistillStep, Step, TaskStep, TransferStep
from svdistill.training.tapping import paired_taps, taps_of_store
from svdistill.training.teacher import teacher_of
from svdistill.training.views import Views, views_of
from svdistill.training.weights import network_digest

if TYPE_CHECKING:
    from accelerate import Accelerator


class RunParts(NamedTuple):
    """What a run is made of, all of it checked.

    `teacher_fingerprint` is a digest of the teacher's weights, or names the knowledge of a store.
    """

    student: nn.Module
    stages: list[Stage]
    data: ImageData
    views: Views
    teacher: nn.Module | None = None
    teacher_accuracy: float | None = None
    knowledge: str = ""
    teacher_fingerprint: str = ""


def parts_of_training(
    config: TrainConfig,
    accelerator: Accelerator,
    reporter: Reporter,
    network: nn.Module | None,
    data: ImageData | None,
) -> RunParts:
    """Of a training on labels alone, without a teacher."""
    data = run_images(config, reporter, data)
    student = new_student(config, data, accelerator.device, reporter, network)
    _, images = two_images(data, accelerator.device)
    require_classes("network", student, images, data.num_classes)
    stages = [Stage("task", TaskStep(student, accelerator), config.epochs)]
    return RunParts(student, stages, data, views_of(config))


def parts_of_distillation(
    config: DistillConfig,
    accelerator: Accelerator,
    reporter: Reporter,
    teacher: nn.Module | None,
    student: nn.Module | None,
    data: ImageData | None,
    loss: TransferLoss | None = None,
) -> RunParts:
    """Of a distillation whose teacher runs beside its student."""
    data, device = run_images(config, reporter, data), accelerator.device
    teacher = teacher_of(config, data, teacher)
    digest = network_digest(teacher)
    place_network(teacher, device)
    student = new_student(config, data, device, reporter, student)
    batch, images = two_images(data, device)
    require_classes("teacher", teacher, images, data.num_classes)
    require_classes("network", student, images, data.num_classes)
    taps = paired_taps(config, teacher, student, images, loss)
    distiller = _distiller(build_losses(config, loss), config, teacher, student, taps).to(device)
    _show(taps, distiller, reporter)
    try_once(distiller, images, batch.labels)
    stages = _stages(config, distiller, accelerator)
    return RunParts(student, stages, data, views_of(config), teacher, teacher_fingerprint=digest)


def parts_from_store(
    config: DistillConfig,
    accelerator: Accelerator,
    reporter: Reporter,
    student: nn.Module | None,
    data: ImageData | None,
    loss: TransferLoss | None = None,
) -> RunParts:
    """Of a distillation without a teacher, from the knowledge that it left."""
    data, device = run_images(config, reporter, data), accelerator.device
    store = KnowledgeStore(config.knowledge)
    known = store.manifest
    require_fit(known, data, whole_loss(config, loss), config.augmentation)
    student = new_student(config, data, device, reporter, student)
    batch, images = two_images(data, device)
    require_classes("network", student, images, data.num_classes)
    taps = taps_of_store(config, known, student, images, loss)
    distiller = _distiller(build_losses(config, loss), config, None, student, taps).to(device)
    _show(taps, distiller, reporter)
    try_once(distiller, images, batch.labels, store.read(batch.indices, 0, device))
    stages = _stages(config, distiller, accelerator, store)
    return RunParts(
        *(student, stages, data, Views(known.views_seed, known.views)),
        teacher_accuracy=known.teacher_accuracy,
        knowledge=f"{known.teacher_sha256} {known.loss}",
        teacher_fingerprint=_knowledge_digest(known),
    )


def _knowledge_digest(known: Manifest) -> str:
    """Of what a store's knowledge is; not of the paths that it was computed from."""
    facts = (known.teacher_sha256, known.teacher_taps, known.loss, known.data_fingerprint)
    drawn = (known.augmentation, known.views, known.views_seed, known.mean, known.std)
    return hashlib.sha256(repr((*facts, *drawn, known.structure)).encode()).hexdigest()


def _show(taps: PairedTaps | TapPairs, distiller: Distiller, reporter: Reporter) -> None:
    """Say which stages were paired, and whether the adapters in that table are used."""
    if isinstance(taps, PairedTaps):
        reporter.message(str(taps))
        if distiller.adapters is None and any(row.needs_adapter for row in taps.rows):
            reporter.message("no adapters: the loss compares no channels")


def _distiller(
    losses: Losses,
    config: DistillConfig,
    teacher: nn.Module | None,
    student: nn.Module,
    taps: PairedTaps | TapPairs,
) -> Distiller:
    return Distiller(
        teacher,
        student,
        losses.clipped,
        taps=taps,
        clip=config.clip,
        clip_interval=config.clip_interval,
        unclipped=losses.unclipped,
        weight_decay=config.weight_decay if config.optimizer == "sgd" else 0.0,
    )


def _stages(
    config: DistillConfig,
    distiller: Distiller,
    accelerator: Accelerator,
    store: KnowledgeStore | None = None,
) -> list[Stage]:
    """Task and transfer at once; or the transfer alone, then the task and what counts with it."""
    parts = (distiller, accelerator, config.task_weight, config.transfer_weight)
    if not config.transfer_epochs:
        return [Stage("both", DistillStep(*parts), config.epochs, store)]
    transfer = Stage("transfer", TransferStep(*parts), config.transfer_epochs, store)
    if distiller.unclipped is None:
        task: Step = TaskStep(distiller.student, accelerator)
        return [transfer, Stage("task", task, config.epochs)]
    rest = Distiller(
        distiller.teacher,
        distiller.student,
        distiller.unclipped,
        taps=[],
        clip="none",
        clip_interval=config.clip_interval,
        weight_decay=distiller.weight_decay,
    )
    task = DistillStep(rest, accelerator, config.task_weight, transfer_weight=1.0)
    return [transfer, Stage("task", task, config.epochs, store)]
