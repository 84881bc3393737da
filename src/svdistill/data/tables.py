"""Tables of encoded images with labels and class names, whoever loaded them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Final, NamedTuple

import numpy as np

from svdistill.errors import ArgumentError, DataError

if TYPE_CHECKING:
    from datasets import Dataset

# `datasets` takes a second to import, and the digits need none of it: imported where used.

TRAIN_NAMES: Final = ("train", "training")
TEST_NAMES: Final = ("test", "validation", "valid", "val", "dev")
UNLABELLED_NAMES: Final = ("unlabeled", "unlabelled", "unsupervised")
# `datasets` keeps the name "all" to itself.
ONLY_NAME: Final = "images"


class Tables(NamedTuple):
    """The tables of a data set as `datasets` gives them; images stay encoded.

    Attributes:
        source: name of the data set, for error messages.
        splits: tables by split name, such as ``train`` and ``test``.
        image_column: the column of images, each ``{"bytes", "path"}``.
        label_column: the column of class numbers.
        class_names: name of each class.
    """

    source: str
    splits: Mapping[str, Dataset]
    image_column: str
    label_column: str
    class_names: tuple[str, ...]

    def labels(self, split: str) -> np.ndarray:
        """Return the labels of a split, int64 ``[N]``; -1 where there is none."""
        # As Arrow, since a null among numbers would come out as NaN.
        column = self.splits[split].select_columns([self.label_column]).with_format("arrow")
        return column[:][self.label_column].fill_null(-1).to_numpy().astype(np.int64)

    def train_name(self) -> str:
        """Return the split to train on."""
        names = [name for name in TRAIN_NAMES if name in self.splits]
        if names:
            return names[0]
        if len(self.splits) == 1:
            return next(iter(self.splits))
        raise DataError(
            self.source,
            expected="a split named 'train'",
            got=", ".join(map(repr, self.splits)),
            remedy="rename the split to train on",
        )

    def test_name(self) -> str | None:
        """Return the first split to test on that has labels, or None if there is no other split."""
        names = [name for name in TEST_NAMES if name in self.splits and name != self.train_name()]
        # Public test splits of competitions often carry -1 for every label.
        labelled = [name for name in names if (self.labels(name) >= 0).all()]
        if names and not labelled:
            raise DataError(
                self.source,
                expected="a test or validation split with a label for every image",
                got=f"missing or negative labels in {', '.join(map(repr, names))}",
                remedy="add the labels, or remove these splits to have one cut from train",
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


def tables_of(source: str, loaded: Mapping[str, Dataset]) -> Tables:
    """The tables with the columns that hold images and labels.

    Raises:
        DataError: there is no such column.
    """
    from datasets import ClassLabel

    table = next(iter(loaded.values()))
    image = image_column(source, table)
    labels = {
        name: feature for name, feature in table.features.items() if isinstance(feature, ClassLabel)
    }
    if not labels:
        raise _no_column(source, table, "a label column (ClassLabel)")
    label = max(labels, key=lambda name: labels[name].num_classes)
    splits = {name: encoded(table, image) for name, table in loaded.items()}
    return Tables(source, splits, image, label, tuple(labels[label].names))


def image_column(source: str, table: Dataset) -> str:
    """The first column that holds images.

    Raises:
        DataError: there is none.
    """
    from datasets import Image

    for name, feature in table.features.items():
        if isinstance(feature, Image):
            return str(name)
    raise _no_column(source, table, "an image column (Image)")


def encoded(table: Dataset, column: str) -> Dataset:
    """The table with its images as they are stored: plain Python objects, nothing decoded."""
    from datasets import Image

    return table.with_format(None).cast_column(column, Image(decode=False))


def _no_column(source: str, table: Dataset, wanted: str) -> DataError:
    features = table.features.items()
    return DataError(
        source,
        expected=wanted,
        got="the columns "
        + ", ".join(f"{name} ({type(kind).__name__})" for name, kind in features),
        remedy="cast it with datasets.Dataset.cast_column, and save files again with to_parquet",
    )
