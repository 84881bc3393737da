"""Rows of images and labels, from Parquet files or the hub."""

from __future__ import annotations

import contextlib
import errno
import glob
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import numpy as np

from svdistill.common import ArgumentError, DataError, MachineError
from svdistill.data.columns import class_values, image_column, label_column
from svdistill.data.notes import LeftOut, listed, note
from svdistill.data.split_names import (
    ANY,
    CUT,
    HERE,
    ROLES,
    Wanted,
    preferred,
    split_role,
    split_words,
    wanted_split,
)

if TYPE_CHECKING:
    from datasets import Dataset, Features


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


# `datasets` takes a second to import, and the digits need none of it: imported where used.

# What writing a cache fails with; an error of reading a damaged file has no such number.
UNWRITABLE: Final = (
    *(errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOSPC, errno.EDQUOT),
    *(errno.ENOTDIR, errno.EEXIST, errno.ENOENT),
)


def read_parquet(path: Path, wanted: Wanted = ANY) -> Tables:
    """Read ``train-*.parquet`` and ``test-*.parquet`` (or validation) of a folder, or one file."""
    return tables_of(str(path), load_parquet(path, wanted), wanted)


def read_hub(name: str, wanted: Wanted = ANY) -> Tables:
    """Download a data set from the Hugging Face hub, or take it from the local cache."""
    return tables_of(f"hub:{name}", load_hub(name), wanted)


def load_parquet(path: Path, wanted: Wanted = ANY) -> Mapping[str, Dataset]:
    """Load Parquet files by the names of their splits."""
    import datasets

    files = _parquet_files(path) if path.is_dir() else [path]
    _require_alike(files)
    by_split = _by_split(path, files, wanted) if path.is_dir() else {ONLY_NAME: files}
    # Under names of its own, since `datasets` refuses names with a hyphen, and "all".
    named = {
        f"split{number}": [glob.escape(str(file)) for file in some]
        for number, some in enumerate(by_split.values())
    }
    with _quiet():
        try:
            # `load_dataset("parquet", ...)` would tell the hub's download counter of every call.
            loaded = datasets.DatasetDict.from_parquet(named)
        except (datasets.exceptions.DatasetsError, OSError, ValueError) as cause:
            _require_cache(cause, path)
            raise DataError(
                str(path),
                expected="Parquet files that hold one table of images",
                got=_deepest(cause),
                remedy="check that all files have the same columns, and copy damaged ones again",
            ) from cause
    return {name: loaded[inside] for name, inside in zip(by_split, named, strict=True)}


def load_hub(name: str) -> Mapping[str, Dataset]:
    """Download a data set from the Hugging Face hub, or take it from the local cache."""
    import datasets

    try:
        return datasets.load_dataset(name)
    except (datasets.exceptions.DatasetsError, OSError, ValueError, RuntimeError) as cause:
        _require_cache(cause)
        raise DataError(
            f"hub:{name}",
            expected="a data set on the Hugging Face hub that needs no code of its own",
            got=_deepest(cause),
            remedy="check the name and the connection, or download it and use parquet:PATH",
        ) from cause


def _parquet_files(path: Path) -> list[Path]:
    """The Parquet files of a folder, with a suffix of any case; says what is not read."""
    left_out = LeftOut(path)
    files = []
    for file in sorted(path.rglob("*")):
        if file.is_dir() or ".parquet" not in file.name.lower():
            continue
        if file.parent == path and file.suffix.lower() == ".parquet" and file.name[0] != ".":
            files.append(file)
        else:
            kind = "hidden file(s)" if file.name[0] == "." else "file(s) in folders, or compressed"
            left_out.add(kind, file)
    left_out.tell()
    if not files:
        raise DataError(
            str(path),
            expected="a folder with train-*.parquet and test-*.parquet",
            got="a folder without Parquet files",
            remedy="check the path; files in folders below it are not read",
        )
    return files


def _require_alike(files: Sequence[Path]) -> None:
    """Raise `DataError` for files that are damaged, or of other columns or class names."""
    import datasets
    import pyarrow.parquet

    features: Features | None = None
    for file in files:
        try:
            found = datasets.Features.from_arrow_schema(pyarrow.parquet.read_schema(file))
        except PermissionError as cause:
            raise DataError(
                str(file),
                expected="a file that can be read",
                got=str(cause.strerror),
                remedy="change its permissions",
            ) from cause
        # `datasets` builds whatever the file's metadata says, and raises what it stumbles over.
        except Exception as cause:
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


def _by_split(path: Path, files: Sequence[Path], wanted: Wanted) -> dict[str, list[Path]]:
    """The files of each split; of one split where no name tells one."""
    by_split: dict[str, list[Path]] = {}
    guessed = False
    for file in files:
        name = _split_name(file.stem)
        guessed |= name in ROLES and re.match(rf"{name}([-_.]|$)", file.stem) is None
        by_split.setdefault(name, []).append(file)
    if guessed:
        told = (f"{name!r} in {listed(f.name for f in some)}" for name, some in by_split.items())
        note(f"{path}: splits by the names of their files: {'; '.join(told)}")
    chosen = wanted.train_split or wanted.test_split
    if chosen or any(split_role(name) for name in by_split):
        return by_split
    if len(by_split) > 1:
        note(
            f"{path}: no file is named like a split, all of {listed(by_split)} are taken as one; "
            "--train_split and --test_split choose"
        )
    return {ONLY_NAME: list(files)}


def _split_name(stem: str) -> str:
    """``train`` for ``My_Train-00000-of-00002``; without a split's name, all but such numbers."""
    if split_role(stem) is not None:
        return split_words(stem)[0]
    return re.sub(r"([-_.]?\d+)(-of-\d+)?$", "", stem) or stem


def _require_cache(error: BaseException, source: Path | None = None) -> None:
    """Raise `MachineError` where `datasets` could not write what it had read from the source."""
    import datasets

    while error.__cause__ is not None:
        error = error.__cause__
    if not isinstance(error, OSError):
        return
    about = Path(str(error.filename)).absolute() if error.filename else None
    if source is not None and about is not None and about.is_relative_to(source.absolute()):
        return
    if error.errno in UNWRITABLE or "disk space" in str(error).lower():
        raise MachineError(
            str(error.filename or datasets.config.HF_DATASETS_CACHE),
            expected="a cache directory of datasets that can be written, with space left",
            got=error.strerror or str(error),
            remedy="make space or change its permissions, or set HF_DATASETS_CACHE or HF_HOME to "
            "another directory",
        ) from error


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
