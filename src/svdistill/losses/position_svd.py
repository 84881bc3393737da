"""Relations of positions: left singular vectors, which need no equal channels."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import torch
import torch.nn.functional as F
from torch import Tensor

from svdistill.common import ArgumentError, require_choice, require_count
from svdistill.linalg import full_precision, to_working, truncated_svd, uncompiled_if_lowered
from svdistill.losses.transfer import (
    REDUCTIONS,
    Knowledge,
    TransferLoss,
    as_matrices,
    require_match,
    require_taps,
)

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


@dataclass(frozen=True)
class PositionSVDKnowledge(Knowledge):
    """Per tap: the teacher's singular values [B, k] and left singular vectors on its own grid.

    The vectors are [B, H, W, k'] of a map, [B, T, k'] of tokens. One of N positions and D channels
    has ``k' = min(k, N, D)``; its values beyond them are 0.
    """

    singular_values: tuple[Tensor, ...]
    left_vectors: tuple[Tensor, ...]


class PositionSVDLoss(TransferLoss):
    """Distance of a student's relations between positions from its teacher's.

    Each tapped map is a matrix ``M`` of N positions by channels, with left singular vectors ``u_i``
    [N] and values ``sigma_i``. With the k leading ones, summed over taps and images::

        loss = sum ||A_T - A_S||_F^2,   A = U diag(sigma^2) U^T / ||sigma^2||_2

    ``A`` [N, N] is the Gram matrix ``M M^T``, cut to rank k and normalised. So a term is
    ``2 - 2 sum_ij w_T,i w_S,j (u_T,i . u_S,j)^2`` with ``w = sigma^2 / ||sigma^2||_2``: between 0
    and 2, whatever the channels are, their number, order and scale, and the vectors' signs. A zero
    map's ``A`` is 0. One position relates to nothing, so a tap that has no more adds nothing.

    Where the grids differ, the finer one is average-pooled to the coarser one: the student's map
    before it is decomposed, the teacher's vectors after, since ``(P U) diag(sigma^2) (P U)^T`` is
    the Gram matrix of the pooled map. Tokens [B, T, D] are then a square grid behind their
    ``T - floor(sqrt T)^2`` prefix tokens (a class token, registers), which are left out.

    Unlike `SVDLoss` it relates no tap to the next: that follows where each tap's ``A`` agrees.

    Args:
        num_vectors: singular vectors k per tap. One says where a map is active, in one pattern for
            all channels; the next few, which of its parts are told apart. Of trained networks' maps
            four leave little of ``M M^T`` out, for about what `SVDLoss` with as many costs.
        reduction: over images, `"sum"` as in `SVDLoss` or `"mean"`.

    Raises:
        ArgumentError: at construction for a wrong option; in use for taps of one position each, or
            with one in common; a sequence that is no grid where one is needed, images that differ
            from the teacher's, or knowledge of another k.

    Example:
        >>> loss = PositionSVDLoss(num_vectors=2)
        >>> knowledge = loss.extract([torch.rand(4, 8, 6, 6), torch.rand(4, 17, 32)], None)
        >>> [tuple(vectors.shape) for vectors in knowledge.left_vectors]
        [(4, 6, 6, 2), (4, 17, 2)]
        >>> student = [torch.rand(4, 5, 6, 6), torch.rand(4, 7, 4, 4)]
        >>> 0 < float(loss(student, torch.rand(4, 10), knowledge)) < 2 * 4 * 2
        True

    Relatives: of untruncated maps a term is 2 - 2 CKA (linear, not centred: Kornblith et al., ICML
    2019), and the diagonal of ``M M^T`` is what attention transfer compares (Zagoruyko and
    Komodakis, ICLR 2017). Similarity-preserving distillation (Tung and Mori, ICCV 2019) compares
    such matrices too, but over the images of a batch, one position for each, and row by row. Here
    no image depends on the others, and what is kept of a teacher grows with N k, not N^2 or N D.
    """

    needs_logits = False
    compares_channels = False
    knowledge_type = PositionSVDKnowledge

    def __init__(self, num_vectors: int = 4, reduction: str = "sum") -> None:
        super().__init__()
        require_count("num_vectors", num_vectors)
        require_choice("reduction", reduction, REDUCTIONS)
        self.num_vectors = num_vectors
        self.reduction = reduction

    @torch.no_grad()
    def extract(self, features: Sequence[Tensor], logits: Tensor | None) -> PositionSVDKnowledge:
        """Singular values and left vectors of every tap."""
        require_taps(features, at_least=1)
        require_positions(features)
        values, vectors = [], []
        for feature in features:
            positions = by_position(feature)
            sigma, U = _left_svd(positions.flatten(1, -2), self.num_vectors)
            values.append(F.pad(sigma, (0, self.num_vectors - sigma.shape[1])))
            vectors.append(U.unflatten(1, positions.shape[1:-1]))
        return PositionSVDKnowledge(tuple(values), tuple(vectors))

    def can_read(self, knowledge: Knowledge) -> bool:
        """Whether it holds k singular values or more at each tap."""
        return isinstance(knowledge, PositionSVDKnowledge) and all(
            values.shape[-1] >= self.num_vectors for values in knowledge.singular_values
        )

    def select(self, knowledge: Knowledge) -> PositionSVDKnowledge:
        """The k leading values and vectors of each tap."""
        known: PositionSVDKnowledge = super().select(knowledge)
        return known.map(lambda tensor: tensor[..., : self.num_vectors])

    def forward(
        self,
        features: Sequence[Tensor],
        logits: Tensor,
        knowledge: PositionSVDKnowledge,
        labels: Tensor | None = None,
    ) -> Tensor:
        """The loss of a student's features against a teacher's knowledge."""
        require_taps(features, at_least=1)
        require_positions(features)
        require_match(
            "number of taps", len(features), len(knowledge.left_vectors), "tap the same stages"
        )
        distances = [
            self._distance(tap, feature, sigma_T, U_T)
            for tap, (feature, sigma_T, U_T) in enumerate(
                zip(features, knowledge.singular_values, knowledge.left_vectors, strict=True)
            )
        ]
        if all(distance is None for distance in distances):
            raise ArgumentError(
                "positions",
                expected="2 or more that student and teacher share in one of the taps",
                got=f"one, in taps {list(range(len(distances)))}",
                remedy="tap modules before the pooling, of height and width that are alike",
            )
        total = torch.stack([distance for distance in distances if distance is not None]).sum()
        return total if self.reduction == "sum" else total / features[0].shape[0]

    def _distance(self, tap: int, feature: Tensor, sigma_T: Tensor, U_T: Tensor) -> Tensor | None:
        """The distances [B] of one tap; None of a single position."""
        k = self.num_vectors
        require_match("num_vectors", k, sigma_T.shape[1], "`select` cuts richer knowledge")
        require_match(
            f"images at tap {tap}", feature.shape[0], U_T.shape[0], "use one batch for both"
        )
        positions = by_position(feature)
        M, U_T = on_one_grid(tap, positions, U_T.to(positions.dtype))
        if M.shape[1] == 1:
            return None
        sigma_S, U_S = _left_svd(M, k)
        sigma_T = sigma_T[:, : U_T.shape[2]].to(M.dtype)
        return _relation_distance(U_T, sigma_T, U_S, sigma_S)

    def extra_repr(self) -> str:
        """The options, for ``print(loss)``."""
        return f"num_vectors={self.num_vectors}, reduction={self.reduction!r}"


def _left_svd(matrices: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """Of matrices [B, N, D] the values [B, k'] and left vectors [B, N, k'], k' = min(k, N, D)."""
    svd = truncated_svd(matrices.mT, min(k, *matrices.shape[1:]))
    return svd.singular_values, svd.right_vectors


@uncompiled_if_lowered
def _relation_distance(U_T: Tensor, sigma_T: Tensor, U_S: Tensor, sigma_S: Tensor) -> Tensor:
    with full_precision(U_T.device):
        return _gram_distance(_unit_factor(sigma_T, U_T), _unit_factor(sigma_S, U_S))


def _unit_factor(sigma: Tensor, U: Tensor) -> Tensor:
    """``X`` [B, N, k] of ``X X^T = U diag(sigma^2) U^T``, over the norm of this product.

    Zero where it is zero. Pooled vectors are not orthonormal, so the norm is not that of sigma^2.
    """
    # The scale cancels, so it needs no gradient; without it sigma^4 would leave the dtype's range.
    largest = sigma.detach().amax(dim=1, keepdim=True)
    X = U * (sigma / torch.where(largest > 0, largest, 1.0))[:, None, :]
    norm = torch.linalg.vector_norm(X.mT @ X, dim=(-2, -1), keepdim=True)
    return X / torch.where(norm > 0, norm, 1.0).sqrt()


def _gram_distance(X: Tensor, Y: Tensor) -> Tensor:
    """``||X X^T - Y Y^T||_F^2`` [B] of factors [B, N, k], from products of size k.

    It is ``||E H^T + H E^T||^2 / 4`` with ``E = X - Y`` and ``H = X + Y``: unlike a difference of
    norms it is 0 where X = Y, not a rounding error. Equal maps have vectors of equal signs.
    """
    wider = max(X.shape[2], Y.shape[2])
    X, Y = (F.pad(factor, (0, wider - factor.shape[2])) for factor in (X, Y))
    E, H = X - Y, X + Y
    EH = E.mT @ H
    return 0.5 * ((E.mT @ E) * (H.mT @ H) + EH * EH.mT).sum(dim=(-2, -1))
