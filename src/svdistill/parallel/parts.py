"""The part of a batch that a process takes, and the weight of its losses."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, NamedTuple

from torch import Tensor


class BatchPart(NamedTuple):
    """A process's part of a batch.

    Each process scales its losses so that their mean over the processes is the loss of the whole
    batch. If a process takes its images in several parts, the sum of the parts' losses is.

    Attributes:
        images: number in the whole batch.
        labelled: number of these that have a label; a scalar tensor where reading it would
            synchronise with the device.
        processes: number of processes that have parts of it.
        stand_in: whether this process has another one's image, since there are fewer images than
            processes: its losses count zero.
        more: whether other parts of this process's images follow before the optimizer's step.
    """

    images: int
    labelled: int | Tensor
    processes: int
    stand_in: bool = False
    more: bool = False

    def of_sum(self) -> float:
        """The factor on a sum over this part's images."""
        return 0.0 if self.stand_in else float(self.processes)

    def of_mean(self, here: int) -> float:
        """The factor on a mean over this part's `here` images.

        Example:
            >>> parts = [BatchPart(images=5, labelled=5, processes=2)] * 2
            >>> means = [1.0, 4.0]  # of three images, and of two
            >>> sum(part.of_mean(n) * m for part, n, m in zip(parts, [3, 2], means)) / 2
            2.2
        """
        return self.of_sum() * here / self.images

    def of_labelled(self) -> float | Tensor:
        """The factor on a sum over this part's labelled images."""
        if isinstance(self.labelled, Tensor):
            return self.of_sum() / self.labelled.clamp(min=1)
        return self.of_sum() / max(self.labelled, 1)


@dataclass(frozen=True)
class Share:
    """A process's rank among `size` processes; it takes every size-th image, from its rank on.

    The parts of two processes differ by one image at most, also in labelled images.
    """

    rank: int = 0
    size: int = 1

    def take(self, batch: Tensor) -> Tensor:
        """The process's entries of a tensor in the order of a batch; at least one.

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
        """The process's part of a batch of that many images; None for a single process."""
        if self.size == 1:
            return None
        return BatchPart(images, labelled, self.size, stand_in=self.rank >= images)


ALONE: Final = Share()
