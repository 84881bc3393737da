"""`--precision auto`: time float32 and bf16 at the start of a run, and choose the faster."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from operator import itemgetter
from typing import Any, Final, Literal, TypeVar

import torch
from torch import Tensor, nn

from svdistill.common import Case, interleave
from svdistill.config import DistillConfig, TrainConfig
from svdistill.data import ImageData
from svdistill.distillation import Distiller
from svdistill.linalg import watch_convergence
from svdistill.parallel import gather_values, is_main, size, together
from svdistill.runs import RunDirectory, stored_values
from svdistill.store import KnowledgeStore
from svdistill.training.batch import TrainingBatch
from svdistill.training.cuda_graphs import WARM_UP
from svdistill.training.epoch import kept_random_states
from svdistill.training.metrics import StepResult
from svdistill.training.progress import Reporter
from svdistill.training.setup import first_images
from svdistill.training.step import Step, autocast, build_stages
from svdistill.training.trainer import executed_step

AUTO: Final = "auto"

# bf16 is chosen if it takes at most this share of float32's time.
FASTER: Final = 0.9

ROUNDS: Final = 3

# A processor without bf16 emulates it about ten times as slowly as float32. A first timing on few
# images shows that: bf16 is rejected if it takes more than three times as long.
FEW: Final = 8
EMULATED: Final = 3.0

Config = TypeVar("Config", bound=TrainConfig)

Precision = Literal["float32", "bf16"]

# The same work in each precision: a function of the number of images of a batch to work on.
Works = Mapping[Precision, Callable[[int], object]]


@dataclass(frozen=True)
class _Timed:
    """Stands in for the `Accelerator` in steps that are only timed."""

    precision: Precision
    device: torch.device
    scaler: None = None

    def autocast(self) -> torch.autocast:
        return autocast(self.precision, self.device)

    def backward(self, loss: Tensor) -> None:
        loss.backward()


def is_measured(config: TrainConfig) -> bool:
    """Whether a precision is `auto`, and so has to be measured."""
    return AUTO in (config.precision, getattr(config, "teacher_precision", None))


def whole_batch(
    config: TrainConfig, data: ImageData, store: KnowledgeStore | None, device: torch.device
) -> TrainingBatch:
    """A batch as large as one process computes at once, without augmentation."""
    count = -(-config.batch_size // (size() * config.accumulate))
    batch, images = first_images(data, count, device)
    knowledge = None if store is None else store.read(batch.indices, 0, device)
    return TrainingBatch(
        images.contiguous(memory_format=torch.channels_last), batch.labels, knowledge
    )


def with_precision(
    config: Config, trained: nn.Module, batch: TrainingBatch, reporter: Reporter
) -> Config:
    """Replace the precision `auto` by that of the run to resume, or else by the faster one.

    Copies of the trained modules are timed on one batch, so that weights, buffers and random states
    do not change. All processes must call it, and get the same result.
    """
    asked = {"precision": config.precision}
    if isinstance(config, DistillConfig):
        asked["teacher_precision"] = config.teacher_precision or config.precision
    asked = {name: precision for name, precision in asked.items() if precision == AUTO}
    chosen = _recorded(config)
    if chosen is None:
        chosen = _measure(config, trained, batch, list(asked), reporter)
        if chosen.get("teacher_precision") == chosen.get("precision", config.precision):
            chosen["teacher_precision"] = None
    return replace(config, **{name: chosen.get(name) for name in asked})  # type: ignore[arg-type]


def _recorded(config: TrainConfig) -> dict[str, Any] | None:
    """The configuration of the run to resume, read by the main process; None for a new run."""
    path = RunDirectory(config.output).config

    def read() -> dict[str, Any] | None:
        return stored_values(path) if is_main() and config.resume and path.exists() else None

    recorded: dict[str, Any] | None = gather_values(together(read))[0]
    return recorded


def _measure(
    config: TrainConfig,
    trained: nn.Module,
    batch: TrainingBatch,
    asked: list[str],
    reporter: Reporter,
) -> dict[str, Any]:
    """Choose precisions for the options `asked`, timing the teacher and the training step apart.

    The timed step reads the teacher's knowledge, computed before, and so excludes the teacher.
    """
    device, chosen = batch.images.device, {}
    teacher = getattr(trained, "teacher", None)
    with kept_random_states(device), watch_convergence(device) as watch:
        copied = copy.deepcopy(trained, {id(teacher): teacher})
        if teacher is not None:
            assert isinstance(copied, Distiller)
            if "teacher_precision" in asked:
                works = teacher_works(copied.teach, batch.images)
                chosen["teacher_precision"] = faster("the teacher", works, batch.images, reporter)
            batch = batch._replace(knowledge=copied.teach(batch.images))
        if "precision" in asked:
            works = {}
            for precision in ("float32", "bf16"):
                stages = build_stages(config, copied, _Timed(precision, device))
                step = max(stages, key=lambda stage: stage.epochs).step
                step.train_mode()
                whole = replace(config, accumulate=1)
                execute = executed_step(step, whole, device, watch)
                works[precision] = partial(_run, step, execute, batch)
            chosen["precision"] = faster("the network to train", works, batch.images, reporter)
    return chosen


def _run(step: Step, execute: Callable[..., StepResult], batch: TrainingBatch, count: int) -> None:
    """Run a step on the first images of a batch, without the optimizer's update."""
    first = itemgetter(slice(count))
    knowledge = None if batch.knowledge is None else batch.knowledge.map(first)
    for parameter in step.parameters():
        parameter.grad = None
    # With the amortised clip, most steps compute one gradient (measure=False), so that is timed.
    execute(TrainingBatch(first(batch.images), first(batch.labels), knowledge), 0.0, measure=False)


def teacher_works(teach: Callable[[Tensor], object], images: Tensor) -> Works:
    """Functions that run a teacher's forward pass in each precision, to be timed."""

    def work(precision: Precision, count: int) -> None:
        with autocast(precision, images.device):
            teach(images[:count])

    return {"float32": partial(work, "float32"), "bf16": partial(work, "bf16")}


def faster(whose: str, works: Works, images: Tensor, reporter: Reporter) -> Precision:
    """Time both precisions; choose bf16 if it saves at least 10 % of the time, else float32.

    All processes measure at the same time, and their mean times decide. `works` run on the first of
    the `images` [B, ...]; the reporter shows the times and `whose` precision it is.
    """
    few, warm_up = min(FEW, len(images)), 1 if images.device.type == "cpu" else WARM_UP + 1
    for count, rounds, limit in ((few, 1, EMULATED), (len(images), ROUNDS, FASTER)):
        cases = [Case(name, partial(work, count)) for name, work in works.items()]
        measured = interleave(cases, rounds, warm_up=warm_up, device=images.device)
        medians = gather_values([one.median for one in measured])
        float32, bf16 = (sum(times) / len(medians) for times in zip(*medians, strict=True))
        choice: Precision = "bf16" if bf16 <= limit * float32 else "float32"
        if choice == "float32":
            break
    reporter.message(
        f"precision: {choice} for {whose} ({count} images in {1e3 * float32:.1f} ms in float32, "
        f"{1e3 * bf16:.1f} ms in bf16)"
    )
    return choice
