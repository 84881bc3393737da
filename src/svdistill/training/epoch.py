"""One epoch: its views, batches and steps, from wherever it was stopped."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import torch
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from svdistill.config import TrainConfig
from svdistill.data import (
    Augmentation,
    ImageSplit,
    NoAugmentation,
    global_states,
    seed_global_states,
    set_global_states,
)
from svdistill.linalg import Convergence
from svdistill.parallel import ALONE, gather_values, own_share, rank, size
from svdistill.runs import EpochRecord, Place
from svdistill.store import KnowledgeStore
from svdistill.training.accumulation import AccumulatedStep
from svdistill.training.cuda_graphs import CapturedStep, CUDARecorder
from svdistill.training.metrics import EpochMeter, Evaluation
from svdistill.training.progress import Reporter, loading_time
from svdistill.training.setup import derive_seed
from svdistill.training.step import Step

if TYPE_CHECKING:
    from accelerate import Accelerator


@dataclass(frozen=True)
class Views:
    """Which random view of each image an epoch shows.

    Attributes:
        seed: what they are drawn from.
        count: how many there are of each image; 0 for a new one in every epoch.

    Example:
        >>> [Views(seed=0, count=2).of_epoch(epoch) for epoch in range(5)]
        [0, 1, 0, 1, 0]
    """

    seed: int
    count: int = 0

    def of_epoch(self, epoch: int) -> int:
        """Number of the view in an epoch, counted over all stages."""
        return epoch % self.count if self.count else epoch

    def of_step(self, epoch: int, step: int, steps: int) -> int:
        """Number of the view in one of an epoch's steps, where images come in several of them.

        It is a new one in every step, unless there are only so many of each image.

        Example:
            >>> Views(seed=0).of_step(epoch=2, step=3, steps=10)
            23
            >>> Views(seed=0, count=2).of_step(epoch=2, step=3, steps=10)
            0
        """
        return self.of_epoch(epoch) if self.count else epoch * steps + step


def views_of(config: TrainConfig) -> Views:
    """The views that a configuration asks for."""
    if config.views_seed is None:
        return Views(derive_seed(config.seed, "views"), config.views)
    return Views(config.views_seed, config.views)


class BegunEpoch:
    """Counts the steps of an epoch, and keeps what they leave beside weights and optimizer.

    Args:
        device: that trains.
        learning_rate: of the first step.
        step: what it carries from step to step is kept too.
        watch: counts decompositions; begins again here.
        seed: of torch, NumPy and Python for this epoch, used when it begins.

    Attributes:
        steps: done so far.
        meter: losses, accuracy and norms so far.
        loading: how long was waited for images.
    """

    def __init__(
        self,
        device: torch.device,
        learning_rate: float,
        step: Step,
        watch: Convergence,
        seed: int,
    ) -> None:
        self.device = device
        self.learning_rate = learning_rate
        self.step = step
        self.watch = watch
        self.seed = seed
        self.steps = 0
        self.meter = EpochMeter(device)
        self.loading = loading_time(device)
        self._random: Mapping[str, Any] | None = None
        self._began = time.perf_counter()
        watch.reset()

    def seconds(self) -> float:
        """Since it began, without the time between two processes."""
        return time.perf_counter() - self._began

    def set_random_states(self) -> None:
        """Set the global random states: by the seed, or to what they were."""
        if self._random is None:
            seed_global_states(self.seed)
        else:
            _set_random_states(self._random, self.device)

    def state_dict(self) -> dict[str, Any]:
        """All of it between two steps, as plain values and tensors.

        In processes that train together all must call it, for each has numbers of its own.
        """
        own = {"random": _random_states(self.device), "watch": self.watch.state_dict()}
        return {
            "steps": self.steps,
            "learning_rate": self.learning_rate,
            "step": self.step.state_dict(),
            "meter": self.meter.state_dict(),
            "of_each": gather_values(own),
            "seconds": self.seconds(),
            "loading": self.loading.seconds(),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from what `state_dict` returned, in the same number of processes or another."""
        self.steps, self.learning_rate = state["steps"], state["learning_rate"]
        self.step.load_state_dict(state["step"])
        self.meter.load_state_dict(state["meter"])
        of_each = state["of_each"]
        self._random = of_each[rank() % len(of_each)]["random"]
        for own in of_each[rank() :: size()]:
            self.watch.add(own["watch"])
        self._began -= state["seconds"]
        self.loading.before = state["loading"]


def _random_states(device: torch.device) -> dict[str, Any]:
    """The global random states as values that a checkpoint can hold."""
    of_torch, (name, words, *rest), of_python = global_states()
    states = {"torch": of_torch, "numpy": (name, words.tolist(), *rest), "python": of_python}
    if device.type == "cuda":
        states["cuda"] = torch.cuda.get_rng_state(device)
    return states


def _set_random_states(states: Mapping[str, Any], device: torch.device) -> None:
    set_global_states((states["torch"].cpu(), states["numpy"], states["python"]))
    if device.type == "cuda" and "cuda" in states:
        torch.cuda.set_rng_state(states["cuda"].cpu(), device)


# Steps from one look at the losses to the next. A GPU works ahead, and each look waits for it.
LOOK_EVERY: Final = {"cpu": 1, "cuda": 50}


class Epochs:
    """Trains epoch by epoch. All that is random in one follows from the seeds and its place.

    Args:
        images: to train on.
        config: batch size, seed and bound on the gradient.
        views: which views of the images are shown.
        augmentation: draws them.
        accelerator: device and precision.
        reporter: is told of every step.
    """

    def __init__(
        self,
        images: ImageSplit,
        config: TrainConfig,
        views: Views,
        augmentation: Augmentation | NoAugmentation,
        accelerator: Accelerator,
        reporter: Reporter,
    ) -> None:
        self.images = images
        self.config = config
        self.views = views
        self.augmentation = augmentation
        self.accelerator = accelerator
        self.reporter = reporter
        self.steps = images.steps(config.batch_size)
        self.share = own_share()

    def captured(self, step: Step, watch: Convergence) -> Step:
        """The step in parts, or as CUDA graphs where that is possible: a scaler of fp16 looks at
        gradients, and parts of batches differ in size.
        """
        if self.config.accumulate > 1:
            return AccumulatedStep(step, self.config.accumulate)
        device = self.accelerator.device
        possible = not self.accelerator.scaler and self.share == ALONE
        if device.type != "cuda" or not possible or self.config.capture == "off":
            return step
        return CapturedStep(step, CUDARecorder(device), watch)

    def begin(
        self, place: Place, step: Step, schedule: LRScheduler, watch: Convergence
    ) -> BegunEpoch:
        """An epoch before its first step."""
        # Not the same dropout for the parts that several processes have of a batch.
        of_part = (self.share.rank,) if self.share.rank else ()
        seed = derive_seed(self.config.seed, "dropout", place.stage, place.epoch, *of_part)
        rate = float(schedule.get_last_lr()[0])
        return BegunEpoch(self.accelerator.device, rate, step, watch, seed)

    def train(
        self,
        place: Place,
        begun: BegunEpoch,
        store: KnowledgeStore | None,
        optimizer: Optimizer,
        schedule: LRScheduler,
        after_step: Callable[[], object],
    ) -> None:
        """Train what is left of an epoch.

        Args:
            place: which.
            begun: the epoch so far, whose step fills the gradients.
            store: gives the step its knowledge, where there is one.
            optimizer: uses the gradients.
            schedule: is advanced after every step.
            after_step: is called after every step, when all that has state may be saved.

        Raises:
            TrainingError: a loss is not finite.
        """
        config, device = self.config, self.accelerator.device
        step, meter = begun.step, begun.meter
        order = derive_seed(config.seed, "order", place.stage, place.epoch)
        look_every = LOOK_EVERY[device.type]
        step.train_mode()
        batches = self.images.batches(
            config.batch_size,
            device=device,
            order_seed=order,
            skip=begun.steps,
            share=self.share,
        )
        begun.set_random_states()
        for number, batch in enumerate(begun.loading.watch(batches), start=begun.steps + 1):
            view = self._view(place.total, number)
            images = self.augmentation(
                batch.images, seed=self.views.seed, indices=batch.indices, view=view
            )
            result = step(
                images.contiguous(memory_format=torch.channels_last),
                batch.labels,
                progress=place.epoch,
                knowledge=None if store is None else store.read(batch.indices, view, device),
                part=batch.part,
            )
            meter.update(result, batch.labels)
            if number % look_every == 0 or number == self.steps:
                by = "" if look_every == 1 else "by "
                meter.require_finite(f"in epoch {place.total + 1}, {by}step {number}")
            if config.max_grad_norm is not None:
                self.accelerator.clip_grad_norm_(step.parameters(), config.max_grad_norm)
            optimizer.step()
            if getattr(optimizer, "step_was_skipped", False):  # by fp16's scaler
                meter.skipped += 1
                step.measure_again()
            optimizer.zero_grad()
            schedule.step()
            begun.steps = number
            self.reporter.step(meter)
            after_step()
        step.end_epoch()

    def _view(self, epoch: int, number: int) -> int:
        if self.images.repeats:
            return self.views.of_step(epoch, number, self.steps)
        return self.views.of_epoch(epoch)


@dataclass(frozen=True)
class Evaluations:
    """An epoch's network on the test images, and on the held-out ones where there are any."""

    test: Evaluation
    dev: Evaluation | None

    @property
    def chooser(self) -> Evaluation:
        """By which the best epoch is chosen."""
        return self.dev or self.test


def record_epoch(
    stage: str, begun: BegunEpoch, epoch: int, evaluations: Evaluations, trained: float
) -> EpochRecord:
    """What an epoch came to, when its last step is done and its network is evaluated.

    Args:
        stage: the name of its stage.
        begun: what was measured in it. Reading it waits for the device.
        epoch: its number in the run, from 0.
        evaluations: of its network.
        trained: seconds that its steps took.
    """
    meter, watch = begun.meter, begun.watch
    task_norm, transfer_norm, clipped_norm = meter.mean_norms()
    dev = evaluations.dev
    return EpochRecord(
        stage=stage,
        epoch=epoch,
        learning_rate=begun.learning_rate,
        task_loss=meter.mean_task_loss(),
        transfer_loss=meter.mean_transfer_loss(),
        train_accuracy=meter.train_accuracy(),
        dev_accuracy=None if dev is None else dev.accuracy,
        test_accuracy=evaluations.test.accuracy,
        test_loss=evaluations.test.loss,
        task_norm=task_norm,
        transfer_norm=transfer_norm,
        clipped_norm=clipped_norm,
        images_per_second=meter.images / trained,
        seconds=begun.seconds(),
        svd_missed=watch.missed_share(),
        svd_close=watch.close_share(),
        loading_seconds=begun.loading.seconds(),
        skipped_steps=meter.skipped,
    )
