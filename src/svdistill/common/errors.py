"""Errors that a user can act on: each names the argument, the expected, what came, a remedy."""

from __future__ import annotations

import difflib
import importlib
import signal
from collections.abc import Callable, Iterable
from functools import partial
from types import ModuleType


class SVDistillError(Exception):
    """Base of every error that svdistill raises on purpose.

    The message reads ``argument: expected ..., got ...; remedy``.

    Args:
        argument: name of the argument, file, tap or option that is wrong.
        expected: what would have been right.
        got: what came instead.
        remedy: what the user can do about it.

    Example:
        >>> print(ArgumentError("k", expected="1 to 4", got=5, remedy="lower k"))
        k: expected 1 to 4, got 5; lower k

    Attributes:
        everywhere: whether every process that trains together with this one raises it too.
    """

    everywhere = False

    def __init__(self, argument: str, *, expected: str, got: object, remedy: str) -> None:
        super().__init__(f"{argument}: expected {expected}, got {got}; {remedy}")
        self.argument = argument
        self._rest = {"expected": expected, "got": str(got), "remedy": remedy}

    def __reduce__(self) -> tuple[Callable[..., SVDistillError], tuple[str]]:
        # Exceptions are pickled by position; a worker process could not send ours back.
        return partial(type(self), **self._rest), (self.argument,)


class ArgumentError(SVDistillError, ValueError):
    """An argument, option or configuration value is wrong."""


class DataError(SVDistillError):
    """A data set is missing, damaged, empty, or holds values that no image has."""


class RunError(SVDistillError):
    """A run directory, checkpoint or weights file is missing, finished, damaged or of another."""


class TrainingError(SVDistillError):
    """Training cannot go on: a loss is not finite or reaches no parameter."""


class MachineError(SVDistillError):
    """The machine lacks something: space on a disk, memory, or a process that has died."""


class Stopped(KeyboardInterrupt):
    """A signal asked the process to stop, and what was worth it has been saved.

    Args:
        signal_number: which signal.
        where: how far the work had come, for the message.

    Attributes:
        status: the exit status that says so, 128 and the signal's number.
        everywhere: whether every process that trains together with this one stops too.

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
    """The transfer loss does not do what the user thinks it does."""


def nearest(name: str, candidates: Iterable[str]) -> str:
    """Phrase the candidates closest to a mistyped name, as a remedy.

    Args:
        name: what the user wrote.
        candidates: the names that exist.

    Returns:
        ``"did you mean 'a' or 'b'?"``, or the list of all names where none is close.

    Example:
        >>> nearest("stage5", ["stage1", "stage2", "head"])
        "did you mean 'stage2' or 'stage1'?"
        >>> nearest("x", ["stage1", "head"])
        "choose from 'head', 'stage1'"
    """
    names = sorted(set(candidates))
    close = difflib.get_close_matches(name, names, n=3, cutoff=0.6)
    if close:
        return "did you mean " + " or ".join(repr(match) for match in close) + "?"
    shown = ", ".join(repr(candidate) for candidate in names[:12])
    return f"choose from {shown}" + (", ..." if len(names) > 12 else "")


def require_choice(argument: str, value: object, choices: Iterable[str]) -> None:
    """Raise `ArgumentError` unless the value is one of the choices."""
    names = list(choices)
    if value not in names:
        close = difflib.get_close_matches(str(value), names, n=1, cutoff=0.6)
        raise ArgumentError(
            argument,
            expected="one of " + ", ".join(repr(name) for name in names),
            got=repr(value),
            remedy=f"did you mean {close[0]!r}?" if close else "choose one of these",
        )


def require_positive(argument: str, value: float) -> None:
    """Raise `ArgumentError` unless the value is a positive, finite number."""
    if (
        isinstance(value, bool)
        or not isinstance(value, (int, float))
        or not 0 < value < float("inf")
    ):
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


def require_package(module: str, extra: str) -> ModuleType:
    """Import a module of a package that svdistill can do without.

    Args:
        module: its name, such as `"timm"` or `"torchvision.models"`.
        extra: svdistill's extra that installs it.

    Returns:
        The module.

    Raises:
        ArgumentError: it is not installed, or cannot be imported; the remedy is one command.

    Example:
        >>> require_package("no_such_module", extra="zoo")
        Traceback (most recent call last):
        svdistill.common.errors.ArgumentError: no_such_module: expected an installed package, \
got none; run pip install 'svdistill[zoo]'
    """
    package = module.partition(".")[0]
    try:
        return importlib.import_module(module)
    except Exception as error:  # a broken installation may raise anything
        absent = isinstance(error, ModuleNotFoundError) and error.name in (module, package)
        raise ArgumentError(
            package,
            expected="an installed package" if absent else "a package that can be imported",
            got="none" if absent else f"{type(error).__name__}: {error}",
            remedy=f"run pip install 'svdistill[{extra}]'",
        ) from error
