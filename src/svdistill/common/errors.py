"""Exceptions that name the argument, the expected value, the actual value and a remedy."""

from __future__ import annotations

import contextlib
import difflib
import signal
import sys
import warnings
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path
from typing import Final

PACKAGE: Final = str(Path(__file__).parents[1])

# `contextlib` calls the functions that `explain_machine_errors` decorates.
INSIDE: Final = (PACKAGE, contextlib.__file__)


class SVDistillError(Exception):
    """Base class of the exceptions that svdistill raises.

    The message reads ``argument: expected ..., got ...; remedy``.

    Args:
        argument: name of the wrong argument, file, tap or option.
        expected: a description of valid values.
        got: the actual value.
        remedy: what the user can do.

    Example:
        >>> print(ArgumentError("k", expected="1 to 4", got=5, remedy="lower k"))
        k: expected 1 to 4, got 5; lower k

    Attributes:
        everywhere: whether every process of the group raises it too.
    """

    everywhere = False

    def __init__(self, argument: str, *, expected: str, got: object, remedy: str) -> None:
        super().__init__(f"{argument}: expected {expected}, got {got}; {remedy}")
        self.argument = argument
        self._rest = {"expected": expected, "got": str(got), "remedy": remedy}

    def __reduce__(self) -> tuple[Callable[..., SVDistillError], tuple[str]]:
        # Exceptions are pickled by position, which keyword-only arguments do not support.
        return partial(type(self), **self._rest), (self.argument,)


class ArgumentError(SVDistillError, ValueError):
    """An argument, option or configuration value is wrong."""


class DataError(SVDistillError):
    """A data set is missing, damaged or empty, or holds invalid pixel values."""


class RunError(SVDistillError):
    """A run directory, checkpoint or weights file is missing, damaged, finished or mismatched."""


class TrainingError(SVDistillError):
    """Training cannot continue: a loss is not finite, or has no gradient to any parameter."""


class MachineError(SVDistillError):
    """The machine failed: out of disk space or memory, or a process died."""


class Stopped(KeyboardInterrupt):
    """A signal stopped the process, and its state was saved.

    Args:
        signal_number: the signal.
        where: the position in training, for the message.

    Attributes:
        status: the exit status, 128 plus the signal's number.
        everywhere: whether every process of the group stops too.

    Example:
        >>> stopped = Stopped(15, "after step 3 of 10 in epoch 1")
        >>> print(stopped, stopped.status)
        stopped by SIGTERM after step 3 of 10 in epoch 1 143
    """

    everywhere = False

    def __init__(self, signal_number: int, where: str = "") -> None:
        name = signal.Signals(signal_number).name
        super().__init__(f"stopped by {name} {where}".rstrip())
        self.signal_number = signal_number
        self.status = 128 + signal_number


class TransferWarning(UserWarning):
    """The transfer loss is ineffective in this configuration."""


class DataWarning(UserWarning):
    """Part of a data set is not used, or one of several readings of it was chosen."""


def warn_of_data(text: str) -> None:
    """Issue a `DataWarning` at the line outside of svdistill that asked for the data."""
    frame = sys._getframe(1)
    while frame.f_back is not None and frame.f_code.co_filename.startswith(INSIDE):
        frame = frame.f_back
    place = (frame.f_code.co_filename, frame.f_lineno)
    # With a new registry the same line warns again for the next data set of a session.
    warnings.warn_explicit(text, DataWarning, *place, registry={})


# A name whose similarity to a mistyped one is smaller than the best by this is not suggested.
CLEARLY_FURTHER: Final = 0.15

MANY_CHOICES: Final = 40


def nearest(name: str, candidates: Iterable[str]) -> str:
    """Suggest the candidates closest to a mistyped name.

    Args:
        name: the mistyped name.
        candidates: the existing names.

    Returns:
        ``"did you mean 'a' or 'b'?"``, or a list of the names if none is close.

    Example:
        >>> nearest("stage5", ["stage1", "stage2", "head"])
        "did you mean 'stage2' or 'stage1'?"
        >>> nearest("x", ["stage1", "head"])
        "choose from 'head', 'stage1'"
    """
    names = sorted(set(candidates))
    close = difflib.get_close_matches(name, names, n=3, cutoff=0.6)
    if close:
        ratios = {match: difflib.SequenceMatcher(None, match, name).ratio() for match in close}
        close = [match for match in close if ratios[match] > ratios[close[0]] - CLEARLY_FURTHER]
        return "did you mean " + " or ".join(repr(match) for match in close) + "?"
    shown = ", ".join(repr(candidate) for candidate in names[:12])
    return f"choose from {shown}" + (", ..." if len(names) > 12 else "")


def in_short(error: BaseException) -> str:
    """The type of an exception and the beginning of its message, in one line.

    Example:
        >>> in_short(ValueError("no   such axis"))
        'ValueError: no such axis'
    """
    return f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"


def require_choice(argument: str, value: object, choices: Iterable[str]) -> None:
    """Raise `ArgumentError` unless the value is one of the choices.

    The message lists all choices, or the first 10 if there are more than 40.
    """
    names = list(choices)
    if value not in names:
        close = difflib.get_close_matches(str(value), names, n=1, cutoff=0.6)
        many = len(names) > MANY_CHOICES
        listed = ", ".join(repr(name) for name in names[: 10 if many else None])
        raise ArgumentError(
            argument,
            expected=f"one of {len(names)} names such as {listed}" if many else f"one of {listed}",
            got=repr(value),
            remedy=f"did you mean {close[0]!r}?" if close else "choose one of these",
        )


def require_positive(argument: str, value: float) -> None:
    """Raise `ArgumentError` unless the value is a positive, finite number."""
    is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
    if not (is_number and 0 < value < float("inf")):
        raise ArgumentError(
            argument,
            expected="a positive finite number",
            got=repr(value),
            remedy="choose a larger one",
        )


def require_count(argument: str, value: int, minimum: int = 1) -> None:
    """Raise `ArgumentError` unless the value is an integer of at least `minimum`."""
    if isinstance(value, bool) or not isinstance(value, int) or value < minimum:
        raise ArgumentError(
            argument,
            expected=f"an integer of at least {minimum}",
            got=repr(value),
            remedy=f"give {minimum} or more",
        )
