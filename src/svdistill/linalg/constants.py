"""Constant tensors, made once for each dtype and device, also for traced code.

The cache holds ordinary tensors only. In traced code a constant is the result of an operator,
`svdistill::constant`, so that a tracer sees nothing but its shape.
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
    """Register a kind of constant: its maker takes a shape, and returns float64 on the CPU."""
    _makers[name] = maker


def constant(name: str, shape: Sequence[int], like: Tensor) -> Tensor:
    """The constant of a kind and shape, in the dtype and on the device of `like`.

    It is made once, since a copy to a GPU synchronises. Do not write to it.
    """
    if is_traced() or type(like) is not Tensor:
        made: Tensor = torch.ops.svdistill.constant(like, name, shape)
        return made
    if is_transformed():  # tensors made there belong to the transform
        return _makers[name](shape).to(like.device, like.dtype)
    return _made(name, tuple(shape), like.dtype, like.device)


@cache
def _made(name: str, shape: tuple[int, ...], dtype: torch.dtype, device: torch.device) -> Tensor:
    with torch.inference_mode(False):  # autograd saves no inference tensors
        return _makers[name](shape).to(device, dtype)


def _real(like: Tensor, name: str, shape: Sequence[int]) -> Tensor:
    # A compiled graph may overwrite an operator's result.
    return _made(name, tuple(shape), like.dtype, like.device).clone()


def _fake(like: Tensor, name: str, shape: Sequence[int]) -> Tensor:  # noqa: ARG001
    return like.new_empty(shape)


_library = torch.library.Library("svdistill", "FRAGMENT")

_library.define("constant(Tensor like, str name, SymInt[] shape) -> Tensor")

_library.impl("constant", _real, "CompositeExplicitAutograd")

torch.library.register_fake("svdistill::constant", _fake, lib=_library)
