"""Tables of encoded images with labels and class names: from Parquet files, from the hub."""

from __future__ import annotations

import contextlib
import glob
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Final, NamedTuple

import numpy as np

from svdistill.errors import DataError

if TYPE_CHECKING:
    from datasets import Dataset, Features

# `datasets` takes a second to import, and the digits need none of it: imported where used.

TRAIN_NAMES: Final = ("train", "training")
TEST_NAMES: Final = ("test", "validation", "valid", "val", "dev")
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
        column = self.splits[split].data.column(self.label_column)
        return column.fill_null(-1).to_numpy().astype(np.int64)

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


def read_parquet(path: Path) -> Tables:
    """Read ``train-*.parquet`` and ``test-*.parquet`` (or validation) of a folder, or one file."""
    import datasets
    import pyarrow.parquet

    files = sorted(path.glob("*.parquet")) if path.is_dir() else [path]
    by_split: dict[str, list[str]] = {}
    features: Features | None = None
    for file in files:
        try:
            found = datasets.Features.from_arrow_schema(pyarrow.parquet.read_schema(file))
        except (OSError, ValueError, pyarrow.ArrowException) as cause:
            raise DataError(
                str(file),
                expected="a whole Parquet file",
                got=str(cause),
                remedy="check the path, or copy or download the file again",
            ) from cause
        features = features or found
        if found != features:
            # `datasets` would number the classes of all files like those of the first.
            raise DataError(
                str(file),
                expected=f"the columns and class names of {files[0].name}",
                got="others",
                remedy="save all splits with the same features",
            )
        by_split.setdefault(_split_name(file.name), []).append(glob.escape(str(file)))
    if not files:
        raise DataError(
            str(path),
            expected="a folder with train-*.parquet and test-*.parquet",
            got="a folder without Parquet files",
            remedy="check the path",
        )
    with _quiet():
        try:
            # `load_dataset("parquet", ...)` would tell the hub's download counter of every call.
            loaded = datasets.DatasetDict.from_parquet(by_split)
        except (datasets.exceptions.DatasetsError, OSError, ValueError) as cause:
            raise DataError(
                str(path),
                expected="Parquet files that hold one table of images",
                got=_deepest(cause),
                remedy="check that all files have the same columns, and copy damaged ones again",
            ) from cause
    return _tables(str(path), loaded)


def read_hub(name: str) -> Tables:
    """Download a data set from the Hugging Face hub, or take it from the local cache."""
    import datasets

    try:
        loaded = datasets.load_dataset(name)
    except (datasets.exceptions.DatasetsError, OSError, ValueError, RuntimeError) as cause:
        raise DataError(
            f"hub:{name}",
            expected="a data set on the Hugging Face hub that needs no code of its own",
            got=_deepest(cause),
            remedy="check the name and the connection, or download it and use parquet:PATH",
        ) from cause
    return _tables(f"hub:{name}", loaded)


def _split_name(file_name: str) -> str:
    """Return ``train`` for ``train-00000-of-00002.parquet``, `ONLY_NAME` where none is named."""
    for name in TRAIN_NAMES + TEST_NAMES:
        if file_name.startswith((f"{name}-", f"{name}.", f"{name}_")):
            return name
    return ONLY_NAME


def _tables(source: str, loaded: Mapping[str, Dataset]) -> Tables:
    from datasets import ClassLabel, Image

    features: Features = next(iter(loaded.values())).features
    images = [name for name, feature in features.items() if isinstance(feature, Image)]
    labels = {
        name: feature for name, feature in features.items() if isinstance(feature, ClassLabel)
    }
    if not images or not labels:
        columns = ", ".join(f"{name} ({type(kind).__name__})" for name, kind in features.items())
        wanted = "an image column (Image)" if not images else "a label column (ClassLabel)"
        raise DataError(
            source,
            expected=wanted,
            got=f"the columns {columns}",
            remedy="cast it with datasets.Dataset.cast_column and save again with to_parquet",
        )
    label = max(labels, key=lambda name: labels[name].num_classes)
    encoded = {
        name: table.cast_column(images[0], Image(decode=False)) for name, table in loaded.items()
    }
    return Tables(source, encoded, images[0], label, tuple(labels[label].names))


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keep the progress bars of local reading off the terminal."""
    import datasets

    shown = datasets.is_progress_bar_enabled()
    datasets.disable_progress_bars()
    try:
        yield
    finally:
        if shown:
            datasets.enable_progress_bars()


def _deepest(error: BaseException) -> str:
    """Return the message of the error that started it all; `datasets` wraps it several times."""
    while error.__cause__ is not None:
        error = error.__cause__
    return str(error)
