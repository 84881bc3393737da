"""A loss on the relations of positions, by left singular vectors, for any number of channels."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from svdistill.common import require_count
from svdistill.linalg import full_precision, truncated_svd, uncompiled_if_lowered
from svdistill.losses.position_loss import PositionLoss
from svdistill.losses.transfer import Knowledge, require_match


@dataclass(frozen=True)
class PositionSVDKnowledge(Knowledge):
    """Per tap: the teacher's singular values [B, k] and left singular vectors on its own grid.

    The vectors are [B, H, W, k'] for a map and [B, T, k'] for tokens, with ``k' = min(k, N, D)``
    for N positions and D channels. The remaining k - k' singular values are 0.
    """

    singular_values: tuple[Tensor, ...]
    left_vectors: tuple[Tensor, ...]


class PositionSVDLoss(PositionLoss):
    """Distance of a student's relations between positions from its teacher's.

    Each tapped map is a matrix ``M`` of N positions by channels, with left singular vectors ``u_i``
    [N] and singular values ``sigma_i``. From the k leading ones, summed over taps and images::

        loss = sum ||A_T - A_S||_F^2,   A = U diag(sigma^2) U^T / ||sigma^2||_2

    ``A`` [N, N] is the Gram matrix ``M M^T``, truncated to rank k and normalised. Each term is
    ``2 - 2 sum_ij w_T,i w_S,j (u_T,i . u_S,j)^2`` with ``w = sigma^2 / ||sigma^2||_2``. It lies
    between 0 and 2, for any number, order and scale of channels, and any signs of the vectors. The
    ``A`` of a zero map is 0. A tap with a single position adds nothing.

    If the grids differ, the finer one is average-pooled to the coarser one: a student's map is
    pooled before its SVD, a teacher's vectors after it, since ``(P U) diag(sigma^2) (P U)^T`` is
    the Gram matrix of the map pooled by P. Tokens [B, T, D] then count as a square grid that
    follows ``T - floor(sqrt T)^2`` prefix tokens (a class token, registers), which are dropped.
    With `grid`, the maps of both networks are first average-pooled to at most grid x grid
    positions, which takes less time and makes stored knowledge smaller.

    Unlike `SVDLoss`, this loss treats every tap separately.

    Args:
        num_vectors: number k of singular vectors per tap. The first one shows where a map is
            active, as one pattern for all channels; the next few distinguish its parts. In trained
            networks four vectors make up most of ``M M^T``, at about the cost of `SVDLoss`.
        reduction: over images, `"sum"` as in `SVDLoss` or `"mean"`.
        grid: maximum number of positions per side, for tokens of their square grid; None or 0: no
            pooling. Knowledge on a coarser grid is compared on that grid; `select` raises an error
            for knowledge on a finer one.

    Raises:
        ArgumentError: at construction for a wrong option; in use if no tap has two positions that
            student and teacher share, if a token sequence that must be compared with another grid
            is not a square grid, if the number of images differs from the teacher's, or if the
            knowledge was extracted with another k.

    Example:
        >>> loss = PositionSVDLoss(num_vectors=2)
        >>> knowledge = loss.extract([torch.rand(4, 8, 6, 6), torch.rand(4, 17, 32)], None)
        >>> [tuple(vectors.shape) for vectors in knowledge.left_vectors]
        [(4, 6, 6, 2), (4, 17, 2)]
        >>> student = [torch.rand(4, 5, 6, 6), torch.rand(4, 7, 4, 4)]
        >>> 0 < float(loss(student, torch.rand(4, 10), knowledge)) < 2 * 4 * 2
        True

    Related work: without truncation a term is 2 - 2 CKA (linear, not centred; Kornblith et al.,
    ICML 2019). Attention transfer (Zagoruyko and Komodakis, ICLR 2017) compares the diagonal of
    ``M M^T``. Similarity-preserving distillation (Tung and Mori, ICCV 2019) compares Gram matrices
    whose rows are the images of a batch, each row normalised. Here no image depends on the others,
    and the knowledge of a teacher grows with N k, not N^2 or N D.
    """

    knowledge_type = PositionSVDKnowledge

    def __init__(
        self, num_vectors: int = 4, reduction: str = "sum", grid: int | None = None
    ) -> None:
        require_count("num_vectors", num_vectors)
        super().__init__(grid, reduction)
        self.num_vectors = num_vectors

    @torch.no_grad()
    def extract(self, features: Sequence[Tensor], logits: Tensor | None) -> PositionSVDKnowledge:
        """The singular values and left singular vectors of every tap."""
        values, vectors = [], []
        for positions in self.positions(features):
            sigma, U = _left_svd(positions.flatten(1, -2), self.num_vectors)
            values.append(F.pad(sigma, (0, self.num_vectors - sigma.shape[1])))
            vectors.append(U.unflatten(1, positions.shape[1:-1]))
        return PositionSVDKnowledge(tuple(values), tuple(vectors))

    def can_read(self, knowledge: Knowledge) -> bool:
        """Whether a knowledge has k values for each tap, on grids not finer than `grid`."""
        return (
            isinstance(knowledge, PositionSVDKnowledge)
            and all(values.shape[-1] >= self.num_vectors for values in knowledge.singular_values)
            and self.on_grid(knowledge.left_vectors)
        )

    def select(self, knowledge: Knowledge) -> PositionSVDKnowledge:
        """The k leading values and vectors of each tap."""
        known: PositionSVDKnowledge = super().select(knowledge)
        return known.map(lambda tensor: tensor[..., : self.num_vectors])

    def distance(self, student: Tensor, *teacher: Tensor) -> Tensor:
        """The distances [B] of one tap, from the teacher's values and vectors."""
        sigma_T, U_T = teacher
        k = self.num_vectors
        require_match("num_vectors", k, sigma_T.shape[1], "`select` cuts richer knowledge")
        sigma_S, U_S = _left_svd(student, k)
        return _relation_distance(U_T, sigma_T[:, : U_T.shape[2]], U_S, sigma_S)

    def extra_repr(self) -> str:
        """The options, for ``print(loss)``."""
        return f"num_vectors={self.num_vectors}, {super().extra_repr()}"


def _left_svd(matrices: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """Values [B, k'] and left vectors [B, N, k'] of matrices [B, N, D], k' = min(k, N, D)."""
    svd = truncated_svd(matrices.mT, min(k, *matrices.shape[1:]))
    return svd.singular_values, svd.right_vectors


@uncompiled_if_lowered
def _relation_distance(U_T: Tensor, sigma_T: Tensor, U_S: Tensor, sigma_S: Tensor) -> Tensor:
    with full_precision(U_T.device):
        return _gram_distance(_unit_factor(sigma_T, U_T), _unit_factor(sigma_S, U_S))


def _unit_factor(sigma: Tensor, U: Tensor) -> Tensor:
    """A factor ``X`` [B, N, k] with ``X X^T = A / ||A||_F``, where ``A = U diag(sigma^2) U^T``.

    X is zero if A is zero. Pooled vectors are not orthonormal, so that ``||A||_F`` is not the norm
    of sigma^2.
    """
    # Sigma is scaled, since sigma^4 could leave the dtype's range. The scale cancels in X, so it
    # needs no gradient.
    largest = sigma.detach().amax(dim=1, keepdim=True)
    X = U * (sigma / torch.where(largest > 0, largest, 1.0))[:, None, :]
    norm = torch.linalg.vector_norm(X.mT @ X, dim=(-2, -1), keepdim=True)
    return X / torch.where(norm > 0, norm, 1.0).sqrt()


def _gram_distance(X: Tensor, Y: Tensor) -> Tensor:
    """``||X X^T - Y Y^T||_F^2`` [B] of factors X, Y [B, N, k], from products of size k x k.

    It is computed as ``||E H^T + H E^T||^2 / 4`` with ``E = X - Y`` and ``H = X + Y``, which is
    exactly 0 for X = Y, without a rounding error. The vectors of equal maps have equal signs.
    """
    wider = max(X.shape[2], Y.shape[2])
    X, Y = (F.pad(factor, (0, wider - factor.shape[2])) for factor in (X, Y))
    E, H = X - Y, X + Y
    EH = E.mT @ H
    return 0.5 * ((E.mT @ E) * (H.mT @ H) + EH * EH.mT).sum(dim=(-2, -1))
