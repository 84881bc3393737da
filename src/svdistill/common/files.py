"""Atomic writing of files, reading that refuses devices and huge files, and locks on folders."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import re
import socket
import stat
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

from filelock import FileLock, Timeout

from svdistill.common.errors import RunError, in_short

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

LOCK_NAME: Final = ".lock"

# Errors of file systems without locks.
NO_LOCKS: Final = (errno.ENOLCK, errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP)

# Seconds of retries: the last holder may be removing the file.
PATIENCE: Final = 0.1

MOST_NOTE: Final = 4096  # bytes


def write_atomically(
    path: Path, write: Callable[[Path], object], *, keep: Path | None = None
) -> None:
    """Write a temporary file beside the path, flush it to disk, and rename it.

    The file's permissions follow the umask, even if `write` (as safetensors does) changes them.

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


def require_empty(folder: Path) -> None:
    """Raise `RunError` unless a folder is missing or holds at most locks and temporary files."""
    if folder.is_dir() and all(
        path.name == LOCK_NAME or _is_temporary(path) for path in folder.iterdir()
    ):
        return
    if folder.exists():
        raise RunError(
            str(folder),
            expected="a new or empty directory",
            got="something else",
            remedy="choose another --output",
        )


def _is_temporary(path: Path) -> bool:
    return path.name.startswith(".") and path.suffix == ".tmp"


def sweep(folder: Path) -> None:
    """Remove temporary files of killed processes. Hold the folder's lock for this."""
    for path in folder.iterdir():
        if _is_temporary(path):
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


def write_text(path: Path, text: str) -> None:
    """Write a text file in UTF-8, atomically."""
    write_atomically(path, lambda temporary: temporary.write_text(text, encoding="utf-8"))


def write_json(path: Path, value: Any) -> None:
    """Write a value as indented JSON, atomically."""
    write_text(path, json.dumps(value, indent=2) + "\n")


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


@contextmanager
def reading(
    path: Path,
    *,
    expected: str,
    remedy: str,
    errors: tuple[type[Exception], ...] = (OSError, ValueError, RecursionError),
) -> Iterator[None]:
    """Turn the errors of reading a file into a `RunError` that names it."""
    try:
        yield
    except errors as error:
        got = in_short(error)
        raise RunError(str(path), expected=expected, got=got, remedy=remedy) from error


def read_json(path: Path) -> Any:
    """Read JSON; raise `RunError` if the file is missing, damaged or huge."""
    remedy = "check the path; remove the run and start it again if the file is damaged"
    with reading(path, expected="a readable JSON file", remedy=remedy):
        return json.loads(read_text(path))


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Lock a folder exclusively for the block.

    The lock is on the file `.lock`, which names its holder and is removed after the block. On a
    file system without locks the block runs unlocked, after a warning.

    Args:
        folder: an existing folder.

    Raises:
        RunError: another process, or another lock of this process, holds it; or the file cannot
            be created.

    Example:
        >>> import tempfile
        >>> folder = Path(tempfile.mkdtemp())
        >>> with locked(folder):
        ...     sorted(path.name for path in folder.iterdir())
        ['.lock']
        >>> list(folder.iterdir())
        []
    """
    path = folder / LOCK_NAME
    lock = FileLock(path, timeout=PATIENCE, poll_interval=PATIENCE / 10, fallback_to_soft=False)
    try:
        folder.stat()  # filelock would create it
        lock.acquire()
    except Timeout as error:
        raise _held_by(path) from error
    except OSError as error:
        _require_no_locks(path, error)
    try:
        if lock.is_locked:
            with contextlib.suppress(OSError):  # a full disk: the lock works without its note
                since = time.strftime("%Y-%m-%d %H:%M:%S %z")
                note = {"pid": os.getpid(), "host": socket.gethostname(), "since": since}
                path.write_text(json.dumps(note))
        yield
    finally:
        # Removed while held, so that a process waiting for it does not lock the removed file.
        if lock.is_locked:
            with contextlib.suppress(OSError):
                path.unlink(missing_ok=True)
        lock.release()


def require_unlocked(folder: Path) -> None:
    """Raise `RunError` if another process holds the folder's lock; nothing is written."""
    path = folder / LOCK_NAME
    if os.access(path, os.W_OK):
        with locked(folder):
            pass


def _require_no_locks(path: Path, error: OSError) -> None:
    """Warn if the error means that the file system has no locks; else raise `RunError`."""
    reason = error.strerror or type(error).__name__
    if error.errno not in NO_LOCKS:
        raise RunError(
            str(path.parent),
            expected="a directory that can be written",
            got=reason,
            remedy="choose another --output, or change the permissions",
        ) from error
    path.unlink(missing_ok=True)
    warnings.warn(
        f"{path.parent} cannot be locked ({reason}): nothing keeps a second process from writing "
        "there at the same time",
        RuntimeWarning,
        stacklevel=4,
    )


def _held_by(path: Path) -> RunError:
    try:
        with path.open("rb") as file:
            note = json.loads(file.read(MOST_NOTE))
        who = f"process {int(note['pid'])} on {str(note['host'])!r} since {str(note['since'])!r}"
    except (OSError, ValueError, LookupError, TypeError):
        who = "another process"
    return RunError(
        str(path.parent),
        expected="a directory that no other process writes",
        got=f"one that is held by {who}",
        remedy="wait until that has ended, stop it, or choose another --output",
    )
