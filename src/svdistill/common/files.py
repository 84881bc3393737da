"""Files that are either whole or not there: write beside the target, then rename."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import re
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

from svdistill.common.errors import RunError

# No text that a run writes comes near this; what is larger is not read into memory.
MOST_TEXT: Final = 1 << 26

# What torch's archive writer says of a file that it could not write.
TORCH_WRITER: Final = ("PytorchStreamWriter failed", "inline_container.cc", "iostream error")

SPECIAL: Final = {
    stat.S_ISFIFO: "a pipe",
    stat.S_ISSOCK: "a socket",
    stat.S_ISCHR: "a device",
    stat.S_ISBLK: "a device",
}

OS_ERROR: Final = re.compile(r"I/O error: (.+?) \(os error \d+\)")


def write_atomically(
    path: Path, write: Callable[[Path], object], *, keep: Path | None = None
) -> None:
    """Let `write` fill a temporary file beside the path, flush it to disk, and rename it.

    The file's permissions follow the umask, whoever writes it: safetensors makes its files readable
    by their owner alone.

    Args:
        path: the file to be.
        write: called with the temporary path.
        keep: where to move what the path held before, when the new file is whole; None drops it.

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
        if not path.is_symlink():  # a link is replaced, not what it leads to
            require_no_device(path)
        temporary.touch()
        mode = temporary.stat().st_mode
        write(temporary)
        if temporary.stat().st_mode != mode:
            temporary.chmod(stat.S_IMODE(mode))
        with temporary.open("rb+") as file:
            os.fsync(file.fileno())
        if keep is not None and path.exists():
            path.replace(keep)
        temporary.replace(path)
        _flush_folder(path.parent)
    except BaseException as error:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
        reason = write_failure(error)
        if reason is None:
            raise
        raise RunError(
            str(path),
            expected="a file that can be written",
            got=reason,
            remedy="check the folder's permissions and the space on its disk",
        ) from error


def require_no_device(path: Path) -> None:
    """Raise `OSError` where a path is a pipe, a socket or a device.

    Opening one would wait for its other end, and a rename would replace it.

    Example:
        >>> require_no_device(Path(os.devnull))
        Traceback (most recent call last):
        OSError: [Errno 22] a device, no regular file: '/dev/null'
    """
    with contextlib.suppress(FileNotFoundError, NotADirectoryError):
        mode = path.stat().st_mode
        for of_kind, name in SPECIAL.items():
            if of_kind(mode):
                raise OSError(errno.EINVAL, f"{name}, no regular file", str(path))


def write_failure(error: BaseException) -> str | None:
    """Why a file could not be written, if that is what an error says; torch's and others' too.

    Example:
        >>> write_failure(OSError(28, "No space left on device"))
        'No space left on device'
        >>> write_failure(ValueError("x")) is None
        True
    """
    if isinstance(error, OSError):
        return error.strerror or type(error).__name__
    text = " ".join(str(error).split())
    if isinstance(error, RuntimeError) and any(mark in text for mark in TORCH_WRITER):
        # Its archive's writer stumbles over a file cut short; what cut it is behind.
        behind = error.__cause__ or error.__context__
        reason = None if behind is None else write_failure(behind)
        return reason or "a file that was cut short while it was written"
    if os_error := OS_ERROR.search(text):  # safetensors, which is written in Rust
        return os_error[1]
    return None


def is_temporary(path: Path) -> bool:
    """Whether a file is what a process was writing, or has left when it was killed."""
    return path.name.startswith(".") and path.suffix == ".tmp"


def sweep(folder: Path) -> None:
    """Remove what killed processes were writing there; only for who holds the folder's lock."""
    for path in folder.iterdir():
        if is_temporary(path):
            path.unlink(missing_ok=True)


def _flush_folder(folder: Path) -> None:
    """Let a new name outlive a power cut, where the system can do that."""
    with contextlib.suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


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
        OSError: it is missing, no regular file, or cannot be read.
        ValueError: it is larger, or no UTF-8.
    """
    require_no_device(path)
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
