"""Constant tensors, made once for each dtype and device, that traced code can ask for, too.

What is kept is always an ordinary tensor. While operations are traced, a constant is the result of
an operator, `svdistill::constant`, of which a tracer sees the shape only.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache

import torch
from torch import Tensor

from svdistill.linalg.precision import is_traced, is_transformed

Maker = Callable[[Sequence[int]], Tensor]

_makers: dict[str, Maker] = {}


def register_constant(name: str, maker: Maker) -> None:
    """Let `constant` make tensors of a kind.

    Args:
        name: of the kind.
        maker: gets a shape, returns the constant on the CPU, in float64.
    """
    _makers[name] = maker


def constant(name: str, shape: Sequence[int], like: Tensor) -> Tensor:
    """The constant of a kind and shape, in the dtype and on the device of a tensor.

    It is made once, since copying to a GPU waits. Not to be written to.
    """
    if is_traced() or type(like) is not Tensor:
        made: Tensor = torch.ops.svdistill.constant(like, name, shape)
        return made
    if is_transformed():  # what is made there belongs to the transform
        return _makers[name](shape).to(like.device, like.dtype)
    return _made(name, tuple(shape), like.dtype, like.device)


@cache
def _made(name: str, shape: tuple[int, ...], dtype: torch.dtype, device: torch.device) -> Tensor:
    with torch.inference_mode(False):  # of which autograd could save nothing
        return _makers[name](shape).to(device, dtype)


def _real(like: Tensor, name: str, shape: Sequence[int]) -> Tensor:
    # A compiled graph may overwrite what an operator returned.
    return _made(name, tuple(shape), like.dtype, like.device).clone()


def _fake(like: Tensor, name: str, shape: Sequence[int]) -> Tensor:  # noqa: ARG001
    return like.new_empty(shape)


_library = torch.library.Library("svdistill", "FRAGMENT")

_library.define("constant(Tensor like, str name, SymInt[] shape) -> Tensor")

_library.impl("constant", _real, "CompositeExplicitAutograd")

torch.library.register_fake("svdistill::constant", _fake, lib=_library)
