"""Tables of images and labels, from Parquet files or the Hugging Face hub."""

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


# `datasets` takes a second to import, and not all data sets need it: functions import it.

# Name of the only split of a data set without splits. `datasets` reserves the name "all".
ONLY_NAME: Final = "images"


class Tables(NamedTuple):
    """The tables of a data set, one per split, as `datasets` objects with encoded images.

    Attributes:
        source: name of the data set, for error messages.
        splits: the table of each split, by the split's name, such as ``train``.
        image_column: name of the column of images, each a dictionary ``{"bytes", "path"}``.
        label_column: name of the column of labels.
        class_names: name of each class, by its number.
        values: the value in `label_column` for each class; None if these are the class numbers.
    """

    source: str
    splits: Mapping[str, Dataset]
    image_column: str
    label_column: str
    class_names: tuple[str, ...]
    values: tuple[Any, ...] | None = None

    def labels(self, split: str) -> np.ndarray:
        """Return the class numbers of a split's images, int64 ``[N]``; -1 for a missing label."""
        # Read as Arrow: as a NumPy array, missing labels among numbers would become NaN.
        column = self.splits[split].select_columns([self.label_column]).with_format("arrow")
        labels = column[:][self.label_column]
        if self.values is not None:
            import pyarrow
            import pyarrow.compute

            known = pyarrow.array(self.values, type=labels.type)
            labels = pyarrow.compute.index_in(labels, value_set=known)
        return labels.fill_null(-1).to_numpy().astype(np.int64)

    def chosen(self, choices: DataChoices) -> tuple[str, str | None]:
        """Return the splits to train and to test on; for None see `FoundSplits.test`."""
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
        """Whether all images have labels; test splits of competitions often have only -1."""
        return bool((self.labels(split) >= 0).all())


def split_tables(argument: str, loaded: object) -> Mapping[str, Dataset]:
    """Return the tables of a `DatasetDict` by split, or a `Dataset` as the only split."""
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
    """Find the image and the label column of loaded tables, and return both as `Tables`."""
    table = next(iter(loaded.values()))
    image = find_image_column(source, table, choices.image_column)
    label = find_label_column(source, table, choices.label_column)
    splits = {name: undecoded(table, image) for name, table in loaded.items()}
    values = class_values(source, loaded.values(), label)
    if values is None:
        return Tables(source, splits, image, label, tuple(table.features[label].names))
    return Tables(source, splits, image, label, tuple(map(str, values)), tuple(values))


def undecoded(table: Dataset, column: str) -> Dataset:
    """Return the table such that its rows are plain Python objects with encoded images."""
    from datasets import Image

    return table.with_format(None).cast_column(column, Image(decode=False))


# Error numbers of a failure to write the cache. Reading a damaged file gives none of them.
UNWRITABLE: Final = (
    *(errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOSPC, errno.EDQUOT),
    *(errno.ENOTDIR, errno.EEXIST, errno.ENOENT),
)


def read_parquet(path: Path, choices: DataChoices = AUTOMATIC) -> Tables:
    """Read a folder of ``train-*.parquet`` and ``test-*.parquet`` (or validation), or one file."""
    return tables_of(str(path), load_parquet(path, choices), choices)


def read_hub(name: str, choices: DataChoices = AUTOMATIC) -> Tables:
    """Read a data set of the Hugging Face hub: see `load_hub`."""
    return tables_of(f"hub:{name}", load_hub(name), choices)


def load_parquet(path: Path, choices: DataChoices = AUTOMATIC) -> Mapping[str, Dataset]:
    """Load a Parquet file, or those of a folder, as one table for each split, by its name."""
    import datasets

    files = _parquet_files(path) if path.is_dir() else [path]
    _require_alike(files)
    by_split = _by_split(path, files, choices) if path.is_dir() else {ONLY_NAME: files}
    # Neutral split names, since `datasets` refuses "all" and names with a hyphen.
    named = {
        f"split{number}": [glob.escape(str(file)) for file in some]
        for number, some in enumerate(by_split.values())
    }
    with _quiet():
        try:
            # `load_dataset("parquet", ...)` would report every call to the hub's download counter.
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
    """Return a folder's Parquet files (suffix in any case); warns of files that are left out."""
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
    """Raise `DataError` for a damaged file, or if columns or class names differ among files."""
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
        # `datasets` trusts the metadata of a file: if that is wrong, it may raise any exception.
        except Exception as cause:
            raise _no_parquet(file, str(cause)) from cause
        features = features or found
        if found != features:
            # Otherwise `datasets` would apply the first file's class numbers to all files.
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
    """Group files by the split that their names contain; one group if none contains any."""
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
    """Raise `DataError` if two of the files are links to the same file."""
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
    """Return the split that a file name contains, else the name without numbers at its end.

    For example ``train`` for ``My_Train-00000-of-00002``.
    """
    if split_role(stem) is not None:
        return split_words(stem)[0]
    return re.sub(r"([-_.]?\d+)(-of-\d+)?$", "", stem) or stem


def _require_cache(error: BaseException, source: Path | None = None) -> None:
    """Raise `MachineError` if an error is that `datasets` could not write its cache.

    Errors about files in the folder `source` itself are not about the cache.
    """
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
    """Disable the progress bars of `datasets` within the block."""
    import datasets

    shown = datasets.is_progress_bar_enabled()
    datasets.disable_progress_bars()
    try:
        yield
    finally:
        if shown:
            datasets.enable_progress_bars()


def _original(error: BaseException) -> BaseException:
    """Return the original error, which `datasets` wraps in several others."""
    while error.__cause__ is not None:
        error = error.__cause__
    return error
