"""One split of a data set, held in memory or decoded on the fly; both give the same batches."""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from collections.abc import Iterator
from typing import Final, NamedTuple, Protocol, final

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from svdistill.errors import ArgumentError, DataError, require_count

MAX_WORKERS: Final = 8


class Batch(NamedTuple):
    """Images with their labels and their places in the split.

    Attributes:
        images: ``[B, 3, H, W]``, uint8.
        labels: ``[B]``, int64, 0 to number of classes - 1.
        indices: ``[B]``, int64, 0 to length of the split - 1; the order does not change them. On
            the CPU: whoever looks something up by them need not wait for the device.
    """

    images: Tensor
    labels: Tensor
    indices: Tensor


class Pictures(Protocol):
    """Images of one size that can be read by their row."""

    shape: tuple[int, ...]  # (3, H, W)

    def read(self, rows: np.ndarray) -> np.ndarray:
        """Return the images of these rows, uint8 ``[n, 3, H, W]``."""


class ImageSplit(ABC):
    """One split of a data set, read in batches."""

    @property
    @abstractmethod
    def labels(self) -> Tensor:
        """The labels of all images in stored order, int64 ``[N]``."""

    @abstractmethod
    def __len__(self) -> int:
        """The number of images."""

    @abstractmethod
    def to(self, device: torch.device | str) -> ImageSplit:
        """Return the split with what it holds in memory moved to the device."""

    @abstractmethod
    def part(self, start: int, stop: int) -> ImageSplit:
        """Return the images from `start` to before `stop`, in stored order, as a split."""

    @abstractmethod
    def batches(
        self,
        batch_size: int,
        *,
        device: torch.device | str,
        order_seed: int | None,
        drop_last: bool = False,
    ) -> Iterator[Batch]:
        """Go through the split once.

        Args:
            batch_size: images per batch; the last batch may be smaller.
            device: where the batches are wanted.
            order_seed: the order of the images; it alone decides, whatever torch's global random
                state. None gives the stored order.
            drop_last: leave out a last batch that is smaller.

        Returns:
            An iterator of `Batch`.

        Raises:
            ArgumentError: if the batch size or the seed is out of range.
            DataError: if an image cannot be decoded (streamed splits only).
        """


@final
class ResidentSplit(ImageSplit):
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
        self._labels = labels

    @property
    def labels(self) -> Tensor:
        """See `ImageSplit.labels`."""
        return self._labels

    def __len__(self) -> int:
        return len(self.images)

    def to(self, device: torch.device | str) -> ResidentSplit:
        """Return the split with images and labels on the device."""
        return ResidentSplit(self.images.to(device), self._labels.to(device))

    def part(self, start: int, stop: int) -> ResidentSplit:
        """See `ImageSplit.part`."""
        return ResidentSplit(self.images[start:stop], self._labels[start:stop])

    def batches(
        self,
        batch_size: int,
        *,
        device: torch.device | str,
        order_seed: int | None,
        drop_last: bool = False,
    ) -> Iterator[Batch]:
        """See `ImageSplit.batches`."""
        order = _order(len(self), order_seed)
        chunks = _chunks(order, batch_size, drop_last)
        # One copy for the whole order: one per batch would hold up a device that works ahead.
        moved = _chunks(order.to(self.images.device), batch_size, drop_last)
        # `index_select` copies whole images; `images[rows]` goes pixel by pixel, 15 times slower.
        return (
            Batch(
                self.images.index_select(0, rows).to(device),
                self._labels.index_select(0, rows).to(device),
                indices,
            )
            for rows, indices in zip(moved, chunks, strict=True)
        )


@final
class StreamedSplit(ImageSplit):
    """A split too large for memory: worker processes decode each batch when it is wanted.

    Args:
        pictures: where the images are read from.
        rows: the rows of `pictures` that belong to this split, int64 ``[N]``.
        labels: ``[N]``, int64.
        workers: processes that decode; 0 decodes in the calling process.
    """

    def __init__(
        self, pictures: Pictures, rows: np.ndarray, labels: Tensor, *, workers: int | None = None
    ) -> None:
        self._pictures = pictures
        self._rows = rows
        self._labels = labels
        self.workers = min(MAX_WORKERS, os.cpu_count() or 1) if workers is None else workers

    @property
    def labels(self) -> Tensor:
        """See `ImageSplit.labels`."""
        return self._labels

    def __len__(self) -> int:
        return len(self._rows)

    def to(self, device: torch.device | str) -> StreamedSplit:
        """Return the split itself: it holds no images."""
        return self

    def part(self, start: int, stop: int) -> StreamedSplit:
        """See `ImageSplit.part`."""
        rows, labels = self._rows[start:stop], self._labels[start:stop]
        return StreamedSplit(self._pictures, rows, labels, workers=self.workers)

    def batches(
        self,
        batch_size: int,
        *,
        device: torch.device | str,
        order_seed: int | None,
        drop_last: bool = False,
    ) -> Iterator[Batch]:
        """See `ImageSplit.batches`."""
        chunks = _chunks(_order(len(self), order_seed), batch_size, drop_last)
        loader = DataLoader(
            _Reader(self._pictures, self._rows),
            batch_size=None,
            sampler=[chunk.numpy() for chunk in chunks],
            num_workers=self.workers,
            pin_memory=torch.device(device).type == "cuda",
            # Without its own generator the loader would draw from the global one.
            generator=torch.Generator(),
        )
        return self._move(loader, chunks, torch.device(device))

    def _move(
        self, loader: DataLoader, chunks: tuple[Tensor, ...], device: torch.device
    ) -> Iterator[Batch]:
        for chunk, images in zip(chunks, loader, strict=True):
            if images is None:
                # The worker met a damaged image. Its exception would arrive here as a plain text
                # with a traceback; reading the rows again raises the error itself.
                images = torch.from_numpy(self._pictures.read(self._rows[chunk.numpy()]))
            yield Batch(
                images.to(device, non_blocking=True),
                self._labels[chunk].to(device),
                chunk,
            )


class _Reader(Dataset):
    """What a worker process runs: the images of one batch, or None where one is damaged."""

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


def _order(length: int, order_seed: int | None) -> Tensor:
    if order_seed is None:
        return torch.arange(length)
    require_count("order_seed", order_seed, 0)
    # On the CPU whatever the device, so that every device sees the same order.
    return torch.randperm(length, generator=torch.Generator().manual_seed(order_seed))


def _chunks(order: Tensor, batch_size: int, drop_last: bool) -> tuple[Tensor, ...]:
    require_count("batch_size", batch_size)
    usable = len(order) - len(order) % batch_size if drop_last else len(order)
    return order[:usable].split(batch_size) if usable else ()
