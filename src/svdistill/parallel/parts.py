"""Which part of a batch a process takes, and how much its part counts for."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, NamedTuple

from torch import Tensor


class BatchPart(NamedTuple):
    """What a process must know of a batch of which it has a part.

    Gradients are averaged over the processes. So each multiplies its losses such that their mean
    over the processes is the loss of the whole batch. Where a process takes its images in several
    parts, one after the other, the losses of these are such that their sum is.

    Attributes:
        images: in the whole batch.
        labelled: of these, those with a label.
        processes: that have parts of it.
        stand_in: whether there were fewer images than processes, and this one has an image that is
            another's: it counts for nothing.
        more: whether other parts of this process's images follow before the optimizer's step.
    """

    images: int
    labelled: int
    processes: int
    stand_in: bool = False
    more: bool = False

    def of_sum(self) -> float:
        """The factor on a sum over this part's images."""
        return 0.0 if self.stand_in else float(self.processes)

    def of_mean(self, here: int) -> float:
        """The factor on a mean over this part's images.

        Args:
            here: how many they are.

        Example:
            >>> parts = [BatchPart(images=5, labelled=5, processes=2)] * 2
            >>> means = [1.0, 4.0]  # of three images, and of two
            >>> sum(part.of_mean(n) * m for part, n, m in zip(parts, [3, 2], means)) / 2
            2.2
        """
        return self.of_sum() * here / self.images

    def of_labelled(self) -> float:
        """The factor on a sum over those of this part's images that have a label."""
        return self.of_sum() / max(self.labelled, 1)


@dataclass(frozen=True)
class Share:
    """A process's place among those that train together; alone, it takes all of every batch.

    Of each batch it takes every n-th image, beginning with its own number: the parts of two
    processes differ by one image at most, and each has its share of labelled images too.
    """

    rank: int = 0
    size: int = 1

    def take(self, batch: Tensor) -> Tensor:
        """What this process has of what lies in a batch's order; never nothing, see `BatchPart`.

        Example:
            >>> import torch
            >>> batch = torch.tensor([7, 1, 5])
            >>> [Share(rank, 2).take(batch).tolist() for rank in range(2)]
            [[7, 5], [1]]
            >>> Share(3, 4).take(batch).tolist()
            [7]
        """
        if self.size == 1:
            return batch
        return batch[self.rank :: self.size] if self.rank < len(batch) else batch[:1]

    def part(self, images: int, labelled: int) -> BatchPart | None:
        """What there is to know of a batch of so many images; None where this process is alone."""
        if self.size == 1:
            return None
        return BatchPart(images, labelled, self.size, stand_in=self.rank >= images)


ALONE: Final = Share()
