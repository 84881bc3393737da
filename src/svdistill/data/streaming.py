"""Images that stay encoded and are decoded as they are needed."""

from __future__ import annotations

import io
import math
import signal
from collections.abc import Iterator, Sequence
from pathlib import Path
from stat import S_ISREG
from typing import TYPE_CHECKING, Any, Final, Protocol, final

import numpy as np
import torch
from PIL import Image, ImageOps, UnidentifiedImageError
from torch import Tensor
from torch.utils.data import DataLoader, Dataset as TorchDataset

from svdistill.common import DataError, available_cores
from svdistill.data.splits import Batch, StoredSplit

if TYPE_CHECKING:
    from datasets import Dataset


READ_AT_ONCE: Final = 1000

WIDE_GREY: Final = ("I;16", "I;16L", "I;16B", "I;16N")


class EncodedPictures:
    """The image column of a `datasets.Dataset`, decoded row by row.

    Args:
        table: rows whose images are ``{"bytes", "path"}``, that is, ``Image(decode=False)``.
        column: the image column.
        source: name of the data set, for error messages.
        image_size: cut out the middle square and resize it to this (bilinear, antialiased). None
            takes the images as they are: square, and all of one size.
    """

    def __init__(self, table: Dataset, column: str, source: str, image_size: int | None) -> None:
        self._column = table.select_columns([column])
        self._name = column
        self._source = source
        self._image_size = image_size
        first = self._decode(self._column[0][column], 0)
        self.shape: tuple[int, ...] = first.shape
        if first.shape[1] != first.shape[2]:
            raise DataError(
                self._place(self._column[0][column], 0),
                expected="square images",
                got=f"an image of height {first.shape[1]} and width {first.shape[2]}",
                remedy="give image_size to resize and crop all images to one square size",
            )

    def read(self, rows: np.ndarray) -> np.ndarray:
        """Decode some rows.

        Args:
            rows: row numbers, int64 ``[n]``.

        Returns:
            The images, uint8 ``[n, 3, H, W]``.

        Raises:
            DataError: if an image is damaged, holds floats, or differs in size from the first one.
        """
        images = np.empty((len(rows), *self.shape), dtype=np.uint8)
        for start in range(0, len(rows), READ_AT_ONCE):
            some = rows[start : start + READ_AT_ONCE]
            cells = self._column[some][self._name]
            for place, (row, cell) in enumerate(zip(some, cells, strict=True), start):
                image = self._decode(cell, int(row))
                if image.shape != self.shape:
                    raise DataError(
                        self._place(cell, int(row)),
                        expected=f"an image of {self.shape[1]}x{self.shape[2]} like the first one",
                        got=f"one of {image.shape[1]}x{image.shape[2]}",
                        remedy="give image_size to resize and crop all images to one square size",
                    )
                images[place] = image
        return images

    def _place(self, cell: dict[str, Any] | None, row: int) -> str:
        path = (cell or {}).get("path")
        return str(path) if path and Path(path).is_absolute() else f"{self._source}, row {row}"

    def _decode(self, cell: dict[str, Any] | None, row: int) -> np.ndarray:
        try:
            if cell is None or (cell["bytes"] is None and cell["path"] is None):
                raise ValueError("an empty cell")
            encoded = cell["bytes"]
            if encoded is None and not S_ISREG(Path(cell["path"]).stat().st_mode):
                raise ValueError(
                    "something else than a file"
                )  # to read from a pipe would wait for ever
            with Image.open(cell["path"] if encoded is None else io.BytesIO(encoded)) as image:
                return _to_array(image, self._image_size)
        except OSError as cause:
            if cause.errno is None:  # Pillow's own, of what it read
                raise self._damaged(cell, row, cause) from cause
            raise DataError(
                self._place(cell, row),
                expected="a file that can be read",
                got=str(cause.strerror),
                remedy="check that it is still there, its permissions and the disk",
            ) from cause
        except MemoryError:
            raise
        # Pillow has no error of its own: damaged bytes raise whatever its parsers stumble over.
        except Exception as cause:
            raise self._damaged(cell, row, cause) from cause

    def _damaged(self, cell: dict[str, Any] | None, row: int, cause: Exception) -> DataError:
        unknown = isinstance(cause, UnidentifiedImageError)
        return DataError(
            self._place(cell, row),
            expected="a whole image with 8 or 16 bits per channel",
            got="no image format that Pillow knows" if unknown else str(cause),
            remedy="replace the image or remove it from the data set",
        )


def _to_array(image: Image.Image, image_size: int | None) -> np.ndarray:
    """Turn an opened image into uint8 RGB ``[3, H, W]``, resized and cropped to a given size."""
    if image.mode == "F":
        finite = np.isfinite(np.asarray(image)).all()
        raise ValueError(f"a float image{'' if finite else ' with NaN or infinite pixels'}")
    if image.mode == "I":
        raise ValueError("an image with 32 bits per pixel")
    if image.mode in WIDE_GREY:
        # Pillow would clip 16 bits at 255, which turns almost every picture white.
        image = Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
    image = ImageOps.exif_transpose(image).convert("RGB")
    if image_size is not None:
        # Pillow's bilinear filter widens with the scale, which is what antialiasing means.
        image = ImageOps.fit(image, (image_size, image_size), Image.Resampling.BILINEAR)
    return np.asarray(image).transpose(2, 0, 1)


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


class _Reader(TorchDataset):
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
