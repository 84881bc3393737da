"""Files that are either whole or not there: write beside the target, then rename."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

from svdistill.errors import RunError

# No text that a run writes comes near this; what is larger is not read into memory.
MOST_TEXT: Final = 1 << 26


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


def read_text(path: Path, most: int = MOST_TEXT) -> str:
    """The text of a file of at most so many bytes.

    Raises:
        OSError: it is missing, or cannot be read.
        ValueError: it is larger, or no UTF-8.
    """
    with path.open("rb") as file:
        content = file.read(most + 1)
    if len(content) > most:
        raise ValueError(f"more than {most:,} bytes")
    return content.decode("utf-8")


def read_json(path: Path) -> Any:
    """Read JSON; a missing or damaged file is a `RunError`, and so is an absurdly large one."""
    try:
        return json.loads(read_text(path))
    except (OSError, ValueError, RecursionError) as error:
        raise RunError(
            str(path),
            expected="a readable JSON file",
            got=f"{type(error).__name__}: {error}",
            remedy="check the path; remove the run and start it again if the file is damaged",
        ) from error
