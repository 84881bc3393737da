"""Find image files below a folder, list them as a table, and decode them."""

from __future__ import annotations

import io
import os
from collections import Counter
from collections.abc import Callable, Collection, Sequence
from functools import cached_property
from pathlib import Path
from stat import S_ISREG
from typing import TYPE_CHECKING, Any, Final, NoReturn

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image, ImageOps, UnidentifiedImageError, features

from svdistill.common import SHOWN, DataError, listed, warn_of_data

if TYPE_CHECKING:
    from datasets import Dataset


# Formats that Pillow lists but has no decoder for, or decodes with an external program.
STUBS: Final = ("BUFR", "GRIB", "HDF5", "MPEG", "EPS", "WMF", "PDF")

OPTIONAL: Final = {"AVIF": "avif", "WEBP": "webp", "JPEG2000": "jpg_2000"}

# Folders that operating systems and programs add: macOS, Synology, Python, Linux.
HIDDEN: Final = ("__MACOSX", "@eaDir", "__pycache__", "lost+found")

READ_AT_ONCE: Final = 1000

WIDE_GREY: Final = ("I;16", "I;16L", "I;16B", "I;16N")

RESIZE: Final = "give image_size to resize and crop all images to one square size"


class ImageSizeError(DataError):
    """Raised if images are not square or differ in size; giving `image_size` avoids it."""


class SkippedFiles:
    """Collects the files and folders below `root` that are not read, to warn of them at once."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._kinds: dict[str, list[str]] = {}
        self._images: Counter[str] = Counter()
        self._suffixes: Counter[str] = Counter()

    def add(self, kind: str, path: Path, images: int = 0) -> None:
        """Count a file or folder of a kind such as ``hidden file(s)``, and the images in it."""
        name = str(path.relative_to(self._root)) if path.is_relative_to(self._root) else str(path)
        self._kinds.setdefault(kind, []).append(name)
        self._images[kind] += images

    def add_suffix(self, path: Path) -> None:
        """Count a file whose suffix is of no format that Pillow reads."""
        self._suffixes[path.suffix.lower() or "no suffix"] += 1

    def warn(self) -> None:
        """Issue one `DataWarning` about everything that was counted, if anything was."""
        parts = []
        for kind, names in self._kinds.items():
            images = f" with {self._images[kind]:,} image(s)" if self._images[kind] else ""
            parts.append(f"{len(names):,} {kind}{images} ({listed(names)})")
        if self._suffixes:
            common = self._suffixes.most_common(SHOWN)
            counts = ", ".join(f"{count:,} {suffix}" for suffix, count in common)
            more = ", ..." if len(self._suffixes) > SHOWN else ""
            total = self._suffixes.total()
            parts.append(f"{total:,} file(s) that Pillow does not read by suffix ({counts}{more})")
        if parts:
            warn_of_data(f"{self._root}: left out " + "; ".join(parts))


def image_suffixes() -> tuple[str, ...]:
    """Return the suffixes, in lower case, of the files that the installed Pillow reads.

    Example:
        >>> {".png", ".jpg", ".jfif", ".pgm", ".bmp"} <= set(image_suffixes())
        True
    """
    known = Image.registered_extensions()
    formats = {name for name in {*Image.OPEN, "MPO"} if name not in STUBS}  # MPO opens as JPEG
    missing = {name for name, codec in OPTIONAL.items() if not features.check(codec)}
    return tuple(sorted(end.lower() for end, kind in known.items() if kind in formats - missing))


def is_hidden(path: Path) -> bool:
    """Whether a name begins with a dot, or is that of a folder that programs create."""
    return path.name.startswith(".") or path.name in HIDDEN


def images_below(folder: Path, skipped: SkippedFiles, exclude: Collection[Path] = ()) -> list[Path]:
    """List the images below a folder at any depth, sorted by path.

    What is not read is counted in `skipped`, except for the folders to `exclude`. Raises
    `DataError` for a folder that cannot be listed.
    """
    suffixes = image_suffixes()
    images: list[Path] = []
    for parent, folders, files in os.walk(folder, onerror=_raise_unlistable):
        kept = []
        for path in sorted(Path(parent, name) for name in folders):
            if path in exclude:
                continue
            if is_hidden(path):
                skipped.add("hidden folder(s)", path, count_images(path))
            elif path.is_symlink():
                skipped.add("link(s) to folders, not followed", path)
            elif path.suffix.lower() in suffixes:
                skipped.add("folder(s) named like images", path, count_images(path))
            else:
                kept.append(path.name)
        folders[:] = kept
        for file in (Path(parent, name) for name in files):
            if is_hidden(file):
                skipped.add("hidden file(s)", file)
            elif file.suffix.lower() not in suffixes:
                skipped.add_suffix(file)
            elif _is_special(file):
                skipped.add("pipe(s) or device(s)", file)
            else:
                images.append(file)
    return sorted(images)


def count_images(folder: Path) -> int:
    """Count the files below a folder, at any depth, that have the suffix of an image."""
    suffixes = image_suffixes()
    return sum(name.lower().endswith(suffixes) for _, _, names in os.walk(folder) for name in names)


def no_images(folder: Path, expected: str, remedy: str) -> DataError:
    """Return the error for a folder without images."""
    got = "none with a suffix of " + ", ".join(image_suffixes())
    return DataError(str(folder), expected=expected, got=got, remedy=remedy)


def _raise_unlistable(error: OSError) -> None:
    if isinstance(error, FileNotFoundError):
        return  # a missing folder has no images
    raise DataError(
        str(error.filename),
        expected="a folder that can be listed",
        got=str(error.strerror),
        remedy="check its permissions and whether it is still there",
    ) from error


def _is_special(file: Path) -> bool:
    """Whether a path exists but is no regular file; opening a pipe, for example, could block."""
    try:
        return not S_ISREG(file.stat().st_mode)
    except OSError:  # a missing file is reported when it is decoded
        return False


def file_identities(paths: Sequence[str]) -> list[tuple[int, int]]:
    """Return the device and inode of each existing file; links to one file have the same."""
    found = []
    for path in paths:
        try:
            status = Path(path).stat()
        except OSError:  # a missing file is reported when it is decoded
            continue
        found.append((status.st_dev, status.st_ino))
    return found


def table_of_files(
    files: Sequence[Path], labels: Sequence[int] | None = None, class_names: Sequence[str] = ()
) -> Dataset:
    """Make a table of image files with columns ``image`` and ``label``; images stay on disk."""
    # `datasets` takes a second to import, and the data set `digits` does not need it.
    from datasets import ClassLabel, Dataset, Features, Image, Value

    features = Features(
        image={"bytes": Value("binary"), "path": Value("string")},
        label=ClassLabel(names=list(class_names)),
    )
    cells = [{"bytes": None, "path": str(file.absolute())} for file in files]
    numbers = [None] * len(cells) if labels is None else list(labels)
    table = Dataset.from_dict({"image": cells, "label": numbers}, features=features)
    return table.cast_column("image", Image(decode=False))


class ArrayPictures:
    """Images in memory, uint8 ``[N, 3, H, W]``, with the same methods as `EncodedPictures`."""

    def __init__(self, images: np.ndarray) -> None:
        self._images = images
        self.shape: tuple[int, ...] = images.shape[1:]

    def read(self, rows: np.ndarray, each: Callable[[], object] | None = None) -> np.ndarray:
        """Return the images of these rows; `each` is not called, since nothing is decoded."""
        return self._images[rows]

    def resized(self, image_size: int) -> ArrayPictures:
        """Return the same images, resized to this height and width."""
        return ArrayPictures(resize(torch.from_numpy(self._images).float(), image_size).numpy())

    def paths(self, rows: np.ndarray) -> list[str]:
        """Return an empty list: the images have no files of their own."""
        return []


def resize(images: torch.Tensor, image_size: int) -> torch.Tensor:
    """Resize images ``[N, C, H, W]``, float32 in 0 to 255, to squares, uint8 (antialiased)."""
    size = (image_size, image_size)
    images = F.interpolate(images, size=size, mode="bilinear", antialias=True)
    return images.round().clamp(0, 255).byte()


class EncodedPictures:
    """The image column of a `datasets.Dataset`, decoded row by row.

    Args:
        table: table whose images are dictionaries ``{"bytes", "path"}``, as `datasets` returns
            them for a column of type ``Image(decode=False)``.
        column: name of the image column.
        source: name of the data set, for error messages.
        image_size: crop the middle square of each image and resize it to this side (bilinear,
            antialiased). None keeps the images, which must be square and of one size.
    """

    def __init__(self, table: Dataset, column: str, source: str, image_size: int | None) -> None:
        self._column = table.select_columns([column])
        self._name = column
        self._source = source
        self._image_size = image_size

    @cached_property
    def shape(self) -> tuple[int, ...]:
        """``(3, H, W)``, the shape of all images; without `image_size`, that of the first one."""
        if self._image_size is not None:
            return 3, self._image_size, self._image_size
        cell = self._column[0][self._name]
        shape = self._decode(cell, 0).shape
        if shape[1] != shape[2]:
            raise ImageSizeError(
                self._place(cell, 0),
                expected="square images",
                got=f"an image of height {shape[1]} and width {shape[2]}",
                remedy=RESIZE,
            )
        return shape

    def resized(self, image_size: int) -> EncodedPictures:
        """Return the same images, resized to this height and width."""
        return EncodedPictures(self._column, self._name, self._source, image_size)

    def paths(self, rows: np.ndarray) -> list[str]:
        """Return the paths of the image files of these rows; none if the table holds the images."""
        import pyarrow.compute

        first = self._column[0][self._name] if len(rows) else None
        if first is None or first["bytes"] is not None:
            return []
        cells = self._column.with_format("arrow")[:][self._name]
        paths = pyarrow.compute.struct_field(cells, "path").take(rows)
        return [path for path in paths.to_pylist() if path]

    def read(self, rows: np.ndarray, each: Callable[[], object] | None = None) -> np.ndarray:
        """Return the images of these rows, uint8 ``[n, 3, H, W]``; call `each` after each image.

        Raises `DataError` for an image that is damaged or has float or 32-bit pixels, and
        `ImageSizeError` for one that differs in size from the first.
        """
        images = np.empty((len(rows), *self.shape), dtype=np.uint8)
        for start in range(0, len(rows), READ_AT_ONCE):
            some = rows[start : start + READ_AT_ONCE]
            cells = self._column[some][self._name]
            for place, (row, cell) in enumerate(zip(some, cells, strict=True), start):
                image = self._decode(cell, int(row))
                if image.shape != self.shape:
                    raise ImageSizeError(
                        self._place(cell, int(row)),
                        expected=f"an image of {self.shape[1]}x{self.shape[2]} like the first one",
                        got=f"one of {image.shape[1]}x{image.shape[2]}",
                        remedy=RESIZE,
                    )
                images[place] = image
                if each is not None:
                    each()
        return images

    def _decode(self, cell: dict[str, Any] | None, row: int) -> np.ndarray:
        try:
            if cell is None or (cell["bytes"] is None and cell["path"] is None):
                raise ValueError("an empty cell")
            encoded = cell["bytes"]
            if encoded is None and Path(cell["path"]).is_dir():
                raise DataError(
                    self._place(cell, row),
                    expected="an image file",
                    got="a directory",
                    remedy="give the image files in it, such as DIRECTORY/*.png",
                )
            if encoded is None and _is_special(Path(cell["path"])):
                raise ValueError("a pipe or a device")
            with Image.open(cell["path"] if encoded is None else io.BytesIO(encoded)) as image:
                return _to_array(image, self._image_size)
        except OSError as cause:
            if cause.errno is None:  # raised by Pillow for damaged bytes
                self._raise_damaged(cell, row, cause)
            raise DataError(
                self._place(cell, row),
                expected="a file that can be read",
                got=str(cause.strerror),
                remedy="check that it is still there, its permissions and the disk",
            ) from cause
        except (MemoryError, DataError):
            raise
        # Pillow has no error class for damaged bytes: its parsers raise any exception.
        except Exception as cause:
            self._raise_damaged(cell, row, cause)

    def _raise_damaged(self, cell: dict[str, Any] | None, row: int, cause: Exception) -> NoReturn:
        unknown = isinstance(cause, UnidentifiedImageError)
        raise DataError(
            self._place(cell, row),
            expected="a whole image with 8 or 16 bits per channel",
            got="no image format that Pillow knows" if unknown else str(cause),
            remedy="replace the image or remove it from the data set",
        ) from cause

    def _place(self, cell: dict[str, Any] | None, row: int) -> str:
        path = (cell or {}).get("path")
        return str(path) if path and Path(path).is_absolute() else f"{self._source}, row {row}"


Pictures = ArrayPictures | EncodedPictures


def decode_files(files: Sequence[Path], image_size: int) -> torch.Tensor:
    """Decode image files, in the given order, crop their middle squares, and resize these.

    Returns uint8 ``[N, 3, image_size, image_size]``. Raises `DataError` for a file that is missing,
    damaged, or not an image.
    """
    table = table_of_files(files)
    pictures = EncodedPictures(table, "image", "images", image_size)
    return torch.from_numpy(pictures.read(np.arange(len(files))))


def _to_array(image: Image.Image, image_size: int | None) -> np.ndarray:
    """Convert an image to uint8 RGB ``[3, H, W]``; crop and resize it unless the size is None."""
    if image.mode == "F":
        finite = np.isfinite(np.asarray(image)).all()
        raise ValueError(f"a float image{'' if finite else ' with NaN or infinite pixels'}")
    if image.mode == "I":
        raise ValueError("an image with 32 bits per pixel")
    if image.mode in WIDE_GREY:
        # Pillow would clip 16-bit values at 255, which turns almost every image white.
        image = Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
    image = ImageOps.exif_transpose(image).convert("RGB")
    if image_size is not None:
        # Pillow's bilinear filter antialiases: it widens with the scale when an image shrinks.
        image = ImageOps.fit(image, (image_size, image_size), Image.Resampling.BILINEAR)
    return np.asarray(image).transpose(2, 0, 1)
