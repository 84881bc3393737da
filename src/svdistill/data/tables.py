"""Tables of encoded images with labels and class names, whoever loaded them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import numpy as np

from svdistill.data.columns import class_values, image_column, label_column
from svdistill.data.split_names import (
    ANY,
    CUT,
    HERE,
    Wanted,
    preferred,
    split_role,
    wanted_split,
)
from svdistill.errors import ArgumentError, DataError

if TYPE_CHECKING:
    from datasets import Dataset

# `datasets` takes a second to import, and the digits need none of it: imported where used.

# `datasets` keeps the name "all" to itself.
ONLY_NAME: Final = "images"


class Tables(NamedTuple):
    """The tables of a data set as `datasets` gives them; images stay encoded.

    Attributes:
        source: name of the data set, for error messages.
        splits: tables by split name, such as ``train`` and ``test``.
        image_column: the column of images, each ``{"bytes", "path"}``.
        label_column: the column of labels.
        class_names: name of each class.
        values: the label of each class in the column, where that is not its number.
    """

    source: str
    splits: Mapping[str, Dataset]
    image_column: str
    label_column: str
    class_names: tuple[str, ...]
    values: tuple[Any, ...] | None = None

    def labels(self, split: str) -> np.ndarray:
        """Return the labels of a split, int64 ``[N]``; -1 where there is none."""
        # As Arrow, since a null among numbers would come out as NaN.
        column = self.splits[split].select_columns([self.label_column]).with_format("arrow")
        labels = column[:][self.label_column]
        if self.values is not None:
            import pyarrow
            import pyarrow.compute

            known = pyarrow.array(self.values, type=labels.type)
            labels = pyarrow.compute.index_in(labels, value_set=known)
        return labels.fill_null(-1).to_numpy().astype(np.int64)

    def train_name(self, wanted: Wanted = ANY) -> str:
        """Return the split to train on: the wanted one, or the most obvious name."""
        whole = wanted.train_split == HERE and ONLY_NAME in self.splits
        if wanted.train_split is not None and not whole:
            return wanted_split("train_split", wanted.train_split, self.splits)
        names = preferred(name for name in self.splits if split_role(name) == "train")
        if names:
            return names[0]
        only = next(iter(self.splits))
        if len(self.splits) == 1 and split_role(only) is None:
            return only
        raise DataError(
            self.source,
            expected="a split named 'train'",
            got=", ".join(map(repr, self.splits)),
            remedy="give --train_split with the name of the split to train on",
        )

    def test_name(self, wanted: Wanted = ANY) -> str | None:
        """Return the first split to test on that has labels, or None to have one cut from train."""
        train = self.train_name(wanted)
        others = [name for name in self.splits if name != train]
        if wanted.test_split == CUT:
            return None
        if wanted.test_split is not None:
            names = [wanted_split("test_split", wanted.test_split, others)]
        else:
            names = preferred(name for name in others if split_role(name) == "test")
        # Public test splits of competitions often carry -1 for every label.
        labelled = [name for name in names if (self.labels(name) >= 0).all()]
        if names and not labelled:
            raise DataError(
                self.source,
                expected="a test or validation split with a label for every image",
                got=f"missing or negative labels in {', '.join(map(repr, names))}",
                remedy="add the labels, or give --test_split cut to have one cut from train",
            )
        unclear = [name for name in others if split_role(name) is None]
        if unclear and not labelled:
            raise DataError(
                self.source,
                expected="a split named 'test' or 'validation' beside the one to train on",
                got=", ".join(map(repr, unclear)),
                remedy="give --test_split with its name, or --test_split cut to have one cut "
                f"from {train!r}",
            )
        return labelled[0] if labelled else None


def by_split(argument: str, loaded: object) -> Mapping[str, Dataset]:
    """The tables of a `DatasetDict`, or the one of a `Dataset` as the only split.

    Raises:
        ArgumentError: it is something else.
        DataError: the splits have different columns or class names.
    """
    import datasets

    if isinstance(loaded, datasets.Dataset):
        return {ONLY_NAME: loaded}
    if not isinstance(loaded, datasets.DatasetDict) or not loaded:
        streaming = isinstance(loaded, (datasets.IterableDataset, datasets.IterableDatasetDict))
        raise ArgumentError(
            argument,
            expected="a text such as folder:PATH, a datasets.Dataset or a datasets.DatasetDict",
            got=type(loaded).__name__,
            remedy="load it without streaming=True"
            if streaming
            else "give one of these; for a DataLoader see images_from_loaders",
        )
    first, *others = loaded.values()
    if any(other.features != first.features for other in others):
        raise DataError(
            "DatasetDict",
            expected="the same columns and class names in all splits",
            got="others",
            remedy="cast all splits to the same features",
        )
    return loaded


def tables_of(source: str, loaded: Mapping[str, Dataset], wanted: Wanted = ANY) -> Tables:
    """The tables with the columns that hold images and labels.

    Raises:
        ArgumentError: a wanted column is not there.
        DataError: no column holds images or labels.
    """
    table = next(iter(loaded.values()))
    image = image_column(source, table, wanted.image_column)
    label = label_column(source, table, wanted.label_column)
    splits = {name: encoded(table, image) for name, table in loaded.items()}
    values = class_values(source, loaded.values(), label)
    if values is None:
        return Tables(source, splits, image, label, tuple(table.features[label].names))
    return Tables(source, splits, image, label, tuple(map(str, values)), tuple(values))


def encoded(table: Dataset, column: str) -> Dataset:
    """The table with its images as they are stored: plain Python objects, nothing decoded."""
    from datasets import Image

    return table.with_format(None).cast_column(column, Image(decode=False))
