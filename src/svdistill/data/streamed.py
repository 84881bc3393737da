"""A split that is too large for memory: its images are decoded when they are wanted."""

from __future__ import annotations

import math
import signal
from collections.abc import Iterator, Sequence
from typing import Final, Protocol, final

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from svdistill.cores import available_cores
from svdistill.data.splits import Batch, StoredSplit
from svdistill.errors import DataError

MAX_WORKERS: Final = 8


class Pictures(Protocol):
    """Images of one size that can be read by their row."""

    shape: tuple[int, ...]  # (3, H, W)

    def read(self, rows: np.ndarray) -> np.ndarray:
        """Return the images of these rows, uint8 ``[n, 3, H, W]``."""


@final
class StreamedSplit(StoredSplit):
    """A split too large for memory: worker processes decode each batch when it is wanted.

    Args:
        pictures: where the images are read from.
        rows: the rows of `pictures` that belong to this split, int64 ``[N]``.
        labels: ``[N]``, int64.
        workers: processes that decode; 0 decodes in the calling process, None takes as many as
            there are cores, up to 8.
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
            _Reader(self._pictures, self._rows),
            batch_size=None,
            sampler=[chunk.numpy() for chunk in chunks],
            num_workers=self.workers,
            pin_memory=torch.device(device).type == "cuda",
            worker_init_fn=_leave_interrupts_to_the_parent,
            # Without its own generator the loader would draw from the global one.
            generator=torch.Generator(),
        )
        return self._move(loader, chunks, torch.device(device))

    def _move(
        self, loader: DataLoader, chunks: Sequence[Tensor], device: torch.device
    ) -> Iterator[Batch]:
        for chunk, images in zip(chunks, loader, strict=True):
            if images is None:
                # The worker met a damaged image. Its exception would arrive here as a plain text
                # with a traceback; reading the rows again raises the error itself.
                images = torch.from_numpy(self._pictures.read(self._rows[chunk.numpy()]))
            yield Batch(
                images.to(device, non_blocking=True),
                self.labels[chunk].to(device),
                chunk,
            )


def _leave_interrupts_to_the_parent(_worker: int) -> None:
    """Ctrl-C reaches every process of a terminal; the parent first finishes and saves its step."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)


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
