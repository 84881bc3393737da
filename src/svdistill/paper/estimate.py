"""Estimate the durations of jobs from finished runs, or from a few timed steps."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from statistics import fmean
from typing import Final

import torch
import torch.nn.functional as F
from torch import Tensor

from svdistill.common import Case, interleave, threads
from svdistill.config import CacheConfig, DistillConfig, TrainConfig
from svdistill.data import ImageData
from svdistill.distillation import Distiller, FrozenTeacher
from svdistill.networks import PaperNetwork, build_paper_network
from svdistill.paper.jobs import Job
from svdistill.runs import read_summary
from svdistill.taps import TapPairs, describe_pairs
from svdistill.training import autocast, build_losses, choose_device, place_network

TIMED_STEPS: Final = 3

CPU_IMAGES: Final = 32  # most images of a timed batch on a CPU; on a GPU the full batch is timed


class Estimator:
    """Estimates how long each job takes on this machine.

    The estimate is the mean duration of finished runs that differ only in their seed. If there are
    none, a few steps of untrained networks are timed on random images.

    Args:
        jobs: all jobs, with the teachers and knowledge stores that they read.
        data: the images of each job, by its output folder.
        threads: CPU threads of each job.
    """

    def __init__(
        self, jobs: Sequence[Job], data: Mapping[str, ImageData], threads: int = 1
    ) -> None:
        self.jobs = {job.output: job for job in jobs}
        self.data = data
        self.threads = threads
        self._seconds: dict[str, float] = {}
        self._alone: dict[str, tuple[float, float]] = {}
        self._transfer: dict[tuple[object, ...], float] = {}

    def seconds(self, job: Job) -> float:
        """Estimated seconds for a whole run or knowledge store, evaluations included."""
        name = _without_seed(job)
        if name not in self._seconds:
            with threads(self.threads):
                self._seconds[name] = _seconds_of_other_seeds(job) or self._timed(job)
        return self._seconds[name]

    def _timed(self, job: Job) -> float:
        images = len(self.data[job.output].train)
        if isinstance(job, CacheConfig):
            teaching = job.views * images * self._time_teaching(job)
            return teaching + self._evaluation(job, self._run_of(job.teacher))
        learning, _ = self._times_alone(job)
        evaluation = self._evaluation(job, job)
        alone = job.epochs * (images * learning + evaluation)
        if not isinstance(job, DistillConfig):
            return alone
        before = evaluation
        if job.teacher:
            before += self._evaluation(job, self._run_of(job.teacher))
        # Options that affect the time of a step; weights of losses and temperatures do not.
        names = ("network", "loss", "num_vectors", "grid", "gradient", "clip", "knowledge")
        kind = tuple(getattr(job, name) for name in names)
        if kind not in self._transfer:
            self._transfer[kind] = self._time_transfer(job)
        transfer = images * self._transfer[kind] + evaluation
        if job.transfer_epochs:
            return before + job.transfer_epochs * transfer + alone
        return before + job.epochs * transfer

    def _evaluation(self, job: Job, run: TrainConfig) -> float:
        """Seconds for one evaluation of a run's network on a job's test and held-out images."""
        data = self.data[job.output]
        held_out = 0 if data.dev is None else len(data.dev)
        return (len(data.test) + held_out) * self._times_alone(run)[1]

    def _times_alone(self, job: TrainConfig) -> tuple[float, float]:
        """Seconds per image for a training step without a teacher, and for evaluation."""
        if job.network not in self._alone:
            network, images = self._network(job), self._images(job)

            def step(precision: str) -> None:
                with autocast(precision, images.device):
                    logits = network(images)
                _cross_entropy(logits.float()).backward()

            learning = _fastest(job, step, images)
            network.eval()
            with torch.inference_mode():
                evaluation = _seconds_per_image(lambda: network(images), images)
            self._alone[job.network] = learning, evaluation
        return self._alone[job.network]

    def _time_teaching(self, job: CacheConfig) -> float:
        teacher, images, loss = self._teacher(job), self._images(job), build_losses(job).whole
        frozen = FrozenTeacher(teacher, teacher.tap_paths, needs_logits=loss.needs_logits)

        def step(precision: str) -> None:
            with autocast(precision, images.device):
                recording = frozen.run(images)
            loss.extract(recording.features, recording.output)

        with torch.inference_mode():
            return _fastest(job, step, images)

    def _time_transfer(self, job: DistillConfig) -> float:
        teacher, images = self._teacher(job), self._images(job)
        losses, student = build_losses(job), self._network(job)
        pairs = TapPairs(teacher.tap_paths, student.tap_paths)
        distiller = Distiller(
            teacher,
            student,
            losses.clipped,
            taps=describe_pairs(teacher, student, pairs, images),
            clip=job.clip,
            clip_interval=job.clip_interval,
            unclipped=losses.unclipped,
        )
        knowledge = distiller.teach(images) if job.knowledge else None
        labels = torch.zeros(len(images), dtype=torch.int64, device=images.device)

        def step(precision: str) -> None:
            with autocast(precision, images.device):
                output = distiller(images, knowledge=knowledge, labels=labels)
            distiller.backward(_cross_entropy(output.logits.float()), output, progress=1.0)
            distiller.zero_grad()

        return _fastest(job, step, images)

    def _teacher(self, job: DistillConfig | CacheConfig) -> PaperNetwork:
        return self._network(self._run_of(getattr(job, "knowledge", "") or job.teacher))

    def _run_of(self, folder: str) -> TrainConfig:
        """The job of the teacher whose run, or whose knowledge store, is written to a folder."""
        job = self.jobs[folder]
        return self._run_of(job.teacher) if isinstance(job, CacheConfig) else job

    def _network(self, job: TrainConfig) -> PaperNetwork:
        classes = self.data[job.output].num_classes
        network = build_paper_network(job.network, classes, job.width)
        place_network(network, choose_device(job.device))
        return network

    def _images(self, job: Job) -> Tensor:
        device = choose_device(job.device)
        count = job.batch_size if device.type == "cuda" else min(job.batch_size, CPU_IMAGES)
        images = torch.randn(count, *self.data[job.output].image_shape, device=device)
        return images.contiguous(memory_format=torch.channels_last)


def _without_seed(job: Job) -> str:
    return job.output.removesuffix(f"-{getattr(job, 'seed', '')}")


def _seconds_of_other_seeds(job: Job) -> float | None:
    name = Path(_without_seed(job))
    runs = [run for run in name.parent.glob(f"{name.name}-*") if (run / "summary.json").exists()]
    others = [run for run in runs if run.name.removeprefix(f"{name.name}-").isdecimal()]
    return fmean(read_summary(run).seconds for run in others) if others else None


def _cross_entropy(logits: Tensor) -> Tensor:
    labels = torch.zeros(len(logits), dtype=torch.int64, device=logits.device)
    return F.cross_entropy(logits, labels)


def _fastest(job: Job, step: Callable[[str], object], images: Tensor) -> float:
    """Seconds per image of a step in a job's precision; with `auto`, in the faster of the two."""
    precisions = ("float32", "bf16") if job.precision == "auto" else (job.precision,)
    return min(_seconds_per_image(partial(step, precision), images) for precision in precisions)


def _seconds_per_image(step: Callable[[], object], images: Tensor) -> float:
    """Seconds per image of the fastest of a few steps, which follow one warm-up step."""
    (timed,) = interleave([Case("", step)], TIMED_STEPS, device=images.device)
    return min(timed.seconds) / len(images)
