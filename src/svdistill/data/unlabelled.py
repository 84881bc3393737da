"""Images without labels: a folder of files in any depth, or the image column of a table."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Final

import numpy as np

from svdistill.data.columns import image_column
from svdistill.data.decoding import EncodedPictures
from svdistill.data.folders import table_of_files
from svdistill.data.image_files import count_images, images_below, no_images
from svdistill.data.notes import LeftOut, listed, note
from svdistill.data.selection import Part
from svdistill.data.split_names import ANY, Wanted, folder_role, preferred, role_for, split_role
from svdistill.data.splits import UNLABELLED
from svdistill.data.table_sources import load_hub, load_parquet
from svdistill.data.tables import by_split, encoded
from svdistill.errors import ArgumentError, DataError, nearest

if TYPE_CHECKING:
    from datasets import Dataset, DatasetDict

REST: Final = "rest"
LEARNT: Final = ("train", "unlabelled")
SCHEMES: Final = ("folder:PATH", "hub:NAME", "parquet:PATH", REST)


def open_unlabelled(
    spec: str | Dataset | DatasetDict,
    image_size: int | None,
    shape: tuple[int, ...],
    wanted: Wanted = ANY,
) -> Part:
    """Find the images that a spec names; their labels, if they have any, are not looked at.

    Args:
        spec: ``folder:PATH``, ``parquet:PATH``, ``hub:NAME``, or tables that are loaded already.
        image_size: see `load_images`.
        shape: ``(3, H, W)`` of the labelled images.
        wanted: what was chosen of the labelled images: the split to test on is not learnt from,
            and the image column is taken where a table has it too.

    Raises:
        ArgumentError: an unknown scheme.
        DataError: no images, or of another shape.
    """
    source = spec if isinstance(spec, str) else "unlabelled"
    table, column = _table(spec, wanted)
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


def _table(spec: str | Dataset | DatasetDict, wanted: Wanted) -> tuple[Dataset, str]:
    """The table, and its column of images."""
    if not isinstance(spec, str):
        return _of_splits("unlabelled", by_split("unlabelled", spec), wanted)
    scheme, _, place = spec.partition(":")
    if place and scheme == "folder":
        files = _files(Path(place).expanduser(), wanted)
        return table_of_files(files, [None] * len(files), []), "image"
    if place and scheme == "parquet":
        return _of_splits(spec, load_parquet(Path(place).expanduser(), wanted), wanted)
    if place and scheme == "hub":
        return _of_splits(spec, load_hub(place), wanted)
    raise ArgumentError(
        "unlabelled",
        expected="one of " + ", ".join(SCHEMES),
        got=repr(spec),
        remedy=nearest(f"{scheme}:PATH" if place else spec, SCHEMES),
    )


def _files(path: Path, wanted: Wanted) -> list[Path]:
    """All images in a folder; of one with a test part, those of its training part.

    Folders named like test splits are left out in any depth.
    """
    children = sorted(child for child in path.glob("*") if child.is_dir())
    roles = {c: role_for(c.name, wanted, folder_role(c.name)) for c in children}
    if "test" not in roles.values():
        parts = [child.name for child in children if split_role(child.name)]
        if {"train", "test"} <= {split_role(name) for name in parts}:
            raise DataError(
                str(path),
                expected="folders named train and test, or a folder without test images",
                got=listed(parts),
                remedy="give the folder to learn from",
            )
    left_out = LeftOut(path)
    parts = preferred(child.name for child, role in roles.items() if role in LEARNT)
    parts.sort(key=lambda name: roles[path / name] != "unlabelled")
    root = path
    if parts and "test" in roles.values():
        root = path / parts[0]
        others = [child for child in children if child != root]
        if len(parts) > 1:
            note(f"{path}: learns without labels from {parts[0]!r}, not from {listed(parts[1:])}")
    else:
        others = [child for child in children if roles[child] == "test"]
    tests = {
        Path(parent, name)
        for parent, folders, _ in os.walk(root)
        for name in folders
        if folder_role(name) == "test"
    }
    for folder in sorted({*others, *tests}):
        left_out.add("folder(s) of other splits", folder, count_images(folder))
    images = images_below(root, left_out, skipped={*others, *tests})
    left_out.tell()
    if not images:
        raise no_images(root, "a folder of images", "check the path")
    return images


def _of_splits(source: str, splits: Mapping[str, Dataset], wanted: Wanted) -> tuple[Dataset, str]:
    """The split without labels, else the one to train on, else the only one."""
    roles = {name: role_for(name, wanted, split_role(name)) for name in splits}
    named = preferred(name for name in splits if roles[name] in LEARNT)
    named.sort(key=lambda name: roles[name] != "unlabelled")
    if not named and (len(splits) > 1 or "test" in roles.values()):
        raise DataError(
            source,
            expected="a split named 'unlabeled' or 'train'",
            got=", ".join(map(repr, splits)),
            remedy="rename the split to learn from",
        )
    chosen = (named or list(splits))[0]
    others = [name for name in splits if name != chosen]
    if others:
        note(f"{source}: learns without labels from {chosen!r}, not from {listed(others)}")
    table = splits[chosen]
    # The option is of the labelled images; these may have other columns.
    column = wanted.image_column if wanted.image_column in table.features else None
    return table, image_column(source, table, column)
