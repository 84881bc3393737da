"""Features by position, and two of them over the same positions."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Final

import torch
import torch.nn.functional as F
from torch import Tensor

from svdistill.errors import ArgumentError
from svdistill.linalg import full_precision, to_working
from svdistill.losses.transfer import as_matrices

# Class token, distillation token, registers. More of them, and the sequence is no square grid.
MOST_PREFIX_TOKENS: Final = 16


def by_position(feature: Tensor) -> Tensor:
    """A map [B, D, H, W] as [B, H, W, D], tokens [B, T, D] or vectors [B, 1, D]; to compute in."""
    positions = feature.permute(0, 2, 3, 1) if feature.ndim == 4 else as_matrices(feature)
    return to_working(positions)


def require_positions(features: Sequence[Tensor]) -> None:
    """Raise `ArgumentError` if there is only one position in all of the features."""
    if all(as_matrices(feature).shape[1] == 1 for feature in features):
        raise ArgumentError(
            "positions",
            expected="2 or more in one of the taps, which are related to each other",
            got=f"one, in features of shapes {[list(feature.shape) for feature in features]}",
            remedy="tap modules before the pooling",
        )


def on_one_grid(tap: int, student: Tensor, teacher: Tensor) -> tuple[Tensor, Tensor]:
    """Bring two features to the same positions: the finer grid is averaged to the coarser one.

    Args:
        tap: its number, for messages.
        student: [B, H, W, C] or tokens [B, T, C].
        teacher: likewise, with channels of its own.

    Returns:
        Both as [B, N, C]. As many tokens as the other has positions stay as they are; else they are
        a square grid, and those before it are left out.

    Raises:
        ArgumentError: tokens that are no square grid where one is needed.

    Example:
        >>> import torch
        >>> student, teacher = on_one_grid(0, torch.rand(2, 7, 7, 5), torch.rand(2, 197, 3))
        >>> student.shape, teacher.shape
        (torch.Size([2, 49, 5]), torch.Size([2, 49, 3]))
    """
    grids = student.shape[1:-1], teacher.shape[1:-1]
    a_sequence = min(map(len, grids)) == 1
    if grids[0] != grids[1] and not (a_sequence and math.prod(grids[0]) == math.prod(grids[1])):
        student, teacher = (_as_grid(tap, positions) for positions in (student, teacher))
        size = min(student.shape[1], teacher.shape[1]), min(student.shape[2], teacher.shape[2])
        student, teacher = (_pool(positions, size) for positions in (student, teacher))
    return student.flatten(1, -2), teacher.flatten(1, -2)


def _as_grid(tap: int, positions: Tensor) -> Tensor:
    """Tokens [B, T, C] behind their prefix as a square grid [B, H, W, C], which stays."""
    if positions.ndim == 4:
        return positions
    length = positions.shape[1]
    side = math.isqrt(length)
    prefix = length - side**2
    if prefix > MOST_PREFIX_TOKENS:
        raise ArgumentError(
            f"positions at tap {tap}",
            expected="a square grid of tokens, to be compared with another grid, behind at most "
            f"{MOST_PREFIX_TOKENS} prefix tokens",
            got=f"{length} tokens",
            remedy="tap maps [B, D, H, W], or as many tokens in both networks",
        )
    return positions[:, prefix:].unflatten(1, (side, side))


def _pool(positions: Tensor, size: tuple[int, int]) -> Tensor:
    """[B, H, W, C] average-pooled to a size."""
    if positions.device.type == "cuda" and torch.are_deterministic_algorithms_enabled():
        return pool_by_products(positions, size)
    return F.adaptive_avg_pool2d(positions.permute(0, 3, 1, 2), size).permute(0, 2, 3, 1)


def pool_by_products(positions: Tensor, size: tuple[int, int]) -> Tensor:
    """The same by matrix products: CUDA's pooling has no backward pass that repeats its bits."""
    rows, columns = (
        _averaging(finer, coarser, positions)
        for finer, coarser in zip(positions.shape[1:3], size, strict=True)
    )
    with full_precision(positions.device):
        return torch.einsum("ih,bhwc,jw->bijc", rows, positions, columns)


def _averaging(finer: int, coarser: int, like: Tensor) -> Tensor:
    """[coarser, finer]: row i averages the places from floor(i f/c) to ceil((i + 1) f/c)."""
    row = torch.arange(coarser, device=like.device)[:, None]
    start, end = row * finer // coarser, ((row + 1) * finer + coarser - 1) // coarser
    place = torch.arange(finer, device=like.device)
    return ((place >= start) & (place < end)).to(like.dtype) / (end - start)
