"""From a spec such as ``parquet:PATH`` to labelled pictures with a training and a test part."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Final, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F

from svdistill.common import ArgumentError, DataError, nearest, require_count
from svdistill.data.folders import read_folder, read_tiny_imagenet
from svdistill.data.notes import note
from svdistill.data.selection import Part, check_spelling, split_part
from svdistill.data.split_names import ANY, ROLES, Wanted
from svdistill.data.streaming import EncodedPictures, Pictures
from svdistill.data.tables import ONLY_NAME, Tables, by_split, read_hub, read_parquet, tables_of

if TYPE_CHECKING:
    from datasets import Dataset, DatasetDict


SCHEMES: Final = ("digits", "folder:PATH", "hub:NAME", "parquet:PATH", "tiny_imagenet:PATH")

READERS: Final = {
    "folder": read_folder,
    "parquet": read_parquet,
    "tiny_imagenet": lambda path, _wanted: read_tiny_imagenet(path),
}

COLUMNS: Final = ("label_column", "image_column")

SMALLEST_SIZE: Final = 8

DIGITS_SIZE: Final = 16

DIGITS_TRAIN_SHARE: Final = 0.6

TRAIN_SHARE: Final = 0.8

# Part of what the data set is, so no argument changes it.
SPLIT_SEED: Final = 0


class Opened(NamedTuple):
    """A data set whose images are not decoded yet.

    Attributes:
        train: the training images.
        test: the test images.
        class_names: name of each class.
    """

    train: Part
    test: Part
    class_names: tuple[str, ...]


class ArrayPictures:
    """Pictures that are in memory already, uint8 ``[N, 3, H, W]``."""

    def __init__(self, images: np.ndarray) -> None:
        self._images = images
        self.shape: tuple[int, ...] = images.shape[1:]

    def read(self, rows: np.ndarray) -> np.ndarray:
        """Return the images of these rows, uint8 ``[n, 3, H, W]``."""
        return self._images[rows]


def open_images(
    spec: str | Dataset | DatasetDict, image_size: int | None, wanted: Wanted = ANY
) -> Opened:
    """Find the data set that a spec names; see `load_images` for the arguments."""
    if image_size is not None:
        require_count("image_size", image_size, SMALLEST_SIZE)
    if not isinstance(spec, str):
        splits = by_split("data", spec)
        return _open_tables(tables_of(type(spec).__name__, splits, wanted), image_size, wanted)
    scheme, _, place = spec.partition(":")
    _require_effect(scheme, wanted)
    if spec == "digits":
        return _open_digits(image_size or DIGITS_SIZE)
    if place and scheme in READERS:
        return _open_tables(READERS[scheme](Path(place).expanduser(), wanted), image_size, wanted)
    if place and scheme == "hub":
        return _open_tables(read_hub(place, wanted), image_size, wanted)
    kind = "folder" if Path(spec).is_dir() else "parquet"
    remedy = nearest(f"{scheme}:PATH" if place else spec, SCHEMES)
    raise ArgumentError(
        "data",
        expected="one of " + ", ".join(SCHEMES),
        got=repr(spec),
        remedy=f"write {kind}:{spec}" if spec and Path(spec).exists() else remedy,
    )


def _open_digits(image_size: int) -> Opened:
    # Imported here: scikit-learn takes a second, and no other data set needs it.
    from sklearn.datasets import load_digits

    digits = load_digits()
    grey = torch.from_numpy(digits.images).float().unsqueeze(1) * (255 / 16)  # [N, 1, 8, 8]
    size = (image_size, image_size)
    grey = F.interpolate(grey, size=size, mode="bilinear", antialias=True)
    images = grey.round().clamp(0, 255).byte().expand(-1, 3, -1, -1)
    names = tuple(str(name) for name in digits.target_names)
    everything = _part(ArrayPictures(images.numpy()), digits.target)
    train, test = _split(everything, DIGITS_TRAIN_SHARE)
    return Opened(train, test, names)


def _require_effect(scheme: str, wanted: Wanted) -> None:
    """Raise `ArgumentError` for a choice among columns or splits where a source has none."""
    without = {"digits": wanted._fields, "tiny_imagenet": wanted._fields, "folder": COLUMNS}
    for name in without.get(scheme, ()):
        if getattr(wanted, name) is not None:
            raise ArgumentError(
                name,
                expected=f"nothing beside {scheme} images, which have no such choice",
                got=repr(getattr(wanted, name)),
                remedy="leave it out",
            )


def _open_tables(tables: Tables, image_size: int | None, wanted: Wanted) -> Opened:
    if len(tables.class_names) < 2:
        raise DataError(
            tables.source,
            expected="at least 2 classes",
            got=", ".join(tables.class_names) or "none",
            remedy="use a data set whose images fall into several classes; a negative label counts "
            "as none",
        )
    train_name, test_name = tables.train_name(wanted), tables.test_name(wanted)
    _tell_splits(tables, train_name, test_name, wanted)
    used = {name: tables.labels(name) for name in (train_name, test_name) if name is not None}
    check_spelling(tables.source, tables.class_names, used)
    train = _table_part(tables, train_name, image_size)
    shape = train.pictures.shape
    if test_name is None:
        return Opened(*_split(train, TRAIN_SHARE), tables.class_names)
    test = _table_part(tables, test_name, image_size)
    if test.pictures.shape != shape:
        raise DataError(
            tables.source,
            expected=f"test images of {shape[1]}x{shape[2]} like the training images",
            got="x".join(map(str, test.pictures.shape[1:])),
            remedy="give image_size to resize and crop all images to one square size",
        )
    return Opened(train, test, tables.class_names)


def _tell_splits(tables: Tables, train: str, test: str | None, wanted: Wanted) -> None:
    """Say which splits were chosen, where there are others or their names were not plain."""
    others = [
        f"{name!r} ({len(table):,} images)"
        for name, table in tables.splits.items()
        if name not in (train, test)
    ]
    chosen = {wanted.train_split, wanted.test_split}
    guessed = {train, test or train} - chosen
    guessed = {name for name in guessed if name.lower() not in (*ROLES, ONLY_NAME)}
    if others or guessed:
        tested = f"{test!r}" if test else f"a part cut from {train!r}"
        unused = f"; not used: {', '.join(others)}" if others else ""
        note(
            f"{tables.source}: trains on {train!r} and tests on {tested}{unused}; --train_split "
            f"and --test_split choose others"
        )


def _table_part(tables: Tables, split: str, image_size: int | None) -> Part:
    labels = tables.labels(split)
    wrong = np.flatnonzero((labels < 0) | (labels >= len(tables.class_names)))
    if len(labels) == 0 or len(wrong):
        row = f"label {labels[wrong[0]]} in row {wrong[0]}" if len(wrong) else "no images"
        raise DataError(
            f"{tables.source}, split {split!r}",
            expected=f"images with labels 0 to {len(tables.class_names) - 1}",
            got=row,
            remedy="remove the images without a label, or add images",
        )
    source = f"{tables.source}, split {split!r}"
    pictures = EncodedPictures(tables.splits[split], tables.image_column, source, image_size)
    return _part(pictures, labels)


def _part(pictures: Pictures, labels: np.ndarray) -> Part:
    return Part(pictures, np.arange(len(labels)), labels.astype(np.int64))


def _split(everything: Part, train_share: float) -> tuple[Part, Part]:
    return split_part(everything, round(len(everything.rows) * train_share), SPLIT_SEED)
