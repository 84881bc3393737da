"""Which random view of each image an epoch shows."""

from __future__ import annotations

from dataclasses import dataclass

from svdistill.training.config import TrainConfig
from svdistill.training.seeding import derive_seed


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
