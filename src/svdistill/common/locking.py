"""An exclusive lock on a folder, which the kernel releases when its process ends."""

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

from filelock import FileLock, Timeout

from svdistill.common.errors import RunError

LOCK_NAME: Final = ".lock"

# Errors of file systems without locks.
NO_LOCKS: Final = (errno.ENOLCK, errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP)

# Seconds of retries: the last holder may be removing the file.
PATIENCE: Final = 0.1

MOST_NOTE: Final = 4096  # bytes


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
