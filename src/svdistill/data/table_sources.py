"""Load tables of images: from Parquet files, from the hub."""

from __future__ import annotations

import contextlib
import errno
import glob
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Final

from svdistill.data.notes import LeftOut, listed, note
from svdistill.data.split_names import ANY, ROLES, Wanted, split_role, split_words
from svdistill.data.tables import ONLY_NAME, Tables, tables_of
from svdistill.errors import DataError, MachineError

if TYPE_CHECKING:
    from datasets import Dataset, Features

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
