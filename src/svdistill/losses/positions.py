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
    """A map [B, D, ...] as [B, ..., D], tokens [B, T, D] or vectors [B, 1, D]; to compute in."""
    positions = feature.movedim(1, -1) if feature.ndim in (4, 5) else as_matrices(feature)
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
        student: [B, H, W, C], [B, T, H, W, C] or tokens [B, T, C].
        teacher: likewise, with channels of its own.

    Returns:
        Both as [B, N, C]. As many tokens as the other has positions stay as they are; else they are
        a square grid, and those before it are left out.

    Raises:
        ArgumentError: tokens that are no square grid where one is needed; a grid of three
            dimensions beside another of two.

    Example:
        >>> import torch
        >>> student, teacher = on_one_grid(0, torch.rand(2, 7, 7, 5), torch.rand(2, 197, 3))
        >>> student.shape, teacher.shape
        (torch.Size([2, 49, 5]), torch.Size([2, 49, 3]))
    """
    grids = student.shape[1:-1], teacher.shape[1:-1]
    a_sequence = min(map(len, grids)) == 1
    if grids[0] != grids[1] and not (a_sequence and math.prod(grids[0]) == math.prod(grids[1])):
        tokens, grid = min(grids, key=len), max(grids, key=len)
        # A line of positions, as of a 1-D convolution, is no square grid of tokens.
        on_a_line = tokens != (1,) and len(grid) == 2 and min(grid) == 1 < max(grid)
        student, teacher = (_as_grid(tap, positions) for positions in (student, teacher))
        if student.ndim != teacher.ndim or (a_sequence and on_a_line):
            raise ArgumentError(
                f"positions at tap {tap}",
                expected="two grids of as many dimensions, or as many positions in both",
                got=f"{list(grids[0])} and {list(grids[1])}",
                remedy="tap modules of equal layout in both networks",
            )
        size = tuple(map(min, zip(student.shape[1:-1], teacher.shape[1:-1], strict=True)))
        student, teacher = (_pool(positions, size) for positions in (student, teacher))
    return student.flatten(1, -2), teacher.flatten(1, -2)


def _as_grid(tap: int, positions: Tensor) -> Tensor:
    """Tokens [B, T, C] behind their prefix as a square grid [B, H, W, C], which stays."""
    if positions.ndim > 3:
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


def _pool(positions: Tensor, size: tuple[int, ...]) -> Tensor:
    """[B, ..., C] of two or three dimensions average-pooled to a size."""
    if len(size) == 3:
        maps = F.adaptive_avg_pool3d(positions.movedim(-1, 1), (size[0], size[1], size[2]))
        return maps.movedim(1, -1)
    if positions.device.type == "cuda" and torch.are_deterministic_algorithms_enabled():
        return pool_by_products(positions, (size[0], size[1]))
    maps = F.adaptive_avg_pool2d(positions.movedim(-1, 1), (size[0], size[1]))
    return maps.movedim(1, -1)


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
