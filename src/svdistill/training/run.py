"""The commands as functions: train a network, distill a teacher into one."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, NamedTuple, TypeVar

from torch import nn

from svdistill.data import ImageData
from svdistill.distiller import Distiller
from svdistill.knowledge_store import KnowledgeStore, require_fit
from svdistill.networks import profile_network
from svdistill.parallel import in_main, is_main, together
from svdistill.taps import PairedTaps, TapPairs
from svdistill.training.alike import begin_alike
from svdistill.training.assembly import (
    build_losses,
    move_data,
    new_accelerator,
    new_student,
    place_network,
    require_classes,
    try_once,
    two_images,
    whole_loss,
)
from svdistill.training.before_after import (
    Accuracies,
    measure_before_after,
    write_before_after,
)
from svdistill.training.config import OBJECT, DistillConfig, TrainConfig
from svdistill.training.determinism import deterministic
from svdistill.training.images import run_images
from svdistill.training.loop import Loop, Stage
from svdistill.training.progress import Reporter
from svdistill.training.run_directory import RunDirectory, RunSummary, skipped_steps
from svdistill.training.step import DistillStep, Step, TaskStep, TransferStep
from svdistill.training.stopping import StopRequests
from svdistill.training.tapping import paired_taps, taps_of_store
from svdistill.training.teacher import teacher_of
from svdistill.training.teacher_quality import warn_of_poor_teacher
from svdistill.training.trouble import trouble_explained
from svdistill.training.views import Views, views_of

if TYPE_CHECKING:
    import torch
    from accelerate import Accelerator

Config = TypeVar("Config", bound=TrainConfig)


class _Parts(NamedTuple):
    """What a run is made of, all of it checked."""

    student: nn.Module
    stages: list[Stage]
    data: ImageData
    views: Views
    teacher: nn.Module | None = None
    teacher_accuracy: float | None = None
    knowledge: str = ""


@trouble_explained()
def train(
    config: TrainConfig,
    reporter: Reporter | None = None,
    *,
    network: nn.Module | None = None,
    data: ImageData | None = None,
) -> RunSummary:
    """Train a network on labelled images, and leave a run directory.

    Started by a launcher as one of several processes, each trains on its part of every batch, and
    the main one writes and reports.

    Args:
        config: what to train, on what, how, and where to.
        reporter: what a person sees; nothing by default.
        network: the network itself, instead of a name in the configuration. It is trained in place;
            its weights are where it starts. `load_student` wants one like it.
        data: the images themselves, instead of a name.

    Returns:
        The run's summary, as in its `summary.json`.

    Raises:
        SVDistillError: a bad value, data set or run directory, or a loss that is not finite; a
            machine without the memory, disk or processes that it takes.
        Stopped: SIGTERM or Ctrl-C came; `resume` goes on from that very step.
    """
    reporter = reporter or Reporter()
    config = _noting_objects(config, network=network, data=data)
    config.check()
    accelerator = new_accelerator(config)
    reporter = reporter if is_main() else Reporter()
    parts = together(partial(_training, config, accelerator, reporter, network, data))
    with deterministic(config.deterministic):
        return _run(config, parts, accelerator, reporter)


def _training(
    config: TrainConfig,
    accelerator: Accelerator,
    reporter: Reporter,
    network: nn.Module | None,
    data: ImageData | None,
) -> _Parts:
    data = run_images(config, reporter, data)
    student = new_student(config, data, accelerator.device, reporter, network)
    _, images = two_images(data, accelerator.device)
    require_classes("network", student, images, data.num_classes)
    stages = [Stage("task", TaskStep(student, accelerator), config.epochs)]
    return _Parts(student, stages, data, views_of(config))


@trouble_explained()
def distill(
    config: DistillConfig,
    reporter: Reporter | None = None,
    *,
    teacher: nn.Module | None = None,
    student: nn.Module | None = None,
    data: ImageData | None = None,
) -> RunSummary:
    """Train a student on labelled images and on its teacher's knowledge; leave a run directory.

    In several processes as `train` does.

    Args:
        config: teacher, student, loss and taps, and all that `train` takes.
        reporter: what a person sees; nothing by default.
        teacher: the trained network itself, instead of a name in the configuration. It is frozen.
        student: the network itself, likewise, as `network` of `train`.
        data: the images themselves, instead of a name.

    Returns:
        The run's summary, as in its `summary.json`.

    Raises:
        SVDistillError: a bad value, teacher, data set or run directory; taps or channels that do
            not fit; a loss that is not finite; a machine as for `train`.
        Stopped: see `train`.
    """
    reporter = reporter or Reporter()
    config = _noting_objects(config, network=student, data=data, teacher=teacher)
    config.check()
    accelerator = new_accelerator(config)
    reporter = reporter if is_main() else Reporter()
    parts = together(
        partial(_distillation_from_store, config, accelerator, reporter, student, data)
        if config.knowledge
        else partial(_distillation, config, accelerator, reporter, teacher, student, data)
    )
    with deterministic(config.deterministic):
        return _run(config, parts, accelerator, reporter)


def _distillation(
    config: DistillConfig,
    accelerator: Accelerator,
    reporter: Reporter,
    teacher: nn.Module | None,
    student: nn.Module | None,
    data: ImageData | None,
) -> _Parts:
    data, device = run_images(config, reporter, data), accelerator.device
    teacher = teacher_of(config, data, teacher)
    place_network(teacher, device)
    student = new_student(config, data, device, reporter, student)
    _, images = two_images(data, device)
    require_classes("teacher", teacher, images, data.num_classes)
    require_classes("network", student, images, data.num_classes)
    taps = paired_taps(config, teacher, student, images)
    distiller = _distiller(config, teacher, student, taps, device)
    _show(taps, distiller, reporter)
    try_once(distiller, images)
    stages = _stages(config, distiller, accelerator)
    return _Parts(student, stages, data, views_of(config), teacher)


def _distillation_from_store(
    config: DistillConfig,
    accelerator: Accelerator,
    reporter: Reporter,
    student: nn.Module | None,
    data: ImageData | None,
) -> _Parts:
    """Without a teacher, from the knowledge that it left."""
    data, device = run_images(config, reporter, data), accelerator.device
    store = KnowledgeStore(config.knowledge)
    known = store.manifest
    require_fit(known, data, whole_loss(config), config.augmentation)
    student = new_student(config, data, device, reporter, student)
    batch, images = two_images(data, device)
    require_classes("network", student, images, data.num_classes)
    taps = taps_of_store(config, known, student, images)
    distiller = _distiller(config, None, student, taps, device)
    _show(taps, distiller, reporter)
    try_once(distiller, images, store.read(batch.indices, 0, device))
    stages = _stages(config, distiller, accelerator, store)
    return _Parts(
        *(student, stages, data, Views(known.views_seed, known.views)),
        teacher_accuracy=known.teacher_accuracy,
        knowledge=f"{known.teacher_sha256} {known.loss}",
    )


def _noting_objects(config: Config, **given: object) -> Config:
    """The configuration, in which what was given as an object is called `object`."""
    names = {name: OBJECT for name, value in given.items() if value is not None}
    return replace(config, **names)  # type: ignore[arg-type]


def _show(taps: PairedTaps | TapPairs, distiller: Distiller, reporter: Reporter) -> None:
    """Say which stages were paired, and whether the adapters in that table are used."""
    if isinstance(taps, PairedTaps):
        reporter.message(str(taps))
        if distiller.adapters is None and any(row.needs_adapter for row in taps.rows):
            reporter.message("no adapters: the loss compares no channels")


def _distiller(
    config: DistillConfig,
    teacher: nn.Module | None,
    student: nn.Module,
    taps: PairedTaps | TapPairs,
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


def _run(
    config: TrainConfig, parts: _Parts, accelerator: Accelerator, reporter: Reporter
) -> RunSummary:
    """Everything that could be checked has been: open the run directory, train, summarise."""
    student, stages, data, views, teacher, teacher_accuracy, knowledge = parts
    contents = {"images": data.fingerprint, "knowledge store": knowledge}
    begin_alike(config, student, [stage.step for stage in stages], teacher, contents)
    run = RunDirectory(config.output)
    with StopRequests() as stops, ExitStack() as stack:
        held = run.held(config, data.fingerprint)
        in_main(partial(stack.enter_context, held))
        data = move_data(data, accelerator.device)
        accelerator.init_trackers("tensorboard")
        loop = Loop(student, stages, data, config, views, run, accelerator, reporter, stops)
        if teacher is not None:
            teacher_accuracy = loop.evaluate(data.test, teacher).accuracy
        distilled = isinstance(config, DistillConfig)
        before = loop.evaluate(data.test, student).accuracy if distilled else None
        with reporter:
            if teacher_accuracy is not None:
                reporter.message(
                    f"teacher: {teacher_accuracy:.2f} % on {len(data.test)} test images"
                )
                warn_of_poor_teacher(teacher_accuracy, before or 0.0, data.num_classes, reporter)
            place = loop.fit()
        for tracker in accelerator.trackers:
            tracker.finish()  # not `end_training`, which would leave the group of processes too
        if before is not None and is_main():
            accuracies = Accuracies(len(data.test), teacher_accuracy, before, place.last_accuracy)
            figures = measure_before_after(teacher, student, data.image_shape, accuracies)
            write_before_after(run.before_after, figures)
        profile = profile_network(student, data.image_shape)
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
            num_classes=data.num_classes,
            image_size=data.image_shape[-1],
            skipped_steps=skipped_steps(run.path) if is_main() else 0,
        )
        in_main(partial(run.finish, summary))
        return summary
