"""The process of a command: its output, its signals, and how it ends alone or in a group."""

from __future__ import annotations

import atexit
import contextlib
import logging
import os
import shlex
import signal
import sys
import threading
import time
import traceback
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import FrameType, TracebackType
from typing import Any, Final, TextIO

from svdistill.common import (
    Stopped,
    SVDistillError,
    TrainingError,
    launched_rank,
    launched_size,
    shown,
)

RESUMABLE: Final = ("train", "distill", "cache")

TOGETHER: Final = ("train", "distill")  # the commands that several processes may run

# Seconds that the other processes wait for rank 0 to print why a command ends: a launcher kills all
# processes as soon as one of them exits.
PATIENCE: Final = 10.0

# SIGHUP does not exist on Windows.
SIGNALS: Final = [getattr(signal, name) for name in ("SIGTERM", "SIGHUP") if hasattr(signal, name)]


class LastingStream:
    """An output stream that discards text that cannot be written, instead of raising.

    A closed pipe, a terminal that hung up or a full disk thus does not end a run. On the first
    failure one warning is printed to `tell`, unless that is None, and the file descriptor is
    redirected to the null device.
    """

    def __init__(self, stream: TextIO, name: str, tell: TextIO | LastingStream | None) -> None:
        self._stream = stream
        self._name = name
        self._tell = tell
        self.lost = False

    def write(self, text: str) -> int:
        """Write a text, or discard it if the stream cannot be written."""
        if not self.lost:
            try:
                self._stream.write(self._encodable(text))
            except OSError as error:
                self._lose(error)
        return len(text)

    def flush(self) -> None:
        """Write the buffered text, or discard it if the stream cannot be written."""
        if not self.lost:
            try:
                self._stream.flush()
            except OSError as error:
                self._lose(error)

    def writelines(self, lines: Iterable[str]) -> None:
        """Write texts, or discard them if the stream cannot be written."""
        for line in lines:
            self.write(line)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def _encodable(self, text: str) -> str:
        """Escape the characters that the stream's encoding lacks."""
        encoding = getattr(self._stream, "encoding", None) or "utf-8"
        return text.encode(encoding, "backslashreplace").decode(encoding)

    def _lose(self, error: OSError) -> None:
        self.lost = True
        nowhere = os.open(os.devnull, os.O_WRONLY)
        with contextlib.suppress(OSError):  # if the stream has no file descriptor
            os.dup2(nowhere, self._stream.fileno())
        os.close(nowhere)
        if self._tell is not None:
            reason = error.strerror or type(error).__name__
            self._tell.write(
                f"svdistill: warning: {self._name} cannot be written ({reason}); the command goes "
                "on, what it prints from here on is lost\n"
            )
            self._tell.flush()


@contextmanager
def lasting_output() -> Iterator[LastingStream]:
    """Replace stdout and stderr by `LastingStream`s within the block; yield the one of stdout."""
    before = sys.stdout, sys.stderr
    error = LastingStream(_stream(sys.stderr), "standard error", None)
    output = LastingStream(_stream(sys.stdout), "standard output", error)
    sys.stdout, sys.stderr = output, error
    try:
        yield output
    finally:
        output.flush()
        error.flush()
        sys.stdout, sys.stderr = before


def _stream(stream: TextIO | None) -> TextIO:
    """Return the stream, or the null device if the process was started without this stream."""
    return Path(os.devnull).open("w", encoding="utf-8") if stream is None else stream


@contextmanager
def text_logs() -> Iterator[None]:
    """Escape control characters in the log messages of every library within the block."""
    before = logging.getLogRecordFactory()

    def record(*arguments: Any, **more: Any) -> logging.LogRecord:
        made = before(*arguments, **more)
        made.msg, made.args = shown(made.getMessage()), ()
        return made

    logging.setLogRecordFactory(record)
    try:
        yield
    finally:
        logging.setLogRecordFactory(before)


def show_traceback(
    kind: type[BaseException], error: BaseException, where: TracebackType | None
) -> None:
    """Print a traceback with control characters escaped; to be used as `sys.excepthook`."""
    print(shown("".join(traceback.format_exception(kind, error, where))), file=sys.stderr, end="")


@contextmanager
def terminable() -> Iterator[None]:
    """Make SIGTERM and SIGHUP raise `Stopped` in the block, so that temporary files are removed.

    Training installs its own handlers. A signal that the process ignores, such as SIGHUP under
    `nohup`, stays ignored.
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
    """Return the message and the exit status for a command that was stopped.

    If the command can be resumed, the message repeats it as it was typed, with `--resume`.

    Example:
        >>> left(Stopped(15, "after epoch 2"), ["train", "-o", "my run"])
        ("stopped by SIGTERM after epoch 2; go on with: svdistill train -o 'my run' --resume", 143)
        >>> left(KeyboardInterrupt(), ["info"])
        ('interrupted', 130)
    """
    said = str(interrupt) or "interrupted"
    status = interrupt.status if isinstance(interrupt, Stopped) else 128 + signal.SIGINT
    command = arguments[0] if arguments else ""
    if FINISHED in getattr(interrupt, "__notes__", ()):
        said += f"; {FINISHED}"
    elif command in RESUMABLE:
        words = [word for word in arguments if word.partition("=")[0] != "--resume"]
        said += f"; go on with: {shlex.join(['svdistill', *words, '--resume'])}"
    elif command == "reproduce":
        said += "; what was finished is saved, the same command goes on"
    return said, status


FINISHED: Final = "the run is finished"


@contextmanager
def finished_run() -> Iterator[None]:
    """Note on an interrupt within the block that the run is finished and need not be resumed."""
    try:
        yield
    except KeyboardInterrupt as interrupt:
        interrupt.add_note(FINISHED)
        raise


def _stop(number: int, _frame: FrameType | None) -> None:
    raise Stopped(number)


def is_speaker() -> bool:
    """Whether this process is the one that prints: rank 0, or the only process."""
    return launched_rank() == 0


def say(line: str, error: BaseException) -> None:
    """Print why a command ends, only once if all processes raised the error.

    The other processes wait until rank 0 has printed, since the launcher ends all processes as soon
    as one of them exits. An error of one process alone is printed with its rank.
    """
    if launched_size() == 1 or is_speaker():
        print(shown(line), file=sys.stderr, flush=True)
        _meet(error)
    elif _is_everywhere(error):
        if not _meet(error):
            time.sleep(PATIENCE)
    elif isinstance(error, KeyboardInterrupt):
        return  # rank 0 received the signal too, and prints
    else:
        print(shown(f"{line} (process {launched_rank()})"), file=sys.stderr, flush=True)


def leave() -> None:
    """Close the process group, if there is one; a process that exits with it open may abort."""
    if _is_grouped():
        from svdistill.parallel import close_group, meet

        meet()
        close_group()


def end(status: int) -> int:
    """Exit at once if several processes were launched; otherwise return the status.

    The interpreter's usual shutdown is skipped: during it a thread of torch that requests the
    interpreter's lock can abort the process, and the launcher would then report a failure.
    """
    if launched_size() > 1:
        atexit._run_exitfuncs()
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)
    return status


def _is_everywhere(error: BaseException) -> bool:
    """Whether every process of the launch raises this error.

    Before the process group is formed, all processes do the same and so raise any error together;
    afterwards they share the losses, and so raise any `TrainingError` together.
    """
    if isinstance(error, KeyboardInterrupt):
        return isinstance(error, Stopped) and error.everywhere
    if isinstance(error, SVDistillError) and (error.everywhere or isinstance(error, TrainingError)):
        return True
    return not _is_grouped()


def _meet(error: BaseException) -> bool:
    """Close the process group if every process raises the error; return whether all closed it."""
    if not _is_grouped() or not _is_everywhere(error):
        return False
    try:
        leave()
    except SVDistillError:  # a process has left already
        return False
    return True


def _is_grouped() -> bool:
    """Whether the process group is formed; does not import torch if it is not imported yet."""
    if "svdistill.parallel" not in sys.modules:
        return False
    from svdistill.parallel import is_grouped

    return is_grouped()
