"""Labelled and unlabelled images side by side in every batch."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from fractions import Fraction
from typing import final

import torch
from torch import Tensor

from svdistill.data.splits import (
    UNLABELLED,
    Batch,
    ImageSplit,
    StoredSplit,
    in_batches,
    seeded,
    shared,
)
from svdistill.errors import ArgumentError, require_count
from svdistill.parallel import ALONE, Share


@final
class MixedSplit(ImageSplit):
    """Labelled images and others without labels: half of every batch is of either kind.

    The labelled half comes first, and has one image more where the batch size is odd. A pass goes
    once over the kind that fills more batches; the other is shuffled and gone through again until
    the first is through. The last batch keeps the proportion. In stored order, and in their
    indices, unlabelled images follow the labelled ones.

    Args:
        labelled: the images with labels.
        unlabelled: the others; whatever labels they have are not looked at.

    Example:
        >>> from svdistill.data.splits import ResidentSplit
        >>> def split(count):
        ...     images = torch.zeros(count, 3, 8, 8, dtype=torch.uint8)
        ...     return ResidentSplit(images, torch.zeros(count, dtype=torch.int64))
        >>> mixed = MixedSplit(split(2), split(5))
        >>> [b.labels.tolist() for b in mixed.batches(4, device="cpu", order_seed=0)]
        [[0, 0, -1, -1], [0, 0, -1, -1], [0, -1]]
        >>> [b.indices.tolist() for b in mixed.batches(4, device="cpu", order_seed=0)]
        [[0, 1, 2, 6], [1, 0, 4, 3], [1, 5]]
    """

    def __init__(self, labelled: StoredSplit, unlabelled: StoredSplit) -> None:
        self._labelled = labelled
        self._unlabelled = unlabelled
        nothing = torch.full_like(unlabelled.labels, UNLABELLED)
        self.labels = torch.cat([labelled.labels, nothing])

    def __len__(self) -> int:
        return len(self._labelled) + len(self._unlabelled)

    @property
    def labelled(self) -> StoredSplit:
        """See `ImageSplit.labelled`."""
        return self._labelled

    @property
    def loading_remedy(self) -> str:
        """See `ImageSplit.loading_remedy`."""
        return self._unlabelled.loading_remedy

    @property
    def repeats(self) -> bool:
        """See `ImageSplit.repeats`."""
        return True

    def steps(self, batch_size: int) -> int:
        """See `ImageSplit.steps`; of batches in a random order."""
        return math.ceil(self._filled(_halves(batch_size)))

    def to(self, device: torch.device | str) -> MixedSplit:
        """Return the split with what it holds in memory on the device."""
        return MixedSplit(self._labelled.to(device), self._unlabelled.to(device))

    def part(self, start: int, stop: int) -> MixedSplit:
        """See `ImageSplit.part`."""
        border = len(self._labelled)
        return MixedSplit(
            self._labelled.part(min(start, border), min(stop, border)),
            self._unlabelled.part(max(start - border, 0), max(stop - border, 0)),
        )

    def batches(
        self,
        batch_size: int,
        *,
        device: torch.device | str,
        order_seed: int | None,
        drop_last: bool = False,
        skip: int = 0,
        share: Share = ALONE,
    ) -> Iterator[Batch]:
        """See `ImageSplit.batches`."""
        if order_seed is None:
            chunks = in_batches(len(self), batch_size, None, drop_last)
            return self._parts(chunks[skip:], device, share)
        halves = _halves(batch_size)
        batches, generator = self._filled(halves), seeded(order_seed)
        ours, theirs = (
            _again_and_again(len(split), math.ceil(batches * half), generator).split(half)
            for split, half in zip((self._labelled, self._unlabelled), halves, strict=True)
        )
        border = len(self._labelled)
        chunks = [torch.cat([a, border + b]) for a, b in zip(ours, theirs, strict=True)]
        if drop_last and len(chunks[-1]) < batch_size:
            chunks.pop()
        return self._parts(chunks[skip:], device, share)

    def _filled(self, halves: tuple[int, int]) -> Fraction:
        """How many batches the kind fills that fills more, the last one in part."""
        labelled, unlabelled = halves
        return max(
            Fraction(len(self._labelled), labelled), Fraction(len(self._unlabelled), unlabelled)
        )

    def _parts(
        self, chunks: Sequence[Tensor], device: torch.device | str, share: Share
    ) -> Iterator[Batch]:
        """Read what a process takes of each batch."""
        parts = self._gather([share.take(chunk) for chunk in chunks], device)
        return shared(parts, chunks, share, labelled=len(self._labelled))

    def _gather(self, chunks: Sequence[Tensor], device: torch.device | str) -> Iterator[Batch]:
        """Read batches of chosen images, in each the labelled ones first."""
        border = len(self._labelled)
        ours = self._labelled.gather([chunk[chunk < border] for chunk in chunks], device)
        theirs = self._unlabelled.gather(
            [chunk[chunk >= border] - border for chunk in chunks], device
        )
        for first, second, chunk in zip(ours, theirs, chunks, strict=True):
            nothing = torch.full_like(second.labels, UNLABELLED)
            yield Batch(
                torch.cat([first.images, second.images]), torch.cat([first.labels, nothing]), chunk
            )


def _halves(batch_size: int) -> tuple[int, int]:
    """Labelled and unlabelled images in a batch."""
    require_count("batch_size", batch_size)
    if batch_size < 2:
        raise ArgumentError(
            "batch_size",
            expected="2 or more, with unlabelled images beside the labelled ones",
            got=batch_size,
            remedy="give a larger one",
        )
    return batch_size - batch_size // 2, batch_size // 2


def _again_and_again(length: int, count: int, generator: torch.Generator) -> Tensor:
    """Go through 0 to length - 1, each time in another order, until so many have come."""
    rounds = -(-count // length)
    orders = [torch.randperm(length, generator=generator) for _ in range(rounds)]
    return torch.cat(orders)[:count]
