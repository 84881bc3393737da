"""What a machine lacks, in a line that says what to do: memory, disk, processes."""

from __future__ import annotations

import errno
import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

import torch

from svdistill.errors import MachineError, SVDistillError
from svdistill.files import write_failure

NO_MEMORY: Final = re.compile(
    "DefaultCPUAllocator: (can't allocate memory|not enough memory)|CUDA out of memory"
    "|CUDA error: out of memory|CU(BLAS|DNN)_STATUS_ALLOC_FAILED"
)
DEAD_WORKER: Final = re.compile(r"DataLoader worker \(pid.*\) (exited unexpectedly|is killed by)")
# What is the disk's fault, and not that of a path or of permissions.
DISK: Final = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EIO)
SHOWN: Final = 200


@contextmanager
def trouble_explained() -> Iterator[None]:
    """Raise what the machine lacks as a `MachineError`; other errors pass.

    Example:
        >>> with trouble_explained():
        ...     raise MemoryError
        Traceback (most recent call last):
        svdistill.errors.MachineError: memory: expected enough of it for a step, got MemoryError; \
go on with --resume when more is free, or with a lower --memory_limit_gb; or begin another run \
with a smaller --batch_size or --precision bf16
    """
    try:
        yield
    except SVDistillError:
        raise
    except Exception as error:
        trouble = explain_trouble(error)
        if trouble is None:
            raise
        raise trouble from error


def explain_trouble(error: BaseException) -> MachineError | None:
    """What the machine lacks, if that is what an error says."""
    text = " ".join(str(error).split())
    said = f"{type(error).__name__}: {text}"[:SHOWN] if text else type(error).__name__
    if isinstance(error, (MemoryError, torch.OutOfMemoryError)) or (
        isinstance(error, RuntimeError) and NO_MEMORY.search(text)
    ):
        return MachineError(
            "memory",
            expected="enough of it for a step",
            got=said,
            remedy="go on with --resume when more is free, or with a lower --memory_limit_gb; or "
            "begin another run with a smaller --batch_size or --precision bf16",
        )
    if isinstance(error, RuntimeError) and DEAD_WORKER.search(text):
        return MachineError(
            "workers",
            expected="processes that decode images until the end",
            got=said,
            remedy="go on with --resume and --workers 0, or give the machine or its container more "
            "memory, also shared (docker run --shm-size)",
        )
    reason = write_failure(error)
    if reason is not None and not (isinstance(error, OSError) and error.errno not in DISK):
        name = getattr(error, "filename", None)
        return MachineError(
            str(name or "disk"),
            expected="a disk that can be written",
            got=reason,
            remedy="make room and go on with --resume; what was written before is whole",
        )
    return None
