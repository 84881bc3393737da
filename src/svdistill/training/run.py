"""The commands as functions: train a network, distill a teacher into one, evaluate one."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import torch
from accelerate import Accelerator
from torch import nn

from svdistill.data import Augmentation, ImageData, load_images
from svdistill.distiller import Distiller
from svdistill.errors import RunError
from svdistill.knowledge_store import KnowledgeStore, require_fit
from svdistill.networks import profile_network
from svdistill.taps import TapPairs
from svdistill.training.assembly import (
    as_taught,
    build_losses,
    choose_device,
    load_data,
    move_data,
    new_accelerator,
    new_student,
    place_network,
    tap_paths,
    try_once,
    whole_loss,
)
from svdistill.training.config import DistillConfig, TrainConfig, stored_values
from svdistill.training.loop import Loop, Stage
from svdistill.training.metrics import Evaluation, evaluate_network
from svdistill.training.progress import Reporter
from svdistill.training.run_directory import RunDirectory, RunSummary
from svdistill.training.step import DistillStep, Step, TaskStep, TransferStep
from svdistill.training.views import Views, views_of
from svdistill.training.weights import load_student, load_teacher, read_card, weights_file


def train(config: TrainConfig, reporter: Reporter | None = None) -> RunSummary:
    """Train a network on labelled images, and leave a run directory.

    Args:
        config: what to train, on what, how, and where to.
        reporter: what a person sees; nothing by default.

    Returns:
        The run's summary, as in its `summary.json`.

    Raises:
        SVDistillError: a bad value, data set or run directory, or a loss that is not finite.
    """
    config.check()
    data = load_data(config)
    accelerator = new_accelerator(config)
    student = new_student(config, data, accelerator.device)
    stages = [Stage("task", TaskStep(student, accelerator), config.epochs)]
    return _run(config, student, stages, data, views_of(config), accelerator, reporter)


def distill(config: DistillConfig, reporter: Reporter | None = None) -> RunSummary:
    """Train a student on labelled images and on its teacher's knowledge; leave a run directory.

    Args:
        config: teacher, student, loss and taps, and all that `train` takes.
        reporter: what a person sees; nothing by default.

    Returns:
        The run's summary, as in its `summary.json`.

    Raises:
        SVDistillError: a bad value, teacher, data set or run directory; taps or channels that do
            not fit; a loss that is not finite.
    """
    config.check()
    data = load_data(config)
    accelerator = new_accelerator(config)
    if config.knowledge:
        return _distill_from_store(config, data, accelerator, reporter)
    device = accelerator.device
    teacher = load_teacher(
        config.teacher,
        data.num_classes,
        network=config.teacher_network,
        width=config.teacher_width,
    )
    place_network(teacher, device)
    data = as_taught(data, config.teacher)
    student = new_student(config, data, device)
    taps = TapPairs(
        tap_paths("teacher_taps", teacher, config.teacher_taps),
        tap_paths("student_taps", student, config.student_taps),
    )
    distiller = _distiller(config, teacher, student, taps, device)
    try_once(distiller, data, device)
    stages = _stages(config, distiller, accelerator)
    return _run(config, student, stages, data, views_of(config), accelerator, reporter, teacher)


def _distill_from_store(
    config: DistillConfig, data: ImageData, accelerator: Accelerator, reporter: Reporter | None
) -> RunSummary:
    """Distill without a teacher, from the knowledge that it left."""
    device = accelerator.device
    store = KnowledgeStore(config.knowledge)
    known = store.manifest
    require_fit(known, data, whole_loss(config), config.augmentation)
    data = replace(data, mean=known.mean, std=known.std)
    student = new_student(config, data, device)
    student_taps = tap_paths("student_taps", student, config.student_taps)
    taps = TapPairs(known.teacher_taps, student_taps)
    distiller = _distiller(config, None, student, taps, device)
    try_once(distiller, data, device, store)
    stages = _stages(config, distiller, accelerator, store)
    views = Views(known.views_seed, known.views)
    return _run(
        *(config, student, stages, data, views, accelerator, reporter),
        teacher_accuracy=known.teacher_accuracy,
    )


def _distiller(
    config: DistillConfig,
    teacher: nn.Module | None,
    student: nn.Module,
    taps: TapPairs,
    device: torch.device,
) -> Distiller:
    losses = build_losses(config)
    return Distiller(
        teacher,
        student,
        losses.clipped,
        taps=taps,
        clip=config.clip,
        clip_interval=config.clip_interval,
        unclipped=losses.unclipped,
        weight_decay=config.weight_decay if config.optimizer == "sgd" else 0.0,
    ).to(device)


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


def evaluate(path: str | Path, data: str | None = None, *, device: str = "auto") -> Evaluation:
    """Accuracy of a trained network on the test split of a data set.

    Images are resized and normalised as the network's own training images were.

    Args:
        path: a run directory, or a `.safetensors` file that a run wrote.
        data: where images come from, as in `load_images`; None for the data that the run directory
            was trained for, with the same selection of classes.
        device: `"auto"`, `"cpu"` or `"cuda"`.

    Returns:
        `Evaluation(accuracy, loss, images)`.

    Raises:
        SVDistillError: bad weights or data, or classes that differ from those trained on.
    """
    network = load_student(path)
    card = read_card(weights_file(Path(path)))
    assert card is not None  # load_student has read it
    target = choose_device(device)
    if data is None:
        config = stored_values(RunDirectory(path).config)
        images = load_images(
            config["data"],
            image_size=card.image_size,
            classes_every=config["classes_every"],
            classes=config.get("classes"),
        )
    else:
        images = load_images(data, image_size=card.image_size)
    if images.class_names != card.class_names:
        raise RunError(
            str(path),
            expected=f"a network of the data's {images.num_classes} classes",
            got=f"one of {len(card.class_names)} classes, or of others",
            remedy="evaluate on the data it was trained for",
        )
    return evaluate_network(
        network.to(target),
        images.test.to(target),
        Augmentation("none", images.image_shape[-1], card.mean, card.std),
        num_classes=images.num_classes,
        device=target,
    )


def _run(
    config: TrainConfig,
    student: nn.Module,
    stages: list[Stage],
    data: ImageData,
    views: Views,
    accelerator: Accelerator,
    reporter: Reporter | None,
    teacher: nn.Module | None = None,
    *,
    teacher_accuracy: float | None = None,
) -> RunSummary:
    """Everything that could be checked has been: open the run directory, train, summarise."""
    reporter = reporter or Reporter()
    run = RunDirectory(config.output)
    run.open(config, data.fingerprint)
    data = move_data(data, accelerator.device)
    accelerator.init_trackers("tensorboard")
    loop = Loop(student, stages, data, config, views, run, accelerator, reporter)
    if teacher is not None:
        teacher_accuracy = loop.evaluate(data.test, teacher).accuracy
    with reporter:
        if teacher_accuracy is not None:
            reporter.message(f"teacher: {teacher_accuracy:.2f} % on {len(data.test)} test images")
        place = loop.fit()
    accelerator.end_training()
    profile = profile_network(student, data.image_shape)
    distilled = isinstance(config, DistillConfig)
    summary = RunSummary(
        directory=str(run.path),
        kind="distill" if distilled else "train",
        network=config.network,
        width=config.width,
        loss=config.loss if isinstance(config, DistillConfig) else None,
        seed=config.seed,
        last_accuracy=place.last_accuracy,
        best_accuracy=place.best_accuracy,
        best_epoch=place.best_epoch,
        best_by="test" if data.dev is None else "dev",
        teacher_accuracy=teacher_accuracy,
        parameters=profile.parameters,
        flops=profile.flops,
        epochs=place.total,
        seconds=place.seconds,
    )
    run.finish(summary)
    return summary
