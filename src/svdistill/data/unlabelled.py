"""Images without labels, and batches that mix them with labelled ones."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator, Mapping, Sequence
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Final, final

import numpy as np
import torch
from torch import Tensor

from svdistill.common import ArgumentError, DataError, nearest, require_count
from svdistill.data.columns import image_column
from svdistill.data.folders import count_images, images_below, no_images, table_of_files
from svdistill.data.notes import LeftOut, listed, note
from svdistill.data.selection import Part
from svdistill.data.split_names import ANY, Wanted, folder_role, preferred, role_for, split_role
from svdistill.data.splits import (
    UNLABELLED,
    Batch,
    ImageSplit,
    StoredSplit,
    in_batches,
    seeded,
    shared,
)
from svdistill.data.streaming import EncodedPictures
from svdistill.data.tables import by_split, encoded, load_hub, load_parquet
from svdistill.parallel import ALONE, Share

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


def decode_files(files: Sequence[Path], image_size: int) -> Tensor:
    """Decode image files, cut out the middle squares, and resize them.

    Returns:
        uint8 ``[N, 3, image_size, image_size]``, in the order of the files.

    Raises:
        DataError: a file is missing, damaged, or not an image.
    """
    table = table_of_files(files, [None] * len(files), [])
    pictures = EncodedPictures(table, "image", "images", image_size)
    return torch.from_numpy(pictures.read(np.arange(len(files))))


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


@final
class MixedSplit(ImageSplit):
    """Labelled images and others without labels: half of every batch is of either kind.

    The labelled half comes first, and has one image more where the batch size is odd. A pass goes
    once over the kind that fills more batches; the other is shuffled and gone through again until
    the first is through. The last batch keeps the proportion. In stored order, and in their
    indices, unlabelled images follow the labelled ones.

    Args:
        labelled: the images with labels.
        unlabelled: the others; whatever labels they have are not looked at.

    Example:
        >>> from svdistill.data.splits import ResidentSplit
        >>> def split(count):
        ...     images = torch.zeros(count, 3, 8, 8, dtype=torch.uint8)
        ...     return ResidentSplit(images, torch.zeros(count, dtype=torch.int64))
        >>> mixed = MixedSplit(split(2), split(5))
        >>> [b.labels.tolist() for b in mixed.batches(4, device="cpu", order_seed=0)]
        [[0, 0, -1, -1], [0, 0, -1, -1], [0, -1]]
        >>> [b.indices.tolist() for b in mixed.batches(4, device="cpu", order_seed=0)]
        [[0, 1, 2, 6], [1, 0, 4, 3], [1, 5]]
    """

    def __init__(self, labelled: StoredSplit, unlabelled: StoredSplit) -> None:
        self._labelled = labelled
        self._unlabelled = unlabelled
        nothing = torch.full_like(unlabelled.labels, UNLABELLED)
        self.labels = torch.cat([labelled.labels, nothing])

    def __len__(self) -> int:
        return len(self._labelled) + len(self._unlabelled)

    @property
    def labelled(self) -> StoredSplit:
        """See `ImageSplit.labelled`."""
        return self._labelled

    @property
    def loading_remedy(self) -> str:
        """See `ImageSplit.loading_remedy`."""
        return self._unlabelled.loading_remedy

    @property
    def repeats(self) -> bool:
        """See `ImageSplit.repeats`."""
        return True

    def steps(self, batch_size: int) -> int:
        """See `ImageSplit.steps`; of batches in a random order."""
        return math.ceil(self._filled(_halves(batch_size)))

    def to(self, device: torch.device | str) -> MixedSplit:
        """Return the split with what it holds in memory on the device."""
        return MixedSplit(self._labelled.to(device), self._unlabelled.to(device))

    def part(self, start: int, stop: int) -> MixedSplit:
        """See `ImageSplit.part`."""
        border = len(self._labelled)
        return MixedSplit(
            self._labelled.part(min(start, border), min(stop, border)),
            self._unlabelled.part(max(start - border, 0), max(stop - border, 0)),
        )

    def batches(
        self,
        batch_size: int,
        *,
        device: torch.device | str,
        order_seed: int | None,
        drop_last: bool = False,
        skip: int = 0,
        share: Share = ALONE,
    ) -> Iterator[Batch]:
        """See `ImageSplit.batches`."""
        if order_seed is None:
            chunks = in_batches(len(self), batch_size, None, drop_last)
            return self._parts(chunks[skip:], device, share)
        halves = _halves(batch_size)
        batches, generator = self._filled(halves), seeded(order_seed)
        ours, theirs = (
            _again_and_again(len(split), math.ceil(batches * half), generator).split(half)
            for split, half in zip((self._labelled, self._unlabelled), halves, strict=True)
        )
        border = len(self._labelled)
        chunks = [torch.cat([a, border + b]) for a, b in zip(ours, theirs, strict=True)]
        if drop_last and len(chunks[-1]) < batch_size:
            chunks.pop()
        return self._parts(chunks[skip:], device, share)

    def _filled(self, halves: tuple[int, int]) -> Fraction:
        """How many batches the kind fills that fills more, the last one in part."""
        labelled, unlabelled = halves
        return max(
            Fraction(len(self._labelled), labelled), Fraction(len(self._unlabelled), unlabelled)
        )

    def _parts(
        self, chunks: Sequence[Tensor], device: torch.device | str, share: Share
    ) -> Iterator[Batch]:
        """Read what a process takes of each batch."""
        parts = self._gather([share.take(chunk) for chunk in chunks], device)
        return shared(parts, chunks, share, labelled=len(self._labelled))

    def _gather(self, chunks: Sequence[Tensor], device: torch.device | str) -> Iterator[Batch]:
        """Read batches of chosen images, in each the labelled ones first."""
        border = len(self._labelled)
        ours = self._labelled.gather([chunk[chunk < border] for chunk in chunks], device)
        theirs = self._unlabelled.gather(
            [chunk[chunk >= border] - border for chunk in chunks], device
        )
        for first, second, chunk in zip(ours, theirs, chunks, strict=True):
            nothing = torch.full_like(second.labels, UNLABELLED)
            yield Batch(
                torch.cat([first.images, second.images]), torch.cat([first.labels, nothing]), chunk
            )


def _halves(batch_size: int) -> tuple[int, int]:
    """Labelled and unlabelled images in a batch."""
    require_count("batch_size", batch_size)
    if batch_size < 2:
        raise ArgumentError(
            "batch_size",
            expected="2 or more, with unlabelled images beside the labelled ones",
            got=batch_size,
            remedy="give a larger one",
        )
    return batch_size - batch_size // 2, batch_size // 2


def _again_and_again(length: int, count: int, generator: torch.Generator) -> Tensor:
    """Go through 0 to length - 1, each time in another order, until so many have come."""
    rounds = -(-count // length)
    orders = [torch.randperm(length, generator=generator) for _ in range(rounds)]
    return torch.cat(orders)[:count]
