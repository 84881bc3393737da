"""Images without labels: a folder of files in any depth, or the image column of a table."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Final

import numpy as np

from svdistill.data.decoding import EncodedPictures
from svdistill.data.folders import find_images, table_of_files
from svdistill.data.selection import Part
from svdistill.data.splits import UNLABELLED
from svdistill.data.table_sources import load_hub, load_parquet
from svdistill.data.tables import (
    TEST_NAMES,
    TRAIN_NAMES,
    UNLABELLED_NAMES,
    by_split,
    encoded,
    image_column,
)
from svdistill.errors import ArgumentError, DataError, nearest

if TYPE_CHECKING:
    from datasets import Dataset, DatasetDict

REST: Final = "rest"
SCHEMES: Final = ("folder:PATH", "hub:NAME", "parquet:PATH", REST)


def open_unlabelled(
    spec: str | Dataset | DatasetDict, image_size: int | None, shape: tuple[int, ...]
) -> Part:
    """Find the images that a spec names; their labels, if they have any, are not looked at.

    Args:
        spec: ``folder:PATH``, ``parquet:PATH``, ``hub:NAME``, or tables that are loaded already.
        image_size: see `load_images`.
        shape: ``(3, H, W)`` of the labelled images.

    Raises:
        ArgumentError: an unknown scheme.
        DataError: no images, or of another shape.
    """
    source = spec if isinstance(spec, str) else "unlabelled"
    table, column = _table(spec)
    if len(table) == 0:
        raise DataError(
            source, expected="at least one image", got="none", remedy="add images, or leave it out"
        )
    pictures = EncodedPictures(encoded(table, column), column, source, image_size)
    if pictures.shape != shape:
        raise DataError(
            source,
            expected=f"images of {shape[1]}x{shape[2]} like the labelled ones",
            got="x".join(map(str, pictures.shape[1:])),
            remedy="give image_size to resize and crop all images to one square size",
        )
    return without_labels(Part(pictures, np.arange(len(table)), np.empty(0)))


def without_labels(part: Part) -> Part:
    """The same images, each of them `UNLABELLED`."""
    return part._replace(labels=np.full(len(part.rows), UNLABELLED, dtype=np.int64))


def _table(spec: str | Dataset | DatasetDict) -> tuple[Dataset, str]:
    """The table, and its column of images."""
    if not isinstance(spec, str):
        return _of_splits("unlabelled", by_split("unlabelled", spec))
    scheme, _, place = spec.partition(":")
    if place and scheme == "folder":
        files = _files(Path(place).expanduser())
        return table_of_files(files, [None] * len(files), []), "image"
    if place and scheme == "parquet":
        return _of_splits(spec, load_parquet(Path(place).expanduser()))
    if place and scheme == "hub":
        return _of_splits(spec, load_hub(place))
    raise ArgumentError(
        "unlabelled",
        expected="one of " + ", ".join(SCHEMES),
        got=repr(spec),
        remedy=nearest(f"{scheme}:PATH" if place else spec, SCHEMES),
    )


def _files(path: Path) -> list[Path]:
    """All images in a folder; of one with a test part, those of its training part."""
    children = {child.name for child in path.glob("*") if child.is_dir()}
    training = [name for name in UNLABELLED_NAMES + TRAIN_NAMES if name in children]
    return find_images(path / training[0] if training and children & set(TEST_NAMES) else path)


def _of_splits(source: str, splits: Mapping[str, Dataset]) -> tuple[Dataset, str]:
    """The split without labels, else the one to train on, else the only one."""
    named = [name for name in UNLABELLED_NAMES + TRAIN_NAMES if name in splits]
    if not named and len(splits) > 1:
        raise DataError(
            source,
            expected="a split named 'unlabeled' or 'train'",
            got=", ".join(map(repr, splits)),
            remedy="rename the split to learn from",
        )
    table = splits[(named or list(splits))[0]]
    return table, image_column(source, table)
