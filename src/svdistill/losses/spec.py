"""The entry of a loss, and how one is made from a class of the user's or of torchdistill's."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, Final

from svdistill.common import ArgumentError, SVDistillError, import_attribute
from svdistill.losses.torchdistill_adapter import PREFIX as TORCHDISTILL, TorchdistillLoss
from svdistill.losses.transfer import TransferLoss

# What a configuration says of a loss that was given as a Python object, before its class's name.
OBJECT_PREFIX: Final = "object:"

# The option that multiplies a loss on logits where it counts as part of the task.
LOGIT_WEIGHT: Final = "soft_target_weight"


@dataclass(frozen=True)
class LossSpec:
    """A registered loss, as the command line, configurations, stores and reports see it.

    Attributes:
        name: as `--loss` takes it.
        build: makes the loss from its options, given by keyword.
        title: as tables call it.
        options: options of a configuration that it reads, with their defaults.
        clipped: whether its gradient is clipped if it is added to another loss. Otherwise it
            counts as part of the task, as losses on logits do.
        weight: option of a configuration that multiplies it if it counts as part of the task.
        usual_weights: of the task and of itself, if it is a loss on logits.
        weights_beside: the same where it is added to a loss on feature maps.
        stages: stages of training in its paper; tables mark runs with another number.
        compact: whether its knowledge is small enough to store for all images.
        largest_grid: most positions a side of pooled maps with which it is small, too.
        stored_as: the loss whose stored knowledge it reads; empty for its own.
    """

    name: str
    build: Callable[..., TransferLoss]
    title: str
    options: Mapping[str, Any] = field(default_factory=dict)
    clipped: bool = True
    weight: str = ""
    usual_weights: tuple[float, float] = (1.0, 1.0)
    weights_beside: tuple[float, float] = (1.0, 1.0)
    stages: int = 1
    compact: bool = False
    largest_grid: int = 0
    stored_as: str = ""

    @property
    def needs(self) -> frozenset[str]:
        """The subset of `taps`, `logits` and `labels` that the loss reads."""
        loss, kinds = self.build(**self.options), ("taps", "logits", "labels")
        return frozenset(kind for kind in kinds if getattr(loss, f"needs_{kind}"))


def logit_spec(
    name: str,
    build: Callable[..., TransferLoss],
    title: str,
    options: Mapping[str, Any],
    usual_weights: tuple[float, float] = (1.0, 1.0),
    weights_beside: tuple[float, float] | None = None,
) -> LossSpec:
    """The entry of a loss on logits alone: not clipped, with the weight of soft targets."""
    entry = LossSpec(name, build, title, options, clipped=False, weight=LOGIT_WEIGHT, compact=True)
    beside = weights_beside or usual_weights
    return replace(entry, usual_weights=usual_weights, weights_beside=beside)


def spec_of_code(name: str, options: Mapping[str, Any]) -> LossSpec:
    """The entry of code: `module:Class` or a function that builds a loss, or `torchdistill:NAME`.

    Args:
        name: as `--loss` takes it; the code is imported.
        options: those of a configuration, with their defaults. A parameter that is named like one
            gets it.

    Raises:
        ArgumentError: code that cannot be imported, or is no loss.
    """
    title = name.rpartition(":")[2]
    if name.startswith(OBJECT_PREFIX):
        return LossSpec(name, _not_given, title)
    if name.startswith(TORCHDISTILL):
        peer = partial(TorchdistillLoss, title)
        of_logits = not peer().needs_taps
        weight = LOGIT_WEIGHT if of_logits else ""
        return LossSpec(name, peer, title, clipped=not of_logits, weight=weight)
    found = import_attribute(name, "loss")
    if not callable(found) or isinstance(found, TransferLoss):
        raise _no_loss(
            type(found).__name__,
            f"let {name} be one, or give the object to svdistill.distill as loss=",
        )
    return LossSpec(
        name, partial(_build, name, found, tuple(options)), title, _read(found, options)
    )


def _build(
    name: str, found: Callable[..., Any], known: Iterable[str], **options: Any
) -> TransferLoss:
    try:
        loss = found(**options)
    except SVDistillError:
        raise
    except Exception as error:  # the user's class may fail in any way
        raise ArgumentError(
            "loss",
            expected=f"{name} to be built from {' and '.join(options) or 'nothing'}",
            got=f"{type(error).__name__}: {error}",
            remedy=f"of its parameters, only {', '.join(known)} are given",
        ) from error
    if not isinstance(loss, TransferLoss):
        raise _no_loss(
            f"{name}, which makes {type(loss).__name__}", "derive it from svdistill.TransferLoss"
        )
    return loss


def _no_loss(got: str, remedy: str) -> ArgumentError:
    expected = "a class that is a TransferLoss, or a function that returns one"
    return ArgumentError("loss", expected=expected, got=got, remedy=remedy)


def _read(build: Callable[..., Any], options: Mapping[str, Any]) -> dict[str, Any]:
    """The parameters that are named like options, with their own defaults where they have any."""
    try:
        parameters = inspect.signature(build).parameters
    except ValueError:  # some of C have none
        return {}
    return {
        name: usual
        if parameters[name].default is inspect.Parameter.empty
        else parameters[name].default
        for name, usual in options.items()
        if name in parameters
    }


def _not_given() -> TransferLoss:
    raise ArgumentError(
        "loss",
        expected="the object itself, since the configuration was made with one",
        got="nothing",
        remedy="give it to svdistill.distill as loss=, or name it module:Class",
    )
