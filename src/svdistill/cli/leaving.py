"""How a command ends before its end: signals, and how to go on."""

from __future__ import annotations

import shlex
import signal
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from types import FrameType

from svdistill.errors import Stopped

RESUMABLE = ("train", "distill", "cache")
SIGNALS = [signal.SIGTERM]
if hasattr(signal, "SIGHUP"):  # not on Windows
    SIGNALS.append(signal.SIGHUP)


@contextmanager
def terminable() -> Iterator[None]:
    """Let SIGTERM and SIGHUP raise, as Ctrl-C does, so that temporary files go.

    Training catches them itself. What the process ignores, as one behind `nohup` does SIGHUP, stays
    ignored.
    """
    ours = []
    if threading.current_thread() is threading.main_thread():
        ours = [number for number in SIGNALS if signal.getsignal(number) == signal.SIG_DFL]
    for number in ours:
        signal.signal(number, _stop)
    try:
        yield
    finally:
        for number in ours:
            signal.signal(number, signal.SIG_DFL)


def left(interrupt: KeyboardInterrupt, arguments: Sequence[str]) -> tuple[str, int]:
    """What to say of a command that was stopped, and its exit status.

    Args:
        interrupt: a `Stopped`, or what a second Ctrl-C raises.
        arguments: the words behind `svdistill`, as they were typed.

    Example:
        >>> left(Stopped(15, "after epoch 2"), ["train", "-o", "my run"])
        ("stopped by SIGTERM after epoch 2; go on with: svdistill train -o 'my run' --resume", 143)
        >>> left(KeyboardInterrupt(), ["info"])
        ('interrupted', 130)
    """
    said = str(interrupt) or "interrupted"
    status = interrupt.status if isinstance(interrupt, Stopped) else 128 + signal.SIGINT
    command = arguments[0] if arguments else ""
    if command in RESUMABLE:
        words = [word for word in arguments if word.partition("=")[0] != "--resume"]
        said += f"; go on with: {shlex.join(['svdistill', *words, '--resume'])}"
    elif command == "reproduce":
        said += "; what was finished is saved, the same command goes on"
    return said, status


def _stop(number: int, _frame: FrameType | None) -> None:
    raise Stopped(number)
