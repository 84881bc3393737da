"""Forward solvers: the k leading singular values and right singular vectors of matrices.

Every solver takes finite `matrices` [..., N, D] and `k`, and returns values [..., k] and
orthonormal vectors [..., D, k]. Order and sign are made canonical afterwards.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

Solver = Callable[[Tensor, int], tuple[Tensor, Tensor]]


def gram_solver(matrices: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """Eigenvectors of the smaller Gram matrix, size min(N, D)."""
    N, D = matrices.shape[-2:]
    if D <= N:
        right = _leading_eigenvectors(matrices.mT @ matrices, k)
        # |M v| keeps the digits that the square root of a small eigenvalue has lost.
        return torch.linalg.vector_norm(matrices @ right, dim=-2), right
    left = _leading_eigenvectors(matrices @ matrices.mT, k)
    # The columns of M^T U are the right vectors times their values. QR normalises them, and
    # completes the basis where a value is zero, without a division.
    right, triangular = torch.linalg.qr(matrices.mT @ left)
    return triangular.diagonal(dim1=-2, dim2=-1).abs(), right


def svd_solver(matrices: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """The leading part of `torch.linalg.svd`: slow, and the reference for the others."""
    _, values, right_T = torch.linalg.svd(matrices, full_matrices=False)
    return values[..., :k], right_T[..., :k, :].mT


def _leading_eigenvectors(gram: Tensor, k: int) -> Tensor:
    return torch.linalg.eigh(gram).eigenvectors[..., -k:].flip(-1)


SOLVERS: dict[str, Solver] = {"auto": gram_solver, "gram": gram_solver, "svd": svd_solver}
