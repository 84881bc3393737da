"""Find the image files of a folder: all that Pillow reads, and a count of what it does not."""

from __future__ import annotations

import os
from collections.abc import Collection
from pathlib import Path
from typing import Final

from PIL import Image, features

from svdistill.data.notes import LeftOut
from svdistill.errors import DataError

# Formats that Pillow knows by name, and decodes not at all or with a program beside it.
STUBS: Final = ("BUFR", "GRIB", "HDF5", "MPEG", "EPS", "WMF", "PDF")
OPTIONAL: Final = {"AVIF": "avif", "WEBP": "webp", "JPEG2000": "jpg_2000"}
# What macOS packs beside the files of an archive.
HIDDEN: Final = ("__MACOSX",)


def image_suffixes() -> tuple[str, ...]:
    """The suffixes of files that Pillow reads as it is installed, in lower case.

    Example:
        >>> {".png", ".jpg", ".jfif", ".pgm", ".bmp"} <= set(image_suffixes())
        True
    """
    known = Image.registered_extensions()
    formats = {name for name in {*Image.OPEN, "MPO"} if name not in STUBS}  # MPO opens as JPEG
    missing = {name for name, codec in OPTIONAL.items() if not features.check(codec)}
    return tuple(sorted(end.lower() for end, kind in known.items() if kind in formats - missing))


def is_hidden(path: Path) -> bool:
    """Whether a file or folder is none of the data: its name begins with a dot, or is macOS's."""
    return path.name.startswith(".") or path.name in HIDDEN


def class_images(folder: Path, left_out: LeftOut) -> list[Path]:
    """The images of one class, in any depth.

    Raises:
        DataError: there is none.
    """
    images = images_below(folder, left_out)
    if not images:
        raise no_images(folder, "images of one class", "add images, or remove the class")
    return images


def images_below(folder: Path, left_out: LeftOut, skipped: Collection[Path] = ()) -> list[Path]:
    """The images of a folder, in any depth and in the order of their paths.

    Args:
        folder: where to look.
        left_out: counts what is there and not read: hidden files and folders, links to folders,
            folders named like images, and files of other suffixes.
        skipped: folders that are not gone into, and not counted.

    Raises:
        DataError: a folder cannot be listed.
    """
    suffixes = image_suffixes()
    images: list[Path] = []
    for parent, folders, files in os.walk(folder, onerror=_unreadable):
        kept = []
        for path in sorted(Path(parent, name) for name in folders):
            if path in skipped:
                continue
            if is_hidden(path):
                left_out.add("hidden folder(s)", path, count_images(path))
            elif path.is_symlink():
                left_out.add("link(s) to folders, not followed", path)
            elif path.suffix.lower() in suffixes:
                left_out.add("folder(s) named like images", path, count_images(path))
            else:
                kept.append(path.name)
        folders[:] = kept
        for file in (Path(parent, name) for name in files):
            if is_hidden(file):
                left_out.add("hidden file(s)", file)
            elif file.suffix.lower() in suffixes:
                images.append(file)
            else:
                left_out.add_suffix(file)
    return sorted(images)


def count_images(folder: Path) -> int:
    """How many files below a folder have a suffix of an image."""
    suffixes = image_suffixes()
    return sum(name.lower().endswith(suffixes) for _, _, names in os.walk(folder) for name in names)


def no_images(folder: Path, expected: str, remedy: str) -> DataError:
    """The error of a folder without images."""
    got = "none with a suffix of " + ", ".join(image_suffixes())
    return DataError(str(folder), expected=expected, got=got, remedy=remedy)


def _unreadable(error: OSError) -> None:
    if isinstance(error, FileNotFoundError):
        return  # a folder that is not there has no images
    raise DataError(
        str(error.filename),
        expected="a folder that can be listed",
        got=str(error.strerror),
        remedy="check its permissions and whether it is still there",
    ) from error
