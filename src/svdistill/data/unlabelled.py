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
from svdistill.data.columns import find_image_column
from svdistill.data.data_warnings import SkippedFiles, listed, warn
from svdistill.data.image_files import (
    EncodedPictures,
    count_images,
    images_below,
    no_images,
    table_of_files,
)
from svdistill.data.selection import Subset
from svdistill.data.split_names import (
    AUTOMATIC,
    DataChoices,
    folder_role,
    preferred,
    role_for,
    split_role,
)
from svdistill.data.splits import (
    UNLABELLED,
    Batch,
    ImageSplit,
    StoredSplit,
    batch_indices,
    order_generator,
    with_whole,
)
from svdistill.data.tables import load_hub, load_parquet, split_tables, undecoded
from svdistill.parallel import ALONE, Share

if TYPE_CHECKING:
    from datasets import Dataset, DatasetDict


REST: Final = "rest"

USED_ROLES: Final = ("train", "unlabelled")

SCHEMES: Final = ("folder:PATH", "hub:NAME", "parquet:PATH", REST)


def open_unlabelled(
    spec: str | Dataset | DatasetDict, image_size: int | None, choices: DataChoices = AUTOMATIC
) -> Subset:
    """Find the images that a spec names; their labels, if they have any, are ignored.

    Args:
        spec: ``folder:PATH``, ``parquet:PATH``, ``hub:NAME``, or loaded tables.
        image_size: see `load_images`.
        choices: for the labelled images: the test split is left out, and the image column is used
            if these tables have it too.

    Raises:
        ArgumentError: an unknown scheme.
        DataError: no images.
    """
    source = spec if isinstance(spec, str) else "unlabelled"
    table, column = _find_table(spec, choices)
    if len(table) == 0:
        raise DataError(
            source, expected="at least one image", got="none", remedy="add images, or leave it out"
        )
    pictures = EncodedPictures(undecoded(table, column), column, source, image_size)
    return drop_labels(Subset(pictures, np.arange(len(table)), np.empty(0)))


def drop_labels(subset: Subset) -> Subset:
    """The same images, each with the label `UNLABELLED`."""
    return subset._replace(labels=np.full(len(subset.rows), UNLABELLED, dtype=np.int64))


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


def _find_table(spec: str | Dataset | DatasetDict, choices: DataChoices) -> tuple[Dataset, str]:
    """The table, and its column of images."""
    if not isinstance(spec, str):
        return _choose_split("unlabelled", split_tables("unlabelled", spec), choices)
    scheme, _, place = spec.partition(":")
    if place and scheme == "folder":
        files = _find_files(Path(place).expanduser(), choices)
        return table_of_files(files, [None] * len(files), []), "image"
    if place and scheme == "parquet":
        return _choose_split(spec, load_parquet(Path(place).expanduser(), choices), choices)
    if place and scheme == "hub":
        return _choose_split(spec, load_hub(place), choices)
    raise ArgumentError(
        "unlabelled",
        expected="one of " + ", ".join(SCHEMES),
        got=repr(spec),
        remedy=nearest(f"{scheme}:PATH" if place else spec, SCHEMES),
    )


def _find_files(path: Path, choices: DataChoices) -> list[Path]:
    """All images in a folder; if it has a test split, those of its training split.

    Folders named like test splits are left out in any depth.
    """
    children = sorted(child for child in path.glob("*") if child.is_dir())
    roles = {c: role_for(c.name, choices, folder_role(c.name)) for c in children}
    if "test" not in roles.values():
        names = [child.name for child in children if split_role(child.name)]
        if {"train", "test"} <= {split_role(name) for name in names}:
            raise DataError(
                str(path),
                expected="folders named train and test, or a folder without test images",
                got=listed(names),
                remedy="give the folder to learn from",
            )
    usable = preferred(child.name for child, role in roles.items() if role in USED_ROLES)
    usable.sort(key=lambda name: roles[path / name] != "unlabelled")
    if usable and "test" in roles.values():
        root = path / usable[0]
        others = [child for child in children if child != root]
        if len(usable) > 1:
            warn(f"{path}: learns without labels from {usable[0]!r}, not from {listed(usable[1:])}")
    else:
        root = path
        others = [child for child in children if roles[child] == "test"]
    tests = {
        Path(parent, name)
        for parent, folders, _ in os.walk(root)
        for name in folders
        if folder_role(name) == "test"
    }
    skipped = SkippedFiles(path)
    for folder in sorted({*others, *tests}):
        skipped.add("folder(s) of other splits", folder, count_images(folder))
    images = images_below(root, skipped, exclude={*others, *tests})
    skipped.warn()
    if not images:
        raise no_images(root, "a folder of images", "check the path")
    return images


def _choose_split(
    source: str, splits: Mapping[str, Dataset], choices: DataChoices
) -> tuple[Dataset, str]:
    """The unlabelled split, else the training split, else the only one; and its image column."""
    roles = {name: role_for(name, choices, split_role(name)) for name in splits}
    named = preferred(name for name in splits if roles[name] in USED_ROLES)
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
        warn(f"{source}: learns without labels from {chosen!r}, not from {listed(others)}")
    table = splits[chosen]
    # The choice is for the labelled images; these tables may have other columns.
    column = choices.image_column if choices.image_column in table.features else None
    return table, find_image_column(source, table, column)


@final
class MixedSplit(ImageSplit):
    """Labelled and unlabelled images: each batch is half of either kind.

    The labelled half comes first, and has one image more if the batch size is odd. A pass reads
    the kind that fills more batches once; the other is reshuffled and repeated until the pass
    ends. The last batch keeps the proportion. In stored order, and in the indices, unlabelled
    images follow the labelled ones.

    Args:
        labelled: the images with labels.
        unlabelled: the others; their labels are ignored.

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
        self.labels = torch.cat([labelled.labels, _no_labels(unlabelled.labels)])

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
        return math.ceil(self._filled_batches(_halves(batch_size)))

    def to(self, device: torch.device | str) -> MixedSplit:
        """See `ImageSplit.to`."""
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
        border = len(self._labelled)
        if order_seed is None:
            chunks = list(batch_indices(len(self), batch_size, None, drop_last))
        else:
            halves = _halves(batch_size)
            batches, generator = self._filled_batches(halves), order_generator(order_seed)
            ours, theirs = (
                _repeated_orders(len(split), math.ceil(batches * half), generator).split(half)
                for split, half in zip((self._labelled, self._unlabelled), halves, strict=True)
            )
            chunks = [torch.cat([a, border + b]) for a, b in zip(ours, theirs, strict=True)]
            if drop_last and len(chunks[-1]) < batch_size:
                chunks.pop()
        chunks = chunks[skip:]
        parts = self._gather([share.take(chunk) for chunk in chunks], device)
        return with_whole(parts, chunks, share, labelled=border)

    def _filled_batches(self, halves: tuple[int, int]) -> Fraction:
        """The larger of the two kinds' numbers of batches; the last batch may be incomplete."""
        labelled, unlabelled = halves
        return max(
            Fraction(len(self._labelled), labelled), Fraction(len(self._unlabelled), unlabelled)
        )

    def _gather(self, chunks: Sequence[Tensor], device: torch.device | str) -> Iterator[Batch]:
        """Read batches of chosen images, in each the labelled ones first."""
        border = len(self._labelled)
        ours = self._labelled.gather([chunk[chunk < border] for chunk in chunks], device)
        theirs = self._unlabelled.gather(
            [chunk[chunk >= border] - border for chunk in chunks], device
        )
        for first, second, chunk in zip(ours, theirs, chunks, strict=True):
            images = torch.cat([first.images, second.images])
            yield Batch(images, torch.cat([first.labels, _no_labels(second.labels)]), chunk)


def _no_labels(labels: Tensor) -> Tensor:
    return torch.full_like(labels, UNLABELLED)


def _halves(batch_size: int) -> tuple[int, int]:
    """The numbers of labelled and unlabelled images in a batch."""
    require_count("batch_size", batch_size)
    if batch_size < 2:
        raise ArgumentError(
            "batch_size",
            expected="2 or more, with unlabelled images beside the labelled ones",
            got=batch_size,
            remedy="give a larger one",
        )
    return batch_size - batch_size // 2, batch_size // 2


def _repeated_orders(length: int, count: int, generator: torch.Generator) -> Tensor:
    """Concatenate random orders of 0 to length - 1, and keep the first `count` numbers."""
    rounds = -(-count // length)
    orders = [torch.randperm(length, generator=generator) for _ in range(rounds)]
    return torch.cat(orders)[:count]
