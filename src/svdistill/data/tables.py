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

from svdistill.common import ArgumentError, DataError, MachineError, listed, warn_of_data
from svdistill.data.columns import class_values, find_image_column, find_label_column
from svdistill.data.image_files import SkippedFiles
from svdistill.data.split_names import (
    AUTOMATIC,
    ROLES,
    WHOLE_FOLDER,
    DataChoices,
    FoundSplits,
    split_role,
    split_words,
)

if TYPE_CHECKING:
    from datasets import Dataset, Features


# `datasets` takes a second to import, and the digits do not need it: imported where used.

# `datasets` reserves the name "all".
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

    def chosen(self, choices: DataChoices) -> tuple[str, str | None]:
        """The splits to train and to test on; see `FoundSplits`."""
        if choices.train_split == WHOLE_FOLDER and ONLY_NAME in self.splits:
            choices = choices._replace(train_split=None)
        found = FoundSplits(self.source, tuple(self.splits))
        only = next(iter(self.splits))
        train = found.train(choices)
        if train is None and (len(self.splits) > 1 or split_role(only) is not None):
            raise DataError(
                self.source,
                expected="a split named 'train'",
                got=", ".join(map(repr, self.splits)),
                remedy="give --train_split with the name of the split to train on",
            )
        train = train or only
        return train, found.test(train, choices, self._is_labelled)

    def _is_labelled(self, split: str) -> bool:
        """Whether all images have labels: test splits of competitions often have -1 for each."""
        return bool((self.labels(split) >= 0).all())


def split_tables(argument: str, loaded: object) -> Mapping[str, Dataset]:
    """The tables of a `DatasetDict` by split, or a `Dataset` as the only split."""
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


def tables_of(
    source: str, loaded: Mapping[str, Dataset], choices: DataChoices = AUTOMATIC
) -> Tables:
    """The tables with the columns that hold images and labels."""
    table = next(iter(loaded.values()))
    image = find_image_column(source, table, choices.image_column)
    label = find_label_column(source, table, choices.label_column)
    splits = {name: undecoded(table, image) for name, table in loaded.items()}
    values = class_values(source, loaded.values(), label)
    if values is None:
        return Tables(source, splits, image, label, tuple(table.features[label].names))
    return Tables(source, splits, image, label, tuple(map(str, values)), tuple(values))


def undecoded(table: Dataset, column: str) -> Dataset:
    """The table with its images encoded, as plain Python objects."""
    from datasets import Image

    return table.with_format(None).cast_column(column, Image(decode=False))


# Errors of writing a cache; an error of reading a damaged file has no such number.
UNWRITABLE: Final = (
    *(errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOSPC, errno.EDQUOT),
    *(errno.ENOTDIR, errno.EEXIST, errno.ENOENT),
)


def read_parquet(path: Path, choices: DataChoices = AUTOMATIC) -> Tables:
    """Read ``train-*.parquet`` and ``test-*.parquet`` (or validation) of a folder, or one file."""
    return tables_of(str(path), load_parquet(path, choices), choices)


def read_hub(name: str, choices: DataChoices = AUTOMATIC) -> Tables:
    """Read a data set of the Hugging Face hub: see `load_hub`."""
    return tables_of(f"hub:{name}", load_hub(name), choices)


def load_parquet(path: Path, choices: DataChoices = AUTOMATIC) -> Mapping[str, Dataset]:
    """Load Parquet files by the names of their splits."""
    import datasets

    files = _parquet_files(path) if path.is_dir() else [path]
    _require_alike(files)
    by_split = _by_split(path, files, choices) if path.is_dir() else {ONLY_NAME: files}
    # `datasets` refuses split names with a hyphen, and "all".
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
                got=str(_original(cause)),
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
            got=str(_original(cause)),
            remedy="check the name and the connection, or download it and use parquet:PATH",
        ) from cause


def _parquet_files(path: Path) -> list[Path]:
    """The Parquet files of a folder, in any case of the suffix; warns of other files."""
    skipped = SkippedFiles(path)
    files = []
    for file in sorted(path.rglob("*")):
        if ".parquet" not in file.name.lower() or file.is_dir():
            if file.parent == path and file.is_file() and split_role(file.stem):
                skipped.add("file(s) named like splits", file)
            continue
        if file.parent == path and file.suffix.lower() == ".parquet" and file.name[0] != ".":
            files.append(file)
        else:
            kind = "hidden file(s)" if file.name[0] == "." else "file(s) in folders, or compressed"
            skipped.add(kind, file)
    skipped.warn()
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
        if file.exists() and not file.is_file():  # opening a pipe waits for its writer
            raise _no_parquet(file, "a folder" if file.is_dir() else "a pipe or a device")
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
            raise _no_parquet(file, str(cause)) from cause
        features = features or found
        if found != features:
            # `datasets` would number the classes of all files like those of the first.
            raise DataError(
                str(file),
                expected=f"the columns and class names of {files[0].name}",
                got="others",
                remedy="save all splits with the same features",
            )


def _no_parquet(file: Path, got: str) -> DataError:
    return DataError(
        str(file),
        expected="a whole Parquet file",
        got=got,
        remedy="check the path, or copy or download the file again",
    )


def _by_split(path: Path, files: Sequence[Path], choices: DataChoices) -> dict[str, list[Path]]:
    """The files of each split; all files as one split if no name contains one."""
    by_split: dict[str, list[Path]] = {}
    guessed = False
    for file in files:
        name = _split_name(file.stem)
        guessed |= name in ROLES and re.match(rf"{name}([-_.]|$)", file.stem) is None
        by_split.setdefault(name, []).append(file)
    _require_distinct(path, by_split)
    if guessed:
        told = (f"{name!r} in {listed(f.name for f in some)}" for name, some in by_split.items())
        warn_of_data(f"{path}: splits by the names of their files: {'; '.join(told)}")
    chosen = choices.train_split or choices.test_split
    if chosen or any(split_role(name) for name in by_split):
        return by_split
    if len(by_split) > 1:
        warn_of_data(
            f"{path}: no file is named like a split, all of {listed(by_split)} are taken as one; "
            "--train_split and --test_split choose"
        )
    return {ONLY_NAME: list(files)}


def _require_distinct(path: Path, by_split: Mapping[str, Sequence[Path]]) -> None:
    """Raise `DataError` if a file is read twice, through a link."""
    first: dict[tuple[int, int], Path] = {}
    for file in (file for files in by_split.values() for file in files):
        status = file.stat()
        other = first.setdefault((status.st_dev, status.st_ino), file)
        if other is not file:
            raise DataError(
                str(path),
                expected="different files",
                got=f"{file.name} and {other.name}, which are links to one file",
                remedy="remove one of them; --test_split cut cuts a test split from the training "
                "images",
            )


def _split_name(stem: str) -> str:
    """``train`` for ``My_Train-00000-of-00002``; without a split, the name without numbers."""
    if split_role(stem) is not None:
        return split_words(stem)[0]
    return re.sub(r"([-_.]?\d+)(-of-\d+)?$", "", stem) or stem


def _require_cache(error: BaseException, source: Path | None = None) -> None:
    """Raise `MachineError` if `datasets` could not write its cache of the source."""
    import datasets

    error = _original(error)
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
    """Disable the progress bars of local reading."""
    import datasets

    shown = datasets.is_progress_bar_enabled()
    datasets.disable_progress_bars()
    try:
        yield
    finally:
        if shown:
            datasets.enable_progress_bars()


def _original(error: BaseException) -> BaseException:
    """The original error, which `datasets` wraps several times."""
    while error.__cause__ is not None:
        error = error.__cause__
    return error
