"""Where a loss that is not finite comes from, so that whoever reads the error can mend it."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from svdistill.errors import TrainingError
from svdistill.linalg import may_branch

if TYPE_CHECKING:
    from svdistill.losses.transfer import Knowledge, TransferLoss

REMEDY = (
    "look for NaN or inf in the images and in the tapped features; "
    "lower the learning rate if training diverged"
)
SHOWN = 5  # images named in a message


def guard(loss: TransferLoss, arguments: Sequence[Any], value: Tensor) -> None:
    """Let the backward pass of a loss that is not finite raise, before any gradient is made.

    A forward hook of every `TransferLoss`. A step that is traced or recorded cannot look.
    """
    if not value.requires_grad or len(arguments) < 3 or not may_branch(value.device):
        return
    features, logits, knowledge = arguments[:3]
    # Not the graph's own tensors: their hook would keep them, and the graph, alive for good.
    logits = logits.detach() if loss.needs_logits else None
    seen: list[Any] = [[feature.detach() for feature in features], logits, knowledge]
    finite = value.detach()

    def look(_gradient: Tensor) -> None:
        if not may_branch(finite.device) or bool(finite.isfinite().all()):
            seen.clear()
            return
        raise not_finite(type(loss).__name__, finite, source(*seen) if seen else "")

    value.register_hook(look)


def not_finite(name: str, value: Tensor, source: str = "") -> TrainingError:
    """The error of a loss, and where it comes from."""
    return TrainingError(
        name,
        expected="a finite number",
        got=f"{float(value.detach())}{source}",
        remedy=REMEDY,
    )


def source(
    features: Sequence[Tensor],
    logits: Tensor | None,
    knowledge: Knowledge | None,
    taps: Sequence[str] | None = None,
) -> str:
    """Which of a loss's inputs is not finite, as the end of a phrase; else which is the largest.

    Args:
        features: the student's, by tap.
        logits: the student's, or None where no loss reads them.
        knowledge: the teacher's.
        taps: paths of the features; their numbers, if None.

    Example:
        >>> source([torch.ones(2, 3), torch.tensor([[1.0], [float("nan")]])], None, None)
        ", from the student's tap 1: NaN in image 1 of 2"
    """
    names = [f"tap {tap}" for tap in range(len(features))]
    if taps is not None:
        names = [f"tap {path!r}" for path in taps]
    inputs = [(f"the student's {name}", tap) for name, tap in zip(names, features, strict=True)]
    if logits is not None:
        inputs.append(("the student's logits", logits))
    inputs += [(f"the teacher's {name}", tensor) for name, tensor in _named(knowledge, names)]
    for name, tensor in inputs:
        broken = _broken_images(tensor)
        if broken:
            return f", from {name}: {broken}"
    largest = {name: float(tensor.abs().amax()) for name, tensor in inputs if tensor.numel()}
    if not largest:
        return ""
    name = max(largest, key=lambda one: largest[one])
    return f", from finite numbers up to {largest[name]:.1e} at {name}, too large for this loss"


def _broken_images(tensor: Tensor) -> str:
    """In which images of [B, ...] there is NaN or infinity, or nothing."""
    images = (~tensor.flatten(1).isfinite().all(1)).nonzero().flatten().tolist()
    if not images:
        return ""
    what = "NaN" if bool(tensor.isnan().any()) else "infinity"
    shown = ", ".join(map(str, images[:SHOWN])) + (", ..." if len(images) > SHOWN else "")
    return f"{what} in image{'s' if len(images) > 1 else ''} {shown} of {len(tensor)}"


def _named(
    value: Any, taps: Sequence[str], name: str = "knowledge"
) -> Iterator[tuple[str, Tensor]]:
    """Every tensor of a knowledge with its field's name, and its tap's where each has one."""
    if isinstance(value, Tensor):
        yield name, value
    elif isinstance(value, tuple):
        places = {
            len(taps): [f" at {tap}" for tap in taps],
            len(taps) - 1: [f" at {front} and {back}" for front, back in pairwise(taps)],
        }.get(len(value), [""] * len(value))
        for place, item in zip(places, value, strict=True):
            yield from _named(item, taps, name + place if isinstance(item, Tensor) else name)
    elif dataclasses.is_dataclass(value):
        for field in dataclasses.fields(value):
            yield from _named(getattr(value, field.name), taps, field.name.replace("_", " "))


def require_magnitude(tap: int, features: Tensor, limit: float) -> None:
    """Raise `TrainingError` if a finite map has entries that its loss cannot multiply.

    One that is not finite makes a loss that is not, which says so itself.
    """
    if not may_branch(features.device) or features.numel() == 0:
        return
    # Several times as fast as a norm is, where the map lies as it was made.
    smallest, largest = map(float, torch.aminmax(features.detach()))
    largest = max(-smallest, largest)
    if limit < largest < math.inf:
        raise TrainingError(
            f"features at tap {tap}",
            expected=f"magnitudes of at most {limit:.0e}, whose products the dtype holds",
            got=f"{largest:.1e}",
            remedy=REMEDY,
        )
