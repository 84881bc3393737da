"""Stop signals, and errors of memory, disk and worker processes, that end a run early."""

from __future__ import annotations

import errno
import re
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any, Final, Self

import torch

from svdistill.common import MachineError, Stopped, SVDistillError, write_failure
from svdistill.parallel import gather, is_grouped

SIGNALS: Final = [signal.SIGTERM, signal.SIGINT]

if hasattr(signal, "SIGHUP"):  # not on Windows
    SIGNALS.append(signal.SIGHUP)


class StopRequests:
    """Context that records SIGTERM, SIGHUP and Ctrl-C; the trainer checks it between steps.

    A second Ctrl-C raises `KeyboardInterrupt` at once. Signals that the process ignores, as under
    `nohup`, stay ignored. Outside the main thread, where Python handles no signals, nothing is
    recorded.

    Example:
        >>> try:
        ...     with StopRequests() as stops:
        ...         signal.raise_signal(signal.SIGTERM)  # the step goes on
        ...         stops.check("after step 3")
        ... except Stopped as stopped:
        ...     print(stopped)
        stopped by SIGTERM after step 3
    """

    def __init__(self) -> None:
        self._received: int | None = None  # the signal that this process received
        self._agreed: int | None = None  # a signal that all processes know of, after `poll`
        self._before: dict[int, Any] = {}

    @property
    def requested(self) -> int | None:
        """The signal received; with several processes, only once all of them know of it."""
        return self._agreed if is_grouped() else self._received

    def __enter__(self) -> Self:
        if threading.current_thread() is threading.main_thread():
            for number in SIGNALS:
                before = signal.getsignal(number)
                # None means a handler set by C code, which Python could not restore.
                if before not in (signal.SIG_IGN, None):
                    self._before[number] = before
                    signal.signal(number, self._note)
        return self

    def __exit__(self, *error: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        self._before.clear()

    def poll(self, device: torch.device, due: bool = False) -> bool:
        """Tell the other processes about a received signal, and learn about theirs.

        All processes call it between the same two steps, and so stop after the same step. A signal
        received during the exchange is passed on in the next one.

        Returns:
            Whether `due`, that is whether to save a checkpoint, is true in any process.
        """
        if not is_grouped():
            return due
        own = torch.tensor([self._received or 0, due], device=device)
        received, due_anywhere = torch.stack(gather(own)).amax(dim=0).tolist()
        self._agreed = received or None
        return bool(due_anywhere)

    def check(self, where: str = "") -> None:
        """Raise `Stopped` if a signal was received; its message says `where` the run stopped."""
        if self.requested is not None:
            stopped = Stopped(self.requested, where)
            stopped.everywhere = is_grouped()
            raise stopped

    def _note(self, number: int, _frame: FrameType | None) -> None:
        if number == signal.SIGINT and self._received is not None:
            raise KeyboardInterrupt
        self._received = self._received or number


NO_MEMORY: Final = re.compile(
    "DefaultCPUAllocator: (can't allocate memory|not enough memory)|CUDA out of memory"
    "|CUDA error: out of memory|CU(BLAS|DNN)_STATUS_ALLOC_FAILED"
)

DEAD_WORKER: Final = re.compile(r"DataLoader worker \(pid.*\) (exited unexpectedly|is killed by)")

# Error numbers of a full or failing disk, as opposed to a wrong path or missing permissions.
DISK: Final = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EIO)

SHOWN: Final = 200


@contextmanager
def explain_machine_errors() -> Iterator[None]:
    """Turn errors of memory, disk and worker processes into `MachineError`; others stay.

    Example:
        >>> with explain_machine_errors():
        ...     raise MemoryError
        Traceback (most recent call last):
        svdistill.common.errors.MachineError: memory: expected enough of it for a step, \
got MemoryError; \
go on with --resume when more is free, or with a lower --memory_limit_gb; or begin another run \
with a smaller --batch_size or --precision bf16
    """
    try:
        yield
    except SVDistillError:
        raise
    except Exception as error:
        machine_error = as_machine_error(error)
        if machine_error is None:
            raise
        raise machine_error from error


def as_machine_error(error: BaseException) -> MachineError | None:
    """Return a `MachineError` for an error of memory, disk or worker processes, else None."""
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
