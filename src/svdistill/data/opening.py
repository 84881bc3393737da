"""Open the data set that a spec such as ``parquet:PATH`` names, without decoding its images."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Final, NamedTuple

import numpy as np
import torch

from svdistill.common import ArgumentError, DataError, nearest, require_count, warn_of_data
from svdistill.data.folders import read_folder, read_tiny_imagenet
from svdistill.data.image_files import ArrayPictures, EncodedPictures, Pictures, resize
from svdistill.data.selection import Subset, check_spelling, stratified_split
from svdistill.data.split_names import AUTOMATIC, ROLES, DataChoices
from svdistill.data.tables import ONLY_NAME, Tables, read_hub, read_parquet, split_tables, tables_of

if TYPE_CHECKING:
    from datasets import Dataset, DatasetDict


SCHEMES: Final = ("digits", "folder:PATH", "hub:NAME", "parquet:PATH", "tiny_imagenet:PATH")

READERS: Final = {
    "folder": read_folder,
    "parquet": read_parquet,
    "tiny_imagenet": lambda path, _choices: read_tiny_imagenet(path),
}

# The fields of `DataChoices` that a kind of data set does not support.
WITHOUT_EFFECT: Final = {
    "digits": DataChoices._fields,
    "tiny_imagenet": DataChoices._fields,
    "folder": ("label_column", "image_column"),
}

SMALLEST_SIZE: Final = 8

DIGITS_SIZE: Final = 16

DIGITS_TRAIN_SHARE: Final = 0.6

TRAIN_SHARE: Final = 0.8

# Constant, so that the test split that is cut from a data set always holds the same images.
SPLIT_SEED: Final = 0


class OpenedData(NamedTuple):
    """A data set whose images are not decoded yet.

    Attributes:
        train: the training images.
        test: the test images.
        class_names: name of each class, by its label.
    """

    train: Subset
    test: Subset
    class_names: tuple[str, ...]


def open_images(
    spec: str | Dataset | DatasetDict, image_size: int | None, choices: DataChoices = AUTOMATIC
) -> OpenedData:
    """Open the data set that a spec names; see `load_images` for the arguments."""
    if image_size is not None:
        require_count("image_size", image_size, SMALLEST_SIZE)
    if not isinstance(spec, str):
        tables = tables_of(type(spec).__name__, split_tables("data", spec), choices)
        return _open_tables(tables, image_size, choices)
    scheme, _, place = spec.partition(":")
    for name in WITHOUT_EFFECT.get(scheme, ()):
        if getattr(choices, name) is not None:
            raise ArgumentError(
                name,
                expected=f"nothing beside {scheme} images, which have no such choice",
                got=repr(getattr(choices, name)),
                remedy="leave it out",
            )
    if spec == "digits":
        return _open_digits(image_size or DIGITS_SIZE)
    if place and scheme in READERS:
        return _open_tables(READERS[scheme](Path(place).expanduser(), choices), image_size, choices)
    if place and scheme == "hub":
        return _open_tables(read_hub(place, choices), image_size, choices)
    raise unknown_scheme("data", spec, SCHEMES)


def unknown_scheme(argument: str, spec: str, schemes: Sequence[str]) -> ArgumentError:
    """Return the error for a spec whose scheme is none of `schemes`."""
    scheme, _, place = spec.partition(":")
    remedy = nearest(f"{scheme}:PATH" if place else spec, schemes)
    if spec and Path(spec).exists():
        remedy = f"write {'folder' if Path(spec).is_dir() else 'parquet'}:{spec}"
    expected = "one of " + ", ".join(schemes)
    return ArgumentError(argument, expected=expected, got=repr(spec), remedy=remedy)


def _open_digits(image_size: int) -> OpenedData:
    images, labels, names = _read_digits()
    grey = torch.from_numpy(images).float().unsqueeze(1) * (255 / 16)  # [N, 1, 8, 8]
    resized = resize(grey, image_size).expand(-1, 3, -1, -1)
    train, test = _cut(_subset(ArrayPictures(resized.numpy()), labels), DIGITS_TRAIN_SHARE)
    return OpenedData(train, test, names)


@cache
def _read_digits() -> tuple[np.ndarray, np.ndarray, tuple[str, ...]]:
    """Return images [N, 8, 8] with values 0 to 16, labels and class names.

    The result is cached, since scikit-learn parses a text file at each call.
    """
    # scikit-learn takes a second to import, and no other data set needs it.
    from sklearn.datasets import load_digits

    digits = load_digits()
    return digits.images, digits.target, tuple(str(name) for name in digits.target_names)


def _open_tables(tables: Tables, image_size: int | None, choices: DataChoices) -> OpenedData:
    if len(tables.class_names) < 2:
        raise DataError(
            tables.source,
            expected="at least 2 classes",
            got=", ".join(tables.class_names) or "none",
            remedy="use a data set whose images fall into several classes; a negative label counts "
            "as none",
        )
    train_name, test_name = tables.chosen(choices)
    _warn_of_splits(tables, train_name, test_name, choices)
    used = {name: tables.labels(name) for name in (train_name, test_name) if name is not None}
    check_spelling(tables.source, tables.class_names, used)
    train = _table_subset(tables, train_name, image_size)
    if test_name is None:
        return OpenedData(*_cut(train, TRAIN_SHARE), tables.class_names)
    return OpenedData(train, _table_subset(tables, test_name, image_size), tables.class_names)


def _warn_of_splits(tables: Tables, train: str, test: str | None, choices: DataChoices) -> None:
    """Warn which splits are used, if there are more or if their names are not the usual ones."""
    others = [
        f"{name!r} ({len(table):,} images)"
        for name, table in tables.splits.items()
        if name not in (train, test)
    ]
    chosen = {choices.train_split, choices.test_split}
    guessed = {train, test or train} - chosen
    guessed = {name for name in guessed if name.lower() not in (*ROLES, ONLY_NAME)}
    if others or guessed:
        tested = f"{test!r}" if test else f"a part cut from {train!r}"
        unused = f"; not used: {', '.join(others)}" if others else ""
        warn_of_data(
            f"{tables.source}: trains on {train!r} and tests on {tested}{unused}; --train_split "
            f"and --test_split choose others"
        )


def _table_subset(tables: Tables, split: str, image_size: int | None) -> Subset:
    labels, source = tables.labels(split), f"{tables.source}, split {split!r}"
    wrong = np.flatnonzero((labels < 0) | (labels >= len(tables.class_names)))
    if len(labels) == 0 or len(wrong):
        row = f"label {labels[wrong[0]]} in row {wrong[0]}" if len(wrong) else "no images"
        raise DataError(
            source,
            expected=f"images with labels 0 to {len(tables.class_names) - 1}",
            got=row,
            remedy="remove the images without a label, or add images",
        )
    pictures = EncodedPictures(tables.splits[split], tables.image_column, source, image_size)
    return _subset(pictures, labels)


def _subset(pictures: Pictures, labels: np.ndarray) -> Subset:
    return Subset(pictures, np.arange(len(labels)), labels.astype(np.int64))


def _cut(everything: Subset, train_share: float) -> tuple[Subset, Subset]:
    return stratified_split(everything, round(len(everything.rows) * train_share), SPLIT_SEED)
