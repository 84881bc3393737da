"""One writer at a time: a lock on a folder, which ends with the process that holds it."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import socket
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from svdistill.errors import RunError

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

LOCK_NAME: Final = ".lock"
HELD: Final = (errno.EAGAIN, errno.EACCES)
MOST_NOTE: Final = 4096  # bytes
_held: set[int] = set()  # descriptors


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Hold a folder for the block, which nobody else then can.

    The kernel keeps the lock, on the file `.lock`: it ends with the process, however that ends. The
    file says who holds it, and is removed after the block. A file system without locks is used
    without, after a warning.

    Args:
        folder: which is there.

    Raises:
        RunError: another process, or another thread of this one, holds it; or its file cannot be
            made.

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
    descriptor = _acquire(path)
    if descriptor is None:
        yield
        return
    try:
        yield
    finally:
        # Removed while it is held: whoever opened it meanwhile finds that it has no name any more.
        with contextlib.suppress(OSError):
            path.unlink(missing_ok=True)
        _held.discard(descriptor)
        os.close(descriptor)


def require_unlocked(folder: Path) -> None:
    """Raise `RunError` if somebody holds the folder; nothing is written."""
    path = folder / LOCK_NAME
    if fcntl is None:
        return
    try:
        descriptor = os.open(path, os.O_RDONLY)
    except OSError:
        return
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno in HELD:
            raise _held_by(path) from error
    finally:
        os.close(descriptor)


def _acquire(path: Path) -> int | None:
    """The descriptor that holds the lock; None where the file system knows no locks."""
    if fcntl is None:
        _warn(path, "this system has none")
        return None
    while True:
        try:
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        except OSError as error:
            raise RunError(
                str(path.parent),
                expected="a directory that can be written",
                got=error.strerror or type(error).__name__,
                remedy="choose another --output, or change the permissions",
            ) from error
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            os.close(descriptor)
            if error.errno in HELD:
                raise _held_by(path) from error
            path.unlink(missing_ok=True)
            _warn(path, error.strerror or type(error).__name__)
            return None
        if _is_at(descriptor, path):
            break
        os.close(descriptor)  # its holder has just removed it
    _held.add(descriptor)
    with contextlib.suppress(OSError):  # a full disk: the lock holds without a note
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, json.dumps(_note()).encode(), 0)
    return descriptor


def _is_at(descriptor: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(descriptor), path.stat())
    except OSError:
        return False


def _note() -> dict[str, object]:
    since = time.strftime("%Y-%m-%d %H:%M:%S %z")
    return {"pid": os.getpid(), "host": socket.gethostname(), "since": since}


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


def _warn(path: Path, reason: str) -> None:
    warnings.warn(
        f"{path.parent} cannot be locked ({reason}): nothing keeps a second process from writing "
        "there at the same time",
        RuntimeWarning,
        stacklevel=5,
    )


def _let_go() -> None:
    """A forked process, such as one that decodes images, must not keep its parent's locks."""
    for descriptor in _held:
        with contextlib.suppress(OSError):
            os.close(descriptor)
    _held.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_let_go)
