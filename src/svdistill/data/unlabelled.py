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

from svdistill.common import ArgumentError, DataError, listed, require_count, warn_of_data
from svdistill.data.columns import find_image_column
from svdistill.data.image_files import (
    EncodedPictures,
    SkippedFiles,
    count_images,
    images_below,
    no_images,
    table_of_files,
)
from svdistill.data.opening import unknown_scheme
from svdistill.data.selection import Subset
from svdistill.data.split_names import (
    AUTOMATIC,
    DataChoices,
    FoundSplits,
    folder_role,
    split_role,
)
from svdistill.data.splits import (
    UNLABELLED,
    Batch,
    StoredSplit,
    order_generator,
)
from svdistill.data.tables import load_hub, load_parquet, split_tables, undecoded

if TYPE_CHECKING:
    from datasets import Dataset, DatasetDict


REST: Final = "rest"

SCHEMES: Final = ("folder:PATH", "hub:NAME", "parquet:PATH", REST)


def open_unlabelled(
    spec: str | Dataset | DatasetDict, image_size: int | None, choices: DataChoices = AUTOMATIC
) -> Subset:
    """Find the images of the `unlabelled` argument of `load_images`, ignoring their labels.

    `choices` are those for the labelled images. A split with the name of their test split is left
    out, and an image column with the name of theirs is used if there is one.
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
    """Return the same images, each with the label `UNLABELLED`."""
    return subset._replace(labels=np.full(len(subset.rows), UNLABELLED, dtype=np.int64))


def _find_table(spec: str | Dataset | DatasetDict, choices: DataChoices) -> tuple[Dataset, str]:
    """Return the table of the images and the name of its image column."""
    if not isinstance(spec, str):
        return _choose_split("unlabelled", split_tables("unlabelled", spec), choices)
    scheme, _, place = spec.partition(":")
    if place and scheme == "folder":
        files = _find_files(Path(place).expanduser(), choices)
        return table_of_files(files), "image"
    if place and scheme == "parquet":
        return _choose_split(spec, load_parquet(Path(place).expanduser(), choices), choices)
    if place and scheme == "hub":
        return _choose_split(spec, load_hub(place), choices)
    raise unknown_scheme("unlabelled", spec, SCHEMES)


def _find_files(path: Path, choices: DataChoices) -> list[Path]:
    """List all images below a folder; if it has a test split, those of its training split only.

    Folders named like test splits are left out at any depth.
    """
    children = sorted(child.name for child in path.glob("*") if child.is_dir())
    chosen, tests = FoundSplits(str(path), children, folder_role).unlabelled(choices)
    unclear = [name for name in children if split_role(name)]
    if not tests and {"train", "test"} <= {split_role(name) for name in unclear}:
        raise DataError(
            str(path),
            expected="folders named train and test, or a folder without test images",
            got=listed(unclear),
            remedy="give the folder to learn from",
        )
    root, others = path, tests
    if chosen is not None and tests:
        root, others = path / chosen, [name for name in children if name != chosen]
    left_out = {path / name for name in others} | {
        Path(parent, name)
        for parent, folders, _ in os.walk(root)
        for name in folders
        if folder_role(name) == "test"
    }
    skipped = SkippedFiles(path)
    for folder in sorted(left_out):
        skipped.add("folder(s) of other splits", folder, count_images(folder))
    images = images_below(root, skipped, exclude=left_out)
    skipped.warn()
    if not images:
        raise no_images(root, "a folder of images", "check the path")
    return images


def _choose_split(
    source: str, splits: Mapping[str, Dataset], choices: DataChoices
) -> tuple[Dataset, str]:
    """Return the unlabelled split, else the training or only split, and its image column."""
    chosen, tests = FoundSplits(source, tuple(splits)).unlabelled(choices)
    if chosen is None and (len(splits) > 1 or tests):
        raise DataError(
            source,
            expected="a split named 'unlabeled' or 'train'",
            got=", ".join(map(repr, splits)),
            remedy="rename the split to learn from",
        )
    chosen = chosen or next(iter(splits))
    if len(splits) > 1:
        others = listed(name for name in splits if name != chosen)
        warn_of_data(f"{source}: learns without labels from {chosen!r}, not from {others}")
    table = splits[chosen]
    # `choices` are for the labelled images; these tables need not have the same columns.
    column = choices.image_column if choices.image_column in table.features else None
    return table, find_image_column(source, table, column)


@final
class MixedSplit(StoredSplit):
    """Labelled and unlabelled images, mixed so that each batch holds half of either kind.

    The labelled half comes first in a batch, and has one image more if the batch size is odd. One
    pass reads the kind that lasts for more batches once; the images of the other kind are repeated,
    in a new order each time, until the pass ends. The last batch may be smaller, in the same
    proportion. In stored order, unlabelled images follow the labelled ones, as do their indices.

    Args:
        labelled: the split of images with labels.
        unlabelled: the split of images without labels; all its labels are `UNLABELLED`.

    Example:
        >>> from svdistill.data.splits import ResidentSplit
        >>> def split(count, label):
        ...     images = torch.zeros(count, 3, 8, 8, dtype=torch.uint8)
        ...     return ResidentSplit(images, torch.full((count,), label))
        >>> mixed = MixedSplit(split(2, 0), split(5, UNLABELLED))
        >>> [b.labels.tolist() for b in mixed.batches(4, device="cpu", order_seed=0)]
        [[0, 0, -1, -1], [0, 0, -1, -1], [0, -1]]
        >>> [b.indices.tolist() for b in mixed.batches(4, device="cpu", order_seed=0)]
        [[0, 1, 2, 6], [1, 0, 4, 3], [1, 5]]
    """

    def __init__(self, labelled: StoredSplit, unlabelled: StoredSplit) -> None:
        self._labelled = labelled
        self._unlabelled = unlabelled
        self.labels = torch.cat([labelled.labels, unlabelled.labels])

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
        """See `ImageSplit.steps`; counts the mixed batches, which have a random order."""
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

    def chunks(self, batch_size: int, order_seed: int | None) -> Sequence[Tensor]:
        """See `StoredSplit.chunks`."""
        if order_seed is None:
            return super().chunks(batch_size, None)
        border, halves = len(self._labelled), _halves(batch_size)
        batches, generator = self._filled_batches(halves), order_generator(order_seed)
        ours, theirs = (
            _repeated_orders(len(split), math.ceil(batches * half), generator).split(half)
            for split, half in zip((self._labelled, self._unlabelled), halves, strict=True)
        )
        return [torch.cat([a, border + b]) for a, b in zip(ours, theirs, strict=True)]

    def _filled_batches(self, halves: tuple[int, int]) -> Fraction:
        """The number of batches that the longer-lasting kind fills; the last may be incomplete."""
        labelled, unlabelled = halves
        return max(
            Fraction(len(self._labelled), labelled), Fraction(len(self._unlabelled), unlabelled)
        )

    def gather(self, chunks: Sequence[Tensor], device: torch.device | str) -> Iterator[Batch]:
        """See `StoredSplit.gather`; in each batch the labelled images come first."""
        border = len(self._labelled)
        ours = self._labelled.gather([chunk[chunk < border] for chunk in chunks], device)
        theirs = self._unlabelled.gather(
            [chunk[chunk >= border] - border for chunk in chunks], device
        )
        for first, second, chunk in zip(ours, theirs, chunks, strict=True):
            images = torch.cat([first.images, second.images])
            yield Batch(images, torch.cat([first.labels, second.labels]), chunk)


def _halves(batch_size: int) -> tuple[int, int]:
    """Return the numbers of labelled and of unlabelled images in a batch."""
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
    """Concatenate random permutations of 0 to length - 1 and keep the first `count` entries."""
    rounds = -(-count // length)
    orders = [torch.randperm(length, generator=generator) for _ in range(rounds)]
    return torch.cat(orders)[:count]
