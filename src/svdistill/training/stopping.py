"""Signals that ask a run to stop: it finishes its step, saves, and leaves."""

from __future__ import annotations

import signal
import threading
from types import FrameType, TracebackType
from typing import Any, Final, Self

import torch

from svdistill.errors import Stopped
from svdistill.parallel import gather, is_grouped

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
