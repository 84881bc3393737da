"""`train` and `distill`: a run from its configuration to its summary."""

from __future__ import annotations

import hashlib
from contextlib import ExitStack
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, NamedTuple, TypeVar

from torch import nn

from svdistill.config import OBJECT, DistillConfig, TrainConfig
from svdistill.data import ImageData
from svdistill.distillation import Distiller
from svdistill.losses import TransferLoss, object_name
from svdistill.networks import profile_network
from svdistill.parallel import in_main, is_main, together
from svdistill.runs import RunDirectory, RunSummary, network_digest, skipped_steps
from svdistill.store import KnowledgeStore, Manifest, require_fit
from svdistill.taps import PairedTaps, TapPairs
from svdistill.training.before_after import Accuracies, measure_before_after, write_before_after
from svdistill.training.epoch import Views, views_of
from svdistill.training.images import run_images
from svdistill.training.progress import Reporter
from svdistill.training.setup import (
    Losses,
    build_losses,
    deterministic,
    move_data,
    new_accelerator,
    new_student,
    place_network,
    require_classes,
    try_once,
    two_images,
    whole_loss,
)
from svdistill.training.stages import paired_taps, taps_of_store
from svdistill.training.step import DistillStep, Step, TaskStep, TransferStep
from svdistill.training.stopping import StopRequests, begin_alike, trouble_explained
from svdistill.training.teacher import teacher_of, warn_of_poor_teacher
from svdistill.training.trainer import Loop, Stage

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


Config = TypeVar("Config", bound=TrainConfig)


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
        Stopped: SIGTERM, SIGHUP or Ctrl-C came; `resume` goes on from that very step.
    """
    reporter = reporter or Reporter()
    config = _noting_objects(config, network=network, data=data)
    config.check()
    accelerator = new_accelerator(config)
    reporter = reporter if is_main() else Reporter()
    parts = together(partial(parts_of_training, config, accelerator, reporter, network, data))
    with deterministic(config.deterministic):
        return _run(config, parts, accelerator, reporter)


@trouble_explained()
def distill(
    config: DistillConfig,
    reporter: Reporter | None = None,
    *,
    teacher: nn.Module | None = None,
    student: nn.Module | None = None,
    data: ImageData | None = None,
    loss: TransferLoss | None = None,
) -> RunSummary:
    """Train a student on labelled images and on its teacher's knowledge; leave a run directory.

    In several processes as `train` does.

    Args:
        config: teacher, student, loss and taps, and all that `train` takes.
        reporter: what a person sees; nothing by default.
        teacher: the trained network itself, instead of a name in the configuration. It is frozen.
        student: the network itself, likewise, as `network` of `train`.
        data: the images themselves, instead of a name.
        loss: the transfer loss itself, instead of a name; the options of losses are not read then.

    Returns:
        The run's summary, as in its `summary.json`.

    Raises:
        SVDistillError: a bad value, teacher, data set or run directory; taps or channels that do
            not fit; a loss that is not finite; a machine as for `train`.
        Stopped: see `train`.
    """
    reporter = reporter or Reporter()
    config = _noting_objects(config, network=student, data=data, teacher=teacher)
    if loss is not None:
        config = replace(config, loss=object_name(loss))
    config.check()
    accelerator = new_accelerator(config)
    reporter = reporter if is_main() else Reporter()
    parts = together(
        partial(parts_from_store, config, accelerator, reporter, student, data, loss)
        if config.knowledge
        else partial(
            parts_of_distillation, config, accelerator, reporter, teacher, student, data, loss
        )
    )
    with deterministic(config.deterministic):
        return _run(config, parts, accelerator, reporter)


def _noting_objects(config: Config, **given: object) -> Config:
    """The configuration, in which what was given as an object is called `object`."""
    names = {name: OBJECT for name, value in given.items() if value is not None}
    return replace(config, **names)  # type: ignore[arg-type]


def _say_how_resumed(run: RunDirectory, reporter: Reporter) -> None:
    """Say what a run goes on with that its start had another of."""
    if run.resumed_with:
        reporter.message(
            f"resumed with {run.resumed_with}: the result is not bit for bit that of a run that "
            "was never stopped"
        )


def _run(
    config: TrainConfig, parts: RunParts, accelerator: Accelerator, reporter: Reporter
) -> RunSummary:
    """Everything that could be checked has been: open the run directory, train, summarise."""
    student, stages, data, views, teacher, teacher_accuracy, knowledge, teacher_digest = parts
    contents = {"images": data.fingerprint, "knowledge store": knowledge}
    begin_alike(config, student, [stage.step for stage in stages], teacher, contents)
    run = RunDirectory(config.output)
    with StopRequests() as stops, ExitStack() as stack:
        held = run.held(config, data.fingerprint, teacher_digest)
        in_main(partial(stack.enter_context, held))
        data = move_data(data, accelerator.device)
        accelerator.init_trackers("tensorboard")
        loop = Loop(student, stages, data, config, views, run, accelerator, reporter, stops)
        if teacher is not None:
            teacher_accuracy = loop.evaluate(data.test, teacher).accuracy
        distilled = isinstance(config, DistillConfig)
        before = loop.evaluate(data.test, student).accuracy if distilled else None
        with reporter:
            _say_how_resumed(run, reporter)
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
