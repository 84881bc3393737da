"""Messages for losses that are not finite: which tap and which images they come from."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import Any, Final

import torch
from torch import Tensor

from svdistill.common import TrainingError
from svdistill.linalg import may_branch

REMEDY: Final = (
    "look for NaN or inf in the images and in the tapped features; "
    "lower the learning rate if training diverged"
)

SHOWN: Final = 5  # images named in a message


def not_finite(name: str, value: Tensor, source: str = "") -> TrainingError:
    """The error for a loss that is not finite; `source` describes its origin."""
    return TrainingError(
        name,
        expected="a finite number",
        got=f"{float(value.detach())}{source}",
        remedy=REMEDY,
    )


def source(
    features: Sequence[Tensor],
    logits: Tensor | None,
    knowledge: Any,
    taps: Sequence[str] | None = None,
) -> str:
    """Describe the first input that is not finite, else the largest one, for an error message.

    `taps` are the paths of the features, or None for their numbers.

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
    """Describe the images of [B, ...] that hold NaN or infinity; empty if none does."""
    images = (~tensor.flatten(1).isfinite().all(1)).nonzero().flatten().tolist()
    if not images:
        return ""
    what = "NaN" if bool(tensor.isnan().any()) else "infinity"
    shown = ", ".join(map(str, images[:SHOWN])) + (", ..." if len(images) > SHOWN else "")
    return f"{what} in image{'s' if len(images) > 1 else ''} {shown} of {len(tensor)}"


def _named(
    value: Any, taps: Sequence[str], name: str = "knowledge"
) -> Iterator[tuple[str, Tensor]]:
    """Every tensor of a knowledge, named by its field, and by its tap if there is one per tap."""
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
    """Raise `TrainingError` if a finite map has entries whose products overflow.

    A map that is not finite makes the loss so, which `guard` reports.
    """
    if not may_branch(features.device) or features.numel() == 0:
        return
    # In the order of memory: of another layout torch would make a copy first.
    in_order = sorted(range(features.ndim), key=features.stride, reverse=True)
    smallest, largest = map(float, torch.aminmax(features.detach().permute(in_order)))
    largest = max(-smallest, largest)
    if limit < largest < math.inf:
        raise TrainingError(
            f"features at tap {tap}",
            expected=f"magnitudes of at most {limit:.0e}, whose products the dtype holds",
            got=f"{largest:.1e}",
            remedy=REMEDY,
        )
