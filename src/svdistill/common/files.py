"""Atomic writing of files, and reading that refuses devices and huge files."""

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

# Bytes of the largest text file that is read into memory.
MOST_TEXT: Final = 1 << 26

# Messages of torch's archive writer when a write fails.
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
    """Write a temporary file beside the path, flush it to disk, and rename it.

    The file's permissions follow the umask; safetensors would make the file private.

    Args:
        path: the target.
        write: called with the temporary path.
        keep: where to move the previous file once the new one is complete; None replaces it.

    Raises:
        RunError: the folder cannot be written; the previous file is unchanged.

    Example:
        >>> import tempfile
        >>> path = Path(tempfile.mkdtemp()) / "note.txt"
        >>> write_atomically(path, lambda temporary: temporary.write_text("whole"))
        >>> path.read_text()
        'whole'
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        if not path.is_symlink():  # a link is replaced, not its target
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
    """Raise `OSError` if a path is a pipe, a socket or a device.

    Opening one could block, and a rename would replace it.

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
    """Return why a file could not be written, or None if the error is of another kind.

    Covers the errors of torch and safetensors.

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
        cause = error.__cause__ or error.__context__
        reason = None if cause is None else write_failure(cause)
        return reason or "a file that was cut short while it was written"
    os_error = OS_ERROR.search(text)  # of safetensors, which is written in Rust
    return os_error[1] if os_error else None


def is_temporary(path: Path) -> bool:
    """Whether a file is one that a process is writing, or left when it was killed."""
    return path.name.startswith(".") and path.suffix == ".tmp"


def sweep(folder: Path) -> None:
    """Remove temporary files of killed processes. Hold the folder's lock for this."""
    for path in folder.iterdir():
        if is_temporary(path):
            path.unlink(missing_ok=True)


def _flush_folder(folder: Path) -> None:
    """Flush a folder to disk, if the system supports it, so that a rename survives a power cut."""
    with contextlib.suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def make_directory(path: Path) -> None:
    """Create a directory for output, and its parents; an existing one is unchanged.

    Raises:
        RunError: it cannot be created.
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
    """Read a text file of at most `most` bytes.

    Raises:
        OSError: it is missing, not a regular file, or cannot be read.
        ValueError: it is larger, or not UTF-8.
    """
    require_no_device(path)
    with path.open("rb") as file:
        content = file.read(most + 1)
    if len(content) > most:
        raise ValueError(f"more than {most:,} bytes")
    return content.decode("utf-8")


def read_json(path: Path) -> Any:
    """Read JSON; raise `RunError` if the file is missing, damaged or huge."""
    try:
        return json.loads(read_text(path))
    except (OSError, ValueError, RecursionError) as error:
        raise RunError(
            str(path),
            expected="a readable JSON file",
            got=f"{type(error).__name__}: {error}",
            remedy="check the path; remove the run and start it again if the file is damaged",
        ) from error
