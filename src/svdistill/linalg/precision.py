"""Spectral arithmetic stays in full float32, whatever precision the network around it runs in."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable


def working_dtype(dtype: torch.dtype) -> torch.dtype:
    """The dtype to compute in: float64 stays, everything narrower becomes float32.

    Example:
        >>> working_dtype(torch.bfloat16), working_dtype(torch.float64)
        (torch.float32, torch.float64)
    """
    return torch.float64 if dtype == torch.float64 else torch.float32


def to_working(features: Tensor) -> Tensor:
    """The same [B, ...] in the dtype to compute in; gradients come back in their own.

    A float16 holds no more than 65504, which the gradient of a sample exceeds where its map is tiny
    or two of its values are close. That sample's gradient is scaled down to a quarter of it, so
    that a few can be added up, and no other's.

    Example:
        >>> features = torch.full((2, 1), 3.0, dtype=torch.float16, requires_grad=True)
        >>> (to_working(features) * torch.tensor([[1.0], [1e9]])).sum().backward()
        >>> features.grad
        tensor([[1.0000e+00],
                [1.6376e+04]], dtype=torch.float16)
    """
    dtype = working_dtype(features.dtype)
    if features.dtype != torch.float16:
        return features.to(dtype)
    widened: Tensor = _Widened.apply(features, dtype)
    return widened


class _Widened(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, features: Tensor, dtype: torch.dtype) -> Tensor:
        ctx.dtype = features.dtype
        return features.to(dtype)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        return fitted(gradient, torch.finfo(ctx.dtype).max / 4).to(ctx.dtype), None


def fitted(gradient: Tensor, limit: float, factor: Tensor | None = None) -> Tensor:
    """A gradient [B, ...] times a factor [B], or a smaller one that keeps it below the limit.

    Each member of the batch has its own, so that its direction stays, and no other's changes.
    """
    if gradient.numel() == 0:
        return gradient
    others = (1,) * (gradient.ndim - 1)
    largest = torch.linalg.vector_norm(gradient.flatten(1), torch.inf, dim=1)
    room = limit / torch.where(largest > 0, largest, 1.0)
    factor = room.clamp(max=1.0) if factor is None else torch.minimum(factor, room)
    return gradient * factor.view(-1, *others)


def powers_of_two(largest: Tensor) -> Tensor:
    """The power of two at or below each positive number; to divide by it rounds nothing.

    Example:
        >>> powers_of_two(torch.tensor([0.3, 1.0, 5.0]))
        tensor([0.2500, 1.0000, 4.0000])
    """
    # Rounded, the logarithm of the largest numbers is that of infinity.
    top = math.frexp(torch.finfo(largest.dtype).max)[1] - 1
    return torch.exp2(torch.log2(largest).floor().clamp(max=top))


@contextmanager
def full_precision(device: torch.device) -> Iterator[None]:
    """Switch autocast off, and TF32 on CUDA, for the block.

    A Gram matrix squares the condition number, so ten bits of mantissa leave no second vector.
    """
    with torch.autocast(device.type, enabled=False):
        tf32 = device.type == "cuda" and torch.backends.cuda.matmul.allow_tf32
        if not tf32:
            yield
            return
        torch.backends.cuda.matmul.allow_tf32 = False
        try:
            yield
        finally:
            torch.backends.cuda.matmul.allow_tf32 = True
