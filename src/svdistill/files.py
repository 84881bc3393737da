"""Files that are either whole or not there: write beside the target, then rename."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from svdistill.errors import RunError


def write_atomically(path: Path, write: Callable[[Path], object]) -> None:
    """Let `write` fill a temporary file beside the path, flush it to disk, and rename it.

    Args:
        path: the file to be.
        write: called with the temporary path.

    Raises:
        RunError: the folder cannot be written; what was there before is untouched.

    Example:
        >>> import tempfile
        >>> path = Path(tempfile.mkdtemp()) / "note.txt"
        >>> write_atomically(path, lambda temporary: temporary.write_text("whole"))
        >>> path.read_text()
        'whole'
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        write(temporary)
        with temporary.open("rb+") as file:
            os.fsync(file.fileno())
        temporary.replace(path)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise RunError(
            str(path),
            expected="a file that can be written",
            got=error.strerror or type(error).__name__,
            remedy="check the folder's permissions and the space on its disk",
        ) from error
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def make_directory(path: Path) -> None:
    """Make a directory for output, and those above it; one that is there is left alone.

    Raises:
        RunError: it cannot be made.
    """
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise RunError(
            str(path),
            expected="a directory that can be made",
            got=error.strerror or type(error).__name__,
            remedy="choose another --output, or change the permissions",
        ) from error


def write_json(path: Path, value: Any) -> None:
    """Write a value as indented JSON, atomically."""
    text = json.dumps(value, indent=2) + "\n"
    write_atomically(path, lambda temporary: temporary.write_text(text))


def read_json(path: Path) -> Any:
    """Read JSON; a missing or damaged file is a `RunError`."""
    try:
        return json.loads(path.read_text())
    except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise RunError(
            str(path),
            expected="a readable JSON file",
            got=f"{type(error).__name__}: {error}",
            remedy="check the path; remove the run and start it again if the file is damaged",
        ) from error
