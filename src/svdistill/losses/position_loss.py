"""Base class of losses that compare relations between positions, and pooling to a common grid."""

from __future__ import annotations

import abc
import dataclasses
import math
from collections.abc import Sequence
from typing import Any, Final

import torch
import torch.nn.functional as F
from torch import Tensor

from svdistill.common import ArgumentError, require_choice, require_count
from svdistill.linalg import full_precision, to_working
from svdistill.losses.transfer import (
    REDUCTIONS,
    Knowledge,
    TransferLoss,
    as_matrices,
    knowledge_in,
    require_match,
    require_taps,
)

# Prefix tokens are a class token, a distillation token and registers. A sequence that would need
# more of them to leave a square number of tokens is not taken for a square grid.
MOST_PREFIX_TOKENS: Final = 16


class PositionLoss(TransferLoss, abc.ABC):
    """A loss that compares, tap by tap, positions of a student's map with its teacher's.

    Student and teacher may have different numbers of channels. A subclass defines `distance` and
    `extract`; the fields of its knowledge are tuples with one tensor per tap.

    Args:
        grid: maps are first average-pooled to at most grid x grid positions; None or 0: no pooling.
        reduction: over images, `"sum"` or `"mean"`.

    Raises:
        ArgumentError: at construction for a wrong option; in use if no tap has two positions that
            student and teacher share, if a token sequence that must be compared with another grid
            is not a square grid, or if the number of images differs from the teacher's.
    """

    needs_logits = False
    compares_channels = False

    def __init__(self, grid: int | None, reduction: str) -> None:
        super().__init__()
        if grid is not None:
            require_count("grid", grid, 0)
        require_choice("reduction", reduction, REDUCTIONS)
        self.grid = grid or 0
        self.reduction = reduction

    @abc.abstractmethod
    def distance(self, student: Tensor, *teacher: Tensor) -> Tensor:
        """The distances [B] of one tap.

        Args:
            student: the student's features [B, N, C].
            teacher: the tensors of the teacher's knowledge for this tap, one per field. The last
                one is pooled to the student's N positions.
        """

    def positions(self, features: Sequence[Tensor]) -> list[Tensor]:
        """The features of every tap, [B, ..., C], pooled to a grid of at most `grid` a side."""
        require_taps(features, at_least=1)
        require_positions(features)
        return [self._pooled(tap, by_position(feature)) for tap, feature in enumerate(features)]

    def select(self, knowledge: Knowledge) -> Any:
        """What this loss can read with the most positions: knowledge on a coarser grid is less."""
        readable = [part for part in knowledge_in(knowledge) if self.can_read(part)]
        return super().select(max(readable, key=_number_of_positions, default=knowledge))

    def forward(
        self,
        features: Sequence[Tensor],
        logits: Tensor,
        knowledge: Any,
        labels: Tensor | None = None,
    ) -> Tensor:
        """The loss of a student's features against a teacher's knowledge."""
        students = self.positions(features)
        fields = [getattr(knowledge, field.name) for field in dataclasses.fields(knowledge)]
        require_match("number of taps", len(students), len(fields[0]), "tap the same stages")
        distances = []
        for tap, (student, *first, last) in enumerate(zip(students, *fields, strict=True)):
            images = f"images at tap {tap}"
            require_match(images, student.shape[0], last.shape[0], "use one batch for both")
            first = [tensor.to(student.dtype) for tensor in first]
            positions, last = self.on_one_grid(tap, student, last.to(student.dtype))
            if positions.shape[1] > 1:
                distances.append(self.distance(positions, *first, last))
        if not distances:
            raise ArgumentError(
                "positions",
                expected="2 or more that student and teacher share in one of the taps",
                got=f"one, in taps {list(range(len(students)))}",
                remedy="tap modules before the pooling, of similar height and width",
            )
        total = torch.stack(distances).sum()
        return total if self.reduction == "sum" else total / features[0].shape[0]

    def on_one_grid(self, tap: int, student: Tensor, teacher: Tensor) -> tuple[Tensor, Tensor]:
        """Pool both to the same positions, see the function `on_one_grid`."""
        return on_one_grid(tap, student, teacher)

    def on_grid(self, tensors: Sequence[Tensor]) -> bool:
        """Whether a teacher's tensors [B, ..., C] have grids of at most `grid` positions a side."""
        return not self.grid or all(_fits(tensor.shape[1:-1], self.grid) for tensor in tensors)

    def _pooled(self, tap: int, positions: Tensor) -> Tensor:
        if not self.grid or _fits(positions.shape[1:-1], self.grid):
            return positions
        positions = _as_grid(tap, positions)
        return _pool(positions, tuple(min(side, self.grid) for side in positions.shape[1:-1]))

    def extra_repr(self) -> str:
        """The options, for ``print(loss)``."""
        grid = f"grid={self.grid}, " if self.grid else ""
        return f"{grid}reduction={self.reduction!r}"


def _number_of_positions(knowledge: Knowledge) -> int:
    """The positions in all taps of a position loss's knowledge, whose last field has them."""
    *_, tensors = vars(knowledge).values()
    return sum(math.prod(tensor.shape[1:-1]) for tensor in tensors)


def _fits(sides: Sequence[int], grid: int) -> bool:
    """Whether a grid, or the square grid of a sequence, has at most `grid` positions a side."""
    return sides[0] <= grid**2 if len(sides) == 1 else max(sides) <= grid


def by_position(feature: Tensor) -> Tensor:
    """Move channels last, in the working dtype: [B, ..., D]; vectors become [B, 1, D]."""
    positions = feature.movedim(1, -1) if feature.ndim in (4, 5) else as_matrices(feature)
    return to_working(positions)


def require_positions(features: Sequence[Tensor]) -> None:
    """Raise `ArgumentError` if every feature has only one position."""
    if all(as_matrices(feature).shape[1] == 1 for feature in features):
        raise ArgumentError(
            "positions",
            expected="2 or more in one of the taps, which are related to each other",
            got=f"one, in features of shapes {[list(feature.shape) for feature in features]}",
            remedy="tap modules before the pooling",
        )


def on_one_grid(tap: int, student: Tensor, teacher: Tensor) -> tuple[Tensor, Tensor]:
    """Bring two features to the same positions: average the finer grid to the coarser one.

    Args:
        tap: number of the tap, for error messages.
        student: [B, H, W, C], [B, T, H, W, C] or tokens [B, T, C].
        teacher: a tensor of one of these shapes, with any number of channels.

    Returns:
        Both as [B, N, C]. If both have equally many positions, tokens stay as they are. Otherwise
        the last tokens are taken as a square grid, and the prefix tokens before them are dropped.

    Raises:
        ArgumentError: tokens must be compared with another grid and are not a square grid, or one
            grid has three dimensions and the other two.

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
        # Positions on a line, such as the output of a 1-D convolution, are not a square grid.
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
    """Tokens [B, T, C] without their prefix, as a square grid [B, H, W, C]; grids are unchanged."""
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
    """Average-pool positions [B, ..., C], on a grid of two or three dimensions, to a size."""
    if len(size) == 3:
        maps = F.adaptive_avg_pool3d(positions.movedim(-1, 1), (size[0], size[1], size[2]))
        return maps.movedim(1, -1)
    if positions.device.type == "cuda" and torch.are_deterministic_algorithms_enabled():
        return pool_by_products(positions, (size[0], size[1]))
    maps = F.adaptive_avg_pool2d(positions.movedim(-1, 1), (size[0], size[1]))
    return maps.movedim(1, -1)


def pool_by_products(positions: Tensor, size: tuple[int, int]) -> Tensor:
    """Like `_pool`, by matrix products: CUDA's pooling has no deterministic backward pass."""
    rows, columns = (
        _averaging(finer, coarser, positions)
        for finer, coarser in zip(positions.shape[1:3], size, strict=True)
    )
    with full_precision(positions.device):
        return torch.einsum("ih,bhwc,jw->bijc", rows, positions, columns)


def _averaging(finer: int, coarser: int, like: Tensor) -> Tensor:
    """A matrix [c, f] whose row i averages the places from floor(i f/c) to ceil((i + 1) f/c)."""
    row = torch.arange(coarser, device=like.device)[:, None]
    start, end = row * finer // coarser, ((row + 1) * finer + coarser - 1) // coarser
    place = torch.arange(finer, device=like.device)
    return ((place >= start) & (place < end)).to(like.dtype) / (end - start)
