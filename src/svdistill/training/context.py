"""The context of a run: configuration, images, run directory, device and reporter."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from svdistill.config import TrainConfig
from svdistill.data import ImageData
from svdistill.runs import RunDirectory
from svdistill.training.progress import Reporter
from svdistill.training.reproducibility import derive_seed
from svdistill.training.stopping import StopRequests

if TYPE_CHECKING:
    from accelerate import Accelerator


@dataclass(frozen=True)
class ViewSchedule:
    """The schedule of random views: the view of each image that an epoch or step shows.

    Attributes:
        seed: from which views are drawn.
        count: different views of each image; 0 for a new one in every epoch.

    Example:
        >>> [ViewSchedule(seed=0, count=2).of_epoch(epoch) for epoch in range(5)]
        [0, 1, 0, 1, 0]
    """

    seed: int
    count: int = 0

    @classmethod
    def from_config(cls, config: TrainConfig) -> ViewSchedule:
        """The views that a configuration asks for."""
        if config.views_seed is None:
            return cls(derive_seed(config.seed, "views"), config.views)
        return cls(config.views_seed, config.views)

    def of_epoch(self, epoch: int) -> int:
        """Number of the view in an epoch, counted over all stages."""
        return epoch % self.count if self.count else epoch

    def of_step(self, epoch: int, step: int, steps: int) -> int:
        """Number of the view in a step of an epoch that shows images several times.

        Example:
            >>> ViewSchedule(seed=0).of_step(epoch=2, step=3, steps=10)
            23
            >>> ViewSchedule(seed=0, count=2).of_step(epoch=2, step=3, steps=10)
            0
        """
        return self.of_epoch(epoch) if self.count else epoch * steps + step


@dataclass(frozen=True)
class RunContext:
    """Configuration, images and services that all parts of a run share.

    Attributes:
        config: what the user asked for.
        data: images to train and evaluate on.
        views: which views of the images are trained on.
        run: directory of checkpoints, metrics and weights.
        accelerator: device, precision and trackers.
        reporter: shows progress.
        stops: stop signals, polled between steps and between batches of an evaluation.
    """

    config: TrainConfig
    data: ImageData
    views: ViewSchedule
    run: RunDirectory
    accelerator: Accelerator
    reporter: Reporter
    stops: StopRequests

    @property
    def device(self) -> torch.device:
        """The device that trains."""
        return self.accelerator.device
