"""The command's process: its output, and what ends it, alone and among several."""

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

from svdistill.common import Stopped, SVDistillError, TrainingError, shown
from svdistill.parallel import launched_rank, launched_size


class LastingStream:
    """An output stream that drops what nobody reads any more, instead of raising.

    A pipe whose reader has gone, a terminal that hung up and a full disk end no run: the first
    failure is told once, and the file descriptor leads to the null device from then on.

    Args:
        stream: to write to.
        name: of the stream, for the message.
        tell: where the message goes; None for nowhere.
    """

    def __init__(self, stream: TextIO, name: str, tell: TextIO | LastingStream | None) -> None:
        self._stream = stream
        self._name = name
        self._tell = tell
        self.lost = False

    def write(self, text: str) -> int:
        """Write a text, or drop it."""
        if not self.lost:
            try:
                self._stream.write(self._encodable(text))
            except OSError as error:
                self._lose(error)
        return len(text)

    def flush(self) -> None:
        """Write what is buffered, or drop it."""
        if not self.lost:
            try:
                self._stream.flush()
            except OSError as error:
                self._lose(error)

    def writelines(self, lines: Iterable[str]) -> None:
        """Write texts, or drop them."""
        for line in lines:
            self.write(line)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def _encodable(self, text: str) -> str:
        """The text, with what the stream's encoding lacks written out."""
        encoding = getattr(self._stream, "encoding", None) or "utf-8"
        return text.encode(encoding, "backslashreplace").decode(encoding)

    def _lose(self, error: OSError) -> None:
        self.lost = True
        nowhere = os.open(os.devnull, os.O_WRONLY)
        with contextlib.suppress(OSError):  # a stream without a descriptor
            os.dup2(nowhere, self._stream.fileno())  # for what is buffered, too
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
    """Let no write to stdout or stderr raise within the block.

    Yields:
        The standard output, which says whether it was lost.
    """
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
    """The stream, or the null device where the process was started without it."""
    return Path(os.devnull).open("w", encoding="utf-8") if stream is None else stream


@contextmanager
def text_logs() -> Iterator[None]:
    """Let log messages, of whatever library, be text within the block."""
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
    """As `sys.excepthook`: print a traceback as text."""
    print(shown("".join(traceback.format_exception(kind, error, where))), file=sys.stderr, end="")


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
    """Mark an interrupt within the block: the run is finished, and cannot be resumed."""
    try:
        yield
    except KeyboardInterrupt as interrupt:
        interrupt.add_note(FINISHED)
        raise


def _stop(number: int, _frame: FrameType | None) -> None:
    raise Stopped(number)


TOGETHER: Final = ("train", "distill")  # the commands that several processes may run

# Longer than the main process takes to say why nothing could begin. A launcher ends the others as
# soon as one has left.
PATIENCE: Final = 10.0


def is_speaker() -> bool:
    """Whether this process prints."""
    return launched_rank() == 0


def say(line: str, error: BaseException) -> None:
    """Print why a command ends, once, and let nobody leave before that: it would end the speaker.

    Args:
        line: what to print to stderr.
        error: why it ends.
    """
    if launched_size() == 1 or is_speaker():
        print(shown(line), file=sys.stderr, flush=True)
        _meet(error)
    elif _is_everywhere(error):
        if not _meet(error):
            time.sleep(PATIENCE)
    elif isinstance(error, KeyboardInterrupt):
        return  # the main process got the signal too
    else:
        print(shown(f"{line} (process {launched_rank()})"), file=sys.stderr, flush=True)


def leave() -> None:
    """End together, when all is done: a process that exits within the group may abort."""
    if _is_grouped():
        from svdistill.parallel import close_group, meet

        meet()
        close_group()


def end(status: int) -> int:
    """Exit, where several processes were launched; the status of one alone is handed back.

    While an interpreter is torn down, a thread of torch's that asks for its lock is ended by force,
    and now and then that aborts the process, whose launcher then calls the run a failure.
    """
    if launched_size() > 1:
        atexit._run_exitfuncs()
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)
    return status


def _is_everywhere(error: BaseException) -> bool:
    """Whether the main process has the same to say.

    Before they have met, all have read the same words and come to the same end. What a loss shows,
    all see.
    """
    if isinstance(error, KeyboardInterrupt):
        return isinstance(error, Stopped) and error.everywhere
    if isinstance(error, SVDistillError) and (error.everywhere or isinstance(error, TrainingError)):
        return True
    return not _is_grouped()


def _meet(error: BaseException) -> bool:
    """Wait for the others where all come here, and leave the group with them; whether they did."""
    if not _is_grouped() or not _is_everywhere(error):
        return False
    try:
        leave()
    except SVDistillError:  # somebody has left already
        return False
    return True


def _is_grouped() -> bool:
    """Whether the processes have met; if so, torch is imported already."""
    if "svdistill.parallel" not in sys.modules:
        return False
    from svdistill.parallel import is_grouped

    return is_grouped()
