"""The commands as functions: train a network, distill a teacher into one."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, TypeVar

from torch import nn

from svdistill.data import ImageData
from svdistill.losses import TransferLoss
from svdistill.losses.registry import object_name
from svdistill.networks import profile_network
from svdistill.parallel import in_main, is_main, together
from svdistill.training.alike import begin_alike
from svdistill.training.assembly import (
    move_data,
    new_accelerator,
)
from svdistill.training.before_after import (
    Accuracies,
    measure_before_after,
    write_before_after,
)
from svdistill.training.config import OBJECT, DistillConfig, TrainConfig
from svdistill.training.determinism import deterministic
from svdistill.training.loop import Loop
from svdistill.training.progress import Reporter
from svdistill.training.run_directory import RunDirectory, RunSummary, skipped_steps
from svdistill.training.run_parts import (
    RunParts,
    parts_from_store,
    parts_of_distillation,
    parts_of_training,
)
from svdistill.training.stopping import StopRequests
from svdistill.training.teacher_quality import warn_of_poor_teacher
from svdistill.training.trouble import trouble_explained

if TYPE_CHECKING:
    from accelerate import Accelerator

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
