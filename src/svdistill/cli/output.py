"""Standard output and standard error of a command: they never raise, and hold text only."""

from __future__ import annotations

import contextlib
import logging
import os
import sys
import traceback
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any, TextIO

from svdistill.terminal import shown


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
