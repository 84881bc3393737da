"""What ends a run early: signals, a machine without memory or disk, processes that differ."""

from __future__ import annotations

import errno
import hashlib
import re
import signal
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from importlib.metadata import version
from types import FrameType, TracebackType
from typing import Any, Final, Self

import torch
from torch import nn

from svdistill.common import MachineError, Stopped, SVDistillError, write_failure
from svdistill.config import TrainConfig
from svdistill.parallel import broadcast, gather, is_grouped, is_sharded, require_alike
from svdistill.training.step import Step

SIGNALS: Final = [signal.SIGTERM, signal.SIGINT]

if hasattr(signal, "SIGHUP"):  # not on Windows
    SIGNALS.append(signal.SIGHUP)


class StopRequests:
    """Catches SIGTERM, SIGHUP and Ctrl-C while the block lasts; asked for between steps.

    A second Ctrl-C raises `KeyboardInterrupt` at once. Signals that the process ignores, as one
    behind `nohup` does, stay ignored. Outside of the main thread, where Python handles no signals,
    nothing is caught.

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
        self._noted: int | None = None  # that came to this process
        self._heard: int | None = None  # that all processes know of
        self._before: dict[int, Any] = {}

    @property
    def requested(self) -> int | None:
        """The signal that has come: of several processes, the one that all have heard of."""
        return self._heard if is_grouped() else self._noted

    def __enter__(self) -> Self:
        if threading.current_thread() is threading.main_thread():
            for number in SIGNALS:
                before = signal.getsignal(number)
                # None: a handler that C code has set, which could not be set back.
                if before not in (signal.SIG_IGN, None):
                    self._before[number] = before
                    signal.signal(number, self._note)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        self._before.clear()

    def hear(self, device: torch.device, due: bool = False) -> bool:
        """Ask the other processes of the group for signals, and tell them of one's own.

        All must ask between the same steps, and so all stop after the same one. What comes to one
        of them while it asks is told the next time.

        Args:
            device: that the processes talk through.
            due: something else that all have to do where one of them has.

        Returns:
            Whether it is due in any.
        """
        if not is_grouped():
            return due
        own = torch.tensor([self._noted or 0, due], device=device)
        heard, due_anywhere = torch.stack(gather(own)).amax(dim=0).tolist()
        self._heard = heard or None
        return bool(due_anywhere)

    def check(self, where: str = "") -> None:
        """Raise `Stopped` if a signal has come.

        Args:
            where: how far the work has come, for the message.
        """
        if self.requested is not None:
            stopped = Stopped(self.requested, where)
            stopped.everywhere = is_grouped()
            raise stopped

    def _note(self, number: int, _frame: FrameType | None) -> None:
        if number == signal.SIGINT and self._noted is not None:
            raise KeyboardInterrupt
        self._noted = self._noted or number


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


OWN: Final = ("workers",)  # options that each process may have another value of


def begin_alike(
    config: TrainConfig,
    student: nn.Module,
    steps: Sequence[Step],
    teacher: nn.Module | None,
    contents: dict[str, str],
) -> None:
    """Give all processes the main one's initial weights, once nothing else differs.

    Args:
        config: what was asked of this process.
        student: to be trained.
        steps: that train it, and what they train beside it.
        teacher: compared, not sent: it may be large.
        contents: fingerprints of what names stand for, such as the images.

    Raises:
        RunError: in every process, if something differs in one.
    """
    if not is_grouped():
        return
    options = {name: value for name, value in asdict(config).items() if name not in OWN}
    versions = {name: version(name) for name in ("svdistill", "torch")}
    told = {} if teacher is None else {"teacher's weights": fingerprint(teacher)}
    require_alike({**versions, **options, **contents, **told})
    trained = (parameter for step in steps for parameter in step.parameters())
    broadcast({id(t): t for t in (*student.parameters(), *student.buffers(), *trained)}.values())


def fingerprint(network: nn.Module) -> str:
    """A short text that hardly another network has: names, shapes, and sums of all weights.

    Sums, not bytes: seconds for a network of gigabytes. Weights that are sharded have none.

    Example:
        >>> one, other = nn.Linear(2, 3), nn.Linear(2, 3)
        >>> fingerprint(one) == fingerprint(one), fingerprint(one) == fingerprint(other)
        (True, False)
    """
    digest = hashlib.sha256()
    for name, tensor in sorted(network.state_dict().items()):
        total = 0.0 if is_sharded(tensor) else float(tensor.sum(dtype=torch.float64))
        digest.update(f"{name} {tuple(tensor.shape)} {total!r}\n".encode())
    return digest.hexdigest()[:16]
