"""One epoch of training, or what is left of it: views, steps, updates."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Final

import torch
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from svdistill.data import Augmentation, ImageSplit, Prepared
from svdistill.knowledge_store import KnowledgeStore
from svdistill.linalg import Convergence
from svdistill.parallel import ALONE, own_share
from svdistill.training.accumulated import AccumulatedStep
from svdistill.training.begun_epoch import BegunEpoch
from svdistill.training.captured import CapturedStep
from svdistill.training.checkpoint import Place
from svdistill.training.config import TrainConfig
from svdistill.training.progress import Reporter
from svdistill.training.recording import CUDARecorder
from svdistill.training.seeding import derive_seed
from svdistill.training.step import Step
from svdistill.training.views import Views

if TYPE_CHECKING:
    from accelerate import Accelerator

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
        augmentation: Augmentation | Prepared,
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
