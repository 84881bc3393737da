"""One split of a data set, read in batches: what all kinds share, and the kind in memory."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from typing import Final, NamedTuple, final

import torch
from torch import Tensor

from svdistill.common import ArgumentError, require_count
from svdistill.parallel import ALONE, BatchPart, Share

# The label of an image without one. It counts in no task loss and in no accuracy.
UNLABELLED: Final = -1


class Batch(NamedTuple):
    """Images with their labels and their places in the split.

    Attributes:
        images: ``[B, 3, H, W]``, uint8; float32 where a loader has prepared them.
        labels: ``[B]``, int64, 0 to number of classes - 1, or `UNLABELLED`.
        indices: ``[B]``, int64, 0 to length of the split - 1; the order does not change them. On
            the CPU: whoever looks something up by them need not wait for the device.
    """

    images: Tensor
    labels: Tensor
    indices: Tensor

    @property
    def part(self) -> BatchPart | None:
        """Of which batch they are a part, where several processes have one; else None."""
        return None


class PartOfBatch(Batch):
    """What one of several processes has of a batch."""

    whole: BatchPart

    @property
    def part(self) -> BatchPart:
        """See `Batch.part`."""
        return self.whole

    @classmethod
    def of(cls, batch: Batch, part: BatchPart | None) -> Batch:
        """The batch as a part; the batch itself where it is whole."""
        if part is None:
            return batch
        own = cls(*batch)
        own.whole = part
        return own


class ImageSplit(ABC):
    """One split of a data set, read in batches."""

    @abstractmethod
    def __len__(self) -> int:
        """The number of images."""

    @property
    @abstractmethod
    def loading_remedy(self) -> str:
        """What to do where training waits for these images."""

    @property
    def labelled(self) -> ImageSplit:
        """The split without its unlabelled images."""
        return self

    @property
    def repeats(self) -> bool:
        """Whether an image may come several times while all are gone through once."""
        return False

    def steps(self, batch_size: int) -> int:
        """How many batches `batches` gives, the last one too."""
        return -(-len(self) // batch_size)

    def first(self, count: int, device: torch.device | str) -> Batch:
        """The first images in stored order, or of a loader's first batch."""
        return next(self.part(0, count).batches(count, device=device, order_seed=None))

    @abstractmethod
    def to(self, device: torch.device | str) -> ImageSplit:
        """Return the split with what it holds in memory moved to the device."""

    @abstractmethod
    def part(self, start: int, stop: int) -> ImageSplit:
        """Return the images from `start` to before `stop`, in stored order, as a split.

        Raises:
            ArgumentError: a loader has the images, and they have no stored order.
        """

    @abstractmethod
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
        """Go through the split once.

        Args:
            batch_size: images per batch; the last batch may be smaller.
            device: where the batches are wanted.
            order_seed: the order of the images; it alone decides, whatever torch's global random
                state. None gives the stored order.
            drop_last: leave out a last batch that is smaller.
            skip: leave out so many batches at the beginning, as a run does that goes on within an
                epoch; their images are not decoded.
            share: what this process takes of every batch.

        Returns:
            An iterator of `Batch`.

        Raises:
            ArgumentError: if the batch size or the seed is out of range.
            DataError: if an image cannot be decoded (streamed splits only).
        """


class StoredSplit(ImageSplit):
    """A split whose images have places: any of them can be read, in any order.

    Attributes:
        labels: of all images in stored order, int64 ``[N]``.
    """

    labels: Tensor

    @abstractmethod
    def to(self, device: torch.device | str) -> StoredSplit:
        """See `ImageSplit.to`."""

    @abstractmethod
    def part(self, start: int, stop: int) -> StoredSplit:
        """See `ImageSplit.part`."""

    @abstractmethod
    def gather(self, chunks: Sequence[Tensor], device: torch.device | str) -> Iterator[Batch]:
        """Read batches of chosen images.

        Args:
            chunks: the places of each batch's images in the split, int64 ``[B]``, on the CPU.
            device: where the batches are wanted.
        """

    @final
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
        chunks = in_batches(len(self), batch_size, order_seed, drop_last)[skip:]
        return shared(self.gather([share.take(chunk) for chunk in chunks], device), chunks, share)


@final
class ResidentSplit(StoredSplit):
    """A split that was decoded into memory once.

    Args:
        images: ``[N, 3, H, W]``, uint8.
        labels: ``[N]``, int64.

    Example:
        >>> images = torch.arange(5, dtype=torch.uint8).view(5, 1, 1, 1).expand(5, 3, 8, 8)
        >>> split = ResidentSplit(images, torch.tensor([0, 1, 0, 1, 0]))
        >>> [batch.labels.tolist() for batch in split.batches(2, device="cpu", order_seed=None)]
        [[0, 1], [0, 1], [0]]
    """

    def __init__(self, images: Tensor, labels: Tensor) -> None:
        if images.dtype != torch.uint8 or images.ndim != 4 or images.shape[1] != 3:
            got = f"{images.dtype} of shape {list(images.shape)}"
            expected, remedy = "uint8 of shape [N, 3, H, W]", "convert the images first"
            raise ArgumentError("images", expected=expected, got=got, remedy=remedy)
        if labels.dtype != torch.int64 or labels.shape != images.shape[:1]:
            got = f"{labels.dtype} of shape {list(labels.shape)}"
            expected, remedy = f"int64 of shape [{len(images)}]", "pass one label per image"
            raise ArgumentError("labels", expected=expected, got=got, remedy=remedy)
        self.images = images
        self.labels = labels

    def __len__(self) -> int:
        return len(self.images)

    @property
    def loading_remedy(self) -> str:
        """See `ImageSplit.loading_remedy`."""
        return "the images are in memory already: give a smaller image_size"

    def to(self, device: torch.device | str) -> ResidentSplit:
        """Return the split with images and labels on the device."""
        return ResidentSplit(self.images.to(device), self.labels.to(device))

    def part(self, start: int, stop: int) -> ResidentSplit:
        """See `ImageSplit.part`."""
        return ResidentSplit(self.images[start:stop], self.labels[start:stop])

    def gather(self, chunks: Sequence[Tensor], device: torch.device | str) -> Iterator[Batch]:
        """See `StoredSplit.gather`."""
        # One copy for the whole order: one per batch would hold up a device that works ahead.
        order = torch.cat([*chunks, torch.empty(0, dtype=torch.int64)]).to(self.images.device)
        moved = order.split([len(chunk) for chunk in chunks])
        # `index_select` copies whole images; `images[rows]` goes pixel by pixel, 15 times slower.
        return (
            Batch(
                self.images.index_select(0, rows).to(device),
                self.labels.index_select(0, rows).to(device),
                chunk,
            )
            for rows, chunk in zip(moved, chunks, strict=True)
        )


def shared(
    batches: Iterator[Batch], chunks: Sequence[Tensor], share: Share, labelled: int | None = None
) -> Iterator[Batch]:
    """A process's parts of batches, each with what it must know of the whole batch.

    Args:
        batches: the parts.
        chunks: the places of each whole batch's images.
        share: what the process takes.
        labelled: images of a lower place have a label; None where all have.
    """
    for batch, chunk in zip(batches, chunks, strict=True):
        count = len(chunk) if labelled is None else int((chunk < labelled).sum())
        yield PartOfBatch.of(batch, share.part(len(chunk), count))


def in_batches(
    length: int, batch_size: int, order_seed: int | None, drop_last: bool
) -> Sequence[Tensor]:
    """The places of the images of each batch; see `ImageSplit.batches` for the arguments.

    Example:
        >>> [chunk.tolist() for chunk in in_batches(5, 2, None, drop_last=False)]
        [[0, 1], [2, 3], [4]]
    """
    require_count("batch_size", batch_size)
    order = torch.arange(length) if order_seed is None else shuffled(length, order_seed)
    usable = length - length % batch_size if drop_last else length
    return order[:usable].split(batch_size) if usable else ()


def shuffled(length: int, order_seed: int) -> Tensor:
    """A permutation of 0 to length - 1, int64 ``[length]``."""
    # On the CPU whatever the device, so that every device sees the same order.
    return torch.randperm(length, generator=seeded(order_seed))


def seeded(order_seed: int) -> torch.Generator:
    """A generator on the CPU for an order.

    Raises:
        ArgumentError: the seed is negative or no integer.
    """
    require_count("order_seed", order_seed, 0)
    return torch.Generator().manual_seed(order_seed)
