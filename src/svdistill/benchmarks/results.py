"""Results as JSON files: a frozen dataclass in, the same out."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any, TypeVar

from svdistill.errors import RunError
from svdistill.files import write_json
from svdistill.plain_values import read_plain

Result = TypeVar("Result")


def make_folder(path: Path) -> None:
    """Make the folder of a result, before the time is spent that the result takes.

    Raises:
        RunError: it cannot be made, or the path is a folder itself.
    """
    problem = "a folder" if path.is_dir() else ""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        problem = error.strerror or type(error).__name__
    if problem:
        raise RunError(
            str(path),
            expected="a file in a folder that is there or can be made",
            got=problem,
            remedy="choose another --output",
        )


def write_result(path: Path, result: Any) -> None:
    """Write a result, atomically.

    Raises:
        RunError: the file cannot be written.
    """
    write_json(path, dataclasses.asdict(result))


def read_result(path: Path, kind: type[Result]) -> Result:
    """Read a result of this kind.

    Raises:
        RunError: the file is missing, damaged, or holds something else.
    """
    return read_plain(
        path,
        kind,
        expected=f"a {kind.__name__}",
        remedy="measure it again with `svdistill bench`",
    )
