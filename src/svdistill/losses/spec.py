"""The specification of a loss, also of one from the user's code or from torchdistill."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, Final

from svdistill.common import ArgumentError, SVDistillError, import_attribute
from svdistill.losses.torchdistill_adapter import PREFIX as TORCHDISTILL, TorchdistillLoss
from svdistill.losses.transfer import TransferLoss

# Prefix of the name of a loss that was given as a Python object; its class's name follows.
OBJECT_PREFIX: Final = "object:"

# The option that holds the weight of a loss on logits where it counts as part of the task.
LOGIT_WEIGHT: Final = "soft_target_weight"


@dataclass(frozen=True)
class LossSpec:
    """A registered loss, as the command line, configurations, stores and reports see it.

    Attributes:
        name: name of the loss, as given to `--loss`.
        build: a function that makes the loss from its options, given as keyword arguments.
        title: name of the loss in tables.
        options: the options of a configuration that the loss reads, with their defaults.
        clipped: whether its gradient is clipped if it is added to another loss. If not, it counts
            as part of the task, as losses on logits do.
        weight: the option that holds its weight if it counts as part of the task.
        usual_weights: default weights of the task and of the loss, for a loss on logits.
        weights_beside: these weights where the loss is added to a loss on feature maps.
        stages: number of training stages in its paper; tables mark runs with another number.
        compact: whether its knowledge is small enough to store for all images.
        largest_grid: the largest `grid` with which its knowledge is small enough, too; 0 for none.
        stored_as: name of the loss whose stored knowledge it reads; empty if it stores its own.
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
    """The specification of a loss on logits alone: not clipped, weighted by `LOGIT_WEIGHT`."""
    entry = LossSpec(name, build, title, options, clipped=False, weight=LOGIT_WEIGHT, compact=True)
    beside = weights_beside or usual_weights
    return replace(entry, usual_weights=usual_weights, weights_beside=beside)


def split_sum(loss: str) -> list[str]:
    """The names in a sum such as `svd+dist`."""
    return [name.strip() for name in str(loss).split("+")]


def distinct_names(loss: str) -> list[str]:
    """The names in a sum; raises `ArgumentError` if one occurs twice."""
    names = split_sum(loss)
    twice = [name for name in names if names.count(name) > 1 and name]
    if twice:
        raise ArgumentError(
            "loss",
            expected="each loss once",
            got=repr(loss),
            remedy=f"leave out the second {twice[0]!r}",
        )
    return names


def added_to_task(specs: tuple[LossSpec, ...]) -> tuple[LossSpec, ...]:
    """The losses of a sum that count as part of the task: unclipped ones, if others are clipped."""
    if not any(spec.clipped for spec in specs):
        return ()
    return tuple(spec for spec in specs if not spec.clipped)


def usual_clip(*, needs_taps: bool) -> str:
    """The default clip: no clipping for losses that read logits only."""
    return "amortised" if needs_taps else "none"


def spec_of_code(name: str, options: Mapping[str, Any]) -> LossSpec:
    """The specification of a loss `module:Class`, `module:function` or `torchdistill:NAME`.

    Args:
        name: name of the loss, as given to `--loss`; the code is imported.
        options: the options of a configuration, with their defaults. They are passed to the
            parameters of the code that have the same names.

    Raises:
        ArgumentError: the code cannot be imported, or is not a loss.
    """
    title = name.rpartition(":")[2]
    if name.startswith(OBJECT_PREFIX):
        return LossSpec(name, _not_given, title)
    if name.startswith(TORCHDISTILL):
        peer = partial(TorchdistillLoss, title)
        return _of_taps_or_logits(LossSpec(name, peer, title), needs_taps=peer().needs_taps)
    found = import_attribute(name, "loss")
    if not callable(found) or isinstance(found, TransferLoss):
        raise _no_loss(
            type(found).__name__,
            f"let {name} be one, or give the object to svdistill.distill as loss=",
        )
    build = partial(_build, name, found, tuple(options))
    spec = LossSpec(name, build, title, _read(found, options))
    return _of_taps_or_logits(spec, needs_taps=getattr(found, "needs_taps", True))


def _of_taps_or_logits(spec: LossSpec, *, needs_taps: bool) -> LossSpec:
    """The specification, of a loss on logits alone as one that counts as part of the task."""
    return spec if needs_taps else replace(spec, clipped=False, weight=LOGIT_WEIGHT)


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
    """The options among the parameters, with the parameters' defaults where there are any."""
    try:
        parameters = inspect.signature(build).parameters
    except ValueError:  # some functions written in C have no signature
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
