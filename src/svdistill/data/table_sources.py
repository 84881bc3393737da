"""Load tables of images: from Parquet files, from the hub."""

from __future__ import annotations

import contextlib
import glob
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from svdistill.data.tables import ONLY_NAME, TEST_NAMES, TRAIN_NAMES, Tables, tables_of
from svdistill.errors import DataError

if TYPE_CHECKING:
    from datasets import Dataset, Features

# `datasets` takes a second to import, and the digits need none of it: imported where used.


def read_parquet(path: Path) -> Tables:
    """Read ``train-*.parquet`` and ``test-*.parquet`` (or validation) of a folder, or one file."""
    return tables_of(str(path), load_parquet(path))


def read_hub(name: str) -> Tables:
    """Download a data set from the Hugging Face hub, or take it from the local cache."""
    return tables_of(f"hub:{name}", load_hub(name))


def load_parquet(path: Path) -> Mapping[str, Dataset]:
    """Load Parquet files by the names of their splits."""
    import datasets
    import pyarrow.parquet

    files = sorted(path.glob("*.parquet")) if path.is_dir() else [path]
    by_split: dict[str, list[str]] = {}
    features: Features | None = None
    for file in files:
        try:
            found = datasets.Features.from_arrow_schema(pyarrow.parquet.read_schema(file))
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
    return loaded


def load_hub(name: str) -> Mapping[str, Dataset]:
    """Download a data set from the Hugging Face hub, or take it from the local cache."""
    import datasets

    try:
        return datasets.load_dataset(name)
    except (datasets.exceptions.DatasetsError, OSError, ValueError, RuntimeError) as cause:
        raise DataError(
            f"hub:{name}",
            expected="a data set on the Hugging Face hub that needs no code of its own",
            got=_deepest(cause),
            remedy="check the name and the connection, or download it and use parquet:PATH",
        ) from cause


def _split_name(file_name: str) -> str:
    """Return ``train`` for ``train-00000-of-00002.parquet``, `ONLY_NAME` where none is named."""
    for name in TRAIN_NAMES + TEST_NAMES:
        if file_name.startswith((f"{name}-", f"{name}.", f"{name}_")):
            return name
    return ONLY_NAME


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
