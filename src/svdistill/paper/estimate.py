"""How long runs take, and what a person sees of it."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import fmean
from typing import Final

import torch
import torch.nn.functional as F
from torch import Tensor

from svdistill.common import threads
from svdistill.config import CacheConfig, DistillConfig, TrainConfig
from svdistill.data import ImageData
from svdistill.distillation import Distiller, FrozenTeacher
from svdistill.networks import PaperNetwork, build_paper_network
from svdistill.paper.plan import Task
from svdistill.runs import read_summary
from svdistill.training import build_losses, choose_device, place_network, whole_loss

TIMED_STEPS: Final = 3

# Of each timed batch; on a GPU so few images would tell little.
CPU_IMAGES: Final = 32


class Estimator:
    """Expects how many seconds each run takes on this machine, with its cores or GPU for itself.

    A finished run that differs in its seed alone tells. Where there is none, a few steps of
    untrained networks on random images do.

    Args:
        tasks: all that may be asked for, with the teachers and stores that they need.
        data: the images of all runs.
        threads: of the CPU, for each run.
    """

    def __init__(self, tasks: Sequence[Task], data: ImageData, threads: int = 1) -> None:
        self.tasks = {task.output: task for task in tasks}
        self.data = data
        self.threads = threads
        self._known: dict[str, float] = {}
        self._alone: dict[str, tuple[float, float]] = {}

    def seconds(self, task: Task) -> float:
        """The time of a whole run, or of a whole knowledge store."""
        name = _without_seed(task)
        if name not in self._known:
            with threads(self.threads):
                self._known[name] = _seconds_of_other_seeds(task) or self._measured(task)
        return self._known[name]

    def _measured(self, task: Task) -> float:
        images = len(self.data.train)
        if isinstance(task, CacheConfig):
            return task.views * images * self._time_teaching(task)
        to_learn, to_evaluate = self._times_alone(task)
        evaluation = len(self.data.test) * to_evaluate
        alone = task.epochs * (images * to_learn + evaluation)
        if not isinstance(task, DistillConfig):
            return alone
        transfer = images * self._time_transfer(task) + evaluation
        if task.transfer_epochs:
            return task.transfer_epochs * transfer + alone
        return task.epochs * transfer

    def _times_alone(self, task: TrainConfig) -> tuple[float, float]:
        """Seconds per image, here and below: of a step without a teacher, and of evaluation."""
        if task.network not in self._alone:
            network, images = self._network(task), self._images(task)

            def step() -> None:
                with _autocast(task):
                    logits = network(images)
                _cross_entropy(logits.float()).backward()

            learning = _seconds_per_image(step, images)
            network.eval()
            with torch.inference_mode():
                evaluation = _seconds_per_image(lambda: network(images), images)
            self._alone[task.network] = learning, evaluation
        return self._alone[task.network]

    def _time_teaching(self, task: CacheConfig) -> float:
        teacher, images, loss = self._teacher(task), self._images(task), whole_loss(task)
        frozen = FrozenTeacher(teacher, teacher.tap_paths, needs_logits=loss.needs_logits)

        def step() -> None:
            with _autocast(task):
                recording = frozen.run(images)
            loss.extract(recording.features, recording.output)

        with torch.inference_mode():
            return _seconds_per_image(step, images)

    def _time_transfer(self, task: DistillConfig) -> float:
        teacher, images = self._teacher(task), self._images(task)
        losses = build_losses(task)
        distiller = Distiller(
            teacher,
            self._network(task),
            losses.clipped,
            taps=teacher.tap_paths,
            clip=task.clip,
            clip_interval=task.clip_interval,
            unclipped=losses.unclipped,
        )
        knowledge = distiller.teach(images) if task.knowledge else None
        labels = torch.zeros(len(images), dtype=torch.int64, device=images.device)

        def step() -> None:
            with _autocast(task):
                output = distiller(images, knowledge=knowledge, labels=labels)
            distiller.backward(_cross_entropy(output.logits.float()), output, progress=1.0)
            distiller.zero_grad()

        return _seconds_per_image(step, images)

    def _teacher(self, task: DistillConfig | CacheConfig) -> PaperNetwork:
        source = getattr(task, "knowledge", "") or task.teacher
        found = self.tasks[source]
        return self._teacher(found) if isinstance(found, CacheConfig) else self._network(found)

    def _network(self, task: TrainConfig) -> PaperNetwork:
        network = build_paper_network(task.network, self.data.num_classes, task.width)
        place_network(network, choose_device(task.device))
        return network

    def _images(self, task: Task) -> Tensor:
        device = choose_device(task.device)
        count = task.batch_size if device.type == "cuda" else min(task.batch_size, CPU_IMAGES)
        images = torch.randn(count, *self.data.image_shape, device=device)
        return images.contiguous(memory_format=torch.channels_last)


def _without_seed(task: Task) -> str:
    return (
        task.output if isinstance(task, CacheConfig) else task.output.removesuffix(f"-{task.seed}")
    )


def _seconds_of_other_seeds(task: Task) -> float | None:
    name = Path(_without_seed(task))
    runs = [run for run in name.parent.glob(f"{name.name}-*") if (run / "summary.json").exists()]
    alike = [run for run in runs if run.name.removeprefix(f"{name.name}-").isdecimal()]
    return fmean(read_summary(run).seconds for run in alike) if alike else None


def _autocast(task: Task) -> torch.autocast:
    bf16 = task.precision == "bf16"
    return torch.autocast(choose_device(task.device).type, torch.bfloat16, enabled=bf16)


def _cross_entropy(logits: Tensor) -> Tensor:
    labels = torch.zeros(len(logits), dtype=torch.int64, device=logits.device)
    return F.cross_entropy(logits, labels)


def _seconds_per_image(step: Callable[[], object], images: Tensor) -> float:
    """The least of a few steps after one that warms up, over the images of a batch.

    Whatever else the machine does makes a step longer, never shorter.
    """
    step()
    times = []
    for _ in range(TIMED_STEPS):
        _wait_for(images.device)
        began = time.perf_counter()
        step()
        _wait_for(images.device)
        times.append(time.perf_counter() - began)
    return min(times) / len(images)


def _wait_for(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
