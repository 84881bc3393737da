"""`train` and `distill`: a run from its configuration to its summary."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import asdict, dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, TypeVar

import torch
from torch import Tensor, nn

from svdistill.common import write_json
from svdistill.config import OBJECT, DistillConfig, TrainConfig
from svdistill.data import ImageData
from svdistill.distillation import Distiller
from svdistill.losses import TransferLoss, object_name, require_whole_batches, usual_clip
from svdistill.networks import profile_network
from svdistill.parallel import in_main, is_main, together
from svdistill.runs import RunDirectory, RunSummary, TrainingPosition, network_digest, skipped_steps
from svdistill.store import IN_BF16, KnowledgeStore, loss_text, require_fit
from svdistill.taps import PairedTaps
from svdistill.training.images import run_images
from svdistill.training.metrics import Evaluation
from svdistill.training.precision import is_measured, whole_batch, with_precision
from svdistill.training.progress import Reporter
from svdistill.training.reproducibility import deterministic, require_same_setup
from svdistill.training.results import (
    measure_before_after,
    summarise_predictions,
    write_predictions,
)
from svdistill.training.setup import (
    RunContext,
    TeacherSource,
    ViewSchedule,
    build_losses,
    first_images,
    move_data,
    new_accelerator,
    new_student,
    new_teacher,
    require_classes,
    require_mixable,
)
from svdistill.training.step import build_stages
from svdistill.training.stopping import StopRequests, explain_machine_errors
from svdistill.training.taps import paired_taps, taps_of_store
from svdistill.training.teacher import NO_ACCURACY, warn_of_poor_teacher
from svdistill.training.trainer import Trainer

if TYPE_CHECKING:
    from accelerate import Accelerator

Config = TypeVar("Config", bound=TrainConfig)


@dataclass(frozen=True)
class GivenObjects:
    """Python objects that the caller passed in place of names in the configuration."""

    network: nn.Module | None = None
    data: ImageData | None = None
    teacher: nn.Module | None = None
    loss: TransferLoss | None = None

    def noted_in(self, config: Config) -> Config:
        """A configuration that names each given object: `object`, or the class of the loss."""
        given = {"network": self.network, "data": self.data, "teacher": self.teacher}
        names = {name: OBJECT for name, value in given.items() if value is not None}
        if self.loss is not None:
            names["loss"] = object_name(self.loss)
            if isinstance(config, DistillConfig) and config.clip is None:
                names["clip"] = usual_clip(needs_taps=self.loss.needs_taps)
        return replace(config, **names)  # type: ignore[arg-type]


@dataclass(frozen=True)
class RunSetup:
    """The networks and images of a run, all checked before any file is written."""

    student: nn.Module
    trained: nn.Module  # the student, or the distiller that holds it
    data: ImageData
    views: ViewSchedule
    source: TeacherSource
    loss: str = ""  # class and options of a loss that was given as an object


@explain_machine_errors()
def train(
    config: TrainConfig,
    reporter: Reporter | None = None,
    *,
    network: nn.Module | None = None,
    data: ImageData | None = None,
) -> RunSummary:
    """Train a network on labelled images, and leave a run directory.

    If a launcher such as `torchrun` starts several processes, each of them trains on its part of
    every batch, and the main process alone writes files and reports progress.

    Args:
        config: names the network, the images and the output directory; training options.
        reporter: shows progress; by default nothing is shown.
        network: the network itself, instead of a name in the configuration. It is trained in place,
            from its present weights. `load_student` needs a network of the same structure.
        data: the images themselves, instead of a name in the configuration.

    Returns:
        The run's summary, which is also written to its `summary.json`.

    Raises:
        SVDistillError: a value, the data set or the run directory is invalid; a loss is not finite;
            or memory, disk space or a worker process failed.
        Stopped: SIGTERM, SIGHUP or Ctrl-C was received. A checkpoint was saved; a run with the
            option `resume` continues after the same step.
    """
    return _run(config, reporter, GivenObjects(network, data), _set_up_training)


@explain_machine_errors()
def distill(
    config: DistillConfig,
    reporter: Reporter | None = None,
    *,
    teacher: nn.Module | None = None,
    student: nn.Module | None = None,
    data: ImageData | None = None,
    loss: TransferLoss | None = None,
) -> RunSummary:
    """Train a student on labels and on its teacher's knowledge, and leave a run directory.

    Args:
        config: names teacher, student, loss and taps; and all options of `train`.
        reporter: shows progress; by default nothing is shown.
        teacher: the trained network itself, instead of a name in the configuration. It is frozen.
        student: the network itself, instead of a name; see the argument `network` of `train`.
        data: the images themselves, instead of a name in the configuration.
        loss: the transfer loss itself, instead of a name and its options.

    Returns:
        The run's summary, which is also written to its `summary.json`.

    Raises:
        SVDistillError: a value, the teacher, the data set or the run directory is invalid; taps or
            channels do not fit; or a failure that `train` lists.
        Stopped: see `train`.
    """
    return _run(config, reporter, GivenObjects(student, data, teacher, loss), _set_up_distillation)


def _run(
    config: Config,
    reporter: Reporter | None,
    given: GivenObjects,
    set_up: Callable[[Config, torch.device, Reporter, GivenObjects], RunSetup],
) -> RunSummary:
    """Check the options and build networks and data in every process, then train."""
    config = given.noted_in(config)
    config.check()
    guessed, config = config.left_empty(), config.filled()
    accelerator = new_accelerator(config)
    if reporter is None or not is_main():
        reporter = Reporter()
    # Checked before images are read, which may take long.
    together(partial(RunDirectory(config.output).require_free, resume=config.resume))
    setup = together(partial(set_up, config, accelerator.device, reporter, given))
    if isinstance(config, DistillConfig):
        reporter.message(f"loss {config.loss}")
    if guessed:
        values = (f"{name} {value}" for name, value in guessed.items())
        reporter.message(f"not given, so by default: {', '.join(values)}")
    if is_measured(config):
        batch = whole_batch(config, setup.data, setup.source.store, accelerator.device)
        config = with_precision(config, setup.trained, batch, reporter)
        accelerator = new_accelerator(config)
    with deterministic(config.deterministic):
        return _train_and_summarise(config, setup, accelerator, reporter)


def _set_up_training(
    config: TrainConfig, device: torch.device, reporter: Reporter, given: GivenObjects
) -> RunSetup:
    """Build the images and the network for training on labels alone."""
    data = run_images(config, reporter, given.data)
    student = new_student(config, data, device, reporter, given.network)
    _, images = first_images(data, 2, device)
    require_classes(student, images, data.num_classes)
    return RunSetup(student, student, data, ViewSchedule.from_config(config), TeacherSource())


def _set_up_distillation(
    config: DistillConfig, device: torch.device, reporter: Reporter, given: GivenObjects
) -> RunSetup:
    """Build images, teacher, student and distiller, and try them on two images."""
    require_whole_batches(config, given.loss)
    data = run_images(config, reporter, given.data)
    taught = build_losses(config, given.loss).whole
    if config.knowledge:
        source = _stored_knowledge(config, data, taught)
    else:
        logits = taught.needs_logits
        teacher = new_teacher(config, data, device, needs_logits=logits, given=given.teacher)
        source = TeacherSource(
            teacher.network,
            other_classes=teacher.other_classes,
            fingerprint=network_digest(teacher.network),
        )
    student = new_student(config, data, device, reporter, given.network)
    batch, images = first_images(data, 2, device)
    require_classes(student, images, data.num_classes)
    distiller = _new_distiller(config, source, student, images, given.loss, reporter).to(device)
    knowledge, views = None, ViewSchedule.from_config(config)
    if source.store is not None:
        knowledge = source.store.read(batch.indices, 0, device)
        views = ViewSchedule(source.store.manifest.views_seed, source.store.manifest.views)
    with torch.no_grad():  # one trial forward pass, so that errors show early
        distiller.eval()(images, knowledge=knowledge, labels=batch.labels)
    loss = "" if given.loss is None else loss_text(given.loss)  # with the modules that it trains
    return RunSetup(student, distiller, data, views, source, loss)


def _stored_knowledge(config: DistillConfig, data: ImageData, loss: TransferLoss) -> TeacherSource:
    """Open the knowledge store; raise an error unless it fits the run's images and loss."""
    store = KnowledgeStore(config.knowledge)
    known = store.manifest
    require_fit(known, data, loss, config.augmentation)
    # The fingerprint covers what determines the knowledge, but no file paths.
    facts = (known.teacher_sha256, known.teacher_taps, known.loss, known.data_fingerprint)
    drawn = (known.augmentation, known.views, known.views_seed, known.mean, known.std)
    # Stores in float32 keep the fingerprint that they had before the precision was a part of it.
    precision = (IN_BF16,) if known.teacher.endswith(IN_BF16) else ()
    text = repr((*facts, *drawn, known.structure, *precision))
    return TeacherSource(
        store=store,
        accuracy=known.teacher_accuracy,
        fingerprint=hashlib.sha256(text.encode()).hexdigest(),
    )


def _new_distiller(
    config: DistillConfig,
    source: TeacherSource,
    student: nn.Module,
    images: Tensor,
    loss: TransferLoss | None,
    reporter: Reporter,
) -> Distiller:
    """Pair the taps of teacher and student, report the pairs, and build the distiller."""
    assert config.weight_decay is not None  # set by `config.filled`
    losses = build_losses(config, loss)  # after the student: it may draw random weights
    needed = losses.whole.needs_taps
    if source.store is not None:
        taps = taps_of_store(config, source.store.manifest, student, images, needed=needed)
    else:
        assert source.network is not None
        taps = paired_taps(config, source.network, student, images, needed=needed)
    require_mixable(config, losses)
    distiller = Distiller(
        source.network,
        student,
        losses.clipped,
        taps=taps,
        clip=config.clip,
        clip_interval=config.clip_interval,
        unclipped=losses.unclipped,
        weight_decay=config.weight_decay if config.optimizer == "sgd" else 0.0,
    )
    if isinstance(taps, PairedTaps):
        reporter.message(taps.table(adapters=distiller.adapters is not None))
    return distiller


def _train_and_summarise(
    config: TrainConfig, setup: RunSetup, accelerator: Accelerator, reporter: Reporter
) -> RunSummary:
    """Open the run directory, train and summarise."""
    student, source = setup.student, setup.source
    contents = {"images": setup.data.fingerprint, "knowledge": source.fingerprint}
    stages = build_stages(config, setup.trained, accelerator, source.store)
    steps = [stage.step for stage in stages]
    require_same_setup(config, student, steps, contents)
    run = RunDirectory(config.output)
    with StopRequests() as stops, ExitStack() as stack:
        held = run.opened(config, setup.data.fingerprint, source.fingerprint, setup.loss)
        in_main(partial(stack.enter_context, held))
        data = move_data(setup.data, accelerator.device)
        accelerator.init_trackers("tensorboard")
        context = RunContext(config, data, setup.views, run, accelerator, reporter, stops)
        trainer = Trainer(student, stages, context)
        taught, before = _initial_evaluations(trainer, source)
        teacher_accuracy = source.accuracy if taught is None else taught.accuracy
        with reporter:
            _show_start(context, source, teacher_accuracy, before)
            position = trainer.fit()
            _record_predictions(trainer, taught)
        for tracker in accelerator.trackers:
            tracker.finish()  # not `end_training`, which also leaves the group of processes
        if before is not None and is_main():
            accuracies = (teacher_accuracy, before, position.last_accuracy)
            figures = measure_before_after(
                source.network, student, data.image_shape, accuracies, len(data.test)
            )
            write_json(run.before_after, asdict(figures))
        summary = _summary(context, student, position, teacher_accuracy)
        in_main(partial(run.finish, summary))
        return summary


def _initial_evaluations(
    trainer: Trainer, source: TeacherSource
) -> tuple[Evaluation | None, float | None]:
    """Evaluate the networks before training.

    Returns:
        The teacher's evaluation, or None if no teacher runs or its classes are others; and the
        student's test accuracy before training, or None without distillation.
    """
    test, taught, before = trainer.context.data.test, None, None
    if source.network is not None and not source.other_classes:
        taught = trainer.evaluate(test, source.network)
    if isinstance(trainer.context.config, DistillConfig):
        before = trainer.evaluate(test, trainer.network).accuracy
    return taught, before


def _record_predictions(trainer: Trainer, taught: Evaluation | None) -> None:
    """Save a summary of the trained network's predictions on the test images."""
    data, run = trainer.context.data, trainer.context.run
    # A run that is resumed after its last epoch has not evaluated its network yet.
    last = trainer.tested or trainer.evaluate(data.test, trainer.network)
    teacher = None if taught is None else taught.predictions
    assert last.predictions is not None
    summary = summarise_predictions(last.predictions, teacher, data.class_names)
    if is_main():
        write_predictions(run.predictions, summary)


def _show_start(
    context: RunContext,
    source: TeacherSource,
    teacher_accuracy: float | None,
    student_accuracy: float | None,
) -> None:
    """Report the teacher's accuracy, and what differs from the start of a resumed run."""
    data, message = context.data, context.reporter.message
    if context.run.resumed_with:
        message(
            f"resumed with {context.run.resumed_with}: the result is not bit for bit that of a run "
            "that was never stopped"
        )
    if teacher_accuracy is not None:
        message(f"teacher: {teacher_accuracy:.2f} % on {len(data.test)} test images")
        warn_of_poor_teacher(
            teacher_accuracy, student_accuracy or 0.0, data.num_classes, context.reporter
        )
    elif source.other_classes:
        message(NO_ACCURACY.format(source.other_classes))
    elif source.store is not None:
        message("teacher of other classes: no accuracy")


def _summary(
    context: RunContext,
    student: nn.Module,
    position: TrainingPosition,
    teacher_accuracy: float | None,
) -> RunSummary:
    config, data, run = context.config, context.data, context.run
    profile = profile_network(student, data.image_shape)
    loss = config.loss if isinstance(config, DistillConfig) else None
    return RunSummary(
        directory=str(run.path),
        kind="train" if loss is None else "distill",
        network=config.network,
        width=config.width,
        loss=loss,
        seed=config.seed,
        last_accuracy=position.last_accuracy,
        best_accuracy=position.best_accuracy,
        best_epoch=position.best_epoch + 1,
        best_by="test" if data.dev is None else "dev",
        teacher_accuracy=teacher_accuracy,
        parameters=profile.parameters,
        flops=profile.flops,
        epochs=position.total,
        seconds=position.seconds,
        num_classes=data.num_classes,
        image_size=data.image_shape[-1],
        skipped_steps=skipped_steps(run.path) if is_main() else 0,
    )
