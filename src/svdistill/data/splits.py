"""One split of a data set, read in batches: kept in memory, or decoded on demand."""

from __future__ import annotations

import math
import signal
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from typing import Final, NamedTuple, Self, final

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset as TorchDataset

from svdistill.common import ArgumentError, DataError, available_cores, described, require_count
from svdistill.data.image_files import Pictures
from svdistill.data.selection import Subset
from svdistill.parallel import ALONE, BatchPart, Share

# Marks an image without a label; the loss on labels and the accuracy leave such images out.
UNLABELLED: Final = -1

MAX_WORKERS: Final = 8


class Batch(NamedTuple):
    """A batch of images, with their labels and their indices in the split.

    Attributes:
        images: ``[B, 3, H, W]``, uint8; float32 from a user's DataLoader.
        labels: ``[B]``, int64, 0 to number of classes - 1, or `UNLABELLED`.
        indices: ``[B]``, int64: index of each image in its split, from 0. They stay on the CPU,
            so that a look-up by index needs no synchronisation with the device.
        part: the part of the whole batch that this process has if several processes train
            together; None if it has the whole batch.
    """

    images: Tensor
    labels: Tensor
    indices: Tensor
    part: BatchPart | None = None


class ImageSplit(ABC):
    """One split of a data set, read in batches."""

    @abstractmethod
    def __len__(self) -> int:
        """The number of images."""

    @property
    @abstractmethod
    def loading_remedy(self) -> str:
        """Advice to the user if training has to wait for these images."""

    @property
    def labelled(self) -> ImageSplit:
        """The split of the labelled images alone; the split itself if all have labels."""
        return self

    @property
    def repeats(self) -> bool:
        """Whether one pass may yield an image several times."""
        return False

    def steps(self, batch_size: int) -> int:
        """The number of batches in one pass, including a smaller last one."""
        return -(-len(self) // batch_size)

    def first(self, count: int, device: torch.device | str) -> Batch:
        """Return the first `count` images in stored order, or of a DataLoader's first batch."""
        return next(self.part(0, count).batches(count, device=device, order_seed=None))

    @abstractmethod
    def to(self, device: torch.device | str) -> Self:
        """Return the split with the tensors that it holds moved to the device."""

    @abstractmethod
    def part(self, start: int, stop: int) -> Self:
        """Return a split of the images `start` to `stop` - 1 in stored order.

        Raises:
            ArgumentError: if the images come from a DataLoader, which has no stored order.
        """

    @abstractmethod
    def batches(
        self,
        batch_size: int,
        *,
        device: torch.device | str,
        order_seed: int | None,
        skip: int = 0,
        share: Share = ALONE,
    ) -> Iterator[Batch]:
        """Iterate once over the split.

        Args:
            batch_size: images per batch; the last batch may be smaller.
            device: device to which the batches are moved.
            order_seed: decides the order of the images, independently of torch's global random
                state. None gives the stored order.
            skip: number of batches to leave out at the beginning, for a run that is resumed within
                an epoch; their images are not decoded.
            share: the part of every batch that this process takes if several train together.

        Returns:
            An iterator of `Batch`.

        Raises:
            ArgumentError: if the batch size or the seed is out of range.
            DataError: if an image cannot be decoded (streamed splits only).
        """


class StoredSplit(ImageSplit):
    """A split with random access: images can be read in any order.

    Attributes:
        labels: label of each image in stored order, int64 ``[N]``.
    """

    labels: Tensor

    @abstractmethod
    def gather(self, chunks: Sequence[Tensor], device: torch.device | str) -> Iterator[Batch]:
        """Yield one `Batch` for each tensor of image indices, int64 ``[B]`` on the CPU."""

    def chunks(self, batch_size: int, order_seed: int | None) -> Sequence[Tensor]:
        """Return the image indices of each batch; see `ImageSplit.batches` for the arguments."""
        require_count("batch_size", batch_size)
        order = torch.arange(len(self))
        if order_seed is not None:
            # On the CPU, so that the order is the same for every device.
            order = torch.randperm(len(self), generator=order_generator(order_seed))
        return order.split(batch_size) if len(self) else ()

    @final
    def batches(
        self,
        batch_size: int,
        *,
        device: torch.device | str,
        order_seed: int | None,
        skip: int = 0,
        share: Share = ALONE,
    ) -> Iterator[Batch]:
        """See `ImageSplit.batches`."""
        chunks = self.chunks(batch_size, order_seed)[skip:]
        parts = self.gather([share.take(chunk) for chunk in chunks], device)
        border = len(self.labelled)  # unlabelled images have the indices from here on
        return (
            batch._replace(part=share.part(len(chunk), int((chunk < border).sum())))
            for batch, chunk in zip(parts, chunks, strict=True)
        )


@final
class ResidentSplit(StoredSplit):
    """A split whose images are all decoded and kept in memory.

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
            raise ArgumentError(
                "images",
                expected="uint8 of shape [N, 3, H, W]",
                got=described(images),
                remedy="convert the images first",
            )
        if labels.dtype != torch.int64 or labels.shape != images.shape[:1]:
            raise ArgumentError(
                "labels",
                expected=f"int64 of shape [{len(images)}]",
                got=described(labels),
                remedy="pass one label per image",
            )
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
        # The indices of all batches are copied to the device at once: a copy for each batch would
        # make the CPU wait for the device.
        order = torch.cat([*chunks, torch.empty(0, dtype=torch.int64)]).to(self.images.device)
        moved = order.split([len(chunk) for chunk in chunks])
        # `index_select` copies whole images; `images[rows]` copies single pixels, 15 times slower.
        return (
            Batch(
                self.images.index_select(0, rows).to(device),
                self.labels.index_select(0, rows).to(device),
                chunk,
            )
            for rows, chunk in zip(moved, chunks, strict=True)
        )


@final
class StreamedSplit(StoredSplit):
    """A split too large for memory: worker processes decode each batch when it is needed.

    Args:
        pictures: where the images are read from.
        rows: the rows of `pictures` that belong to this split, int64 ``[N]``.
        labels: ``[N]``, int64.
        workers: number of processes that decode; 0: the calling process decodes; None: one per
            core, up to 8.
    """

    def __init__(
        self, pictures: Pictures, rows: np.ndarray, labels: Tensor, *, workers: int | None = None
    ) -> None:
        self._pictures = pictures
        self._rows = rows
        self.labels = labels
        self.workers = min(MAX_WORKERS, available_cores()) if workers is None else workers

    def __len__(self) -> int:
        return len(self._rows)

    @property
    def loading_remedy(self) -> str:
        """See `ImageSplit.loading_remedy`."""
        gigabytes = len(self) * math.prod(self._pictures.shape) / 1e9
        return (
            f"give more workers ({self.workers} now), a smaller image_size, or a memory_limit_gb "
            f"above {gigabytes:.1f} that keeps them decoded, if they fit; a knowledge store would "
            "not help, since the student needs the images too"
        )

    def to(self, device: torch.device | str) -> StreamedSplit:
        """Return the split itself: it holds no images."""
        return self

    def part(self, start: int, stop: int) -> StreamedSplit:
        """See `ImageSplit.part`."""
        rows, labels = self._rows[start:stop], self.labels[start:stop]
        return StreamedSplit(self._pictures, rows, labels, workers=self.workers)

    def gather(self, chunks: Sequence[Tensor], device: torch.device | str) -> Iterator[Batch]:
        """See `StoredSplit.gather`."""
        loader = DataLoader(
            _BatchReader(self._pictures, self._rows),
            batch_size=None,
            sampler=[chunk.numpy() for chunk in chunks],
            num_workers=self.workers,
            pin_memory=torch.device(device).type == "cuda",
            worker_init_fn=_ignore_interrupts,
            # Without a generator of its own the loader would advance torch's global random state.
            generator=torch.Generator(),
        )
        for chunk, images in zip(chunks, loader, strict=True):
            if images is None:
                # A DataLoader would turn the worker's exception into a text with a traceback.
                # Reading the rows again raises the error itself.
                images = torch.from_numpy(self._pictures.read(self._rows[chunk.numpy()]))
            moved = images.to(device, non_blocking=True)
            yield Batch(moved, self.labels[chunk].to(device), chunk)


def _ignore_interrupts(_worker: int) -> None:
    """Ignore Ctrl-C in a worker: the main process handles it, and saves its progress first."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)


class _BatchReader(TorchDataset):
    """Decodes the images of one batch in a worker process; None if an image is damaged."""

    def __init__(self, pictures: Pictures, rows: np.ndarray) -> None:
        self._pictures = pictures
        self._rows = rows

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, chunk: np.ndarray) -> Tensor | None:
        try:
            return torch.from_numpy(self._pictures.read(self._rows[chunk]))
        except DataError:
            return None


def order_generator(order_seed: int) -> torch.Generator:
    """Return a CPU generator, seeded with `order_seed`, that shuffles images."""
    require_count("order_seed", order_seed, 0)
    return torch.Generator().manual_seed(order_seed)


def stored_split(
    subset: Subset,
    *,
    resident: bool,
    workers: int | None = None,
    each: Callable[[], object] | None = None,
) -> StoredSplit:
    """Make a split of a subset: decode it now if `resident`, else on demand by worker processes.

    `each` is called after each image that is decoded now.
    """
    labels = torch.from_numpy(subset.labels)
    if resident:
        return ResidentSplit(torch.from_numpy(subset.pictures.read(subset.rows, each)), labels)
    return StreamedSplit(subset.pictures, subset.rows, labels, workers=workers)
